"""A benchmark's protocol applied to a model: measured figures beside published ones.

Entry points: `evaluate_protocol`, `comparison`, `reproduce`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from valor.config import evolve, to_dict
from valor.data.manifest import Record, read_manifest, write_manifest
from valor.data.sources.formats import import_records
from valor.errors import ConfigError, UsageError
from valor.evaluation.items import Items
from valor.evaluation.options import Options
from valor.evaluation.predictions import write_json
from valor.evaluation.run import EvaluatedModel, collect, evaluate
from valor.inference import DescribingModel, load
from valor.metrics.answer_protocols import find_answer_protocol
from valor.processes import joined
from valor.processing.processor import Processor, ProcessorConfig
from valor.protocols import Protocol, Published, Sampling
from valor.recipes.demo import protocol as how_measured
from valor.recipes.demo import write_evaluation
from valor.training.monitor import Report, silent
from valor.types import (
    Answer,
    Caption,
    Describer,
    Embedder,
    Embeddings,
    Modality,
    Segment,
)

_METRICS = {
    "retrieval": ("r1", "r5", "r10"),
    "captioning": ("bleu4", "meteor", "rouge_l", "cider"),
    "answering": ("accuracy",),
}
MEASURED, PUBLISHED = "measured here", "published, not measured here"


def follow(
    config: ProcessorConfig, system: Any, protocol: Protocol, sampling: Sampling
) -> ProcessorConfig:
    """Change a model's preprocessing to what a protocol asks for.

    Args:
        config: Of the model; its size of frames is kept, as weights belong to it.
        system: The configuration of the model, which checks what it can take.
        protocol: Says how long texts are.
        sampling: The protocol's for training or for testing. Bursts of several frames are kept as
            they are.

    Returns:
        The changed preprocessing.

    Raises:
        ConfigError: If the model cannot take it.
    """
    changes: dict[str, int] = {}
    if sampling.frames and config.frames.frames_per_burst == 1:
        changes["frames.num_bursts"] = sampling.frames
    if sampling.windows:
        changes["spectrogram.num_windows"] = sampling.windows
    if protocol.text_tokens:
        changes["max_text_length"] = protocol.text_tokens + 2
    changed = evolve(config, changes)
    try:
        system.check(changed)
    except ValueError as error:
        raise ConfigError(f"the model cannot follow protocol {protocol.name}: {error}") from None
    return changed


class _Embeds:
    """Only what retrieval asks of a model."""

    def __init__(self, model: Any, protocol: Protocol) -> None:
        self._model = model
        wanted = protocol.groups
        self.groups = [group for group in model.groups if group in wanted]
        self.segment_s, self.fingerprint = model.segment_s, model.fingerprint
        self.read, self.embed_text = model.read, model.embed_text
        self.matches = getattr(model, "matches", False)
        self.match = getattr(model, "match", None)

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        """Embed segments."""
        return self._model.embed_media(segments)


class _Describes:
    """Only what captioning or answering asks of a model, from the protocol's groups."""

    def __init__(self, model: Any, protocol: Protocol) -> None:
        self._model, self._protocol = model, protocol
        self.fingerprint, self.read = model.fingerprint, model.read

    def describe(self, segments: Sequence[Segment], *, using: Modality) -> list[Caption]:
        """Caption segments, where that is the task."""
        if self._protocol.task == "captioning" and using in self._protocol.groups:
            return self._model.describe(segments, using=using)
        return [Caption(text="", modalities_used=Modality(0), segments=())] * len(segments)

    def answer(
        self, segments: Sequence[Segment], questions: Sequence[str], *, using: Modality
    ) -> list[Answer]:
        """Answer questions, where that is the task."""
        if self._protocol.task == "answering" and using in self._protocol.groups:
            return self._model.answer(segments, questions, using=using)
        return [Answer(text="", modalities_used=Modality(0), confidence=0.0)] * len(segments)


