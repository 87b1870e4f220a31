"""Intervals hold the mean, and a paired test sees what items alone cannot."""

import numpy as np
import pytest

from valor.data.manifest import Record
from valor.evaluation.items import add_ranks, compare, intervals, worst
from valor.evaluation.outputs import Outputs
from valor.types import MEDIA_GROUPS, Modality


def values(numbers) -> dict[str, float]:
    return {str(row): float(number) for row, number in enumerate(numbers)}


def test_an_interval_holds_the_mean_and_narrows_with_more_items():
    rng = np.random.default_rng(0)
    few, many = rng.random(20), rng.random(2000)
    found = intervals({"few": values(few), "many": values(many), "same": values([0.5] * 9)})
    for name, numbers in (("few", few), ("many", many)):
        low, high = found[name]
        assert low < numbers.mean() < high
    assert found["few"][1] - found["few"][0] > 3 * (found["many"][1] - found["many"][0])
    assert found["same"] == [0.5, 0.5]


def test_equal_seeds_give_equal_intervals_in_any_order_of_items():
    items = values(np.random.default_rng(1).random(30))
    assert intervals({"a": items}) == intervals({"a": dict(reversed(items.items()))})


def test_a_small_gain_on_every_item_is_significant_and_noise_is_not():
    rng = np.random.default_rng(2)
    base = rng.random(40)
    found = compare(
        {"a": values(base), "b": values(base)},
        {"a": values(base + 0.01), "b": values(base + rng.normal(0, 0.3, 40))},
    )
    assert found["a"]["p"] < 0.001
    assert found["a"]["difference"] == pytest.approx(0.01)
    assert found["b"]["p"] > 0.05
    assert compare({"a": values(base)}, {"a": values(base)})["a"]["p"] == 1


def test_only_items_of_both_are_compared_and_the_rest_is_counted():
    found = compare({"a": {"1": 0.0, "2": 1.0}, "c": {"1": 1.0}}, {"a": {"2": 0.5, "3": 1.0}})
    assert found.keys() == {"a"}
    assert found["a"]["num"] == 1
    assert found["a"]["left_out"] == 2
    assert found["a"]["difference"] == -0.5


def test_ranks_become_hits_and_reciprocals():
    items = {}
    add_ranks(items, "x", ["a", "b"], np.array([1.0, 6.0]))
    assert items["x/r1"] == {"a": 1, "b": 0}
    assert items["x/r5"] == {"a": 1, "b": 0}
    assert items["x/r10"] == {"a": 1, "b": 1}
    assert items["x/mrr"] == {"a": 1, "b": 1 / 6}


def test_failures_are_the_worst_of_each_task_in_turn_and_never_successes():
    outputs = Outputs(records=[Record(id=id, media=id) for id in ("a", "b#2", "c")])
    items = {}
    for group in MEDIA_GROUPS:
        items = {
            f"retrieval/{group.label}/text_to_media/mrr": {"a": 0.5, "b#2": 0.1, "c": 1.0},
            f"answering/{group.label}/accuracy": {"a": 0.0, "a#2": 1.0, "c": 1.0},
        }
        assert worst(outputs, items, group, limit=5) == {
            1: "Rank 10 when its caption is searched.",
            0: "A question is answered wrongly.",
        }
    assert not worst(outputs, items, Modality.VISION, limit=5)
