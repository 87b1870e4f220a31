"""MGC: Multimodal Grouping Captioning, masked causal language modelling on each group.

Source: VALOR 3.4, equations 5 and 6; upstream corrupts 80 % of the chosen words to [MASK], 10 % to
random words and leaves 10 %. The groups share the decoder's memory: its keys and values are
projected once, and a group is a mask over it.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from valor.config import configclass
from valor.models.decoder import Decoder
from valor.models.valor import Encoded
from valor.objectives.base import LossTerm
from valor.types import MEDIA_GROUPS, Batch, Modality, SpecialIds, TextBatch


@configclass
class CaptioningConfig:
    """Which groups captions are written from, and how texts are masked."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    weight: float = 1.0
    mask_fraction: float = 0.6

    def __post_init__(self) -> None:
        """Reject a fraction that masks nothing or is none."""
        if not 0 < self.mask_fraction <= 1:
            raise ValueError(f"mask_fraction={self.mask_fraction}, wanted above 0 and at most 1")


def caption(
    encoded: Encoded,
    batch: Batch,
    decoder: Decoder,
    config: CaptioningConfig,
    special: SpecialIds,
) -> dict[str, LossTerm]:
    """Predict masked words of each group's captions from its media.

    Args:
        encoded: With the decoder's memory.
        batch: With `caption_texts`; a row counts for a group if it has text and all its media.
        decoder: Shared with the text encoder.
        config: Groups, weight and masking.
        special: The tokenizer's special ids.

    Returns:
        One term per group that any row has.
    """
    memory = encoded.memory
    terms: dict[str, LossTerm] = {}
    for group in config.groups:
        if memory is None or group not in batch.caption_texts:
            continue
        texts = batch.caption_texts[group]
        chosen = choose_words(texts.valid, config.mask_fraction)
        scored = chosen & memory.has(group)[:, None]
        if not bool(scored.any()):
            continue
        corrupted = corrupt(texts.token_ids, chosen, special.mask, decoder.text.config.vocab_size)
        masked = TextBatch(token_ids=corrupted, valid=texts.valid)
        hidden = decoder.describe_masked(masked, memory, group)
        terms[f"caption/{group.label}"] = LossTerm(
            value=F.cross_entropy(decoder.word_logits(hidden[scored]), texts.token_ids[scored]),
            weight=config.weight / len(config.groups),
            num_rows=int(scored.any(dim=1).sum()),
        )
    return terms


def choose_words(
    valid: Bool[Tensor, "rows length"], fraction: float
) -> Bool[Tensor, "rows length"]:
    """Choose words to predict: never the first, at least one in each row with text."""
    draw = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0)
    draw[:, 0] = 2.0
    lowest = draw == draw.amin(dim=1, keepdim=True)
    return ((draw < fraction) | lowest) & (draw < 2.0)


def corrupt(
    token_ids: Int[Tensor, "rows length"],
    chosen: Bool[Tensor, "rows length"],
    mask_id: int,
    vocab_size: int,
) -> Int[Tensor, "rows length"]:
    """Replace chosen words: 80 % by [MASK], 10 % by any word, 10 % kept."""
    draw = torch.rand(chosen.shape, device=chosen.device)
    random_ids = torch.randint_like(token_ids, vocab_size)
    replaced = torch.where(draw < 0.8, mask_id, torch.where(draw < 0.9, random_ids, token_ids))
    return torch.where(chosen, replaced, token_ids)
