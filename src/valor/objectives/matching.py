"""Matching: does this text belong to these media? Asked about the hardest wrong ones at hand.

The decoder reads the whole text, seen in both directions, while it looks at the media. It sees what
similarities cannot: which words and which patches meet. Wrong ones come from the rows that a
process computes at a time: those of other processes and micro-batches would have to bring all their
patches along. The loss therefore depends on how a step is cut, unlike that of other objectives.

Source: ALBEF (arXiv 2107.07651) 3.2, as VAST (arXiv 2305.18500) uses it after VALOR.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass
from valor.encoders.text import Memory
from valor.errors import ConfigError
from valor.models.decoder import Decoder
from valor.models.fusion import join, similarity
from valor.models.valor import Encoded
from valor.objectives.alignment import same_text
from valor.objectives.base import LossTerm
from valor.types import MEDIA_GROUPS, Batch, Modality, TextBatch


@configclass
class MatchingConfig:
    """Which groups are matched with their captions, and how much it counts."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    """Media that texts are told to fit or not; one term for each."""
    weight: float = 1.0
    """Of the mean over groups, in the sum of all losses."""


def match(
    encoded: Encoded,
    batch: Batch,
    decoder: Decoder,
    head: nn.Module | None,
    config: MatchingConfig,
) -> dict[str, LossTerm]:
    """Tell each row's own text and media from the hardest wrong ones of the same rows.

    Args:
        encoded: With the decoder's memory and what similarities are made of.
        batch: With `caption_texts`; a process's rows, or a micro-batch of them.
        decoder: Reads texts.
        head: Turns the vector of a text's first token into a logit; the model's `match_head`.
        config: Groups and weight.

    Returns:
        One term per group with texts; a third of it each are right pairs, wrong media and wrong
        texts. It counts no row unless two of different texts have the group.

    Raises:
        ConfigError: If the model has no head for it.
    """
    if head is None:
        raise ConfigError("objectives.matching needs a model with model.matches=true")
    terms: dict[str, LossTerm] = {}
    memory = encoded.memory
    for group in config.groups:
        if memory is None or any(modality not in memory.tokens for modality in group):
            continue
        if group not in encoded.aligned_texts.keys() & batch.caption_texts:
            continue
        text, written = encoded.aligned_texts[group], batch.caption_texts[group]
        rows = (text.present & written.has_text & memory.has(group)).nonzero()[:, 0]
        texts = _rows(written, rows)
        wrong = ~same_text(texts)
        kept = wrong.any(dim=1)
        rows, texts, wrong = rows[kept], _rows(texts, kept), wrong[kept][:, kept]
        weight = config.weight / len(config.groups)
        if len(rows) < 2:
            # Processes that share the decoder's weights run it together, whatever their rows lack.
            first = torch.zeros(1, dtype=torch.long, device=rows.device)
            unused = match_logits(decoder, head, _rows(written, first), memory.rows(first), group)
            nothing = LossTerm(value=0.0 * unused.sum(), weight=weight, num_rows=0)
            terms[f"match/{group.label}"] = nothing
            continue
        with torch.no_grad():
            media = join(encoded.media, group).select(rows)
            scores = similarity(text.select(rows), media) * encoded.log_scale.exp()
        own = torch.arange(len(rows), device=rows.device)
        asked = _rows(texts, torch.cat([own, own, hardest(scores.T, wrong.T)]))
        shown = memory.rows(rows[torch.cat([own, hardest(scores, wrong), own])])
        logits = match_logits(decoder, head, asked, shown, group)
        right = torch.arange(len(logits), device=logits.device) < len(rows)
        terms[f"match/{group.label}"] = LossTerm(
            value=F.binary_cross_entropy_with_logits(logits, right.to(logits.dtype)),
            weight=weight,
            num_rows=len(rows),
        )
    return terms


def hardest(
    logits: Float[Tensor, "rows items"], wrong: Bool[Tensor, "rows items"]
) -> Int[Tensor, " rows"]:
    """Draw a wrong item for each row, the more likely the more similar it is."""
    return logits.masked_fill(~wrong, float("-inf")).softmax(dim=1).multinomial(1)[:, 0]


def match_logits(
    decoder: Decoder, head: nn.Module, texts: TextBatch, memory: Memory, group: Modality
) -> Float[Tensor, " rows"]:
    """Score how well each row's text belongs to its media; above 0 for those that do."""
    whole = decoder(texts, memory, group, num_prefix=texts.token_ids.shape[1])
    return head(whole[:, 0]).float()[:, 0]


def _rows(texts: TextBatch, rows: Tensor) -> TextBatch:
    return TextBatch(token_ids=texts.token_ids[rows], valid=texts.valid[rows])
