"""`valor evaluate`: how good a model is on a manifest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, TrustCode, parse
from valor.cli.progress import StageProgress
from valor.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure retrieval, captioning and answering by group of modalities."""

    model: tyro.conf.Positional[str]
    """Model folder, hub id, VISION+AUDIO, or an endpoint as URL#MODEL."""
    data: Path
    """Manifest, or the folder of a rendered world."""
    out: Path
    """Folder for report.json and report.html."""
    protocol: str | None = None
    """A benchmark such as msrvtt-1ka: what is measured, from how much of each recording, beside
    what was published."""
    split: str | None = None
    """Which records are used; `test`, or what the protocol says."""
    metric: str | None = None
    """One more metric: package.module:function of your own, from `evaluation.run.Outputs`."""
    rerank: int | None = None
    """Let the matching head order so many first recordings of each text again; the report states
    the ranks before and after."""
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

    if arguments.rerank is not None and arguments.rerank < 1:
        raise UsageError(f"--rerank {arguments.rerank}: give at least 1")
    if arguments.protocol is not None:
        return _by_protocol(arguments, arguments.protocol)
    metrics = {name: find_function(name) for name in [arguments.metric] if name}
    model = load(arguments.model, trust_code=arguments.trust_code)
    with StageProgress() as progress:
        report = evaluate_into(
            arguments.out,
            model,
            arguments.data,
            split=arguments.split or "test",
            metrics=metrics,
            rerank=arguments.rerank,
            report=progress,
        )
    print(json.dumps(report) if arguments.json else summary_table(report))
    return 0


def _by_protocol(arguments: Arguments, name: str) -> int:
    from valor.inference import load
    from valor.protocols import find_protocol
    from valor.recipes.benchmark import comparison, evaluate_protocol

    protocol = find_protocol(name)
    if arguments.metric:
        raise UsageError("--metric is not measured by a --protocol; leave one of them out")
    model = load(arguments.model, trust_code=arguments.trust_code)
    with StageProgress() as progress:
        report = evaluate_protocol(
            model,
            protocol,
            arguments.data,
            arguments.out,
            split=arguments.split,
            rerank=arguments.rerank,
            report=progress,
        )
    print(json.dumps(report) if arguments.json else comparison(report, protocol))
    return 0