def following(model: EvaluatedModel, protocol: Protocol) -> EvaluatedModel:
    """The model as a protocol uses it; one that is not ours keeps its own preprocessing.

    Args:
        model: Embeds, describes or both; ours is changed.
        protocol: What is asked for.

    Returns:
        A model that does the protocol's task and no other.

    Raises:
        UsageError: If the model cannot do the task.
    """
    if isinstance(model, DescribingModel):
        own, config = model.processor, model.system.config
        changed = follow(own.config, config, protocol, protocol.testing)
        words = own.tokenizer if changed.has_words else None
        model.processor = Processor(changed, words, own.text_tokenizer)
        if protocol.task == "captioning":
            model.caption_beams = protocol.num_beams
    wanted: Any = Embedder if protocol.task == "retrieval" else Describer
    if not isinstance(model, wanted):
        raise UsageError(f"protocol {protocol.name}: the model cannot do {protocol.task}")
    return (_Embeds if protocol.task == "retrieval" else _Describes)(model, protocol)


def evaluate_protocol(
    model: EvaluatedModel,
    protocol: Protocol,
    data: Path,
    out: Path,
    *,
    options: Options | None = None,
    split: str | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Evaluate a model as a benchmark asks for, and write what `evaluate_into` writes.

    Args:
        model: What to evaluate.
        protocol: The benchmark.
        data: Manifest.
        out: Folder for all.
        options: What is measured; None takes the protocol's, see `options_of`.
        split: Of the manifest; None takes the protocol's.
        report: Told about progress.

    Returns:
        The content of `report.json`, with the task's figures of each group that the protocol has,
        and under `published` what others stated. Coverage counts what the benchmark has in all.
        Empty in all processes of `torchrun` but the first.

    Raises:
        ConfigError: If no record of the split has what is measured.
        ManifestError: If the manifest is wrong.
    """
    split, options = split or protocol.split, options or options_of(protocol)
    records = [_asked(record, protocol) for record in read_manifest(data, split=split)]
    if not any(record.texts for record in records):
        wanted = "questions" if protocol.task == "answering" else "captions"
        raise ConfigError(
            f"{data}: no record of split {split!r} has {wanted}, which {protocol.name} measures; "
            "name another with --split, or put some into it"
        )
    used = following(model, protocol)
    with joined() as is_first:
        outputs = collect(used, records, progress=lambda *done: report("evaluate", *done))
    if not is_first:
        return {}
    items: Items = {}
    figures = evaluate(used, records, outputs, options=options, items=items)
    num_asked = max(len(records), protocol.num_test or 0)
    figures["data"] |= {
        "coverage": len(outputs.records) / num_asked,
        "num_asked": num_asked,
        "not_found": _not_found(data),
    }
    figures["protocol"] = {"name": protocol.name, **how_measured(seed=0, seconds={})}
    figures["published"] = [to_dict(row) for row in protocol.published]
    title = f"VALOR on {protocol.name}"
    write_evaluation(out, used, figures, outputs, options, items, title=title)
    return figures


def options_of(protocol: Protocol) -> Options:
    """What a protocol measures: its groups, captions of each record, and its answers' scores."""
    return Options(
        groups=protocol.groups,
        captions_per_item=protocol.captions_per_item,
        pairs=(),
        answers=find_answer_protocol(protocol.answers),
    )


def _asked(record: Record, protocol: Protocol) -> Record:
    """A record with the texts that a protocol is about."""
    if protocol.task == "answering":
        return replace(record, captions=())
    return replace(record, questions=())


def _not_found(data: Path) -> list[str]:
    """Ids, of any split, whose media the import of the manifest did not find."""
    manifest = data / "manifest.jsonl" if data.is_dir() else data
    missing = manifest.with_suffix(".missing.txt")
    return missing.read_text(encoding="utf-8").split("\n")[:-1] if missing.is_file() else []


def measured(report: dict[str, Any], protocol: Protocol) -> list[Published]:
    """A report's figures, in the form and order of published ones."""
    rows: list[Published] = []
    for group in protocol.groups:
        found = report[protocol.task].get(group.label, {})
        found = found.get("text_to_media", found)
        figures = {name: found[name] for name in _METRICS[protocol.task] if name in found}
        if figures:
            rows.append(Published(system="this model", group=group, figures=figures))
    return rows


def _reranked(report: dict[str, Any]) -> list[Published]:
    """What the matching head made of it."""
    return [
        Published(
            system="re-ranked",
            group=Modality.parse(label),
            figures={name: row["reranked"]["after"][name] for name in _METRICS["retrieval"]},
            note=f"the first {row['reranked']['candidates']}",
        )
        for label, row in report["retrieval"].items()
        if "reranked" in row
    ]


def comparison(report: dict[str, Any], protocol: Protocol) -> str:
    """What was measured beside what was published, as plain text in percent."""
    data, names = report["data"], _METRICS[protocol.task]
    missing = data["num_asked"] - data["n"]
    head = f"{protocol.name}: {data['n']} of {data['num_asked']} recordings"
    if missing:
        head += f"; {missing} are missing, report.json names those that were listed"
    lines = [head, f"{'system':12}{'media':14}" + "".join(f"{name:>9}" for name in names)]
    rows = [(row, MEASURED) for row in (*measured(report, protocol), *_reranked(report))]
    rows += [(row, PUBLISHED) for row in (*protocol.published, *protocol.released)]
    for row, kind in rows:
        shown = [f"{100 * row.figures[n]:9.1f}" if n in row.figures else f"{'-':>9}" for n in names]
        note = f" ({row.note})" if row.note else ""
        lines.append(f"{row.system:12}{row.group.label:14}{''.join(shown)}  {kind}{note}")
    return "\n".join(lines)


def reproduce(
    protocol: Protocol,
    checkpoint: Path,
    media: Path,
    out: Path,
    *,
    annotations: Sequence[Path] = (),
    tolerance: float = 0.005,
    report: Report = silent,
) -> dict[str, Any]:
    """Measure whether a checkpoint gives what was published for it.

    Args:
        protocol: The benchmark.
        checkpoint: Model folder, or a released checkpoint, which is converted into `out/model`.
        media: Folder of the media; with a `manifest.jsonl` nothing is imported.
        out: Folder for manifest, report and `result.json`.
        annotations: Files of the benchmark, to be imported.
        tolerance: How far a figure may be from the published one, as a fraction.
        report: Told about progress.

    Returns:
        The content of `result.json`, which can be handed on, with what was measured how, the
        published figures, the difference of each, and whether all are within the tolerance.

    Raises:
        UsageError: If nothing was published for the protocol, or there are no annotations.
    """
    wanted = protocol.released or protocol.published
    if not wanted:
        raise UsageError(f"protocol {protocol.name}: nothing was published to compare with")
    data = media / "manifest.jsonl"
    if annotations:
        data = out / "manifest.jsonl"
        _import(protocol, annotations, media, data)
    elif not data.is_file():
        raise UsageError(f"{media}: no manifest.jsonl; give the benchmark's --annotations files")
    folder = checkpoint
    if checkpoint.is_dir() and not (checkpoint / "preprocessor_config.json").is_file():
        from valor.checkpoints.official import convert

        folder = out / "model"
        convert(checkpoint, folder)
    figures = evaluate_protocol(load(folder), protocol, data, out, report=report)
    differences = _differences(measured(figures, protocol), wanted)
    result = {
        "protocol": to_dict(protocol),
        "checkpoint": checkpoint.name,
        "model": figures["model"],
        "data": figures["data"],
        "measured": [to_dict(row) for row in measured(figures, protocol)],
        "differences": differences,
        "tolerance": tolerance,
        "reproduced": bool(differences)
        and all(abs(row["difference"]) <= tolerance for row in differences),
        "how": figures["protocol"],
    }
    write_json(out / "result.json", result)
    return result


def _import(protocol: Protocol, annotations: Sequence[Path], media: Path, data: Path) -> None:
    imported = import_records(str(protocol.format), annotations, media)
    write_manifest(data, imported.records)
    missing = "".join(f"{id}\n" for id in imported.missing)
    data.with_suffix(".missing.txt").write_text(missing, encoding="utf-8")


def _differences(ours: Sequence[Published], wanted: Sequence[Published]) -> list[dict[str, Any]]:
    """Of every published figure that was measured: ours minus theirs."""
    by_group = {row.group: row.figures for row in ours}
    return [
        {
            "system": row.system,
            "group": row.group.label,
            "metric": name,
            "measured": by_group[row.group][name],
            "published": figure,
            "difference": round(by_group[row.group][name] - figure, 6),
        }
        for row in wanted
        for name, figure in row.figures.items()
        if name in by_group.get(row.group, {})
    ]
