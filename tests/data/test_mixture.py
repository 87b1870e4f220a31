"""Laws of which rows a step sees."""

import numpy as np

from valor.data.mixture import step_rng, step_rows


def test_every_row_is_seen_once_per_epoch():
    rows = [step_rows(num_rows=10, batch_size=4, seed=0, step=step) for step in range(5)]
    assert sorted(np.concatenate(rows)[:10]) == list(range(10))
    assert sorted(np.concatenate(rows)[10:]) == list(range(10))


def test_a_step_depends_on_seed_and_step_alone():
    first = step_rows(num_rows=100, batch_size=8, seed=1, step=7)
    assert (first == step_rows(num_rows=100, batch_size=8, seed=1, step=7)).all()
    assert (first != step_rows(num_rows=100, batch_size=8, seed=2, step=7)).any()
    assert step_rng(seed=1, step=7).random() == step_rng(seed=1, step=7).random()


def test_a_batch_larger_than_the_data_repeats_it():
    counts = np.bincount(step_rows(num_rows=3, batch_size=9, seed=0, step=0))
    assert counts.tolist() == [3, 3, 3]
