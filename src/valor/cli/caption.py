"""`valor caption`: describe files by what is seen and heard."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import AUDIOVISUAL, Group, Json, parse
from valor.errors import MediaError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Describe files by what is seen and heard."""

    model: tyro.conf.Positional[str]
    """Model folder, or an endpoint as URL#MODEL."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Videos, sounds or pictures."""
    using: Group = AUDIOVISUAL
    """Look at vision, audio or audiovisual, as far as a file has them."""
    json: Json = False
    """One JSON object per file on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; a file that cannot be described is reported and makes the exit code 1."""
    arguments = parse(Arguments, argv, verb="caption")
    from valor.inference import load

    model = load(arguments.model)
    failed = 0
    for path in arguments.files:
        try:
            caption = model.caption(path, using=arguments.using)
        except MediaError as error:
            print(f"valor: {error}", file=sys.stderr)
            failed = 1
            continue
        row = {
            "path": str(path),
            "caption": caption.text,
            "modalities_used": caption.modalities_used.label,
            "segments": caption.segments,
        }
        used = row["modalities_used"]
        print(json.dumps(row) if arguments.json else f"{path} ({used}): {caption.text}")
    return failed
