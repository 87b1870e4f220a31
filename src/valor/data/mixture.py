"""Which rows a step sees, as a pure function of seed and step, so that resuming is arithmetic."""

import numpy as np


def step_rows(*, num_rows: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return the rows of a step's batch.

    Every epoch is its own permutation; a batch may span two epochs, so that each row is seen
    equally often whatever the batch size.

    Args:
        num_rows: Size of the data.
        batch_size: Rows per step.
        seed: Of the run.
        step: Counted from 0.

    Returns:
        Row indices `[batch_size]`.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(positions // num_rows):
        order = np.random.default_rng((seed, int(epoch))).permutation(num_rows)
        here = positions // num_rows == epoch
        rows[here] = order[positions[here] % num_rows]
    return rows


def step_rng(*, seed: int, step: int) -> np.random.Generator:
    """Randomness of a step's texts, independent of the order of rows."""
    return np.random.default_rng((seed, 1_000_003, step))
