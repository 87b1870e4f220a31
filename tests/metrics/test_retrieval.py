import json
from pathlib import Path

import numpy as np
import pytest

from valor.errors import ValorError
from valor.metrics import retrieval

TIE_RULES: tuple[retrieval.Ties, ...] = ("pessimistic", "average", "optimistic")
# The match scores 2 in every row: alone, behind one, level with one, level with two.
HAND_MADE = np.array([[2.0, 1, 0], [3, 2, 1], [2, 0, 2], [2, 2, 2]])
HAND_MADE_TARGETS = np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        ("pessimistic", [1, 2, 2, 3]),
        ("average", [1, 2, 1.5, 2]),
        ("optimistic", [1, 2, 1, 1]),
    ],
)
def test_ranks_follow_the_tie_rule(ties: retrieval.Ties, expected: list[float]) -> None:
    ranks = retrieval.ranks(HAND_MADE, HAND_MADE_TARGETS, ties=ties)
    np.testing.assert_array_equal(ranks, expected)


def test_target_indices_equal_a_relevance_matrix() -> None:
    relevant = HAND_MADE_TARGETS[:, None] == np.arange(3)
    np.testing.assert_array_equal(
        retrieval.ranks(HAND_MADE, relevant), retrieval.ranks(HAND_MADE, HAND_MADE_TARGETS)
    )


def test_best_of_several_relevant_items_is_ranked_among_the_others_only() -> None:
    scores = np.array([[5.0, 4, 3, 2]])
    relevant = np.array([[False, True, True, False]])
    np.testing.assert_array_equal(retrieval.ranks(scores, relevant), [2])
    np.testing.assert_array_equal(retrieval.ranks(-scores, relevant), [2])


def test_numbers_of_ranks() -> None:
    ranks = np.array([1, 2, 4, 20])
    report = retrieval.rank_report(ranks)
    assert report == {
        "r1": 0.25,
        "r5": 0.75,
        "r10": 0.75,
        "r50": 1.0,
        "median_rank": 3.0,
        "mean_rank": 6.75,
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 20) / 4),
        "num": 4,
    }


@pytest.mark.parametrize("captions_per_item", [1, 3])
def test_constant_scores_are_no_better_than_chance(captions_per_item: int) -> None:
    media = 20
    scores = np.zeros((media * captions_per_item, media))
    report = retrieval.retrieval_report(scores, captions_per_item=captions_per_item)
    for direction in report.values():
        assert direction["r1"] <= 1 / media
        assert direction["median_rank"] >= media / 2


@pytest.mark.parametrize("captions_per_item", [1, 3])
def test_perfect_scores_rank_first_in_both_directions(captions_per_item: int) -> None:
    scores = np.repeat(np.eye(6), captions_per_item, axis=0)
    report = retrieval.retrieval_report(scores, captions_per_item=captions_per_item)
    for name, num in (("text_to_media", 6 * captions_per_item), ("media_to_text", 6)):
        assert report[name]["r1"] == report[name]["mrr"] == report[name]["mean_rank"] == 1
        assert report[name]["num"] == num


@pytest.mark.parametrize("ties", TIE_RULES)
def test_order_of_items_does_not_matter(ties: retrieval.Ties) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, size=(30, 30)).astype(float)
    order = rng.permutation(30)
    before = retrieval.retrieval_report(scores, ties=ties)
    after = retrieval.retrieval_report(scores[np.ix_(order, order)], ties=ties)
    for name in before:
        assert after[name] == pytest.approx(before[name])


def test_chunks_of_queries_equal_the_whole() -> None:
    scores = np.random.default_rng(0).integers(0, 9, size=(50, 12)).astype(float)
    targets = np.arange(50) % 12
    chunks = [
        retrieval.ranks(scores[start : start + 7], targets[start : start + 7])
        for start in range(0, 50, 7)
    ]
    whole = retrieval.ranks(scores, targets)
    assert retrieval.rank_report(np.concatenate(chunks)) == retrieval.rank_report(whole)


def test_average_precision_and_ndcg_of_a_hand_made_order() -> None:
    scores = np.array([[4.0, 3, 2, 1]])
    relevant = np.array([[True, False, True, False]])
    assert retrieval.mean_average_precision(scores, relevant) == pytest.approx((1 + 2 / 3) / 2)
    ideal = 1 + 1 / np.log2(3)
    assert retrieval.ndcg(scores, relevant) == pytest.approx((1 + 1 / 2) / ideal)
    assert retrieval.ndcg(scores, relevant, k=2) == pytest.approx(1 / ideal)


def test_with_one_relevant_item_average_precision_is_reciprocal_rank() -> None:
    scores = np.random.default_rng(1).integers(0, 5, size=(40, 15)).astype(float)
    targets = np.arange(40) % 15
    relevant = targets[:, None] == np.arange(15)
    expected = retrieval.mrr(retrieval.ranks(scores, targets))
    assert retrieval.mean_average_precision(scores, relevant) == pytest.approx(expected)


