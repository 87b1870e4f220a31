"""`valor evaluate`: how good a model is on a manifest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, TrustCode, parse
from valor.cli.progress import StageProgress


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure retrieval, captioning and answering by group of modalities."""

    model: tyro.conf.Positional[str]
    """Model folder, hub id, VISION+AUDIO, or an endpoint as URL#MODEL."""
    data: Path
    """Manifest, or the folder of a rendered world."""
    out: Path
    """Folder for report.json and report.html."""
    split: str = "test"
    """Which records are used."""
    metric: str | None = None
    """One more metric: package.module:function of your own, from `evaluation.run.Outputs`."""
    trust_code: TrustCode = False
    json: Json = False
    """The report on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="evaluate")
    from valor.evaluation.report import summary_table
    from valor.inference import load
    from valor.recipes import find_function
    from valor.recipes.demo import evaluate_into

    metrics = {name: find_function(name) for name in [arguments.metric] if name}
    model = load(arguments.model, trust_code=arguments.trust_code)
    with StageProgress() as progress:
        report = evaluate_into(
            arguments.out,
            model,
            arguments.data,
            split=arguments.split,
            metrics=metrics,
            report=progress,
        )
    print(json.dumps(report) if arguments.json else summary_table(report))
    return 0
