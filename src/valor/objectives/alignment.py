"""MGA: Multimodal Grouping Alignment, the contrast of text with each group of modalities.

Source: VALOR 3.3, equations 2 and 4. Differs from the paper: the temperature is stored as its log,
and rows with the same text are positives of each other instead of false negatives.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from valor.config import configclass
from valor.models.fusion import join, similarity
from valor.models.valor import Encoded
from valor.objectives.base import LossTerm
from valor.types import MEDIA_GROUPS, Batch, Modality, TextBatch


@configclass
class AlignmentConfig:
    """Which groups are contrasted with text, and how much it counts."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    weight: float = 1.5
    """The paper's alpha."""

    def __post_init__(self) -> None:
        """Reject groups that cannot be contrasted with text."""
        if any(not group or Modality.TEXT in group for group in self.groups):
            raise ValueError("groups are made of vision and audio")


def align(encoded: Encoded, batch: Batch, config: AlignmentConfig) -> dict[str, LossTerm]:
    """Contrast each group's media with its texts.

    Args:
        encoded: With `media` and `aligned_texts`.
        batch: The texts' token ids tell which rows mean the same.
        config: Groups and weight; each group counts `weight / len(groups)`.

    Returns:
        One term per group that at least two rows have every modality of.
    """
    terms: dict[str, LossTerm] = {}
    for group in config.groups:
        if group not in encoded.aligned_texts or any(m not in encoded.media for m in group):
            continue
        text = encoded.aligned_texts[group]
        rows = text.present
        for modality in group:
            rows = rows & encoded.media[modality].present
        num_rows = int(rows.sum())
        if num_rows < 2:
            continue
        media = join(encoded.media, group).select(rows)
        scores = similarity(text.select(rows), media)
        positive = same_text(batch.aligned_texts[group])[rows][:, rows]
        terms[f"align/{group.label}"] = LossTerm(
            value=contrastive_loss(scores, positive, encoded.log_scale),
            weight=config.weight / len(config.groups),
            num_rows=num_rows,
        )
    return terms


def contrastive_loss(
    scores: Float[Tensor, "rows rows"],
    positive: Bool[Tensor, "rows rows"],
    log_scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in which a row may have several positives.

    Args:
        scores: Similarity of every text with every item.
        positive: True where text and item belong together; at least the diagonal.
        log_scale: Natural log of 1 / temperature; learned.

    Returns:
        Mean of the text-to-media and media-to-text cross-entropies, in nats; each row's target is
        spread evenly over its positives.

    Example:
        >>> import torch
        >>> one = torch.eye(4)
        >>> contrastive_loss(one, one > 0, torch.tensor(3.0)).item() < 0.2
        True
    """
    logits = scores * log_scale.exp()
    target = positive.float()
    by_text = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)
    by_media = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0)
    return (by_text.mean() + by_media.mean()) / 2


def same_text(texts: TextBatch) -> Bool[Tensor, "rows rows"]:
    """True where two rows hold the same tokens."""
    ids = texts.token_ids.masked_fill(~texts.valid, -1)
    return (ids[:, None] == ids[None]).all(dim=-1)
