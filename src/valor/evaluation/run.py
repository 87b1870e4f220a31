"""Run a model over a manifest and measure retrieval, captioning and answering by group.

Knows a model only as Embedder, Describer or both; what it cannot do is left out. Media is read
batch by batch, so that memory does not grow with the data but for the embeddings. A file that
cannot be read is listed as missing.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from valor.data.manifest import Question, Record
from valor.errors import ManifestError, MediaError
from valor.metrics.answering import Accuracy, accuracy_by, exact_match
from valor.metrics.captioning import caption_report
from valor.metrics.retrieval import retrieval_report
from valor.models.fusion import join, similarity
from valor.types import (
    AUDIOVISUAL,
    MEDIA_GROUPS,
    Describer,
    Embedder,
    Embeddings,
    Modality,
    Segment,
)

_BATCH = 32
_TEXTS_AT_ONCE = 64


class EvaluatedModel(Protocol):
    """An Embedder, a Describer or both, which says what it is and reads files."""

    @property
    def fingerprint(self) -> str:
        """Names the exact model."""
        ...

    def read(self, path: str, *, start_s: float = 0.0, end_s: float | None = None) -> Segment:
        """Decode a stretch of a file as this model wants it; raises `MediaError`."""
        ...


@dataclass(slots=True)
class Outputs:
    """Everything that a model said about the readable records, row for row."""

    records: list[Record] = field(default_factory=list[Record])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """Reason by id."""
    media: dict[Modality, Embeddings] = field(default_factory=dict[Modality, Embeddings])
    captions: dict[Modality, list[str | None]] = field(default_factory=lambda: defaultdict(list))
    """None where a record has none of the group's modalities."""
    answers: dict[Modality, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For every question of every record, in order."""

    @property
    def questions(self) -> list[tuple[int, Question]]:
        """All questions with the row of their record."""
        return [(row, q) for row, record in enumerate(self.records) for q in record.questions]


def collect(
    model: EvaluatedModel,
    records: Sequence[Record],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outputs:
    """Embed, caption and question every record from every group of modalities.

    Args:
        model: What to evaluate.
        records: With captions and questions.
        progress: Told how many of how many records are done.

    Returns:
        The model's outputs.

    Raises:
        ManifestError: If no record can be read.
    """
    outputs = Outputs()
    parts: list[dict[Modality, Embeddings]] = []
    sizes: list[int] = []
    for first in range(0, len(records), _BATCH):
        batch = records[first : first + _BATCH]
        segments = _read(model, batch, outputs)
        if segments and isinstance(model, Embedder):
            parts.append(model.embed_media(segments))
            sizes.append(len(segments))
        if segments and isinstance(model, Describer):
            _describe(model, outputs, segments)
        progress(min(first + _BATCH, len(records)), len(records))
    if not outputs.records:
        raise ManifestError(f"none of {len(records)} records can be read: {outputs.missing}")
    outputs.media = {
        group: _concatenate([part.get(group) for part in parts], sizes)
        for group in MEDIA_GROUPS
        if any(group in part for part in parts)
    }
    return outputs


def _read(model: EvaluatedModel, batch: Sequence[Record], outputs: Outputs) -> list[Segment]:
    """Decode a batch; note what can be used and what is missing."""

    def read(record: Record) -> Segment | MediaError:
        try:
            return model.read(record.media, start_s=record.start_s, end_s=record.end_s)
        except MediaError as error:
            return error

    segments: list[Segment] = []
    with ThreadPoolExecutor() as pool:
        for record, segment in zip(batch, pool.map(read, batch), strict=True):
            if isinstance(segment, MediaError):
                outputs.missing[record.id] = segment.reason
            elif not segment.available:
                outputs.missing[record.id] = "nothing_usable"
            else:
                outputs.records.append(record)
                segments.append(segment)
    return segments


def _describe(model: Describer, outputs: Outputs, segments: list[Segment]) -> None:
    records = outputs.records[-len(segments) :]
    asked = [
        (segment, question.text)
        for segment, record in zip(segments, records, strict=True)
        for question in record.questions
    ]
    for group in MEDIA_GROUPS:
        captions = model.describe(segments, using=group)
        outputs.captions[group] += [c.text if c.modalities_used else None for c in captions]
        if asked:
            answers = model.answer([s for s, _ in asked], [q for _, q in asked], using=group)
            outputs.answers[group] += [answer.text for answer in answers]


def _concatenate(parts: Sequence[Embeddings | None], sizes: Sequence[int]) -> Embeddings:
    """Put batches below each other; a batch without the modality becomes invalid rows."""
    known = [part for part in parts if part is not None]
    length = max(part.valid.shape[1] for part in known)
    dim = known[0].vectors.shape[2]
    rows: list[tuple[torch.Tensor, ...]] = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            vectors = torch.zeros(size, length, dim)
            rows.append((vectors, vectors[:, :, 0], torch.zeros(size, length, dtype=torch.bool)))
        else:
            room = length - part.valid.shape[1]
            vectors = F.pad(part.vectors, (0, 0, 0, room))
            rows.append(
                (vectors, F.pad(part.weight_logits, (0, room)), F.pad(part.valid, (0, room)))
            )
    vectors, logits, valid = (torch.cat(column) for column in zip(*rows, strict=True))
    return Embeddings(vectors=vectors, weight_logits=logits, valid=valid)


@dataclass(slots=True, kw_only=True)
class Scores:
    """Similarity of captions with the media of the same records."""

    matrix: np.ndarray
    texts: list[str]
    rows: list[int]
    """Which rows of `Outputs` the captions, and the media, are of."""


def score_captions(
    model: EvaluatedModel, outputs: Outputs, *, about: Modality, group: Modality
) -> Scores | None:
    """Score the first caption about `about` of each record with each record's media.

    Args:
        model: Embeds the captions, if it embeds.
        outputs: Of the same model.
        about: Which captions are the queries.
        group: Which media they are compared with; items are the records that have all of it.

    Returns:
        The scores; None if there is no such caption or no such media.
    """
    if not isinstance(model, Embedder) or any(single not in outputs.media for single in group):
        return None
    present = torch.stack([outputs.media[m].present for m in group]).all(dim=0)
    first = [
        next((c.text for c in record.captions if c.about == about), None)
        for record in outputs.records
    ]
    rows = [row for row, text in enumerate(first) if text and bool(present[row])]
    if not rows:
        return None
    media = join(outputs.media, group).select(torch.tensor(rows))
    texts = [str(first[row]) for row in rows]
    blocks = [
        similarity(model.embed_text(texts[i : i + _TEXTS_AT_ONCE]), media)
        for i in range(0, len(texts), _TEXTS_AT_ONCE)
    ]
    return Scores(matrix=torch.cat(blocks).numpy(), texts=texts, rows=rows)


def retrieval(model: EvaluatedModel, outputs: Outputs) -> dict[str, Any]:
    """Retrieval figures by group.

    A group's queries are the captions about exactly that group; where the data has none, its
    audiovisual captions are used for all groups, as VALOR-32K does.
    """
    report: dict[str, Any] = {}
    for group in MEDIA_GROUPS:
        scores = score_captions(model, outputs, about=group, group=group)
        scores = scores or score_captions(model, outputs, about=AUDIOVISUAL, group=group)
        if scores is not None:
            report[group.label] = {
                **retrieval_report(scores.matrix),
                "chance_r1": 1 / len(scores.rows),
            }
    return report


def pairs(outputs: Outputs) -> dict[str, Any]:
    """Retrieval between modalities, without any text."""
    if any(single not in outputs.media for single in AUDIOVISUAL):
        return {}
    audio, vision = outputs.media[Modality.AUDIO], outputs.media[Modality.VISION]
    rows = (audio.present & vision.present).nonzero().flatten()
    if len(rows) < 2:
        return {}
    both = retrieval_report(similarity(audio.select(rows), vision.select(rows)).numpy())
    return {
        "audio_to_vision": both["text_to_media"],
        "vision_to_audio": both["media_to_text"],
    }


def captioning(outputs: Outputs) -> dict[str, Any]:
    """Caption metrics by group, against all captions about what the group can tell."""
    report: dict[str, Any] = {}
    for group, captions in outputs.captions.items():
        rows: list[tuple[str, list[str]]] = []
        for record, caption in zip(outputs.records, captions, strict=True):
            own = [c.text for c in record.captions if c.about == group]
            references = own or [c.text for c in record.captions if c.about == AUDIOVISUAL]
            if caption is not None and references:
                rows.append((caption, references))
        if rows:
            report[group.label] = caption_report([c for c, _ in rows], [r for _, r in rows])
    return report


def answering(outputs: Outputs) -> dict[str, Any]:
    """Accuracy by group, in all and by what a question needs."""
    report: dict[str, Any] = {}
    questions = outputs.questions
    for group, answers in outputs.answers.items():
        correct = [
            bool(exact_match(answer, question.answers))
            for answer, (_, question) in zip(answers, questions, strict=True)
        ]
        if correct:
            needs = [question.needs or "unknown" for _, question in questions]
            report[group.label] = {
                **Accuracy.of(correct).compute(),
                "by_need": accuracy_by(needs, correct),
            }
    return report


def evaluate(
    model: EvaluatedModel, records: Sequence[Record], outputs: Outputs | None = None
) -> dict[str, Any]:
    """Measure everything.

    Args:
        model: What to evaluate.
        records: With captions and questions.
        outputs: Of the same model and records, if there already.

    Returns:
        The report without protocol, as DESIGN.md, "Files", describes it.
    """
    outputs = outputs or collect(model, records)
    return {
        "model": model.fingerprint,
        "data": {
            "n": len(outputs.records),
            "coverage": len(outputs.records) / len(records),
            "missing": outputs.missing,
        },
        "retrieval": retrieval(model, outputs),
        "pairs": pairs(outputs),
        "captioning": captioning(outputs),
        "answering": answering(outputs),
    }
