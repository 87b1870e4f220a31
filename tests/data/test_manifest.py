"""Laws of the manifest."""

import json

import pytest

from valor.data.manifest import Question, Record, TaggedText, read_manifest, write_manifest
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
        ({"end_s": 1.5}, "end_s"),
        ({"end_s": float("nan")}, "end_s"),
        ({"captions": ["a bell", {"txt": "a bell"}]}, "captions[1].txt"),
        ({"captions": [{"text": "a bell", "about": "smell"}]}, "captions[0].about"),
        ({"captions": ["a bell", " "]}, "captions[1]"),
        ({"captions": [7]}, "captions[0]"),
        ({"questions": [{"question": "what", "answers": "bell"}]}, "questions[0].answers"),
        (
            {"questions": [{"question": "what", "answers": ["x"], "needs": "nose"}]},
            "questions[0].needs",
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


def test_what_is_written_is_read_back(tmp_path):
    full = Record(
        id="one",
        media=str(tmp_path / "clips/caf\u00e9 1.mp4"),
        start_s=1.5,
        end_s=3.25,
        split="test",
        captions=(TaggedText(text="a bell"), TaggedText(text="\u2028red", about=Modality.VISION)),
        questions=(Question(text="what", answers=("bell", ""), needs="audio", type="what"),),
        source="world",
    )
    records = [full, Record(id="two", media=str(tmp_path / "two.mp4"))]
    path = tmp_path / "sets" / "new" / "manifest.jsonl"
    write_manifest(path, records)
    assert read_manifest(path.parent) == records
    assert json.loads(path.read_text().splitlines()[1]) == {
        "id": "two",
        "media": "../../two.mp4",
        "split": "train",
    }


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path):
    path = write(tmp_path, GOOD)
    before = path.read_text()

    def failing():
        yield Record(id="two", media="two.mp4")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, failing())
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_that_are_no_text_name_the_line(tmp_path):
    path = write(tmp_path, GOOD)
    path.write_bytes(path.read_bytes() + b'{"id": "\xff"}')
    with pytest.raises(ManifestError, match=":2: not UTF-8"):
        read_manifest(path)
