import json
from pathlib import Path

import pytest

from valor.cli.main import main
from valor.errors import UsageError
from valor.metrics.answer_protocols import (
    ANSWER_PROTOCOLS,
    AnsweredQuestion,
    find_answer_protocol,
    score_answers,
)
from valor.metrics.answering import soft_accuracy, vqa_accuracy


def asked(prediction: str, answer: str, **rest: str) -> AnsweredQuestion:
    return AnsweredQuestion(prediction=prediction, answers=[answer], **rest)


def test_nine_types_of_music_and_their_three_averages_come_in_the_order_of_the_set() -> None:
    questions = [
        asked("yes", "Yes", type="audio-visual existential"),
        asked("two", "2", type="audio counting"),  # equal words, not equal numbers
        asked("left", "left", type="visual location"),
        asked("no", "no", type="audio comparative"),
    ]
    report, scores = score_answers(questions, ANSWER_PROTOCOLS["music-avqa"])
    assert scores == [1, 0, 1, 1]
    assert list(report["by_type"]) == [
        *("audio counting", "audio comparative", "visual location", "audio-visual existential"),
    ]
    assert report["by_group"]["audio"] == {"accuracy": 0.5, "num": 2}
    assert len(ANSWER_PROTOCOLS["music-avqa"].types) == 9


def test_numbers_of_activitynet_are_names_of_types() -> None:
    questions = [asked("a", "a", type="0"), asked("b", "c", type="3"), asked("d", "d", type="8")]
    report, _ = score_answers(questions, ANSWER_PROTOCOLS["activitynet-qa"])
    assert {kind: row["accuracy"] for kind, row in report["by_type"].items()} == {
        **{"motion": 1, "yes/no": 0, "other": 1}
    }
    assert report["by_group"]["free"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("name", "file", "field", "sizes"),
    [
        ("activitynet-qa", "activitynet_qa/test_a.json", "answer", (800, 800, 800, 2094, 697)),
        ("music-avqa", "music_avqa/avqa-test.json", "anser", (1022, 601, 1199, 1228, 995)),
    ],
)
def test_types_of_published_questions_are_those_of_the_set(
    annotations: Path, tmp_path: Path, capsys, name: str, file: str, field: str, sizes
) -> None:
    rows = json.loads((annotations / file).read_text(encoding="utf-8"))
    given = [{"question_id": row["question_id"], "answer": row[field]} for row in rows]
    (tmp_path / "given.json").write_text(json.dumps(given), encoding="utf-8")
    words = ["--candidates", str(tmp_path / "given.json"), "--references", str(annotations / file)]
    assert main(["score", "answers", *words, "--protocol", name, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accuracy"] == 1
    assert tuple(report["by_type"]) == ANSWER_PROTOCOLS[name].types
    assert tuple(row["num"] for row in report["by_type"].values())[:5] == sizes
    assert sum(row["num"] for row in report["by_type"].values()) == len(rows)


def test_msrvtt_types_are_the_first_words_of_questions() -> None:
    questions = [
        asked("cat", "cat", question="What runs?"),
        asked("cat", "dog", question="Which runs?"),
    ]
    report, _ = score_answers(questions, ANSWER_PROTOCOLS["msrvtt-qa"])
    assert list(report["by_type"]) == ["what", "other"]


def test_a_blank_question_has_no_type() -> None:
    asked = [AnsweredQuestion(prediction="a", answers=["a"], question=text) for text in (" ", "")]
    report, scores = score_answers(asked, ANSWER_PROTOCOLS["msvd-qa"])
    assert scores == [1.0, 1.0]
    assert not report.get("by_type")


def test_a_closed_vocabulary_says_what_it_can_reach() -> None:
    questions = [asked("the cat", "cat"), asked("dog", "fox"), asked("cow", "cow")]
    report, _ = score_answers(questions, ANSWER_PROTOCOLS["exact"], vocabulary=["cat", "dog"])
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert report["closed_set"] == {
        **{"accuracy": 1.0, "num": 1},
        **{"reachable": pytest.approx(1 / 3), "outside": pytest.approx(1 / 3)},
    }


def test_the_script_of_vqa_rewrites_nothing_where_all_agree() -> None:
    assert vqa_accuracy("two", ["two"] * 10) == 1
    assert soft_accuracy("2", ["two"] * 10) == 1
    assert vqa_accuracy("2", ["two"] * 10) == 0
    # Where annotators differ, their number words stay, and the prediction's become digits.
    assert vqa_accuracy("two", ["two"] * 9 + ["2"]) == pytest.approx(0.3)
    assert vqa_accuracy("dog!", ["dog"] * 2 + ["cat"] * 8) == pytest.approx(0.6)


def test_an_unknown_protocol_is_a_usage_error_that_lists_all() -> None:
    with pytest.raises(UsageError, match="music-avqa"):
        find_answer_protocol("music")
