import itertools

import pytest

from valor.errors import ValorError
from valor.metrics.answering import (
    Accuracy,
    accuracy_by,
    exact_match,
    normalize_answer,
    soft_accuracy,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Dog", "dog"),
        ("an apple and a pear", "apple and pear"),
        ("Two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("man's", "man's"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("black/white", "black white"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("1,000", "1000"),
        ("well-known (band)!", "well known band"),
        (" left \n side ", "left side"),
        ("", ""),
    ],
)
def test_spellings_of_an_answer_become_equal(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize("text", ["A red-blue one, don't!", "1,000.5 dollars", "somethings ten"])
def test_normal_answers_stay_as_they_are(text: str) -> None:
    assert normalize_answer(normalize_answer(text)) == normalize_answer(text)


def test_exact_match_needs_one_accepted_answer_whole() -> None:
    assert exact_match("a guitar", ["Guitar.", "banjo"])
    assert not exact_match("bass guitar", ["guitar", "banjo"])
    assert not exact_match("guitar", [])


@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_soft_accuracy_leaves_each_of_ten_annotators_out(agreeing: int, expected: float) -> None:
    answers = ["The Yes"] * agreeing + ["no"] * (10 - agreeing)
    assert soft_accuracy("yes", answers) == pytest.approx(expected)


def test_soft_accuracy_of_one_annotator_is_refused() -> None:
    with pytest.raises(ValorError, match="got 1"):
        soft_accuracy("yes", ["yes"])


def test_merged_accuracies_are_those_of_all_questions_in_any_order() -> None:
    parts = [Accuracy.of([True, False]), Accuracy.of([1.0, 0.5, 1.0]), Accuracy(), Accuracy.of([0])]
    whole = Accuracy.of([True, False, 1.0, 0.5, 1.0, 0])
    for order in itertools.permutations(parts):
        merged = Accuracy()
        for part in order:
            merged = merged.merge(part)
        assert merged == whole
    assert whole.compute() == {"accuracy": pytest.approx(3.5 / 6), "num": 6}


def test_accuracy_of_nothing_is_refused() -> None:
    with pytest.raises(ValorError, match="no answer"):
        Accuracy().compute()


def test_groups_share_the_questions_among_them() -> None:
    keys = ["count", "order", "count", "count"]
    correct = [True, False, False, True]
    table = accuracy_by(keys, correct)
    assert table == {
        "count": {"accuracy": pytest.approx(2 / 3), "num": 3},
        "order": {"accuracy": 0, "num": 1},
    }
    overall = Accuracy.of(correct).compute()["accuracy"]
    weighted = sum(row["accuracy"] * row["num"] for row in table.values()) / len(keys)
    assert weighted == pytest.approx(overall)


def test_keys_and_scores_of_different_length_are_refused() -> None:
    with pytest.raises(ValorError, match="2 keys for 1 scores"):
        accuracy_by(["a", "b"], [True])
