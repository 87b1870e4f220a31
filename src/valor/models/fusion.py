"""Heads into the shared space and THE similarity.

Training, evaluation and search score with `similarity` and nothing else. Groups of modalities are
formed by `join`: the tokens of an audiovisual group are the vision and the audio tokens in a row,
and the weights of all of them share one softmax.

Source: VALOR (arXiv 2304.08345) 3.3, equations 1-3; upstream `model/pretrain.py`. Unlike upstream,
padded positions can never win the maximum.
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.types import Embeddings, Modality

_NEVER = -1e4
"""Below any similarity, yet finite, so that a row without tokens makes no NaN in the backward."""


class AlignmentHead(nn.Module):
    """Project encoder vectors into the shared space and score how much each one matters.

    Args:
        dim: Width of the encoder's vectors.
        embed_dim: Width of the shared space.
        weighs: Whether there is a scorer; without one all vectors of a row matter alike.
    """

    def __init__(self, dim: int, embed_dim: int, *, weighs: bool = True) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, embed_dim, bias=False)
        self.scorer = (
            nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, 1))
            if weighs
            else None
        )

    def forward(
        self, features: Float[Tensor, "batch tokens dim"], valid: Bool[Tensor, "batch tokens"]
    ) -> Embeddings:
        """Return unit vectors and the logits of their weights (upstream: a 2-layer scorer)."""
        vectors = F.normalize(self.projection(features).float(), dim=-1)
        logits = torch.zeros_like(vectors[..., 0])
        if self.scorer is not None:
            logits = self.scorer(vectors.to(features.dtype)).float().squeeze(-1)
        return Embeddings(vectors=vectors, weight_logits=logits, valid=valid)


class CoarseFusion(nn.Module):
    """Make one audiovisual vector of a row's vision and audio vectors.

    Args:
        embed_dim: Width of the shared space.
        late: Add both, so that similarities add up, instead of learning what to make of them.
    """

    def __init__(self, embed_dim: int, *, late: bool) -> None:
        super().__init__()
        self.linear = None if late else nn.Linear(2 * embed_dim, embed_dim)

    def forward(self, vision: Embeddings, audio: Embeddings) -> Embeddings:
        """Fuse rows that have both; the others keep what they have.

        Source:
            VALOR table 7, feature and score fusion; upstream `va_fusion` and `late_fusion`.
        """
        both = (vision.present & audio.present)[:, None, None]
        if self.linear is None:
            fused = vision.vectors + audio.vectors
        else:
            pair = torch.cat([vision.vectors, audio.vectors], dim=-1)
            fused = F.normalize(self.linear(pair).float(), dim=-1)
        alone = torch.where(vision.valid[..., None], vision.vectors, audio.vectors)
        return Embeddings(
            vectors=torch.where(both, fused, alone),
            weight_logits=torch.zeros_like(vision.weight_logits),
            valid=vision.valid | audio.valid,
        )


def join(media: dict[Modality, Embeddings], group: Modality) -> Embeddings:
    """Put the tokens of a group's modalities in a row.

    Args:
        media: Embeddings by single modality, and by groups that the model fuses itself.
        group: The modalities to use; those that `media` lacks are left out.

    Returns:
        The joined tokens; a row's missing modality stays invalid.

    Raises:
        ValueError: If `media` has none of the group's modalities.
    """
    if group in media:
        return media[group]
    parts = [media[modality] for modality in group if modality in media]
    if not parts:
        raise ValueError(f"nothing to join: no embeddings for {group.label!r}")
    if len(parts) == 1:
        return parts[0]
    return Embeddings(
        vectors=torch.cat([part.vectors for part in parts], dim=1),
        weight_logits=torch.cat([part.weight_logits for part in parts], dim=1),
        valid=torch.cat([part.valid for part in parts], dim=1),
    )


def token_weights(embeddings: Embeddings) -> Float[Tensor, "batch tokens"]:
    """Softmax of the weight logits over a row's valid tokens; zero elsewhere."""
    logits = embeddings.weight_logits.masked_fill(~embeddings.valid, _NEVER)
    return logits.softmax(dim=-1) * embeddings.valid


def similarity(
    text: Embeddings,
    media: Embeddings,
    *,
    padded_words: Literal["excluded", "zero"] = "excluded",
) -> Float[Tensor, "texts items"]:
    """Fine-grained weighted similarity of every text with every item.

    Half the weighted mean over words of the best-matching media token, plus half the weighted mean
    over media tokens of the best-matching word. Values lie in [-1, 1].

    Args:
        text: Word vectors of the texts; any modality can stand in for text, as a query by sound.
        media: Token vectors of the items, possibly joined from several modalities.
        padded_words: `zero` lets a padded position count as a match of similarity 0, as the
            released code does; for comparisons with it only.

    Returns:
        One score per pair. A row without any valid token scores exactly 0 with everything.

    Source:
        VALOR equation 1.
    """
    cosine = torch.einsum("twe,mne->tmwn", text.vectors, media.vectors)
    word_valid = text.valid[:, None, :, None]
    token_valid = media.valid[None, :, None, :]
    padded = _NEVER if padded_words == "excluded" else 0.0
    best_token = cosine.masked_fill(~token_valid, padded).amax(dim=3)
    best_word = cosine.masked_fill(~word_valid, padded).amax(dim=2)
    from_text = torch.einsum("tw,tmw->tm", token_weights(text), best_token)
    from_media = torch.einsum("mn,tmn->tm", token_weights(media), best_word)
    both_present = text.present[:, None] & media.present[None, :]
    return torch.where(both_present, (from_text + from_media) / 2, 0.0)


def late_similarity(
    text: Embeddings,
    media: dict[Modality, Embeddings],
    group: Modality,
    *,
    padded_words: Literal["excluded", "zero"] = "excluded",
) -> Float[Tensor, "texts items"]:
    """Sum of the similarities with each modality by itself, in which all tokens matter alike.

    Fusion of fine-grained scores instead of features; an ablation of the paper (table 7), upstream
    `late_fusion`. Arguments as of `similarity`, with the group's modalities apart.
    """

    def alike(embeddings: Embeddings) -> Embeddings:
        return replace(embeddings, weight_logits=torch.zeros_like(embeddings.weight_logits))

    parts = [
        similarity(alike(text), alike(media[modality]), padded_words=padded_words)
        for modality in group
        if modality in media
    ]
    return torch.stack(parts).sum(dim=0)


def pooled(embeddings: Embeddings) -> Float[Tensor, "batch embed"]:
    """One unit vector per row: the weighted mean of its tokens; zeros for a row without any."""
    weights = token_weights(embeddings)
    mean = torch.einsum("bn,bne->be", weights, embeddings.vectors)
    return F.normalize(mean, dim=-1)
