"""A frame is found by the time at which it is shown, upright and in the asked size."""

import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from valor.errors import MediaError
from valor.media import video
from valor.media.container import open_container
from valor.media.pictures import Converter
from valor.media.video import decode_frames, read_frames

pytestmark = pytest.mark.media

UNEVEN_S = np.array([0.0, 0.04, 0.05, 0.4, 0.41, 0.9, 1.7, 1.74, 2.5])


def shown_at(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Index of the last frame that appeared by each time; before the first it is the first."""
    return np.maximum(np.searchsorted(times_s, wanted_s + 1e-9, side="right") - 1, 0)


def moving(num_frames: int, step_s: float = 0.04) -> list[tuple[float, np.ndarray]]:
    """Pictures that are all different, everywhere."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    return [(index * step_s, np.roll(noise, 3 * index, axis=1)) for index in range(num_frames)]


def every_frame(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as container:
        converter = Converter(container.streams.video[0], None)
        frames = [(frame.time, converter.convert(frame)) for frame in container.decode(video=0)]
    return np.array([time for time, _ in frames]), np.stack([frame for _, frame in frames])


def test_the_displayed_frame_is_found_at_any_frame_rate(render, grays):
    path = render("a.mp4", pictures=grays(UNEVEN_S))
    wanted_s = np.array([2.0, -1.0, 0.0, 0.039, 0.04, 0.3999, 0.4, 1.0, 1.0, 2.5, 99.0, 0.045])
    frames, times_s = decode_frames(path, wanted_s)
    expected = shown_at(UNEVEN_S, wanted_s)
    np.testing.assert_allclose(times_s, UNEVEN_S[expected], atol=1e-9)
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), 3 * expected, atol=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mkv", {}),
        ("a.ts", {}),
        ("open.mp4", {"x264-params": "open-gop=1"}),
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("refresh.mp4", {"g": "50", "intra-refresh": "1", "qp": "-1", "bf": "3"}),
    ],
)
def test_going_there_directly_shows_the_same_as_watching_all(render, name: str, options: dict):
    path = render(name, pictures=moving(400), options=options)
    all_times_s, all_frames = every_frame(path)
    wanted_s = np.array([15.9, 12.41, 3.3, 12.4, 7.0])
    frames, times_s = decode_frames(path, wanted_s)
    expected = shown_at(all_times_s - all_times_s[0], wanted_s)
    np.testing.assert_allclose(times_s, all_times_s[expected] - all_times_s[0], atol=1e-9)
    assert np.abs(frames.astype(int) - all_frames[expected]).mean() < 2


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Presentation times of all frames that come out of a decoder, in the stream's unit."""
    times: list[int] = []
    original = video.decoded

    def counting(*args, **kwargs):
        for frame in original(*args, **kwargs):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "decoded", counting)
    return times


@pytest.mark.parametrize(("gop", "most"), [(25, 60), (100, 200), (400, 320)])
def test_decoding_starts_again_only_where_that_saves_frames(render, decoded, gop: int, most: int):
    path = render("a.mp4", pictures=moving(400), options={"g": str(gop), "bf": "0"})
    decode_frames(path, [4.5, 12.5])
    assert len(decoded) == len(set(decoded)) <= most
    decoded.clear()
    decode_frames(path, [4.5, 4.7, 4.9, 5.1])
    assert len(decoded) == len(set(decoded))


@pytest.mark.parametrize(
    ("codec", "name", "most", "options"),
    [
        ("libx264", "a.mp4", 80, {"bf": "3"}),
        ("libx264", "a.ts", 80, {"bf": "3"}),
        ("libx264", "field.mp4", 80, {"bf": "3", "x264-params": "tff=1"}),
        ("libx264", "a.mkv", 100, {"bf": "0"}),
        ("libx265", "a.mp4", 80, {"x265-params": "log-level=none:bframes=4"}),
        ("mpeg4", "a.mp4", 80, {"bf": "2"}),
        ("libvpx-vp9", "a.webm", 100, {"cpu-used": "8"}),
        ("libsvtav1", "a.mp4", 100, {"preset": "12", "qp": "30", "bf": "0"}),
    ],
)
def test_frames_that_nobody_sees_are_left_out_without_a_trace(
    render, decoded, codec: str, name: str, most: int, options: dict
):
    options = {"g": "250", "qp": "-1", **options}
    path = render(name, codec=codec, pictures=moving(100), options=options)
    all_times_s, all_frames = every_frame(path)
    wanted_s = np.array([0.3, 0.34, 1.7, 3.9])
    frames, times_s = decode_frames(path, wanted_s)
    expected = shown_at(all_times_s - all_times_s[0], wanted_s)
    np.testing.assert_allclose(times_s, all_times_s[expected] - all_times_s[0], atol=1e-9)
    np.testing.assert_array_equal(frames, all_frames[expected])
    assert len(decoded) <= most


