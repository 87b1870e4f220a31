"""Retrieval over pools of any size: exact, a block of the matrix at a time, or in two stages.

`rank_pool` compares every text with every item by THE similarity and keeps counts alone, so that
50 000 x 50 000 scores need no more memory than the vectors. `two_stage` takes candidates by one
pooled vector per item and re-ranks these exactly, as a search over a large collection does; the
share of queries whose match is among the candidates stands beside the figures.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from valor.metrics.ranking import PairRanking
from valor.metrics.retrieval import rank_report
from valor.models.fusion import pooled, similarity
from valor.types import Embeddings

_SIDE = 512
"""Rows and columns of a block; its copies of vectors are small, and its products many."""


def rank_pool(
    texts: Embeddings,
    media: Embeddings,
    owner: Int[np.ndarray, " texts"] | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PairRanking:
    """Rank every text among all media, and every media item among all texts.

    Args:
        texts: The queries; any modality can stand in for text.
        media: The items.
        owner: The item of each text, ascending; row for row by default.
        progress: Told how many of how many texts are done.

    Returns:
        The counts; `metrics.retrieval.pair_report` makes figures of them.
    """
    num_texts, num_media = len(texts.valid), len(media.valid)
    owner = np.arange(num_texts) if owner is None else owner
    rows = [slice(first, first + _SIDE) for first in range(0, num_texts, _SIDE)]
    columns = [slice(first, first + _SIDE) for first in range(0, num_media, _SIDE)]
    own_scores = np.zeros(num_texts, dtype=np.float32)
    # A pair's own score must have the bits that the block has, or it would not tie with its equals.
    kept: dict[tuple[int, int], Float[np.ndarray, "texts media"]] = {}
    for row in rows:
        for column in columns:
            inside = (owner[row] >= column.start) & (owner[row] < column.stop)
            if inside.any():
                block = _block(texts, row, media, column)
                kept[row.start, column.start] = block
                at = np.flatnonzero(inside)
                own_scores[row.start + at] = block[at, owner[row][at] - column.start]
    ranking = PairRanking(owner, own_scores)
    for row in rows:
        for column in columns:
            block = kept.pop((row.start, column.start), None)
            block = _block(texts, row, media, column) if block is None else block
            ranking.count(block, first_text=row.start, first_media=column.start)
        progress(min(row.stop, num_texts), num_texts)
    return ranking


def _block(
    texts: Embeddings, row: slice, media: Embeddings, column: slice
) -> Float[np.ndarray, "texts media"]:
    return similarity(cut(texts, row), cut(media, column)).numpy()


def cut(embeddings: Embeddings, rows: slice) -> Embeddings:
    """Rows that follow each other, without a copy."""
    return Embeddings(
        vectors=embeddings.vectors[rows],
        weight_logits=embeddings.weight_logits[rows],
        valid=embeddings.valid[rows],
    )


def two_stage(
    texts: Embeddings,
    media: Embeddings,
    owner: Int[np.ndarray, " texts"] | None = None,
    *,
    num_candidates: int = 100,
) -> dict[str, Any]:
    """Rank media for each text by pooled vectors, then re-rank the first exactly.

    Args:
        texts: The queries.
        media: The items.
        owner: The item of each text; row for row by default.
        num_candidates: How many items are re-ranked.

    Returns:
        `rank_report` of the pessimistic ranks, `candidates`, and `candidate_recall`, how often the
        match is among these. A match that is not keeps its rank by pooled vectors.
    """
    num_media = len(media.valid)
    owner = np.arange(len(texts.valid)) if owner is None else owner
    num_candidates = min(num_candidates, num_media)
    from_text, of_media = pooled(texts), pooled(media)
    ranks = np.zeros(len(owner))
    found = np.zeros(len(owner), dtype=bool)
    for first in range(0, len(owner), _SIDE):
        coarse = from_text[first : first + _SIDE] @ of_media.T
        candidates = coarse.topk(num_candidates, dim=1).indices
        for row, own in enumerate(owner[first : first + _SIDE].tolist()):
            index, query = candidates[row], slice(first + row, first + row + 1)
            scores, own_score = coarse[row], coarse[row, own]
            at = (index == own).nonzero()
            found[first + row] = len(at) > 0
            if len(at):
                scores = similarity(cut(texts, query), media.select(index))[0]
                own_score = scores[at[0, 0]]
            # The match counts itself: the pessimistic rank among equal scores.
            ranks[first + row] = int((scores >= own_score).sum())
    ranks[~found] = np.maximum(ranks[~found], num_candidates + 1)
    return {
        **rank_report(ranks),
        "candidates": num_candidates,
        "candidate_recall": float(found.mean()),
    }


def best_items(
    texts: Embeddings, media: Embeddings, num: int
) -> tuple[Float[np.ndarray, "texts num"], Int[np.ndarray, "texts num"]]:
    """Scores and places of the best items for each text, the best first; of equals the first."""
    best: list[tuple[torch.Tensor, torch.Tensor]] = []
    for first in range(0, len(texts.valid), _SIDE):
        query = cut(texts, slice(first, first + _SIDE))
        row = [
            similarity(query, cut(media, slice(at, at + _SIDE)))
            for at in range(0, len(media.valid), _SIDE)
        ]
        scores, index = torch.cat(row, dim=1).sort(dim=1, descending=True, stable=True)
        best.append((scores[:, :num], index[:, :num]))
    values, places = (torch.cat(parts).numpy() for parts in zip(*best, strict=True))
    return values, places


Match = Callable[
    [Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]], Float[np.ndarray, " pairs"]
]
"""Scores pairs of texts and items by a closer look; pairs of an item follow each other."""


def rerank(
    texts: Embeddings, media: Embeddings, match: Match, *, num_candidates: int
) -> tuple[Int[np.ndarray, "texts candidates"], Float[np.ndarray, "texts candidates"]]:
    """Score the best items of each text again.

    Args:
        texts: The queries.
        media: The items.
        match: Looks closer at the best items of each text, and at no other.
        num_candidates: How many items are the best.

    Returns:
        Their places, the best by similarity first, and their scores by `match`.
    """
    _, places = best_items(texts, media, num_candidates)
    asked = np.repeat(np.arange(len(places)), places.shape[1])
    order = np.argsort(places, axis=None, kind="stable")
    scores = np.empty(places.size)
    scores[order] = match(asked[order], places.flatten()[order])
    return places, scores.reshape(places.shape)


def shared_rows(*parts: Embeddings) -> list[int]:
    """The rows that are present in all parts."""
    present = torch.stack([part.present for part in parts]).all(dim=0)
    return [row for row, is_present in enumerate(present) if bool(is_present)]
