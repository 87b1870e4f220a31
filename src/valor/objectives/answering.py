"""Question answering as conditional generation: the question is seen whole, the answer is causal.

Source: VALOR 4.1 (downstream QA); upstream masks answer words with probability 0.99.
"""

import torch
from torch.nn import functional as F

from valor.config import configclass
from valor.models.decoder import Decoder
from valor.models.valor import Encoded
from valor.objectives.base import LossTerm
from valor.objectives.captioning import choose_words, corrupt
from valor.types import Batch, SpecialIds, TextBatch


@configclass
class AnsweringConfig:
    """How much answers count and how they are masked."""

    weight: float = 1.0
    mask_fraction: float = 0.99


def answer(
    encoded: Encoded,
    batch: Batch,
    decoder: Decoder,
    config: AnsweringConfig,
    special: SpecialIds,
) -> dict[str, LossTerm]:
    """Predict the words of answers from question and media.

    Args:
        encoded: With the decoder's memory.
        batch: With `questions`; a row counts if it has a question and any of the group's media.
        decoder: Shared with the text encoder.
        config: Weight and masking.
        special: The tokenizer's special ids.

    Returns:
        One term per group of media that questions are answered from.
    """
    terms: dict[str, LossTerm] = {}
    for questions in batch.questions:
        memory = encoded.memory
        if memory is None or not any(bool(memory.has(m).any()) for m in questions.group):
            continue
        replies = questions.answer
        chosen = choose_words(replies.valid, config.mask_fraction)
        corrupted = corrupt(replies.token_ids, chosen, special.mask, decoder.text.config.vocab_size)
        prompt = decoder.question_prompt(questions.question)
        text = TextBatch(
            token_ids=torch.cat([prompt.token_ids, corrupted], dim=1),
            valid=torch.cat([prompt.valid, replies.valid], dim=1),
        )
        num_prefix = prompt.token_ids.shape[1]
        hidden, _ = decoder(text, memory, [questions.group], num_prefix=num_prefix)
        has_media = torch.stack([memory.has(m) for m in questions.group]).any(dim=0)
        scored = chosen & (has_media & questions.question.has_text)[:, None]
        if bool(scored.any()):
            logits = decoder.word_logits(hidden[:, num_prefix:][scored])
            terms[f"answer/{questions.group.label}"] = LossTerm(
                value=F.cross_entropy(logits, replies.token_ids[scored]),
                weight=config.weight / len(batch.questions),
                num_rows=int(scored.any(dim=1).sum()),
            )
    return terms
