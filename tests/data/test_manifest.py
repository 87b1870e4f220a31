"""Laws of the manifest."""

import json

import pytest

from valor.data.manifest import read_manifest
from valor.errors import ManifestError
from valor.types import AUDIOVISUAL, Modality

GOOD = {
    "id": "one",
    "media": "clips/one.mp4",
    "start_s": 1.5,
    "captions": ["a bell", {"text": "a red circle", "about": "vision"}],
    "questions": [{"question": "what rings", "answers": ["bell"], "needs": "audio"}],
}


def write(tmp_path, *rows):
    path = tmp_path / "manifest.jsonl"
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return path


def test_reads_what_it_says(tmp_path):
    (record,) = read_manifest(write(tmp_path, GOOD))
    assert record.media == str(tmp_path / "clips/one.mp4")
    assert record.start_s == 1.5
    assert [c.about for c in record.captions] == [AUDIOVISUAL, Modality.VISION]
    assert record.questions[0].answers == ("bell",)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": 7}, "id"),
        ({"media": ""}, "media"),
        ({"start_s": -1}, "start_s"),
        ({"start_s": "1"}, "start_s"),
        ({"captions": "a bell"}, "captions"),
        ({"captions": [{"txt": "a bell"}]}, "captions.txt"),
        ({"captions": [{"text": "a bell", "about": "smell"}]}, "captions.about"),
        ({"questions": [{"question": "what", "answers": "bell"}]}, "questions.answers"),
        (
            {"questions": [{"question": "what", "answers": ["x"], "needs": "nose"}]},
            "questions.needs",
        ),
        ({"caption": "a bell"}, "caption"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(tmp_path, change, field):
    path = write(tmp_path, GOOD, {**GOOD, "id": "two", **change})
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert f"{path}:2: {field}: " in str(error.value)
    assert "\n" not in str(error.value)


def test_an_id_stands_once(tmp_path):
    with pytest.raises(ManifestError, match="2: id: 'one' stands in line 1 already"):
        read_manifest(write(tmp_path, GOOD, GOOD))


def test_no_json_names_the_line(tmp_path):
    with pytest.raises(ManifestError, match=":2: not JSON"):
        read_manifest(write(tmp_path, GOOD, "{oops\n"))


def test_only_the_split_asked_for(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "id": "two", "split": "test"})
    assert [record.id for record in read_manifest(path, split="test")] == ["two"]
