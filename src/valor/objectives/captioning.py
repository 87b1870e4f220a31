"""MGC: Multimodal Grouping Captioning, masked causal language modelling on each group.

Source: VALOR 3.4, equations 5 and 6; upstream corrupts 80 % of the chosen words to [MASK], 10 % to
random words and leaves 10 %. The groups share the decoder's memory, whose keys and values are
projected once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from valor.config import configclass
from valor.encoders.text import Memory, interleave
from valor.models.decoder import Decoder, Predictor, Remembered
from valor.objectives.base import LossTerm, row_uniform
from valor.types import MEDIA_GROUPS, Batch, Groups, Modality, SpecialIds, TextBatch, as_groups


@configclass
class CaptioningConfig:
    """Which groups captions are written from, and how texts are masked."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    """Media that captions are written from; one term for each."""
    weight: float = 1.0
    """Of the mean over groups, in the sum of all losses."""
    mask_fraction: float | None = 0.6
    """Share of the words that are predicted; None predicts every word, each at a [MASK] of its own,
    in one pass."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all other words."""

    def __post_init__(self) -> None:
        """Reject a fraction that masks nothing or is none."""
        if self.mask_fraction is not None and not 0 < self.mask_fraction <= 1:
            raise ValueError(f"mask_fraction={self.mask_fraction}, wanted above 0 and at most 1")


def caption(
    encoded: Remembered,
    batch: Batch,
    decoder: Predictor,
    config: CaptioningConfig,
    special: SpecialIds,
) -> dict[str, LossTerm]:
    """Predict masked words of each group's captions from its media.

    Args:
        encoded: With the decoder's memory.
        batch: With `caption_texts`; a row counts for a group if it has text and all its media.
        decoder: Predicts words.
        config: Groups, weight and masking.
        special: The tokenizer's special ids.

    Returns:
        One term per group with texts, also if no row has its media.
    """
    masking = Masking(mask_id=special.mask, fraction=config.mask_fraction, seeds=batch.row_seeds)
    terms = written_terms(encoded, batch, decoder, config.groups, masking, config.label_smoothing)
    return {
        f"caption/{group.label}": replace(term, weight=config.weight / len(config.groups))
        for group, term in terms.items()
    }


def written_terms(
    encoded: Remembered,
    batch: Batch,
    decoder: Predictor,
    groups: Sequence[Modality],
    masking: "Masking",
    label_smoothing: float = 0.0,
) -> dict[Modality, LossTerm]:
    """Predict words of each group's captions, all groups in one pass of the decoder.

    Args:
        encoded: With the decoder's memory.
        batch: With `caption_texts`.
        decoder: Predicts words.
        groups: Those to write from.
        masking: How words are masked.
        label_smoothing: Share of the target that is spread over all other words.

    Returns:
        By group with texts, also if no row has its media, the mean cross-entropy of words, of
        weight 1.
    """
    memory = encoded.memory
    groups = [group for group in groups if group in batch.caption_texts]
    if memory is None or not groups:
        return {}
    texts = interleave([batch.caption_texts[group] for group in groups])
    prompt = decoder.caption_prompt(len(texts.valid))
    words = predict_words(decoder, prompt, texts, memory, groups, masking)
    present = torch.stack([memory.has(group) for group in groups], dim=1)
    scored = words.scored & present.flatten()[:, None]
    losses = words.losses(decoder, scored, label_smoothing)
    row, _ = scored.nonzero(as_tuple=True)
    terms: dict[Modality, LossTerm] = {}
    for index, group in enumerate(groups):
        own = losses[row % len(groups) == index]
        terms[group] = LossTerm(
            value=own.sum() / max(1, len(own)),
            weight=1.0,
            num_rows=int(scored[index :: len(groups)].any(dim=1).sum()),
            num_words=len(own),
        )
    return terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Which words are to be predicted."""

    mask_id: int
    fraction: float | None
    """Share of the words; None masks each word by itself."""
    seeds: Int[Tensor, " rows"] | None
    """Of what is drawn for each row; None draws from torch's generator."""
    both_sides: bool = False
    """Whether the words after a masked one are seen too, as in BERT."""

    def seeds_of(self, groups: Sequence[Modality]) -> Int[Tensor, " texts"] | None:
        """Of each row's texts, one for each group."""
        if self.seeds is None:
            return None
        own = self.seeds.new_tensor([group.value for group in groups])
        return (self.seeds[:, None] + own).flatten()


