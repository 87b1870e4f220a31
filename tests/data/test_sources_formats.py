"""Laws that hold for every format."""

import contextlib
import json
import re
from pathlib import Path

import pytest

from tests.data.conftest import ANNOTATIONS
from valor.data.manifest import read_manifest, write_manifest
from valor.data.sources.formats import FORMATS
from valor.data.sources.media import MediaFolder
from valor.data.sources.shared import split_of
from valor.errors import ManifestError, UsageError
from valor.types import Modality

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"


def test_coverage_counts_every_listed_id_once(load, put):
    rows = [{"video_id": id, "desc": "x"} for id in ("a", "b", "a", "c")]
    imported = load("valor", put("test.json", rows), media="a.mp4 c.wav")
    assert [record.id for record in imported.records] == ["a", "c"]
    assert imported.missing == ["b"]
    assert imported.num_listed == 3
    assert {record.source for record in imported.records} == {"valor"}


def test_an_id_in_two_splits_is_an_error(load, put):
    files = (
        put("train.json", [{"video_id": "a", "desc": "x"}]),
        put("test.json", [{"video_id": "a", "desc": "y"}]),
    )
    with pytest.raises(ManifestError, match="'a' is listed twice, with split 'train' and 'test'"):
        load("valor", *files)
    (record,) = load("valor", *files, media="a.mp4", split="val", about=Modality.VISION).records
    assert record.split == "val"
    assert {(caption.text, caption.about) for caption in record.captions} == {
        ("x", Modality.VISION),
        ("y", Modality.VISION),
    }


def test_what_is_not_there_is_said(load, tmp_path):
    with pytest.raises(UsageError, match="unknown format 'msr'; there is folder, valor"):
        load("msr")
    with pytest.raises(ManifestError, match=r"none\.json: no such file or folder"):
        load("valor", tmp_path / "none.json")


EXAMPLES = {
    "valor": ["valor/desc_val.json"],
    "valor-ids": [["x"], {"x": [{"question": "what", "answer": "bell"}]}],
    "vast": [[{"clip_id": "x", "vision_cap": ["a"], "subtitle": "b"}]],
    "msrvtt": [
        {
            "videos": [{"video_id": "x", "split": "train"}],
            "sentences": [{"video_id": "x", "caption": "a"}],
        }
    ],
    "vatex": [[{"videoID": "x_1_2", "enCap": ["a"]}]],
    "didemo": [[{"video": "x.mp4", "description": "a", "num_segments": 6}]],
    "didemo-moments": [
        [{"annotation_id": 1, "video": "x.mp4", "description": "a", "times": [[1, 2], [1, 2]]}]
    ],
    "activitynet": ["activitynet/val_1.json"],
    "activitynet-events": ["activitynet/val_1.json"],
    "activitynet-qa": ["activitynet_qa/test_q.json", "activitynet_qa/test_a.json"],
    "wavcaps": ["wavcaps/test.json"],
    "coco": ["coco/captions_val2017.json"],
    "vqav2": [
        {
            "data_subtype": "val2014",
            "questions": [{"image_id": 1, "question": "what", "question_id": 2}],
            "annotations": [{"question_id": 2, "answers": [{"answer": "bell"}]}],
        }
    ],
    "msrvtt-qa": [[{"video_id": 1, "question": "what", "answer": "bell"}]],
    "msvd-qa": [[{"video_id": 1, "question": "what", "answer": "bell"}]],
    "music-avqa": ["music_avqa/avqa-val.json"],
    "hdvila": [[{"video_id": "x", "clip": [{"clip_id": "x.1.mp4", "span": ["0:01", "0:02"]}]}]],
    "visual-genome": [[{"id": 1, "regions": [{"phrase": "a"}]}]],
}
"""JSON for each format that reads it: real excerpts by name, and contents."""


def shortened(value):
    """Lists of at most two, at any depth, so that there are not too many ways to be wrong."""
    if isinstance(value, dict):
        return {name: shortened(held) for name, held in value.items()}
    return list(map(shortened, value[:2])) if isinstance(value, list) else value


def with_one_wrong_value(value):
    """Copies of a JSON value with one of the values in it replaced or left out."""
    if isinstance(value, dict):
        for name, held in value.items():
            yield {key: other for key, other in value.items() if key != name}
            yield from ({**value, name: wrong} for wrong in with_one_wrong_value(held))
    if isinstance(value, list):
        for index, held in enumerate(value):
            for wrong in with_one_wrong_value(held):
                yield [*value[:index], wrong, *value[index + 1 :]]
    yield from (wrong for wrong in (None, True, -7, "", "x", [], [[1]], {}, {"a": "b"}))


@pytest.mark.parametrize("format", EXAMPLES)
def test_whatever_is_wrong_in_a_file_is_a_manifest_error(load, put, tmp_path, monkeypatch, format):
    monkeypatch.setattr(MediaFolder, "find", lambda *names: str(tmp_path / "x.mp4"))
    contents = [
        shortened(json.loads((ANNOTATIONS / example).read_text()))
        if isinstance(example, str)
        else example
        for example in EXAMPLES[format]
    ]
    files = [put(f"{number}_val.json", content) for number, content in enumerate(contents)]
    write_manifest(tmp_path / "manifest.jsonl", load(format, *files).records)
    assert read_manifest(tmp_path)
    num_refused = 0
    for number, content in enumerate(contents):
        for wrong in with_one_wrong_value(content):
            put(f"{number}_val.json", wrong)
            try:
                write_manifest(tmp_path / "manifest.jsonl", load(format, *files).records)
            except ManifestError as error:
                num_refused += 1
                assert str(error).startswith(str(tmp_path)) or "listed twice" in str(error)
            read_manifest(tmp_path)
        put(f"{number}_val.json", content)
    assert num_refused > 10


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("content", ["", "a\tb\n1\t2\n", "a,b\n1,2\n", '{"a": "b"}', "\x00\x01"])
def test_a_file_of_another_format_gives_no_record(load, put, format, content):
    for ending in ("json", "csv", "txt", "tar", "parquet"):
        with contextlib.suppress(ManifestError):
            assert load(format, put(f"x.{ending}", content)).records == []


def test_media_are_found_by_name_whatever_their_extension(put, tmp_path):
    for name in ("x/a.1.mp4", "y/a.1.mp4", "a.1.jpg", "b.wav", "b.png", ".c.mp4", "d.txt"):
        put(f"media/{name}")
    media = MediaFolder(tmp_path / "media")
    assert media.find("a.1").endswith("/x/a.1.mp4")
    assert media.find("y/a.1.avi").endswith("/y/a.1.mp4")
    assert media.find("none", "b.mp3").endswith("/b.wav")
    assert [media.find(name) for name in (".c", "c", "d", "a", "z/a.1", "")] == [""] * 6


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_val2014", "val"),
        ("LSMDC16_annos_training", "train"),
        ("clotho_captions_evaluation", "test"),
        ("Test_frameqa_question", "test"),
        ("latest_vectors", "train"),
        ("test-00000-of-00001", "test"),
    ],
)
def test_the_split_is_a_word_of_the_name(name, split):
    assert split_of(name) == split


def test_every_format_stands_in_the_docs_as_in_the_table():
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    expected = [(n, f.help, f.files, f.seen or "**not seen**") for n, f in FORMATS.items()]
    assert rows == expected


def test_the_excerpts_are_small():
    sizes = [path.stat().st_size for path in ANNOTATIONS.rglob("*") if path.is_file()]
    assert len(sizes) > 15
    assert sum(sizes) < 300_000