def test_ideal_order_has_average_precision_and_ndcg_of_one() -> None:
    relevant = np.random.default_rng(2).random((8, 10)) < 0.4
    relevant[:, 0] = True
    scores = relevant.astype(float)
    assert retrieval.mean_average_precision(scores, relevant) == pytest.approx(1)
    assert retrieval.ndcg(scores, relevant) == pytest.approx(1)


def test_expected_recall_counts_fitting_items_among_the_first() -> None:
    scores = np.array([[9.0, 8, 7, 6], [9, 8, 7, 6]])
    fits = np.array([[True, False, True, False], [False, True, False, False]])
    assert retrieval.expected_r1(scores, fits) == (1 / 2 + 0) / 2
    assert retrieval.expected_recall_at_k(scores, fits, 2) == (1 / 2 + 1) / 2
    assert retrieval.expected_recall_at_k(scores, fits, 3) == 1
    assert retrieval.oracle_r1(fits) == (1 / 2 + 1) / 2
    assert retrieval.oracle_recall_at_k(fits, 2) == 1


def test_expected_recall_is_the_mean_over_which_fitting_item_is_true() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((10, 12))
    fits = rng.random((10, 12)) < 0.3
    fits[:, 5] = True
    better = (scores[:, None, :] > scores[:, :, None]).sum(axis=2)
    for k in (1, 5, 10):
        by_hand = np.mean([(better[row][fits[row]] < k).mean() for row in range(10)])
        assert retrieval.expected_recall_at_k(scores, fits, k) == pytest.approx(by_hand)


def test_oracle_is_reached_by_the_truth_and_by_no_constant() -> None:
    fits = np.random.default_rng(4).random((30, 40)) < 0.1
    fits[:, 0] = True
    for k in (1, 5, 10):
        oracle = retrieval.oracle_recall_at_k(fits, k)
        assert retrieval.expected_recall_at_k(fits.astype(float), fits, k) == pytest.approx(oracle)
        assert retrieval.expected_recall_at_k(np.zeros(fits.shape), fits, k) < oracle


def test_expected_recall_of_unique_items_is_recall() -> None:
    scores = np.random.default_rng(5).integers(0, 6, size=(25, 25)).astype(float)
    ranks = retrieval.ranks(scores, np.arange(25))
    for k in (1, 5, 10):
        expected = retrieval.recall_at_k(ranks, k)
        found = retrieval.expected_recall_at_k(scores, np.eye(25, dtype=bool), k)
        assert found == pytest.approx(expected)


def test_dual_softmax_takes_an_item_from_the_query_that_wants_it_less() -> None:
    scores = np.array([[0.9, 0.8], [0.95, 0.1]])
    assert retrieval.ranks(scores, np.array([1, 0])).tolist() == [2, 1]
    weighed = retrieval.dual_softmax(scores, 20.0)
    assert retrieval.ranks(weighed, np.array([1, 0])).tolist() == [1, 1]


def test_dual_softmax_of_a_large_scale_stays_finite() -> None:
    scores = np.random.default_rng(6).random((5, 4))
    weighed = retrieval.dual_softmax(scores, 1e4)
    assert np.isfinite(weighed).all()
    np.testing.assert_allclose((weighed / scores).sum(axis=0), 1)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.array([[np.nan, 1.0]]), np.array([0]), "NaN"),
        (np.array([[0.0, 1.0]]), np.array([2]), "no relevant item"),
        (np.array([[0.0, 1.0]]), np.array([[True]]), "shape"),
        (np.zeros((0, 2)), np.zeros((0,), dtype=int), "no query"),
    ],
)
def test_scores_without_a_defined_rank_are_refused(
    scores: np.ndarray, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(ValorError, match=message):
        retrieval.ranks(scores, targets)


def test_shape_that_does_not_fit_the_captions_is_refused() -> None:
    with pytest.raises(ValorError, match="captions_per_item=2"):
        retrieval.retrieval_report(np.zeros((4, 4)), captions_per_item=2)


def test_negative_gains_are_refused() -> None:
    with pytest.raises(ValorError, match="gains"):
        retrieval.ndcg(np.zeros((1, 2)), np.array([[1.0, -1.0]]))


@pytest.mark.parametrize("ties", TIE_RULES)
def test_reports_equal_the_reference_figures(annotations: Path, ties: retrieval.Ties) -> None:
    folder = annotations / "retrieval_ref"
    cases = json.loads((folder / "expected.json").read_text())["cases"]
    assert len(cases) == 3
    directions = {"t2v": "text_to_media", "v2t": "media_to_text"}
    percents = {"R@1": "r1", "R@5": "r5", "R@10": "r10", "R@50": "r50"}
    for name, case in cases.items():
        report = retrieval.retrieval_report(
            np.load(folder / f"{name}.npy"),
            captions_per_item=case["captions_per_video"],
            ties=ties,
        )
        for theirs, ours in directions.items():
            expected, found = case[f"ties_{ties}"][theirs], report[ours]
            for percent, fraction in percents.items():
                assert found[fraction] == pytest.approx(expected[percent] / 100, abs=1e-6)
            assert found["median_rank"] == pytest.approx(expected["MedR"], abs=1e-6)
            assert found["mean_rank"] == pytest.approx(expected["MeanR"], abs=1e-6)