def damaged(path: Path, from_s: float) -> Path:
    """Zeroes the insides of the five pictures from this time on."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
        bad = [p for p in packets if p.pts * p.time_base >= from_s][:5]
        places = [(packet.pos, packet.size) for packet in bad]
    content = bytearray(path.read_bytes())
    for position, size in places:
        content[position + 8 : position + size] = bytes(size - 8)
    path.write_bytes(content)
    return path


def test_damage_after_a_seek_sends_it_through_all_frames(render, decoded):
    path = render("a.mp4", pictures=moving(400), options={"bf": "0"})
    frames, times_s = decode_frames(damaged(path, 12.08), [12.4])
    assert len(decoded) > 280
    assert times_s.tolist() == pytest.approx([12.4])
    whole, _ = decode_frames(path, np.arange(0, 12.41, 0.04))
    np.testing.assert_array_equal(frames[0], whole[-1])


def test_a_list_of_keyframes_that_lies_is_seen_through(render):
    path = render("a.mp4", pictures=moving(400), options={"bf": "0"})
    _, honest = every_frame(path)
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    frames, times_s = decode_frames(path, [12.4])
    assert times_s.tolist() == pytest.approx([12.4])
    np.testing.assert_array_equal(frames[0], honest[310])


def test_pictures_that_change_their_size_keep_the_first(render, grays, tmp_path: Path):
    parts = [
        render(f"{height}.ts", pictures=grays(np.arange(25) / 25, height=height, width=64))
        for height in (32, 64)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, _ = decode_frames(path, np.arange(0, 2, 0.1))
    assert frames.shape == (20, 32, 64, 3)


@pytest.mark.parametrize("gop", [12, 48])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_keyframes_stand_for_what_is_near(render, decoded, name: str, gop: int):
    path = render(name, pictures=moving(400), options={"g": str(gop), "bf": "2"})
    all_times_s, all_frames = every_frame(path)
    all_times_s -= all_times_s[0]
    keyframes = np.arange(0, 400, gop)
    wanted_s = np.arange(8.2, 12, 0.5)
    with open_container(path) as container:
        frames, times_s = read_frames(container, wanted_s, keyframes_only=True)
    allowed = keyframes[all_times_s[keyframes] <= wanted_s[-1]]
    nearest = allowed[np.abs(all_times_s[allowed] - wanted_s[:, None]).argmin(axis=1)]
    np.testing.assert_allclose(times_s, all_times_s[nearest], atol=1e-3)
    np.testing.assert_array_equal(frames, all_frames[nearest])
    assert len(decoded) == len(set(nearest.tolist()))


def test_without_true_keyframes_all_frames_are_read(render):
    options = {"g": "50", "intra-refresh": "1", "qp": "-1", "bf": "3"}
    path = render("a.mp4", pictures=moving(400), options=options)
    wanted_s = np.array([7.0, 12.4])
    with open_container(path) as container:
        frames, times_s = read_frames(container, wanted_s, keyframes_only=True)
    expected, expected_s = decode_frames(path, wanted_s)
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(times_s, expected_s)


def test_memory_follows_the_wanted_frames(render):
    path = render("a.mp4", pictures=moving(200))
    tracemalloc.start()
    decode_frames(path, np.linspace(0, 8, 4), short_side_px=256)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3 * 4 * 256 * 384 * 3


def test_a_still_image_is_there_at_any_time(tmp_path: Path):
    Image.new("RGB", (60, 40), (200, 100, 50)).save(tmp_path / "a.png")
    frames, times_s = decode_frames(tmp_path / "a.png", [0.0, 7.0])
    assert frames.shape == (2, 40, 60, 3)
    assert (frames == (200, 100, 50)).all()
    assert times_s.tolist() == [0.0, 0.0]


def test_after_the_break_the_last_frame_stays(render, truncate):
    path = truncate(render("a.mkv", pictures=moving(100)), 0.5)
    _, times_s = decode_frames(path, [0.5, 3.9])
    assert times_s[0] == pytest.approx(0.48, abs=0.03)
    assert 1 < times_s[1] < 3


def test_sound_alone_has_no_frames(render, beep):
    path = render("a.m4a", sounds=[(0.0, beep(length_s=0.5, at_s=0))])
    with pytest.raises(MediaError) as caught:
        decode_frames(path, [0.0])
    assert caught.value.reason == "no-video"
