"""Media with their texts beside them, in archives and in tables."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from valor.data.sources.folders import read_cues
from valor.errors import ManifestError
from valor.types import AUDIOVISUAL, Modality

VTT = """WEBVTT

NOTE a comment

1
00:00:01.000 --> 00:00:02.500 align:start
<v Ann>good <c>morning</c>
again

01:02.000 --> 01:03.000

01:00:02.000 --> 01:00:03.000
later
"""


def texts(record):
    return [caption.text for caption in record.captions]


def tar_of(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_folder_has_texts_beside_its_media(load, put, tmp_path):
    put("clips/test/a.mp4")
    put("clips/test/a.txt", "one\n\n two \n")
    put("clips/b.JPG")
    put("clips/b.json", {"captions": [{"text": "x", "about": "vision"}], "split": "val"})
    put("clips/b.gif", "a picture of it")
    put("clips/.hidden.mp4")
    put("clips/notes.txt", "no media")
    records = {record.id: record for record in load("folder", tmp_path / "clips").records}
    assert texts(records["test/a"]) == ["one", "two"]
    assert records["test/a"].split == "test"
    assert records["b"].captions[0].about == Modality.VISION
    assert records["b"].split == "val"
    assert records["b"].media.endswith("b.gif")
    assert len(records["b"].captions) == 1
    assert records.keys() == {"test/a", "b"}
    put("clips/b.json", {"caption": "x"})
    with pytest.raises(ManifestError, match=r"b\.json: caption: unknown field"):
        load("folder", tmp_path / "clips")


def test_cues_become_records_of_their_times(load, put, tmp_path):
    put("clips/a.mp4")
    put("clips/a.vtt", VTT)
    whole, first, second = load("folder", tmp_path / "clips").records
    assert (whole.id, whole.captions) == ("a", ())
    assert (first.start_s, first.end_s, texts(first)) == (1.0, 2.5, ["good morning again"])
    assert (second.start_s, second.end_s, texts(second)) == (3602.0, 3603.0, ["later"])
    assert first.media == whole.media
    assert (first.captions[0].about, first.captions[0].style) == (Modality.AUDIO, "subtitle")


def test_a_wrong_time_is_named(put):
    with pytest.raises(ManifestError, match=r"a\.vtt: 'soon', expected a time"):
        list(read_cues(put("a.vtt", "WEBVTT\n\nsoon --> 00:02.000\nhi\n")))


SAMPLES = {
    "x/000000000.jpg": b"picture",
    "x/000000000.txt": b"a caption\n",
    "x/000000000.json": json.dumps({"caption": "not this one"}).encode(),
    "x/000000001.json": json.dumps({"caption": "a video", "key": "000000001"}).encode(),
    "x/000000001.m4a": b"sound",
    "x/000000001.mp4": b"moving",
    "x/000000002.txt": b"no media",
}


def test_archives_and_folders_hold_the_same_samples(load, put, tmp_path):
    tar_of(tmp_path / "tars/train-00000.tar", SAMPLES)
    keys = [f"{number:09d}" for number in range(4)]
    (tmp_path / "files").mkdir()
    for name in ("tars/train-00000.parquet", "files/train-00000.parquet"):
        parquet.write_table(pa.table({"key": keys}), tmp_path / name)
    for name, content in SAMPLES.items():
        put(f"files/train-00000/{name.removeprefix('x/')}", content.decode())
    for folder in ("tars", "files"):
        imported = load("webdataset", tmp_path / folder)
        picture, video = sorted(imported.records, key=lambda record: record.id)
        assert (picture.id, texts(picture)) == ("000000000", ["a caption"])
        assert picture.captions[0].about == Modality.VISION
        assert (video.id, texts(video)) == ("000000001", ["a video"])
        assert video.captions[0].about == AUDIOVISUAL
        assert Path(video.media).read_bytes() == b"moving"
        assert imported.missing == ["000000002", "000000003"]


def test_an_archive_writes_nothing_outside_of_the_media_folder(load, tmp_path):
    path = tar_of(tmp_path / "bad.tar", {"../../escape.jpg": b"x", "/tmp/absolute.jpg": b"x"})
    media = [record.media for record in load("cc", path).records]
    assert all(name.startswith(str(tmp_path / "media/bad/")) for name in media)
    assert len(media) == 2


def test_a_damaged_archive_is_named(load, put):
    with pytest.raises(ManifestError, match=r"a\.tar: a damaged archive"):
        load("cc", put("a.tar", "no archive"))


def test_tables_hold_media_or_name_them(load, put, tmp_path):
    table = pa.table(
        {
            "id": [1, 2, 3],
            "video": [{"bytes": b"v", "path": "x.webm"}, {"bytes": b"w", "path": None}, None],
            "caption": [["one", "two"], [], ["three"]],
            "question": [None, "what", None],
            "answer": [None, "bell", None],
        }
    )
    (tmp_path / "hub").mkdir()
    parquet.write_table(table, tmp_path / "hub/test-00000-of-00001.parquet")
    imported = load("parquet", tmp_path / "hub")
    first, second = imported.records
    assert (first.id, first.split, texts(first)) == ("1", "test", ["one", "two"])
    assert first.media.endswith("/media/test-00000-of-00001/1.webm")
    assert second.media.endswith("/2.mp4")
    assert second.questions[0].answers == ("bell",)
    assert imported.missing == ["3"]
    listed = pa.table({"file_name": ["a/b.wav"], "text": ["a bell"], "split": ["validation"]})
    parquet.write_table(listed, tmp_path / "train.parquet")
    (record,) = load("parquet", tmp_path / "train.parquet", media="a/b.wav").records
    assert (record.split, texts(record)) == ("val", ["a bell"])
    assert record.captions[0].about == Modality.AUDIO
    with pytest.raises(ManifestError, match=r"no\.parquet: not a Parquet table"):
        load("parquet", put("no.parquet", "text"))
