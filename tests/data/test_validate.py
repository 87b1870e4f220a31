"""Laws of checking a manifest and its media."""

import json
import os
import threading
import wave
from collections.abc import Iterable
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
from av.audio.stream import AudioStream
from PIL import Image

from valor.data.manifest import Record, write_manifest
from valor.data.validate import Examined, examine, examine_files, validate
from valor.errors import MediaError, ValorError

GOOD = {"id": "one", "media": "one.mp4", "captions": ["a bell"]}


def written(folder: Path, rows: Iterable) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path = folder / "manifest.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_every_wrong_line_is_named_and_the_others_are_counted(tmp_path):
    (tmp_path / "one.mp4").touch()
    rows = [GOOD, "{", "", {**GOOD, "captions": [{"about": "smell", "text": "x"}]}, GOOD]
    path = written(tmp_path, [*rows, {**GOOD, "id": "two", "media": "none.mp4"}])
    report = validate(tmp_path)
    assert (report.num_records, report.num_files) == (3, 2)
    beginnings = ["2: not JSON", "4: captions[0].about: unknown group 'smell'", "5: id: 'one'"]
    beginnings.append(f"6: media: missing: {tmp_path}/none.mp4")
    assert len(report.errors) == len(beginnings)
    for error, beginning in zip(report.errors, beginnings, strict=True):
        assert error.startswith(f"{path}:{beginning}")
    missing = [str(tmp_path / "none.mp4")]
    assert report.findings == {"missing": missing, "repeated": [str(tmp_path / "one.mp4")]}


