"""MGA: Multimodal Grouping Alignment, the contrast of groups of modalities with each other.

Source: VALOR 3.3, equations 2 and 4. Differs from the paper: the temperature is stored as its log,
and rows with the same text are positives of each other instead of false negatives. Other losses of
a pair: SigLIP (arXiv 2303.15343), and GRAM (arXiv 2412.11959).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from valor.config import configclass
from valor.errors import ConfigError
from valor.models.fusion import join, pooled, similarity
from valor.models.valor import Encoded
from valor.objectives.base import LossTerm
from valor.types import MEDIA_GROUPS, Batch, Embeddings, Modality, TextBatch

_FLAT = 1e-6
"""Squared volumes are at least this, where the root still has a gradient."""
_BLOCK_ROWS = 256
"""Rows whose volumes with all items are computed at a time."""


@configclass
class AlignmentConfig:
    """Which groups are contrasted, how, and how much it counts."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    """Groups of media that are contrasted with text."""
    pairs: tuple[tuple[Modality, Modality], ...] = ()
    """Further pairs, such as vision with audio, or vision+text with audio (the paper's M7). The
    text beside media is the one about all media of the pair."""
    loss: Literal["softmax", "sigmoid", "volume"] = "softmax"
    """Cross-entropy of similarities; SigLIP's decision on every pair by itself; or cross-entropy
    of how small a volume the vectors of all modalities span (GRAM), pooled to one of each."""
    sigmoid_bias: float = -10.0
    """Added to the scaled similarities by `sigmoid`; learned from this value on."""
    weight: float = 1.5
    """The paper's alpha."""

    def __post_init__(self) -> None:
        """Reject what cannot be contrasted."""
        if any(not group or Modality.TEXT in group for group in self.groups):
            raise ValueError("groups are made of vision and audio, pairs of text too")
        if any(not left or not right or left & right for left, right in self.pairs):
            raise ValueError("a pair is made of two groups without a modality in common")

    @property
    def contrasts(self) -> dict[str, tuple[Modality, Modality]]:
        """Every pair by its name in terms; with text alone, the name of the other group."""
        texts = {group.label: (Modality.TEXT, group) for group in self.groups}
        return texts | {f"{a.label}:{b.label}": (a, b) for a, b in self.pairs}


def align(encoded: Encoded, batch: Batch, config: AlignmentConfig) -> dict[str, LossTerm]:
    """Contrast the groups of each pair over the batch.

    Args:
        encoded: With `media` and `aligned_texts`.
        batch: The texts' token ids tell which rows mean the same.
        config: Pairs, loss and weight, which is shared by all pairs alike.

    Returns:
        One term per pair that at least two rows have every modality of.

    Raises:
        ConfigError: If the loss is `sigmoid` and the model has no bias for it.
    """
    if config.loss == "sigmoid" and encoded.bias is None:
        raise ConfigError("alignment.loss=sigmoid needs a model with model.align_bias=true")
    terms: dict[str, LossTerm] = {}
    for name, (left, right) in config.contrasts.items():
        about = (left | right) & ~Modality.TEXT
        parts = dict(encoded.media)
        if about in encoded.aligned_texts:
            parts[Modality.TEXT] = encoded.aligned_texts[about]
        if any(modality not in parts for modality in left | right):
            continue
        rows = torch.stack([parts[modality].present for modality in left | right]).all(dim=0)
        num_rows = int(rows.sum())
        if num_rows < 2:
            continue
        positive = torch.eye(num_rows, dtype=torch.bool, device=rows.device)
        if left is Modality.TEXT:
            positive = same_text(batch.aligned_texts[about])[rows][:, rows]
        found = {modality: embeddings.select(rows) for modality, embeddings in parts.items()}
        terms[f"align/{name}"] = LossTerm(
            value=_pair_loss(found, left, right, positive, encoded, config),
            weight=config.weight / len(config.contrasts),
            num_rows=num_rows,
        )
    return terms


def _pair_loss(
    parts: dict[Modality, Embeddings],
    left: Modality,
    right: Modality,
    positive: Bool[Tensor, "rows rows"],
    encoded: Encoded,
    config: AlignmentConfig,
) -> Float[Tensor, ""]:
    log_scale = encoded.log_scale
    if config.loss == "volume":
        sides = [torch.stack([pooled(parts[m]) for m in side], dim=1) for side in (left, right)]
        return contrastive_loss(-volume(*sides), positive, log_scale)
    scores = similarity(join(parts, left), join(parts, right))
    if config.loss == "sigmoid" and encoded.bias is not None:
        return sigmoid_loss(scores, positive, log_scale, encoded.bias)
    return contrastive_loss(scores, positive, log_scale)


def volume(
    left: Float[Tensor, "rows some embed"], right: Float[Tensor, "items others embed"]
) -> Float[Tensor, "rows items"]:
    """Volume that the vectors of a row and those of an item span together.

    Args:
        left: Unit vectors of each row, one per modality.
        right: Unit vectors of each item.

    Returns:
        From 0, where the vectors depend on each other, to 1, where they are orthogonal. Memory
        holds the products of some rows with all items; gradients compute them again.

    Source:
        GRAM (arXiv 2412.11959), equation 2: the root of the Gram matrix's determinant.
    """
    again = cast(
        "Callable[[Tensor, Tensor], Tensor]",
        partial(checkpoint, _volumes, use_reentrant=False, preserve_rng_state=False),
    )
    cuts = [slice(first, first + _BLOCK_ROWS) for first in range(0, len(left), _BLOCK_ROWS)]
    return torch.cat([again(left[cut], right) for cut in cuts])


def _volumes(
    left: Float[Tensor, "rows some embed"], right: Float[Tensor, "items others embed"]
) -> Float[Tensor, "rows items"]:
    """From the Gram matrix by its blocks: of each row, of each item, and of each pair."""
    rows = torch.einsum("rse,rte->str", left, left)[..., None]
    items = torch.einsum("ise,ite->sti", right, right)[:, :, None]
    both = torch.einsum("rse,ite->stri", left, right)
    above = [[*rows[at], *both[at]] for at in range(left.shape[1])]
    below = [[*both[:, at], *items[at]] for at in range(right.shape[1])]
    return _determinant(above + below).clamp(min=_FLAT).sqrt()


def _determinant(matrix: list[list[Tensor]]) -> Tensor:
    """Of small matrices whose entries are tensors, by cofactors of the first row."""
    if len(matrix) == 1:
        return matrix[0][0]
    minors = [[row[:at] + row[at + 1 :] for row in matrix[1:]] for at in range(len(matrix))]
    terms = [x * _determinant(minor) for x, minor in zip(matrix[0], minors, strict=True)]
    return sum(terms[2::2], terms[0]) - sum(terms[3::2], terms[1])


def sigmoid_loss(
    scores: Float[Tensor, "rows rows"],
    positive: Bool[Tensor, "rows rows"],
    log_scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Say of every pair by itself whether it belongs together.

    Args:
        scores: Similarity of every row with every row.
        positive: True where two belong together; at least the diagonal.
        log_scale: Natural log of 1 / temperature; learned.
        bias: Added to the scaled scores; learned.

    Returns:
        Sum over a row's pairs, mean over rows, in nats.

    Source:
        SigLIP (arXiv 2303.15343), equation 1.
    """
    logits = scores * log_scale.exp() + bias
    loss = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="sum")
    return loss / len(scores)


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
    found = torch.unique(ids, dim=0, return_inverse=True)  # pyright: ignore
    _, which = cast("tuple[Tensor, Tensor]", found)
    return which[:, None] == which
