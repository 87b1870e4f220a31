"""`valor evaluate`: how good a model is on a manifest."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from valor.cli.arguments import Json, TrustCode, parse
from valor.cli.progress import StageProgress
from valor.errors import UsageError

if TYPE_CHECKING:
    from valor.evaluation.options import Options


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
    captions_per_item: int | None = None
    """Captions of each record that are queries, the first so many, 0 for all; one, or what the
    protocol says."""
    pairs: tuple[str, ...] = ()
    """Groups that are searched by each other, such as audio:vision or audio+text:vision."""
    candidates: int | None = None
    """Also search in two stages: so many items by pooled vectors, these again exactly."""
    dual_softmax: float | None = None
    """Also weigh scores by all queries of the set, with this factor, such as 100; marked so."""
    rerank: int | None = None
    """Also let the matching head order so many first recordings of each text again; the report
    states the ranks before and after."""
    java: bool = False
    """METEOR and SPICE too, by Java and the package pycocoevalcap; absent without them."""
    answers: str | None = None
    """How answers are scored: exact, vqa-v2, music-avqa, activitynet-qa, msrvtt-qa, msvd-qa or
    tgif-qa; exact, or what the protocol says."""
    vocabulary: Path | None = None
    """JSON list of the answers that a closed model can give: says what it can reach."""
    metric: str | None = None
    """One more metric: package.module:function of your own, from `evaluation.run.Outputs`."""
    trust_code: TrustCode = False
    json: Json = False
    """The report on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="evaluate")
    from valor.evaluation.options import PLAIN
    from valor.evaluation.report import summary_table
    from valor.inference import load
    from valor.recipes import find_function
    from valor.recipes.demo import evaluate_into

    if arguments.out.exists() and not arguments.out.is_dir():
        raise UsageError(f"--out {arguments.out}: there is a file of that name; name a folder")
    if arguments.protocol is not None:
        return _by_protocol(arguments, arguments.protocol)
    options = _options(arguments, PLAIN)
    metrics = {name: find_function(name) for name in [arguments.metric] if name}
    model = load(arguments.model, trust_code=arguments.trust_code)
    with StageProgress() as progress:
        report = evaluate_into(
            arguments.out,
            model,
            arguments.data,
            split=arguments.split or "test",
            metrics=metrics,
            options=options,
            report=progress,
        )
    _show(arguments, report, summary_table)
    return 0


def _by_protocol(arguments: Arguments, name: str) -> int:
    from valor.inference import load
    from valor.protocols import find_protocol
    from valor.recipes.benchmark import comparison, evaluate_protocol, options_of

    protocol = find_protocol(name)
    if arguments.metric:
        raise UsageError("--metric is not measured by a --protocol; leave one of them out")
    options = _options(arguments, options_of(protocol))
    model = load(arguments.model, trust_code=arguments.trust_code)
    with StageProgress() as progress:
        report = evaluate_protocol(
            model,
            protocol,
            arguments.data,
            arguments.out,
            options=options,
            split=arguments.split,
            report=progress,
        )
    _show(arguments, report, lambda figures: comparison(figures, protocol))
    return 0


def _options(arguments: Arguments, usual: "Options") -> "Options":
    """The usual measurements with what the command line asks for."""
    from valor.cli.score_files import read_vocabulary
    from valor.evaluation.options import parse_pair
    from valor.metrics.answer_protocols import find_answer_protocol

    changes: dict[str, Any] = {
        "java": arguments.java,
        "candidates": arguments.candidates,
        "dual_softmax": arguments.dual_softmax,
        "rerank": arguments.rerank,
    }
    if arguments.captions_per_item is not None:
        changes["captions_per_item"] = arguments.captions_per_item or None
    if arguments.pairs:
        changes["pairs"] = tuple(map(parse_pair, arguments.pairs))
    if arguments.answers is not None:
        changes["answers"] = find_answer_protocol(arguments.answers)
    if arguments.vocabulary is not None:
        changes["vocabulary"] = read_vocabulary(arguments.vocabulary)
    return replace(usual, **changes)


def _show(
    arguments: Arguments, report: dict[str, Any], text: Callable[[dict[str, Any]], str]
) -> None:
    """Print the report, in the one process that has it."""
    if report:
        print(json.dumps(report) if arguments.json else text(report))
