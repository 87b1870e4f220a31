"""Ranks of pairs in both directions, counted block by block: the whole matrix is never needed.

`PairRanking` holds two whole numbers for each direction of a pair of a text and its media: how many
foreign items score higher, and how many score the same. These add up over blocks in any order, and
give every retrieval metric.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from valor.errors import ValorError

Ties = Literal["pessimistic", "optimistic", "average"]
"""Where the match stands among items of equal score: last, first, or in the middle."""

TIE_SHARES: dict[Ties, float] = {"pessimistic": 1.0, "average": 0.5, "optimistic": 0.0}


@dataclass(frozen=True, slots=True)
class Standing:
    """Foreign items beside each match of a query, in one direction."""

    above: Int[np.ndarray, " matches"]
    """Items of a higher score."""
    equal: Int[np.ndarray, " matches"]
    """Items of the same score."""

    def merge(self, other: "Standing") -> "Standing":
        """Items of both parts together."""
        return Standing(self.above + other.above, self.equal + other.equal)


class PairRanking:
    """Where texts and their media stand for each other among all others.

    Args:
        owner: Which media item each text belongs to.
        own_scores: Similarity of each text with that item, from the very blocks that are counted.

    Raises:
        ValorError: If there is no text, or a score is NaN.
    """

    def __init__(
        self, owner: Int[np.ndarray, " texts"], own_scores: Float[np.ndarray, " texts"]
    ) -> None:
        if not len(owner):
            raise ValorError("no text to rank")
        _check_numbers(own_scores)
        self.owner, self.own_scores = owner, own_scores
        self.of_text, self.of_media = (
            Standing(np.zeros(len(owner), np.int64), np.zeros(len(owner), np.int64))
            for _ in range(2)
        )

    def count(
        self, block: Float[np.ndarray, "texts media"], *, first_text: int, first_media: int
    ) -> None:
        """Count the items of a block of the matrix.

        Args:
            block: Similarity of some texts with some media.
            first_text: Place of its first row.
            first_media: Place of its first column.
        """
        _check_numbers(block)
        num_texts, num_media = block.shape
        rows = slice(first_text, first_text + num_texts)
        owner = self.owner[rows] - first_media
        foreign = owner[:, None] != np.arange(num_media)
        own = self.own_scores[rows, None]
        self.of_text.above[rows] += ((block > own) & foreign).sum(axis=1)
        self.of_text.equal[rows] += ((block == own) & foreign).sum(axis=1)
        pairs = np.flatnonzero((self.owner >= first_media) & (self.owner < first_media + num_media))
        column = self.owner[pairs] - first_media
        seen, own, foreign = block[:, column], self.own_scores[pairs], foreign[:, column]
        self.of_media.above[pairs] += ((seen > own) & foreign).sum(axis=0)
        self.of_media.equal[pairs] += ((seen == own) & foreign).sum(axis=0)

    def merge(self, other: "PairRanking") -> "PairRanking":
        """The counts of both; of other blocks of the same matrix."""
        merged = PairRanking(self.owner, self.own_scores)
        merged.of_text = self.of_text.merge(other.of_text)
        merged.of_media = self.of_media.merge(other.of_media)
        return merged

    def text_positions(self, ties: Ties) -> Float[np.ndarray, " texts"]:
        """For each text, the rank of its media item, from 1."""
        return _positions(self.of_text, ties)

    def media_positions(self, ties: Ties) -> list[Float[np.ndarray, " matches"]]:
        """For each media item that has a text, the positions of its own texts, the best first.

        A position counts foreign texts, and the item's own texts before it.
        """
        foreign = _positions(self.of_media, ties)
        order = np.lexsort((foreign, self.owner))
        cuts = np.flatnonzero(np.diff(self.owner[order])) + 1
        return [part + np.arange(len(part)) for part in np.split(foreign[order], cuts)]


def numbered(ids: Sequence[str]) -> list[str]:
    """Ids made unique: from the second of equal ids on, `#2` and so forth follows."""
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for id in ids:
        seen[id] += 1
        unique.append(id if seen[id] == 1 else f"{id}#{seen[id]}")
    return unique


def average_precision(positions: Float[np.ndarray, " matches"]) -> float:
    """Mean over the matches of the precision at each, given their positions in order."""
    return float((np.arange(1, len(positions) + 1) / positions).mean())


def discounted_gain(positions: Float[np.ndarray, " matches"]) -> float:
    """The nDCG of one query, given the positions of its matches in order; each gains 1."""
    ideal = 1.0 / np.log2(np.arange(2, len(positions) + 2))
    return float((1.0 / np.log2(positions + 1)).sum() / ideal.sum())


def _positions(standing: Standing, ties: Ties) -> Float[np.ndarray, " matches"]:
    return 1.0 + standing.above + TIE_SHARES[ties] * standing.equal


def _check_numbers(scores: Float[np.ndarray, "*any"]) -> None:
    # A NaN compares false with everything, so it would count as a perfect rank.
    if np.isnan(scores).any():
        raise ValorError(f"scores hold {int(np.isnan(scores).sum())} NaN, but a rank needs numbers")
