"""Question answering as conditional generation: the question is seen whole, the answer is causal.

Source: VALOR 4.1 (downstream QA); upstream masks answer words with probability 0.99.
"""

import torch

from valor.config import configclass
from valor.models.decoder import Predictor, Remembered
from valor.objectives.base import LossTerm
from valor.objectives.captioning import Masking, predict_words
from valor.types import AUDIOVISUAL, Batch, Modality, SpecialIds


@configclass
class AnsweringConfig:
    """How much answers count and how they are masked."""

    weight: float = 1.0
    """Of the mean over groups, in the sum of all losses."""
    mask_fraction: float | None = 0.99
    """Share of the words that are predicted; None predicts every word in one pass."""
    using: Modality = AUDIOVISUAL
    """Answers look at no other modality, whatever a question's group has."""


def answer(
    encoded: Remembered,
    batch: Batch,
    decoder: Predictor,
    config: AnsweringConfig,
    special: SpecialIds,
) -> dict[str, LossTerm]:
    """Predict the words of answers from question and media.

    Args:
        encoded: With the decoder's memory.
        batch: With `questions`; a row counts if it has a question and any of the group's media.
        decoder: Predicts words.
        config: Weight and masking.
        special: The tokenizer's special ids.

    Returns:
        One term per group of media that questions are answered from, also if no row can be.
    """
    terms: dict[str, LossTerm] = {}
    for questions in batch.questions:
        memory, group = encoded.memory, questions.group & config.using
        if memory is None or not any(m in memory.tokens for m in group):
            continue
        words = predict_words(
            decoder,
            decoder.question_prompt(questions.question),
            questions.answer,
            memory,
            group,
            Masking(mask_id=special.mask, fraction=config.mask_fraction, seeds=batch.row_seeds),
        )
        has_media = torch.stack([memory.has(m) for m in group]).any(dim=0)
        scored = words.scored & (has_media & questions.question.has_text)[:, None]
        losses = words.losses(decoder, scored)
        terms[f"answer/{group.label}"] = LossTerm(
            value=losses.sum() / max(1, len(losses)),
            weight=config.weight / len(batch.questions),
            num_rows=int(scored.any(dim=1).sum()),
            num_words=len(losses),
        )
    return terms
