"""The whole story on one page: render a world, train on it, evaluate, index, search, report.

Rendering and training leave their results in the folder and are not repeated; training goes on
where it stopped. Examples are drawn by the seed, never chosen.
"""

import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from valor.checkpoints.box import TINY_WORLD, find_boxed
from valor.data.manifest import Record, read_manifest
from valor.data.world.render import World, render_world
from valor.errors import ManifestError
from valor.evaluation.items import Items, intervals, worst
from valor.evaluation.options import PLAIN, Options
from valor.evaluation.predictions import write_json, write_predictions
from valor.evaluation.provenance import provenance
from valor.evaluation.report import Example, SearchExample, write_report
from valor.evaluation.run import EvaluatedModel, Outputs, collect, evaluate
from valor.evaluation.world import add_truth, read_truth
from valor.inference import load
from valor.media.preview import spectrogram_png, thumbnail
from valor.metrics.answering import exact_match
from valor.processes import joined
from valor.recipes.tiny import tiny, tiny_quick
from valor.search.library import Library
from valor.training.monitor import Report, read_metrics, silent
from valor.training.run import run
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality

_NUM_EXAMPLES = 6
_HITS_SHOWN = 4


@dataclass(slots=True)
class Stages:
    """Seconds that each stage of the demo took."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def end(self, stage: str) -> None:
        """Note that a stage has ended."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 1)
        self._last = now


def demo(
    out: Path, *, quick: bool = False, seed: int = 0, report: Report = silent
) -> dict[str, Any]:
    """Run the whole story.

    Args:
        out: Folder for everything; the model is in `out/model`, the page is `out/report.html`.
        quick: Fewer videos, and the model that comes with the package; without it, fewer steps.
        seed: Of the world and of the examples shown.
        report: Told about progress in every stage.

    Returns:
        The content of `out/report.json`.
    """
    stages = Stages()
    boxed = find_boxed(TINY_WORLD) if quick else None
    num = 0 if boxed else 400 if quick else 6000
    num_test = 64 if quick else 256
    world = World(num=num, num_val=0, num_test=num_test, seed=seed, level="duet")
    render_world(out / "world", world, progress=lambda *done: report("render", *done))
    stages.end("render")
    if boxed:
        shutil.copytree(boxed, out / "model", dirs_exist_ok=True)
    else:
        records = read_manifest(out / "world", split="train")
        run(tiny_quick() if quick else tiny(), records, out, report=report)
    model = load(out / "model")
    stages.end("train")
    test = read_manifest(out / "world", split="test")
    outputs = collect(model, test, progress=lambda *done: report("evaluate", *done))
    figures = measure(model, test, outputs, out / "world")
    stages.end("evaluate")
    library = Library(out / "library", model=out / "model")
    library.add(
        [record.media for record in test],
        progress=lambda now: report("index", round(now.done_fraction * len(test)), len(test)),
    )
    rng = np.random.default_rng(seed)
    searches = _searches(library, model, test, rng)
    stages.end("index")
    figures["protocol"] = protocol(seed=seed, seconds=stages.seconds)
    shown = _examples(model, outputs, _random_rows(outputs, rng), PLAIN.widest)
    _write(out, figures, shown, searches)
    return figures


def evaluate_into(
    out: Path,
    model: EvaluatedModel,
    data: Path,
    *,
    split: str,
    metrics: Mapping[str, Callable[[Outputs], Any]] | None = None,
    options: Options = PLAIN,
    report: Report = silent,
) -> dict[str, Any]:
    """Evaluate a model on a manifest and write `report.json` and `report.html`.

    Beside them stand `items.json`, the values of single items that `valor compare` reads, and
    `predictions/`, what the model said. Started by `torchrun`, the processes share the records.

    Args:
        out: Folder for all.
        model: What to evaluate.
        data: Manifest, or folder of a rendered world.
        split: Which records are used.
        metrics: More of them by name, computed from everything that the model said.
        options: What is measured where there is a choice.
        report: Told about progress.

    Returns:
        The content of `report.json`; empty in all processes but the first.

    Raises:
        ManifestError: If the manifest is wrong or has no such record.
    """
    records = read_manifest(data, split=split)
    if not records:
        raise ManifestError(f"{data}: no record of split {split!r}; name another with --split")
    with joined() as is_first:
        outputs = collect(model, records, progress=lambda *done: report("evaluate", *done))
        if not is_first:
            return {}
        items: Items = {}
        folder = data if data.is_dir() else data.parent
        figures = measure(model, records, outputs, folder, options=options, items=items)
        if metrics:
            figures["metrics"] = {name: metric(outputs) for name, metric in metrics.items()}
        figures["protocol"] = protocol(seed=0, seconds={})
        write_evaluation(out, model, figures, outputs, options, items)
        return figures


