"""Laws of which rows a step sees."""

import numpy as np
import pytest

from valor.data.mixture import Mixture, rows_of_parts, sample_rng, step_rng, step_rows
from valor.errors import ConfigError


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


def test_one_source_is_read_as_if_there_was_no_mixture():
    mixture = Mixture([10], batch_size=4, seed=3)
    for step in (0, 7, 5000):
        source, rows = mixture.rows(step)
        assert source == 0
        assert (rows == step_rows(num_rows=10, batch_size=4, seed=3, step=step)).all()


def test_sources_are_seen_as_often_as_their_weights_say_and_no_row_is_missed():
    mixture = Mixture([50, 7], batch_size=2, seed=0, weights=[3, 1])
    seen = [mixture.rows(step) for step in range(2000)]
    for source, size, num_steps in ((0, 50, 1500), (1, 7, 500)):
        rows = [rows for which, rows in seen if which == source]
        assert len(rows) == num_steps
        counts = np.bincount(np.concatenate(rows), minlength=size)
        assert counts.max() - counts.min() <= 1
    orders = [tuple(which for which, _ in seen[at : at + 1000]) for at in (0, 1000)]
    assert orders[0] != orders[1]


def test_shares_over_many_draws_are_the_weights_of_the_parts_that_ids_name():
    rows = rows_of_parts(["a/x", "b/x", "a/y/z", "b/y", "b/b"], ["b", "a"])
    assert [own.tolist() for own in rows] == [[1, 3, 4], [0, 2]]
    weights = [3.0, 1.0]
    mixture = Mixture([len(own) for own in rows], batch_size=2, seed=5, weights=weights)
    sources = [mixture.source(step)[0] for step in range(3000)]
    assert sources.count(0) == 2250
    assert Mixture([3, 2], batch_size=2, seed=5, weights=weights).rows(1234)[0] == sources[1234]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, 1e-5]])
def test_weights_that_cannot_be_met_are_refused(weights):
    with pytest.raises(ConfigError, match="weights"):
        Mixture([5, 5], batch_size=2, seed=0, weights=weights)


def test_a_samples_randomness_depends_on_seed_step_and_id():
    first = sample_rng(seed=1, step=2, id="a").random()
    assert first == sample_rng(seed=1, step=2, id="a").random()
    others = [(2, 2, "a"), (1, 3, "a"), (1, 2, "b")]
    assert first not in [sample_rng(seed=s, step=t, id=i).random() for s, t, i in others]
