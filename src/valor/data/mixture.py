"""Which rows a step sees, as a pure function of seed and step, so that resuming is arithmetic."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from valor.errors import ConfigError

_BLOCK_STEPS = 1000
"""Steps in which each source has its share exactly, up to rounding."""


def rows_of_parts(ids: Sequence[str], parts: Sequence[str]) -> list[Int[np.ndarray, " rows"]]:
    """Find the rows of each part.

    Args:
        ids: Of all records; each begins with the name of its part and `/`.
        parts: Names.

    Returns:
        Row indices of each part, ascending.

    Raises:
        ConfigError: If a part has no record, or a record no part.
    """
    place = {name: number for number, name in enumerate(parts)}
    owner = np.array([place.get(id.partition("/")[0], -1) for id in ids])
    if len(place) < len(parts):
        raise ConfigError(f"two of the parts {', '.join(parts)} are equal")
    if (owner < 0).any():
        raise ConfigError(
            f"record {ids[int(owner.argmin())]!r} is of none of the parts {', '.join(place)}; name "
            "them by --data NAME=MANIFEST or NAME=SHARDS, or draw all alike with --mixture '[]'"
        )
    if missing := [name for name, number in place.items() if not (owner == number).any()]:
        raise ConfigError(
            f"no record of part {missing[0]!r}; give --data {missing[0]}=MANIFEST or =SHARDS, or "
            'parts of your own with --mixture \'[{"name": ..., "weight": ...}]\''
        )
    return [np.flatnonzero(owner == number) for number in range(len(parts))]


class Mixture:
    """Steps of several sources: each step sees one of them, as often as its weight says.

    The batch of a step depends on the seed, the step and these sizes and weights alone; neither on
    workers nor on ranks, which only share it.

    Args:
        sizes: Rows of each source.
        batch_size: Rows of a step, of all ranks together.
        seed: Of the run.
        weights: How often each source is seen, to any scale; by its rows if not given.

    Raises:
        ConfigError: If a source is empty, or its weight too small to be seen.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._sizes, self.batch_size, self._seed = tuple(sizes), batch_size, seed
        shares = np.asarray(sizes if weights is None else weights, np.float64)
        if len(shares) != len(self._sizes) or not self._sizes or min(self._sizes) < 1:
            raise ConfigError(f"sources of {self._sizes} rows with {len(shares)} weights")
        if not (shares > 0).all():
            raise ConfigError(f"weights={shares.tolist()} must be above 0")
        self._counts = _apportion(shares / shares.sum(), _BLOCK_STEPS)
        if self._counts.min() < 1:
            raise ConfigError(f"weights={shares.tolist()}: one is below 1/{_BLOCK_STEPS} of all")

    def source(self, step: int) -> tuple[int, int]:
        """The source that a step sees, and how many steps saw it before."""
        block, place = divmod(step, _BLOCK_STEPS)
        order = _block_order(tuple(self._counts.tolist()), self._seed, block)
        source = int(order[place])
        before = block * int(self._counts[source]) + int((order[:place] == source).sum())
        return source, before

    def rows(self, step: int) -> tuple[int, Int[np.ndarray, " rows"]]:
        """A step's source, and which `batch_size` rows of it."""
        source, before = self.source(step)
        rows = step_rows(
            num_rows=self._sizes[source],
            batch_size=self.batch_size,
            seed=self._seed,
            step=before,
            source=source,
        )
        return source, rows


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers with this sum, nearest to the shares: largest remainders are rounded up."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return counts


@lru_cache(maxsize=4)
def _block_order(counts: tuple[int, ...], seed: int, block: int) -> np.ndarray:
    """The source of each step of a block."""
    sources = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng((seed, 2_000_003, block)).permutation(sources)


def step_rows(
    *, num_rows: int, batch_size: int, seed: int, step: int, source: int = 0
) -> Int[np.ndarray, " batch"]:
    """Return the rows of a step's batch.

    Every epoch is its own permutation; a batch may span two epochs, so that each row is seen
    equally often whatever the batch size.

    Args:
        num_rows: Size of the data.
        batch_size: Rows per step.
        seed: Of the run.
        step: Counted from 0, among those of the source.
        source: Its number in a mixture.

    Returns:
        Row indices `[batch_size]`.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(positions // num_rows):
        order = _epoch_order(num_rows, seed, source, int(epoch))
        here = positions // num_rows == epoch
        rows[here] = order[positions[here] % num_rows]
    return rows


@lru_cache(maxsize=8)
def _epoch_order(num_rows: int, seed: int, source: int, epoch: int) -> np.ndarray:
    key = (seed, epoch, source) if source else (seed, epoch)
    return np.random.default_rng(key).permutation(num_rows)


def step_rng(*, seed: int, step: int) -> np.random.Generator:
    """Randomness of a step's texts, independent of the order of rows."""
    return np.random.default_rng((seed, 1_000_003, step))


def sample_rng(*, seed: int, step: int, id: str, of_texts: bool = False) -> np.random.Generator:
    """Randomness of one sample in one step, wherever and by whomever it is read.

    Args:
        seed: Of the run.
        step: Counted from 0.
        id: Of the record.
        of_texts: Which of two streams: True draws texts, False what is seen and heard.

    Returns:
        A generator at its beginning.
    """
    digest = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "little")
    return np.random.default_rng((seed, 3_000_017 + of_texts, step, digest))