def write_evaluation(
    out: Path,
    model: EvaluatedModel,
    figures: dict[str, Any],
    outputs: Outputs,
    options: Options,
    items: Items,
    *,
    title: str = "VALOR report",
) -> None:
    """Write the report, its page, `items.json` and `predictions/`.

    Args:
        out: Folder for all; made if needed.
        model: That was measured.
        figures: The content of `report.json`; gets `intervals`.
        outputs: What the model said.
        options: What was measured.
        items: Values of single items.
        title: Of the page.
    """
    figures["intervals"] = intervals(items)
    group, rows = options.widest, _random_rows(outputs, np.random.default_rng(0))
    shown = _examples(model, outputs, rows, group)
    failed = worst(outputs, items, group, limit=_NUM_EXAMPLES)
    failures = _examples(model, outputs, list(failed), group, notes=failed)
    _write(out, figures, shown, [], failures=failures, title=title)
    write_json(out / "items.json", items)
    write_predictions(out / "predictions", model, outputs, options)


def measure(
    model: EvaluatedModel,
    records: Sequence[Record],
    outputs: Outputs,
    folder: Path,
    *,
    options: Options = PLAIN,
    items: Items | None = None,
) -> dict[str, Any]:
    """Compute all figures, with the truth of a rendered world where there is one."""
    figures = evaluate(model, records, outputs, options=options, items=items)
    truth = read_truth(folder)
    if truth is not None:
        num = options.captions_per_item
        add_truth(figures, model, outputs, truth, captions_per_item=num, items=items)
    return figures


def protocol(*, seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    """How figures came about."""
    packages = {name: version(name) for name in ("valor-omni", "torch", "av", "numpy")}
    return {
        "seed": seed,
        "versions": {"python": platform.python_version(), **packages},
        "ties": "pessimistic",
        "dual_softmax": False,
        "seconds": seconds,
        **provenance(),
    }


def _write(
    out: Path,
    figures: dict[str, Any],
    examples: Sequence[Example],
    searches: Sequence[SearchExample],
    failures: Sequence[Example] = (),
    title: str = "VALOR report",
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", figures)
    curves = read_metrics(out / "metrics.jsonl")
    write_report(
        out / "report.html",
        figures,
        curves=curves,
        examples=examples,
        failures=failures,
        searches=searches,
        title=title,
    )


def _random_rows(outputs: Outputs, rng: np.random.Generator) -> list[int]:
    num = min(_NUM_EXAMPLES, len(outputs.records))
    return sorted(rng.choice(len(outputs.records), num, replace=False).tolist())


def _examples(
    model: EvaluatedModel,
    outputs: Outputs,
    rows: Sequence[int],
    group: Modality,
    *,
    notes: Mapping[int, str] | None = None,
) -> list[Example]:
    """Show some recordings with their captions, and the answers that a group of media gave."""
    examples = []
    for row in rows:
        record = outputs.records[row]
        segment = model.read(record.media, start_s=record.start_s, end_s=record.end_s)
        sound = segment.waveform
        own = sorted(record.captions, key=lambda c: (c.about != group, c.about != AUDIOVISUAL))
        said = outputs.answers.get(group, [])
        answers = [
            (question.text, answer, answer if right else " or ".join(question.answers))
            for (owner, question), answer in zip(outputs.questions, said, strict=bool(said))
            if owner == row
            for right in [exact_match(answer, question.answers)]
        ]
        examples.append(
            Example(
                path=record.media,
                thumbnail=None if segment.frames is None else thumbnail(segment),
                spectrogram=None
                if sound is None
                else spectrogram_png(sound, segment.sample_rate_hz, width=320, height=96),
                captions={
                    g.label: texts[row] or "" for g, texts in outputs.captions.items() if any(texts)
                },
                reference=own[0].text if own else "",
                answers=answers,
                note=(notes or {}).get(row, ""),
            )
        )
    return examples


def _searches(
    library: Library, model: EvaluatedModel, test: Sequence[Record], rng: np.random.Generator
) -> list[SearchExample]:
    """Five searches: by the caption of what is seen, heard and both, by a sound and by a video."""
    chosen = [test[int(row)] for row in rng.choice(len(test), 5, replace=False)]
    queries: list[tuple[str, Literal["text", "audio", "video"]]] = [
        *((_caption(r, g), "text") for r, g in zip(chosen, MEDIA_GROUPS, strict=False)),
        (chosen[3].media, "audio"),
        (chosen[4].media, "video"),
    ]
    return [_search(library, model, query, by) for query, by in queries]


def _caption(record: Record, about: Modality) -> str:
    return next(c.text for c in record.captions if c.about == about)


def _search(
    library: Library,
    model: EvaluatedModel,
    query: str,
    by: Literal["text", "audio", "video"],
) -> SearchExample:
    hits = []
    for hit in library.search(query, by=by, limit=_HITS_SHOWN):
        segment = model.read(hit.path, start_s=hit.start_s, end_s=hit.end_s)
        picture = None if segment.frames is None else thumbnail(segment)
        place = (hit.path, hit.start_s, hit.end_s)
        hits.append((*place, hit.score, hit.by_modality, picture))
    shown: Callable[[str], str] = str if by == "text" else lambda path: Path(path).name
    return SearchExample(query=shown(query), by=by, hits=hits)