@dataclass(slots=True, kw_only=True)
class PredictedWords:
    """Hidden vectors and the words that they should predict."""

    hidden: Float[Tensor, "rows length dim"]
    token_ids: Int[Tensor, "rows length"]
    scored: Bool[Tensor, "rows length"]
    """True where there is a word to predict."""

    def losses(
        self, decoder: Predictor, scored: Bool[Tensor, "rows length"], label_smoothing: float = 0.0
    ) -> Float[Tensor, " words"]:
        """Cross-entropy of each word at some positions, row by row, in nats."""
        logits = decoder.word_logits(self.hidden[scored])
        return smoothed_cross_entropy(logits, self.token_ids[scored], label_smoothing)


def predict_words(
    decoder: Predictor,
    prompt: TextBatch,
    texts: TextBatch,
    memory: Memory,
    groups: Groups,
    masking: Masking,
) -> PredictedWords:
    """Run the decoder over texts in the way in which it predicts words.

    Args:
        decoder: Causal, or with [MASK] in the place of what is to be predicted.
        prompt: Stands before each text; may be empty.
        texts: What is to be predicted, of each row of the memory and each group.
        memory: What to look at.
        groups: The part of the memory to look at, or that of each of a row's texts.
        masking: How words are masked, unless the decoder is causal.

    Returns:
        What was predicted from what.
    """
    if not isinstance(decoder, Decoder) or (decoder.causal and not masking.both_sides):
        hidden = decoder.read(prompt, texts, memory, groups)
    elif masking.fraction is None:
        mask_id = masking.mask_id
        hidden = decoder.read_fully_masked(prompt, texts, memory, groups, mask_id=mask_id)
    else:
        seeds = masking.seeds_of(as_groups(groups))
        draws = [row_uniform(seeds, texts.valid, stream=stream) for stream in range(3)]
        chosen = choose_words(texts.valid, masking.fraction, draws[0])
        random_ids = (draws[1] * decoder.text.config.vocab_size).long()
        corrupted = corrupt(texts.token_ids, chosen, masking.mask_id, draws[2], random_ids)
        masked = TextBatch(token_ids=corrupted, valid=texts.valid)
        hidden = (
            decoder(masked, memory, groups, num_prefix=corrupted.shape[1])
            if masking.both_sides
            else decoder.read(prompt, masked, memory, groups)
        )
        return PredictedWords(hidden=hidden, token_ids=texts.token_ids, scored=chosen)
    return PredictedWords(
        hidden=hidden[:, :-1], token_ids=texts.token_ids[:, 1:], scored=texts.valid[:, 1:]
    )


def smoothed_cross_entropy(
    logits: Float[Tensor, "words vocab"], targets: Int[Tensor, " words"], smoothing: float
) -> Float[Tensor, " words"]:
    """Divergence from targets of which `smoothing` is spread over all other words.

    Source:
        Upstream `model/pretrain.py`, `LabelSmoothing`; PyTorch spreads over the target too and
        leaves out the targets' own entropy.
    """
    others = logits.shape[1] - 1
    spread = smoothing * (others + 1) / others
    value = F.cross_entropy(logits, targets, label_smoothing=spread, reduction="none")
    if not smoothing:
        return value
    certain = 1 - smoothing
    return value + certain * math.log(certain) + smoothing * math.log(smoothing / others)


def choose_words(
    valid: Bool[Tensor, "rows length"], fraction: float, draw: Float[Tensor, "rows length"]
) -> Bool[Tensor, "rows length"]:
    """Choose words to predict: never the first, at least one in each row with text."""
    draw = draw.masked_fill(~valid, 2.0)
    draw[:, 0] = 2.0
    lowest = draw == draw.amin(dim=1, keepdim=True)
    return ((draw < fraction) | lowest) & (draw < 2.0)


def corrupt(
    token_ids: Int[Tensor, "rows length"],
    chosen: Bool[Tensor, "rows length"],
    mask_id: int,
    draw: Float[Tensor, "rows length"],
    random_ids: Int[Tensor, "rows length"],
) -> Int[Tensor, "rows length"]:
    """Replace chosen words: 80 % by [MASK], 10 % by any word, 10 % kept."""
    replaced = torch.where(draw < 0.8, mask_id, torch.where(draw < 0.9, random_ids, token_ids))
    return torch.where(chosen, replaced, token_ids)
