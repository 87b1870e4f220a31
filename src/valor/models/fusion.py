"""Heads into the shared space and THE similarity.

Training, evaluation and search score with `similarity` and nothing else. Groups of modalities are
formed by `join`: the tokens of an audiovisual group are the vision and the audio tokens in a row,
and the weights of all of them share one softmax.

Source: VALOR (arXiv 2304.08345) 3.3, equations 1-3; upstream `model/pretrain.py`. Unlike upstream,
padded positions can never win the maximum.
"""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from valor.encoders.layers import linear
from valor.types import Embeddings, Modality

_NEVER = -1e4
"""Below any weight's logit, yet finite, so that a row without tokens makes no NaN."""
_SIDE = 2048
"""Words and media tokens of a block of similarities on the CPU: their products stay in its cache,
and take 0.93 of a matrix product's rate with both maxima (`benchmarks/bench_similarity.py`)."""


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
            fused = F.normalize(self.linear(pair.to(self.linear.weight.dtype)).float(), dim=-1)
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
        One score per pair. A row without any valid token scores exactly 0 with everything. Memory
        holds the products of a block of pairs at a time; gradients compute them again.

    Source:
        VALOR equation 1.
    """
    scores = _Blockwise.apply(
        _filled(text, padded_words),
        token_weights(text),
        _filled(media, padded_words),
        token_weights(media),
    )
    both_present = text.present[:, None] & media.present[None, :]
    return torch.where(both_present, scores, 0.0)


def _filled(
    embeddings: Embeddings, padded: Literal["excluded", "zero"]
) -> Float[Tensor, "batch tokens embed"]:
    """Vectors with a row's first valid one in the place of padding, which changes no maximum."""
    vectors, valid = embeddings.vectors, embeddings.valid
    if bool(valid.all()):
        return vectors
    first = vectors[torch.arange(len(vectors), device=vectors.device), valid.long().argmax(dim=1)]
    return torch.where(valid[..., None], vectors, first[:, None] if padded == "excluded" else 0.0)


class _Blockwise(torch.autograd.Function):
    """Similarities a block of pairs at a time; gradients compute each block again."""

    @staticmethod
    def forward(
        ctx: Any,
        words: Float[Tensor, "texts words embed"],
        word_weights: Float[Tensor, "texts words"],
        tokens: Float[Tensor, "items tokens embed"],
        media_weights: Float[Tensor, "items tokens"],
    ) -> Float[Tensor, "texts items"]:
        ctx.save_for_backward(words, word_weights, tokens, media_weights)
        scores = words.new_empty(len(words), len(tokens))
        columns = [(cut, _by_token(tokens[cut]), media_weights[cut]) for cut in _blocks(tokens)]
        for row in _blocks(words):
            here = _by_token(words[row])
            for column, there, weights in columns:
                scores[row, column] = _block_scores(here, word_weights[row], there, weights)
        return scores

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore
        ctx: Any, gradient: Float[Tensor, "texts items"]
    ) -> tuple[Float[Tensor, "*sizes"], ...]:
        words, word_weights, tokens, media_weights = ctx.saved_tensors
        inputs = (words, word_weights, tokens, media_weights)
        totals = tuple(torch.zeros_like(x) for x in inputs)
        for row in _blocks(words):
            for column in _blocks(tokens):
                cuts = (row, row, column, column)
                with torch.enable_grad():
                    parts = [
                        x[cut].detach().requires_grad_()
                        for x, cut in zip(inputs, cuts, strict=True)
                    ]
                    scores = _block_scores(
                        _by_token(parts[0]), parts[1], _by_token(parts[2]), parts[3]
                    )
                found = torch.autograd.grad(scores, parts, gradient[row, column])
                for total, cut, part in zip(totals, cuts, found, strict=True):
                    total[cut] += part
        return totals


def _blocks(vectors: Float[Tensor, "batch tokens embed"]) -> list[slice]:
    """Stretches of rows whose tokens are `_SIDE` at most, or one row's."""
    side = _SIDE if vectors.device.type == "cpu" else 8 * _SIDE
    rows = max(1, side // max(1, vectors.shape[1]))
    return [slice(first, first + rows) for first in range(0, len(vectors), rows)]


def _by_token(vectors: Float[Tensor, "batch tokens embed"]) -> Float[Tensor, "tokens batch embed"]:
    """In the order in which a maximum over tokens runs over whole rows of memory."""
    return vectors.transpose(0, 1).contiguous()


def _block_scores(
    words: Float[Tensor, "words texts embed"],
    word_weights: Float[Tensor, "texts words"],
    tokens: Float[Tensor, "tokens items embed"],
    media_weights: Float[Tensor, "items tokens"],
) -> Float[Tensor, "texts items"]:
    """Similarities of some texts with some items."""
    cosine = linear(words.flatten(0, 1), tokens.flatten(0, 1), None)
    cosine = cosine.view(*words.shape[:2], *tokens.shape[:2])
    from_text = torch.einsum("tw,wtm->tm", word_weights, cosine.amax(dim=2))
    from_media = torch.einsum("mn,tnm->tm", media_weights, cosine.amax(dim=0))
    return (from_text + from_media) / 2


def pooled(embeddings: Embeddings) -> Float[Tensor, "batch embed"]:
    """One unit vector per row: the weighted mean of its tokens; zeros for a row without any."""
    weights = token_weights(embeddings)
    mean = torch.einsum("bn,bne->be", weights, embeddings.vectors)
    return F.normalize(mean, dim=-1)
