"""Opening is safe, reading ends in time, and one track of several is taken by rule."""

import itertools
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from valor.errors import MediaError
from valor.media import container as module
from valor.media.audio import decode_waveform
from valor.media.container import flush, open_container, packets, time_limit
from valor.media.probe import probe
from valor.media.segments import DecodePlan, decode_segment
from valor.media.video import decode_frames

pytestmark = pytest.mark.media

RATE_HZ = 16_000


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock takes a second."""
    monkeypatch.setattr(module.time, "monotonic", itertools.count().__next__)


def test_what_takes_too_long_is_given_up(render, grays, beep, clock):
    path = render(
        "a.mp4", pictures=grays(np.arange(100) / 25), sounds=[(0.0, beep(length_s=4, at_s=1))]
    )
    plan = DecodePlan(num_frames=4, short_side_px=16, sample_rate_hz=RATE_HZ, time_limit_s=50)
    for read in (
        lambda: decode_segment(path, plan),
        lambda: decode_frames(path, [0.0, 3.9]),
        lambda: probe(path, time_limit_s=2),
        lambda: decode_waveform(path, sample_rate_hz=RATE_HZ),
    ):
        with pytest.raises(MediaError, match="not read within") as caught, time_limit(60):
            read()
        assert caught.value.reason == "too_slow"


def test_a_track_is_not_dropped_because_time_is_up(render, grays, beep, clock):
    pictures, sounds = grays([0.0, 0.1]), [(0.0, beep(length_s=4, at_s=1))]
    plan = DecodePlan(num_frames=1, short_side_px=16, sample_rate_hz=RATE_HZ, time_limit_s=20)
    with pytest.raises(MediaError) as caught:
        decode_segment(render("a.mp4", pictures=pictures, sounds=sounds), plan)
    assert caught.value.reason == "too_slow"


def test_a_search_for_the_next_packet_ends_too(render, grays, clock):
    """FFmpeg looks at the clock whenever it reads from the file."""
    path = render("a.avi", pictures=grays(np.arange(20) / 25), options={"bf": "0"})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"idx1")])
    assert probe(path, time_limit_s=200).has_video
    path.write_bytes(path.read_bytes() + bytes(2**23))
    with pytest.raises(MediaError) as caught:
        probe(path, time_limit_s=200)
    assert caught.value.reason == "too_slow"


def test_a_shorter_limit_inside_a_longer_one_holds_and_ends(render, grays):
    path = render("a.mp4", pictures=grays([0.0, 0.1]))
    with time_limit(1000):
        with pytest.raises(MediaError, match="within 1e-09 s"), time_limit(1e-9):
            probe(path)
        with pytest.raises(MediaError, match="within 1e-09 s"), time_limit(1e-9), time_limit(500):
            probe(path)
        assert probe(path).has_video


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + 3 * width) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def test_a_picture_of_any_claimed_size_takes_bounded_memory(tmp_path: Path):
    (tmp_path / "small.png").write_bytes(png(100, 100))
    (tmp_path / "huge.png").write_bytes(png(20_000, 20_000))
    assert decode_frames(tmp_path / "small.png", [0.0])[0].shape == (1, 100, 100, 3)
    with pytest.raises(MediaError) as caught:
        decode_frames(tmp_path / "huge.png", [0.0])
    assert caught.value.reason == "undecodable"


def test_after_a_break_the_last_frames_keep_their_times(render, grays):
    path = render("a.mp4", pictures=grays(np.arange(10) / 10))
    with open_container(path) as container:
        stream = container.streams.video[0]
        last = flush(stream)
        held = [
            frame for packet in list(packets(container, [stream]))[:-1] for frame in packet.decode()
        ]
        frames = last.decode()
    assert held
    assert frames
    assert [frame.time for frame in held + frames] == pytest.approx(np.arange(10) / 10)


def write_tracks(path: Path, default: int) -> None:
    """Three video and three audio tracks: the n-th is 50 n bright and n / 10 loud."""
    with av.open(str(path), "w") as container:
        videos = [container.add_stream("libx264", rate=10) for _ in range(3)]
        audios = [container.add_stream("aac", rate=RATE_HZ, layout="mono") for _ in range(3)]
        for stream in videos:
            stream.width = stream.height = 32
        for stream in (videos[default], audios[default]):
            stream.disposition = Disposition.default
        for number, (video, audio) in enumerate(zip(videos, audios, strict=True)):
            gray = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 50 * number, np.uint8))
            for index in range(10):
                gray.pts, gray.time_base = index, Fraction(1, 10)
                container.mux(video.encode(gray))
            container.mux(video.encode(None))
            tone = np.sin(np.arange(RATE_HZ) * 0.5)[None].astype(np.float32) * number / 10
            for begin in range(0, RATE_HZ, 1024):
                part = np.ascontiguousarray(tone[:, begin : begin + 1024])
                sound = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                sound.sample_rate, sound.pts = RATE_HZ, begin
                container.mux(audio.encode(sound))
            container.mux(audio.encode(None))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_track_is_taken(tmp_path: Path, suffix: str, default: int):
    path = tmp_path / f"a.{suffix}"
    write_tracks(path, default)
    assert probe(path).num_audio_tracks == 3
    frames, _ = decode_frames(path, [0.5])
    assert frames.mean() == pytest.approx(50 * default, abs=3)
    waveform = decode_waveform(path, sample_rate_hz=RATE_HZ)
    assert waveform is not None
    assert np.abs(waveform[4000:8000]).max() == pytest.approx(default / 10, abs=0.02)
