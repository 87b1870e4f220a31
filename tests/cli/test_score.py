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
    assert found.pop("items") == {"1": 1, "2": 1, "3": 0}
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
    del found["items"]
    assert found == {"accuracy": 1.0, "num": 1, "soft_accuracy": pytest.approx(0.6)}


def test_music_questions_are_read_as_their_authors_wrote_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"video_id": "1", "question_id": 5, "type": '["Audio", "Counting"]', "anser": "one"}
    gone = {**row, "question_id": 6, "question_deleted": 1}
    found = report(
        capsys,
        *("answers", "--candidates", write(tmp_path / "p.json", [row | {"answer": "one"}, row])),
        *("--references", write(tmp_path / "a.json", [row, row, gone])),
        *("--protocol", "music-avqa", "--vocabulary", write(tmp_path / "v.json", ["two"])),
    )
    assert found["items"] == {"5": 1, "5#2": 1}
    assert found["by_type"] == {"audio counting": {"accuracy": 1, "num": 2}}
    assert found["closed_set"] == {"num": 0, "reachable": 0, "outside": 1}


def length(captions: list[str], references: list[list[str]]) -> list[int]:
    return [len(text) for text in captions]


def test_a_judge_of_ones_own_and_what_is_absent_stand_beside_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "c.json", CAPTIONS)
    found = report(
        capsys,
        *("captions", "--candidates", path, "--references", path),
        *("--judge", f"{__name__}:length"),
    )
    lengths = {id: len(text) for id, text in CAPTIONS.items()}
    assert {id: row["length"] for id, row in found["items"].items()} == lengths
    assert found["corpus"]["length"] == sum(lengths.values()) / 2
    assert found["absent"].keys() == {"meteor", "spice"}
    assert "meteor" not in found["corpus"]


def test_runs_and_the_dual_softmax_are_written_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.npy"
    np.save(path, np.array([[0.9, 0.8], [0.95, 0.1]]))
    run = tmp_path / "run.trec"
    arguments = ("retrieval", "--scores", str(path), "--dual-softmax", "20", "--trec", str(run))
    found = report(capsys, *arguments)
    assert found["dual_softmax"]["uses_whole_query_set"] is True
    assert found["text_to_media"].keys() == found["dual_softmax"]["text_to_media"].keys()
    assert run.read_text().splitlines()[0] == "text0 Q0 media0 1 0.9 valor"


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
