"""Laws of the mean intersection over union."""

import math

import numpy as np
import pytest

from valor.errors import ValorError
from valor.metrics.masks import IGNORED, Confusion


def test_a_known_example():
    true = np.array([[0, 0, 1], [1, 2, IGNORED]])
    predicted = np.array([[0, 1, 1], [1, 0, 2]])
    found = Confusion.of(predicted, true, 3)
    assert found.by_class() == [1 / 3, 2 / 3, 0]
    assert found.compute() == {"mean_iou": pytest.approx(1 / 3), "pixel_accuracy": 3 / 5, "num": 5}


def test_parts_in_any_order_make_the_whole():
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 4, (2, 6, 5, 7))
    true[0, 0, :4] = IGNORED
    whole = Confusion.of(predicted, true, 4)
    parts = [Confusion.of(p, t, 4) for p, t in zip(predicted, true, strict=True)]
    for order in (parts, parts[::-1]):
        merged = order[0]
        for part in order[1:]:
            merged = merged.merge(part)
        assert merged.compute() == whole.compute()


def test_pixels_without_label_count_nowhere():
    true = np.array([0, 1, IGNORED])
    first = Confusion.of(np.array([0, 1, 0]), true, 2)
    second = Confusion.of(np.array([0, 1, 1]), true, 2)
    assert first.compute() == second.compute() == {"mean_iou": 1, "pixel_accuracy": 1, "num": 2}


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    found = Confusion.of(np.array([0, 1]), np.array([0, 1]), 3)
    assert math.isnan(found.by_class()[2])
    assert found.compute()["mean_iou"] == 1


@pytest.mark.parametrize(
    "predicted, true, message",
    [
        (np.array([0, 3]), np.array([0, 1]), "class 3, wanted 0 to 1"),
        (np.array([0]), np.array([0, 1]), "wanted the same"),
    ],
)
def test_impossible_masks_are_refused(predicted, true, message):
    with pytest.raises(ValorError, match=message):
        Confusion.of(predicted, true, 2)


def test_nothing_scored_is_no_zero():
    with pytest.raises(ValorError, match="no pixel"):
        Confusion.of(np.array([0]), np.array([IGNORED]), 2).compute()