def remuxed(source: Path, target: Path, kinds: str) -> Path:
    """The same packets of the given kinds of streams in another container."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams if s.type in kinds}
        for packet in old.demux():
            if packet.stream.index in streams and packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((samples * 30_000).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def shelf(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with a file of every kind, and what is wrong with it in its name."""
    folder = tmp_path_factory.mktemp("shelf")
    clip = world / "media/test-000000.mp4"
    (folder / "good.mp4").write_bytes(clip.read_bytes())
    remuxed(clip, folder / "no-audio.mp4", "video")
    whole = remuxed(clip, folder / "whole.mkv", "video audio").read_bytes()
    (folder / "truncated.mkv").write_bytes(whole[: len(whole) // 4])
    content = bytearray(clip.read_bytes())
    middle = (content.index(b"mdat") + content.index(b"moov")) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    (folder / "damaged.mp4").write_bytes(content)
    write_wav(folder / "no-picture.wav", np.sin(np.arange(8000) / 5))
    write_wav(folder / "silent.wav", np.zeros(8000))
    Image.new("RGB", (32, 24), "red").save(folder / "image.png")
    (folder / "empty.mp4").touch()
    (folder / "unreadable.mp4").write_text("no video")
    names = sorted(path.name for path in folder.iterdir())
    records = [Record(id=name, media=str(folder / name)) for name in names]
    records.append(Record(id="long", media=str(folder / "no-picture.wav"), end_s=9.0))
    records.append(Record(id="late", media=str(folder / "silent.wav"), start_s=3.0))
    write_manifest(folder / "manifest.jsonl", records)
    return folder


EXPECTED = {
    "empty": ["empty.mp4"],
    "image": ["image.png"],
    "no-audio": ["no-audio.mp4"],
    "no-picture": ["no-picture.wav", "silent.wav"],
    "short": ["no-picture.wav"],
    "truncated": ["truncated.mkv"],
    "unreadable": ["unreadable.mp4"],
}
DECODED = {**EXPECTED, "damaged": ["damaged.mp4"], "silent": ["silent.wav"]}


@pytest.mark.media
@pytest.mark.parametrize(("depth", "expected"), [("probe", EXPECTED), ("decode", DECODED)])
def test_media_are_counted_by_what_they_lack(shelf, depth, expected):
    calls = []
    report = validate(shelf, depth=depth, workers=2, progress=lambda *call: calls.append(call))
    assert {k: [Path(p).name for p in v] for k, v in report.findings.items()} == expected
    assert calls == [(depth, done, 10) for done in range(1, 11)]
    reasons = [error.split(": ")[1:3] for error in report.errors]
    assert reasons == [["media", "empty"], ["media", "unreadable"], ["start_s", reasons[2][1]]]
    assert report.errors[2].startswith(f"{shelf}/manifest.jsonl:12: start_s: 3, but the recording")


@pytest.mark.parametrize(("dtype", "format"), [("u1", "u8"), ("<i4", "s32"), ("<f8", "dbl")])
@pytest.mark.parametrize("loudness", [0.0, 0.01])
def test_silence_is_silence_in_every_sample_format(tmp_path, dtype, format, loudness):
    scale, middle = {"u8": (127, 128), "s32": (2**31 - 1, 0), "dbl": (1, 0)}[format]
    sound = np.sin(np.arange(8000) / 5) * loudness * scale + middle
    path = tmp_path / "sound.wav"
    codec = {"u8": "pcm_u8", "s32": "pcm_s32le", "dbl": "pcm_f64le"}[format]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8000, layout="mono")
        assert isinstance(stream, AudioStream)
        frame = av.AudioFrame.from_ndarray(sound.astype(dtype)[None], format, "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    examined = examine(str(path), decode=True)
    assert isinstance(examined, Examined)
    assert examined.is_silent == (loudness == 0)


def deadly(path: str) -> MediaError:
    """Stands for a decoder that some files kill."""
    if path == "deadly":
        os._exit(1)
    return MediaError(path, "empty", "")


def test_a_file_that_kills_its_process_is_one_result():
    paths = ["deadly", *"abcdef"]
    results = dict(examine_files(paths, deadly, workers=1))
    reasons = {path: getattr(result, "reason", None) for path, result in results.items()}
    assert reasons == {path: "empty" for path in paths} | {"deadly": "crashed"}


def endless(path: str) -> MediaError:
    """Stands for a decoder that never comes back from a packet."""
    if path == "endless":
        threading.Event().wait()
    return MediaError(path, "empty", "")


def test_a_file_that_holds_its_process_is_one_result():
    paths = ["endless", *"abcdef"]
    results = dict(examine_files(paths, endless, workers=2, time_limit_s=0.5))
    reasons = {path: getattr(result, "reason", None) for path, result in results.items()}
    assert reasons == {path: "empty" for path in paths} | {"endless": "too_slow"}


def test_decoding_a_file_has_a_time_limit(world):
    examined = examine(str(world / "media/test-000000.mp4"), decode=True, time_limit_s=1e-9)
    assert isinstance(examined, MediaError)
    assert examined.reason == "too_slow"


@pytest.mark.parametrize("depth", ["presence", "probe"])
def test_media_elsewhere_are_asked_for_and_not_fetched(tmp_path, depth):
    fsspec.filesystem("memory").pipe_file("/validated/there.mp4", b"no video at all")
    there, gone = "memory://validated/there.mp4", "memory://validated/gone.mp4"
    written(tmp_path, [{**GOOD, "media": there}, {**GOOD, "id": "two", "media": gone}])
    report = validate(tmp_path, depth=depth, workers=1)
    assert report.findings["remote"] == [gone, there]
    assert report.findings.get("missing", []) == ([] if depth == "presence" else [gone])
    assert [error.split(": ")[2] for error in report.errors] == ["missing"] * (depth == "probe")


def test_an_address_that_nothing_can_read_names_the_problem(tmp_path):
    written(tmp_path, [{**GOOD, "media": "nowhere://one.mp4"}])
    (error,) = validate(tmp_path, depth="probe").errors
    assert "media: unreadable: nowhere://one.mp4: " in error


def test_workers_are_at_least_one(shelf):
    with pytest.raises(ValorError, match="workers=0"):
        validate(shelf, depth="probe", workers=0)
