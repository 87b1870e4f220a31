"""Samples and texts to a batch. What a row does not have is invalid, never zeros that count."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from valor.data.manifest import Question, Record
from valor.data.mixture import sample_rng, step_rng
from valor.processing.frames import normalise, shift
from valor.processing.processor import Processor
from valor.types import (
    AUDIOVISUAL,
    MEDIA_GROUPS,
    Batch,
    EncoderOutput,
    Modality,
    QuestionBatch,
    Sample,
    TextBatch,
    Tokens,
    union,
)

_NEEDS = {"vision": Modality.VISION, "audio": Modality.AUDIO, "both": AUDIOVISUAL}
_OWN_CAPTION = 0.6
"""How often a group is contrasted with a caption about exactly itself, where there are others."""


def collate_media(samples: Sequence[Sample], processor: Processor) -> Batch:
    """Stack samples, padding rows that are shorter or lack a modality."""
    pixels, frame_valid = _stack([sample.pixels for sample in samples])
    spectrograms, window_valid = _stack([sample.spectrograms for sample in samples])
    return Batch(
        ids=[sample.id for sample in samples],
        pixels=None if pixels is None else normalise(pixels, processor.config.frames),
        frame_valid=frame_valid,
        spectrograms=None if spectrograms is None else spectrograms.float(),
        window_valid=window_valid,
    )


def collate_training(
    samples: Sequence[Sample],
    records: Sequence[Record],
    processor: Processor,
    *,
    seed: int,
    step: int,
    groups: Sequence[Modality] = MEDIA_GROUPS,
) -> Batch:
    """Stack samples and draw their texts, each row's whatever the other rows are.

    Args:
        samples: Prepared media.
        records: The same rows' captions and questions.
        processor: Tokenizes.
        seed: Of the run.
        step: Counted from 0.
        groups: Those that learn from these rows; a modality in none of them is left out.

    Returns:
        A batch for all objectives; an objective that is not used ignores its part.
    """
    max_px = processor.config.frames.max_shift_px
    rngs = [sample_rng(seed=seed, step=step, id=r.id, of_texts=True) for r in records]
    samples = [restricted(sample, union(groups)) for sample in samples]
    shifted = [
        sample
        if sample.pixels is None
        else dataclasses.replace(sample, pixels=shift(sample.pixels, max_px, own))
        for sample, own in zip(samples, rngs, strict=True)
    ]
    batch = collate_media(shifted, processor)
    seeds = [int(rng.integers(2**63)) for rng in rngs]
    batch.row_seeds = torch.tensor(seeds, dtype=torch.int64)
    for group in groups:
        aligned = [draw_aligned(r, group, own) for r, own in zip(records, rngs, strict=True)]
        written = [draw_written(r, group, own) for r, own in zip(records, rngs, strict=True)]
        if any(aligned):
            batch.aligned_texts[group] = processor.encode_aligned_texts(aligned)
        if any(written):
            batch.caption_texts[group] = processor.encode_texts(written)
    single = (Modality.VISION, Modality.AUDIO)[int(step_rng(seed=seed, step=step).integers(2))]
    for group in (AUDIOVISUAL, single):
        questions = _draw_questions(records, samples, group, processor, rngs)
        if questions is not None:
            batch.questions.append(questions)
    return batch


def restricted(sample: Sample, using: Modality) -> Sample:
    """A sample as if it had no other modalities."""
    return Sample(
        id=sample.id,
        pixels=sample.pixels if Modality.VISION in using else None,
        spectrograms=sample.spectrograms if Modality.AUDIO in using else None,
    )


def draw_aligned(record: Record, group: Modality, rng: np.random.Generator) -> str:
    """Draw a caption to contrast a group's media with; empty if the record has none.

    Captions that share a modality with the group fit: a caption of the seen fits vision and
    audiovisual media alike, which is what keeps more modalities from hurting.
    """
    own = [c.text for c in record.captions if c.about == group]
    others = [c.text for c in record.captions if c.about != group and c.about & group]
    pool = own if own and (not others or rng.random() < _OWN_CAPTION) else others
    return _draw(pool, rng)


def draw_written(record: Record, group: Modality, rng: np.random.Generator) -> str:
    """Draw a caption to be written from a group's media; empty if the record has none."""
    return _draw(written_captions(record, group), rng)


def written_captions(record: Record, group: Modality) -> list[str]:
    """Captions to be written from a group's media: about it, or audiovisual as in VALOR."""
    own = [c.text for c in record.captions if c.about == group]
    return own or [c.text for c in record.captions if c.about == AUDIOVISUAL]


def _draw(pool: Sequence[str], rng: np.random.Generator) -> str:
    return pool[int(rng.integers(len(pool)))] if pool else ""


