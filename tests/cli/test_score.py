import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valor.cli import score
from valor.errors import UsageError, ValorError

CAPTIONS = {"1": "a red circle moves left", "2": "two drums play in silence"}
COCO = [{"image_id": int(id), "caption": text} for id, text in CAPTIONS.items()]


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert score.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("candidates", [CAPTIONS, {k: [v] for k, v in CAPTIONS.items()}, COCO])
@pytest.mark.parametrize(
    "references", [{k: [v, "other"] for k, v in CAPTIONS.items()}, COCO, {"annotations": COCO}]
)
def test_every_layout_of_captions_gives_the_same_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], candidates: object, references: object
) -> None:
    found = report(
        capsys,
        *("captions", "--candidates", write(tmp_path / "c.json", candidates)),
        *("--references", write(tmp_path / "r.json", references)),
    )
    assert found["corpus"]["bleu4"] == pytest.approx(1)
    assert found["corpus"]["num"] == 2
    assert found["language"]["mean_length"] == 5


def test_retrieval_scores_follow_the_tie_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.npy"
    np.save(path, np.ones((6, 3), dtype=np.int32))
    arguments = ("retrieval", "--scores", str(path), "--captions-per-item", "2")
    assert report(capsys, *arguments)["text_to_media"]["r1"] == 0
    assert report(capsys, *arguments, "--ties", "optimistic")["text_to_media"]["r1"] == 1


def test_answers_are_scored_by_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = write(tmp_path / "p.json", {"1": "two", "2": "the bell", "3": "left"})
    answers = [
        {"question_id": 1, "answer": "2", "type": "count"},
        {"question_id": 2, "answer": "bell", "type": "sound"},
        {"question_id": 3, "answer": "right", "type": "count"},
    ]
    found = report(
        capsys,
        *("answers", "--predictions", predictions),
        *("--answers", write(tmp_path / "a.json", answers)),
    )
    assert found == {
        "accuracy": pytest.approx(2 / 3),
        "num": 3,
        "by_type": {
            "count": {"accuracy": 0.5, "num": 2},
            "sound": {"accuracy": 1.0, "num": 1},
        },
    }


def test_ten_annotators_give_the_soft_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["yes"] * 2 + ["no"] * 8
    annotations = [{"question_id": 7, "answers": [{"answer": text} for text in texts]}]
    found = report(
        capsys,
        *("answers", "--predictions", write(tmp_path / "p.json", {"7": "yes"})),
        *("--answers", write(tmp_path / "a.json", {"annotations": annotations})),
    )
    assert found == {"accuracy": 1.0, "num": 1, "soft_accuracy": pytest.approx(0.6)}


def test_without_json_the_same_numbers_are_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.npy"
    np.save(path, np.eye(3))
    assert score.main(["retrieval", "--scores", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "text_to_media"
    assert lines[1].split() == ["r1", "1.0000"]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({"1": "x"}, r"c\.json: 1 of the 2 ids of .*r\.json are missing, the first is '2'"),
        ({"1": "x", "2": "y", "3": "z"}, r"c\.json: 1 ids are not in .*r\.json"),
        ({"1": "x", "2": ["y", "z"]}, r"c\.json: 2: expected one text, got 2"),
        ({"1": "x", "2": 5}, r"c\.json: 2: expected a text, got 5"),
        ([{"image_id": 1}], r"c\.json: record 0: no field 'caption'"),
        ([{"caption": "x"}], r"c\.json: record 0: no field 'image_id'"),
        (["x"], r"c\.json: record 0: expected an object, got str"),
        ({}, r"c\.json: no record"),
        (5, r"c\.json: expected an object or a list, got int"),
    ],
)
def test_bad_captions_are_refused_with_file_and_field(
    tmp_path: Path, candidates: object, message: str
) -> None:
    references = write(tmp_path / "r.json", CAPTIONS)
    path = write(tmp_path / "c.json", candidates)
    with pytest.raises(ValorError, match=message):
        score.main(["captions", "--candidates", path, "--references", references])


def test_unreadable_files_are_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "text.npy"
    text.write_text("no array")
    flat = tmp_path / "flat.npy"
    np.save(flat, np.zeros(3))
    words = tmp_path / "words.npy"
    np.save(words, np.array([["a"]]))
    bad = tmp_path / "bad.npy"
    np.save(bad, np.full((2, 2), np.nan))
    for path in (tmp_path / "absent.npy", text, flat, words, bad):
        with pytest.raises(ValorError, match=path.name):
            score.main(["retrieval", "--scores", str(path)])
    for path in (tmp_path / "absent.json", text):
        with pytest.raises(ValorError, match=path.name):
            score.main(["captions", "--candidates", str(path), "--references", str(path)])


@pytest.mark.parametrize("words", [[], ["segmentation"], ["retrieval"], ["captions", "--x", "1"]])
def test_wrong_words_are_a_usage_error_of_one_line(words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        score.main(words)
    assert "\n" not in str(error.value)
