"""Heads into the shared space and THE similarity.

Training, evaluation and search score with `similarity` and nothing else. Groups of modalities are
formed by `join`: the tokens of an audiovisual group are the vision and the audio tokens in a row,
and the weights of all of them share one softmax.

Source: VALOR (arXiv 2304.08345) 3.3, equations 1-3; upstream `model/pretrain.py`. Unlike upstream,
padded positions can never win the maximum.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from valor.types import Embeddings, Modality

_NEVER = -1e4
"""Below any similarity, yet finite, so that a row without tokens makes no NaN in the backward."""


class AlignmentHead(nn.Module):
    """Project encoder vectors into the shared space and score how much each one matters.

    Args:
        dim: Width of the encoder's vectors.
        embed_dim: Width of the shared space.
    """

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, embed_dim, bias=False)
        self.scorer = nn.Sequential(
            nn.Linear(embed_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, 1)
        )

    def forward(
        self, features: Float[Tensor, "batch tokens dim"], valid: Bool[Tensor, "batch tokens"]
    ) -> Embeddings:
        """Return unit vectors and the logits of their weights (upstream: a 2-layer scorer)."""
        vectors = nn.functional.normalize(self.projection(features).float(), dim=-1)
        weight_logits = self.scorer(vectors.to(features.dtype)).float().squeeze(-1)
        return Embeddings(vectors=vectors, weight_logits=weight_logits, valid=valid)


def join(media: dict[Modality, Embeddings], group: Modality) -> Embeddings:
    """Put the tokens of a group's modalities in a row.

    Args:
        media: Embeddings by single modality.
        group: The modalities to use; those that `media` lacks are left out.

    Returns:
        The joined tokens; a row's missing modality stays invalid.

    Raises:
        ValueError: If `media` has none of the group's modalities.
    """
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


def pooled(embeddings: Embeddings) -> Float[Tensor, "batch embed"]:
    """One unit vector per row: the weighted mean of its tokens; zeros for a row without any."""
    weights = token_weights(embeddings)
    mean = torch.einsum("bn,bne->be", weights, embeddings.vectors)
    return torch.nn.functional.normalize(mean, dim=-1)
