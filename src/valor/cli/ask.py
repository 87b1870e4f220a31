"""`valor ask`: answer a question about a file."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import AUDIOVISUAL, Group, Json, TrustCode, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Answer a question about a file."""

    model: tyro.conf.Positional[str]
    """Model folder, or an endpoint as URL#MODEL."""
    file: tyro.conf.Positional[Path]
    """A video, sound or picture."""
    question: tyro.conf.Positional[str]
    """In words, in quotes."""
    using: Group = AUDIOVISUAL
    """Look at vision, audio or audiovisual, as far as the file has them."""
    trust_code: TrustCode = False
    json: Json = False
    """A JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="ask")
    from valor.inference import load

    model = load(arguments.model, trust_code=arguments.trust_code)
    answer = model.ask(arguments.file, arguments.question, using=arguments.using)
    row = {
        "path": str(arguments.file),
        "question": arguments.question,
        "answer": answer.text,
        "modalities_used": answer.modalities_used.label,
        "confidence": None if math.isnan(answer.confidence) else round(answer.confidence, 4),
    }
    sure = "unknown" if row["confidence"] is None else f"{answer.confidence:.2f}"
    line = f"{answer.text} (from {row['modalities_used']}, confidence {sure})"
    print(json.dumps(row) if arguments.json else line)
    return 0
