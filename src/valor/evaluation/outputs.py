"""What a model says about the records of a manifest, on one process or several.

Knows a model only as Embedder, Describer or both; what it cannot do is left out. Media is read
batch by batch, so that memory does not grow with the data but for the embeddings. A file that
cannot be read is listed as missing.

What several processes found is gathered whole, ordered by id and reduced once, so that the figures
are those of one process bit for bit, given the same vectors and texts, and no record is padded or
counted twice.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from valor.data.manifest import Question, Record
from valor.errors import ManifestError, MediaError
from valor.metrics.ranking import numbered
from valor.processes import gather, share
from valor.types import MEDIA_GROUPS, Describer, Embedder, Embeddings, Modality, Segment

_BATCH = 32


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
    words: tuple[list[str], Embeddings] | None = None
    """The texts that were embedded last: the same are often asked for again, of other media."""

    @property
    def questions(self) -> list[tuple[int, Question]]:
        """All questions with the row of their record."""
        return [(row, q) for row, record in enumerate(self.records) for q in record.questions]

    @property
    def question_ids(self) -> list[str]:
        """A name for each question: the record's id, with a number from the second on."""
        return numbered([self.records[row].id for row, _ in self.questions])


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
    outputs = merge(gather(_collect(model, share(records), progress)))
    if not outputs.records:
        reasons = ", ".join(f"{n} {why}" for why, n in Counter(outputs.missing.values()).items())
        raise ManifestError(
            f"none of {len(records)} records can be read ({reasons}); "
            "`valor data validate MANIFEST --decode` says what is wrong with each"
        )
    return outputs


def _collect(
    model: EvaluatedModel, records: Sequence[Record], progress: Callable[[int, int], None]
) -> Outputs:
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
    outputs.media = _stack(parts, sizes)
    return outputs


def merge(parts: Sequence[Outputs]) -> Outputs:
    """Put what several processes found together: every record once, ordered by its id.

    Args:
        parts: In any order; a record that stands in several is taken from the first.

    Returns:
        The same for the same records, however they were shared out.
    """
    missing = {id: reason for part in parts for id, reason in part.missing.items()}
    parts = [part for part in parts if part.records]
    records = [record for part in parts for record in part.records]
    where: dict[str, int] = {}
    for row, record in enumerate(records):
        where.setdefault(record.id, row)
    order = [where[id] for id in sorted(where)]
    merged = Outputs(
        records=[records[row] for row in order],
        missing={id: missing[id] for id in sorted(missing.keys() - where.keys())},
    )
    media = _stack([part.media for part in parts], [len(part.records) for part in parts])
    merged.media = {group: rows.select(torch.tensor(order)) for group, rows in media.items()}
    first_question = np.cumsum([0, *(len(record.questions) for record in records)]).tolist()
    for group in MEDIA_GROUPS:
        captions = [text for part in parts for text in part.captions.get(group, [])]
        answers = [text for part in parts for text in part.answers.get(group, [])]
        if captions:
            merged.captions[group] = [captions[row] for row in order]
        if answers:
            merged.answers[group] = [
                text
                for row in order
                for text in answers[first_question[row] : first_question[row + 1]]
            ]
    return merged


def _stack(
    parts: Sequence[dict[Modality, Embeddings]], sizes: Sequence[int]
) -> dict[Modality, Embeddings]:
    """Rows of several batches below each other, by modality."""
    groups = dict.fromkeys(group for part in parts for group in part)
    return {
        group: concatenate([part.get(group) for part in parts], sizes)
        for group in sorted(groups, key=lambda group: group.value)
    }


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


def concatenate(parts: Sequence[Embeddings | None], sizes: Sequence[int]) -> Embeddings:
    """Put batches below each other; a batch without the modality becomes invalid rows.

    Args:
        parts: Of any number of tokens; one of them is known at least.
        sizes: Rows of each part.

    Returns:
        All rows, padded to the longest.
    """
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
