"""Retrieval metrics of a score matrix, with an explicit rule for equal scores.

Rows are queries, columns are items, higher is better. A rank counts from 1. Ties are broken against
the model unless asked otherwise, so that a constant matrix scores nothing. `retrieval_report` gives
the usual table in both directions; `expected_recall_at_k` scores pools in which a caption fits
several items equally well, as in the rendered world.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from valor.errors import ValorError
from valor.metrics.ranking import (
    TIE_SHARES,
    PairRanking,
    Ties,
    average_precision,
    discounted_gain,
)

_ROWS_AT_ONCE = 1024


def ranks(
    scores: Float[np.ndarray, "queries items"],
    relevant: Bool[np.ndarray, "queries items"] | Int[np.ndarray, " queries"],
    *,
    ties: Ties = "pessimistic",
) -> Float[np.ndarray, " queries"]:
    """Rank of each query's best relevant item among the items that are not relevant.

    Args:
        scores: Similarity of every query with every item.
        relevant: True where the item answers the query, or the index of the one that does.
        ties: Where the match stands among other items of equal score; `average` gives half ranks.

    Returns:
        Ranks, where 1 is the best.

    Raises:
        ValorError: If a score is NaN or a query has no relevant item.
    """
    is_relevant = _relevance(scores, relevant)
    best = np.where(is_relevant, scores, -np.inf).max(axis=1, keepdims=True)
    above = (~is_relevant & (scores > best)).sum(axis=1)
    equal = (~is_relevant & (scores == best)).sum(axis=1)
    return 1.0 + above + TIE_SHARES[ties] * equal


def recall_at_k(ranks: Num[np.ndarray, " queries"], k: int) -> float:
    """Fraction of queries whose match is among the first k; of half ranks the whole part counts."""
    return float((ranks < k + 1).mean())


def median_rank(ranks: Num[np.ndarray, " queries"]) -> float:
    """Median rank of the match; the mean of the middle two for an even number of queries."""
    return float(np.median(ranks))


def mean_rank(ranks: Num[np.ndarray, " queries"]) -> float:
    """Mean rank of the match."""
    return float(ranks.mean())


def mrr(ranks: Num[np.ndarray, " queries"]) -> float:
    """Mean of 1 / rank."""
    return float((1.0 / ranks).mean())


def mean_average_precision(
    scores: Float[np.ndarray, "queries items"], relevant: Bool[np.ndarray, "queries items"]
) -> float:
    """Mean over queries of the precision at each relevant item; ties are pessimistic.

    Args:
        scores: Similarity of every query with every item.
        relevant: True where the item answers the query.

    Returns:
        Mean average precision, 1 when every relevant item comes first.

    Raises:
        ValorError: If a score is NaN or a query has no relevant item.
    """
    relevance = _relevance(scores, relevant)
    sorted_relevance = np.take_along_axis(relevance, _pessimistic_order(scores, relevance), axis=1)
    precision = sorted_relevance.cumsum(axis=1) / np.arange(1, scores.shape[1] + 1)
    return float(((precision * sorted_relevance).sum(axis=1) / relevance.sum(axis=1)).mean())


def ndcg(
    scores: Float[np.ndarray, "queries items"],
    gains: Num[np.ndarray, "queries items"] | Bool[np.ndarray, "queries items"],
    *,
    k: int | None = None,
) -> float:
    """Normalised discounted cumulative gain; ties are pessimistic.

    Args:
        scores: Similarity of every query with every item.
        gains: How well each item answers each query, at least 0; True counts 1.
        k: How many first items count; all of them by default.

    Returns:
        Mean over queries, 1 for the ideal order.

    Raises:
        ValorError: If a score is NaN, a gain is negative or a query has no item with a gain.
    """
    if (gains < 0).any():
        raise ValorError(f"gains must be at least 0, got {gains.min()}")
    _relevance(scores, gains > 0)
    gains = gains.astype(float)
    discounts = 1.0 / np.log2(np.arange(2, scores.shape[1] + 2))[:k]
    found = np.take_along_axis(gains, _pessimistic_order(scores, gains), axis=1)[:, :k]
    ideal = -np.sort(-gains, axis=1)[:, :k]
    return float(((found @ discounts) / (ideal @ discounts)).mean())


def rank_report(ranks: Num[np.ndarray, " queries"]) -> dict[str, float]:
    """Recall at 1, 5, 10 and 50, median and mean rank, MRR and the number of queries.

    Ranks of several chunks of queries may be concatenated first: the result is the same.
    """
    return {
        **{f"r{k}": recall_at_k(ranks, k) for k in (1, 5, 10, 50)},
        "median_rank": median_rank(ranks),
        "mean_rank": mean_rank(ranks),
        "mrr": mrr(ranks),
        "num": len(ranks),
    }


def retrieval_report(
    scores: Float[np.ndarray, "texts media"],
    *,
    captions_per_item: int = 1,
    ties: Ties = "pessimistic",
) -> dict[str, dict[str, float]]:
    """Score a matrix in both directions; text i belongs to media `i // captions_per_item`.

    Args:
        scores: Similarity of every text with every media item.
        captions_per_item: Texts of each item, in rows that follow each other. In the direction
            media to text the best own caption counts, ranked among the captions of other items.
        ties: Where the match stands among other items of equal score.

    Returns:
        What `pair_report` gives, under `text_to_media` and `media_to_text`.

    Raises:
        ValorError: If the shape does not fit `captions_per_item` or a score is NaN.
    """
    return pair_report(matrix_ranking(scores, captions_per_item=captions_per_item), ties=ties)


def matrix_ranking(
    scores: Float[np.ndarray, "texts media"], *, captions_per_item: int = 1
) -> PairRanking:
    """Count the ranks of a matrix; arguments and `ValorError` as of `retrieval_report`."""
    texts, media = scores.shape
    if captions_per_item < 1 or texts != media * captions_per_item:
        raise ValorError(
            f"scores have {texts} rows and {media} columns, which does not fit "
            f"captions_per_item={captions_per_item}: rows must be columns x captions_per_item"
        )
    return _ranking(scores, np.arange(texts) // captions_per_item)


def _ranking(
    scores: Float[np.ndarray, "texts media"], owner: Int[np.ndarray, " texts"]
) -> PairRanking:
    ranking = PairRanking(owner, scores[np.arange(len(owner)), owner])
    for first in range(0, len(owner), _ROWS_AT_ONCE):
        ranking.count(scores[first : first + _ROWS_AT_ONCE], first_text=first, first_media=0)
    return ranking


def pair_report(ranking: PairRanking, *, ties: Ties = "pessimistic") -> dict[str, dict[str, float]]:
    """Every metric of counted ranks, in both directions.

    Args:
        ranking: Of a whole matrix.
        ties: Where the match stands among equal scores.

    Returns:
        Under `text_to_media` and `media_to_text`, `rank_report` of the best match of each query,
        and `map` and `ndcg` of all its matches. With one match `map` is `mrr`.
    """
    of_text, of_media = ranking.text_positions(ties), ranking.media_positions(ties)
    return {
        "text_to_media": {
            **rank_report(of_text),
            "map": mrr(of_text),
            "ndcg": float((1.0 / np.log2(of_text + 1)).mean()),
        },
        "media_to_text": {
            **rank_report(np.array([positions[0] for positions in of_media])),
            "map": float(np.mean([average_precision(positions) for positions in of_media])),
            "ndcg": float(np.mean([discounted_gain(positions) for positions in of_media])),
        },
    }


def expected_hits_at_k(
    scores: Float[np.ndarray, "queries items"], fits: Bool[np.ndarray, "queries items"], k: int
) -> Float[np.ndarray, " queries"]:
    """Recall at k of each query, when it has one true item among several that fit equally well.

    No model can tell the fitting items apart, so each is the true one with the same probability:
    a query counts (fitting items among the first k) / (fitting items). Ties are pessimistic.

    Args:
        scores: Similarity of every query with every item.
        fits: True where the query is true of the item.
        k: How many first items count.

    Returns:
        The probability that the query's true item is among the first k.

    Raises:
        ValorError: If a score is NaN or a query fits no item.
    """
    fits = _relevance(scores, fits)
    first = _pessimistic_order(scores, fits)[:, :k]
    return np.take_along_axis(fits, first, axis=1).sum(axis=1) / fits.sum(axis=1)


def expected_recall_at_k(
    scores: Float[np.ndarray, "queries items"], fits: Bool[np.ndarray, "queries items"], k: int
) -> float:
    """Mean of `expected_hits_at_k`; at most `oracle_recall_at_k`."""
    return float(expected_hits_at_k(scores, fits, k).mean())


def oracle_recall_at_k(fits: Bool[np.ndarray, "queries items"], k: int) -> float:
    """Highest `expected_recall_at_k` that any ranking can reach.

    Args:
        fits: True where the query is true of the item.
        k: How many first items count.

    Returns:
        Mean of min(k, fitting items) / (fitting items).

    Raises:
        ValorError: If a query fits no item.
    """
    return float(possible_hits_at_k(fits, k).mean())


def possible_hits_at_k(
    fits: Bool[np.ndarray, "queries items"], k: int
) -> Float[np.ndarray, " queries"]:
    """Highest `expected_hits_at_k` of each query; errors as of `oracle_recall_at_k`."""
    num_fitting = _relevance(np.zeros(fits.shape, np.float16), fits).sum(axis=1)
    return np.minimum(num_fitting, k) / num_fitting


def expected_r1(
    scores: Float[np.ndarray, "queries items"], fits: Bool[np.ndarray, "queries items"]
) -> float:
    """Expected recall at 1: a top item among the k that the query fits counts 1/k, others 0."""
    return expected_recall_at_k(scores, fits, 1)


def oracle_r1(fits: Bool[np.ndarray, "queries items"]) -> float:
    """Mean of 1/k, where k items fit a query: the highest `expected_r1` possible."""
    return oracle_recall_at_k(fits, 1)


def dual_softmax(
    scores: Float[np.ndarray, "queries items"], scale: float
) -> Float[np.ndarray, "queries items"]:
    """Weigh each score by the softmax of its column: how much the item prefers this query.

    This uses the whole query set: it cannot answer a single search, it lifts the numbers of a test
    set in which every item is asked for equally often, and results with it belong in a column of
    their own. A negative score is raised by a small weight, so shift scores to be positive.

    Args:
        scores: Similarity of every query with every item; transpose for the other direction.
        scale: Factor before the softmax, the inverse of a temperature.

    Returns:
        New scores of the same shape, to be ranked as before.

    Source:
        CAMoE (arXiv 2109.04290) at inference, the "+ DSL" columns of VALOR (arXiv 2304.08345).
    """
    logits = scale * scores
    weights = np.exp(logits - logits.max(axis=0))
    return scores * weights / weights.sum(axis=0)


def dual_softmax_report(
    scores: Float[np.ndarray, "texts media"],
    owner: Int[np.ndarray, " texts"],
    scale: float,
    *,
    ties: Ties = "pessimistic",
) -> dict[str, Any]:
    """Score a matrix after a dual softmax in each direction, marked as what it is.

    Args:
        scores: Similarity of every text with every media item.
        owner: The item of each text.
        scale: Of `dual_softmax`.
        ties: Where the match stands among other items of equal score.

    Returns:
        Both directions as of `pair_report`, `scale`, and `uses_whole_query_set`, True.
    """
    texts, media = dual_softmax(scores, scale), dual_softmax(scores.T, scale).T
    return {
        "uses_whole_query_set": True,
        "scale": scale,
        "text_to_media": pair_report(_ranking(texts, owner), ties=ties)["text_to_media"],
        "media_to_text": pair_report(_ranking(media, owner), ties=ties)["media_to_text"],
    }


def _relevance(
    scores: Float[np.ndarray, "queries items"],
    relevant: Bool[np.ndarray, "queries items"] | Int[np.ndarray, " queries"],
) -> Bool[np.ndarray, "queries items"]:
    """Relevance as a matrix, after the checks that every metric here needs."""
    # A NaN compares false with everything, so it would count as a perfect rank.
    if np.isnan(scores).any():
        raise ValorError(f"scores hold {int(np.isnan(scores).sum())} NaN, but a rank needs numbers")
    if scores.size == 0:
        raise ValorError(f"scores of shape {scores.shape} hold no query or no item")
    if relevant.ndim == 1:
        relevant = relevant[:, None] == np.arange(scores.shape[1])
    if relevant.shape != scores.shape:
        raise ValorError(f"relevance has shape {relevant.shape}, scores {scores.shape}")
    without = np.flatnonzero(~relevant.any(axis=1))
    if len(without):
        raise ValorError(f"{len(without)} queries have no relevant item, the first is {without[0]}")
    return relevant


def _pessimistic_order(
    scores: Float[np.ndarray, "queries items"],
    gains: Num[np.ndarray, "queries items"] | Bool[np.ndarray, "queries items"],
) -> Int[np.ndarray, "queries items"]:
    """Items of each query from best to worst score; among equals the least useful first."""
    return np.lexsort((gains, -scores), axis=1)