def _draw_questions(
    records: Sequence[Record],
    samples: Sequence[Sample],
    group: Modality,
    processor: Processor,
    rngs: Sequence[np.random.Generator],
) -> QuestionBatch | None:
    """One question per record that the sample's media of the group can answer."""
    texts, answers = [], []
    for record, sample, rng in zip(records, samples, rngs, strict=True):
        fitting = [q for q in record.questions if _answerable(q, group, sample.available)]
        question = fitting[int(rng.integers(len(fitting)))] if fitting else None
        texts.append(question.text if question else "")
        answers.append(_draw(question.answers, rng) if question else "")
    if not any(texts):
        return None
    return QuestionBatch(
        question=processor.encode_texts(texts),
        answer=processor.encode_texts(answers),
        group=group,
    )


def _answerable(question: Question, group: Modality, available: Modality) -> bool:
    """True if the sample has what the question needs and the group is to answer it."""
    needed = _NEEDS.get(question.needs or "", Modality(0))
    wanted = group in (AUDIOVISUAL, needed)
    return wanted and needed in available and bool(available & group)


Place = tuple[str, int, str]
"""Of a tensor in a batch: field, group of modalities, field of the texts."""
_TEXTS = ("aligned_texts", "caption_texts")


def tensors_of(batch: Batch) -> dict[Place, Shaped[Tensor, "*sizes"]]:
    """All tensors of a batch, so that one function can change them all; see `batch_of`."""
    plain = ("pixels", "frame_valid", "spectrograms", "window_valid", "row_seeds")
    texts = [(name, group, t) for name in _TEXTS for group, t in getattr(batch, name).items()]
    texts += [("question", asked.group, asked.question) for asked in batch.questions]
    texts += [("answer", asked.group, asked.answer) for asked in batch.questions]
    tensors = {(name, 0, ""): getattr(batch, name) for name in plain}
    for modality, output in (batch.encoded or {}).items():
        for name, tokens in (("tokens", output.tokens), ("summary", output.summary)):
            tensors[name, modality.value, "features"] = tokens.features
            tensors[name, modality.value, "valid"] = tokens.valid
    for name, group, text in texts:
        tensors[name, group.value, "token_ids"] = text.token_ids
        tensors[name, group.value, "valid"] = text.valid
    return {place: tensor for place, tensor in tensors.items() if tensor is not None}


def batch_of(ids: list[str], tensors: Mapping[Place, Shaped[Tensor, "*sizes"]]) -> Batch:
    """The opposite of `tensors_of`."""

    def texts(name: str) -> dict[Modality, TextBatch]:
        return {
            Modality(group): TextBatch(
                token_ids=tensors[name, group, "token_ids"], valid=tensors[name, group, "valid"]
            )
            for field, group, part in tensors
            if field == name and part == "valid"
        }

    def tokens(name: str, modality: Modality) -> Tokens:
        place = name, modality.value
        return Tokens(features=tensors[*place, "features"], valid=tensors[*place, "valid"])

    answers = texts("answer")
    encoded = {
        modality: EncoderOutput(
            tokens=tokens("tokens", modality), summary=tokens("summary", modality)
        )
        for modality in AUDIOVISUAL
        if ("tokens", modality.value, "valid") in tensors
    }
    return Batch(
        ids=ids,
        pixels=tensors.get(("pixels", 0, "")),
        frame_valid=tensors.get(("frame_valid", 0, "")),
        spectrograms=tensors.get(("spectrograms", 0, "")),
        window_valid=tensors.get(("window_valid", 0, "")),
        row_seeds=tensors.get(("row_seeds", 0, "")),
        encoded=encoded or None,
        aligned_texts=texts("aligned_texts"),
        caption_texts=texts("caption_texts"),
        questions=[
            QuestionBatch(question=question, answer=answers[group], group=group)
            for group, question in texts("question").items()
        ],
    )


def placed(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """The same batch on a device, its floating point numbers in a type."""
    tensors = tensors_of(batch)
    for place, tensor in tensors.items():
        tensors[place] = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
    return batch_of(batch.ids, tensors)


def _stack(arrays: Sequence[np.ndarray | None]) -> tuple[Tensor | None, Tensor | None]:
    """Pad along the first axis; also return which positions hold data."""
    present = [array for array in arrays if array is not None]
    if not present:
        return None, None
    length = max(len(array) for array in present)
    stacked = np.zeros((len(arrays), length, *present[0].shape[1:]), present[0].dtype)
    valid = np.zeros((len(arrays), length), bool)
    for row, array in enumerate(arrays):
        if array is not None:
            stacked[row, : len(array)] = array
            valid[row, : len(array)] = True
    return torch.from_numpy(stacked), torch.from_numpy(valid)
