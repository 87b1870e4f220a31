"""A frame is found by the time at which it is shown, upright and in the asked size."""

import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from valor.errors import MediaError
from valor.media import video
from valor.media.pictures import MAX_ASPECT
from valor.media.video import decode_frames

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
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode()]
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


def test_far_frames_are_reached_without_decoding_all_before(render, monkeypatch):
    path = render("a.mp4", pictures=moving(400))
    decoded = []
    original = video.decoded

    def counting(*args, **kwargs):
        for frame in original(*args, **kwargs):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "decoded", counting)
    decode_frames(path, [4.0, 12.0])
    assert len(decoded) < 150


def test_memory_follows_the_wanted_frames(render):
    path = render("a.mp4", pictures=moving(200))
    tracemalloc.start()
    decode_frames(path, np.linspace(0, 8, 4), short_side_px=256)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3 * 4 * 256 * 384 * 3


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, -90])
def test_pictures_come_out_upright(render, rotation_deg: int):
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = render("a.mp4", pictures=[(0.0, picture), (0.1, picture)], rotation_deg=rotation_deg)
    frames, _ = decode_frames(path, [0.0])
    upright = np.rot90(picture, rotation_deg // 90)
    assert frames[0].shape == upright.shape
    corners = np.ix_([4, -5], [4, -5])
    assert np.abs(frames[0][corners].astype(int) - upright[corners]).max() < 60


def test_pixels_come_out_square(render, grays):
    path = render("a.mp4", pictures=grays([0, 1]), pixel_aspect=Fraction(2))
    assert decode_frames(path, [0.0])[0].shape == (1, 32, 96, 3)
    assert decode_frames(path, [0.0], short_side_px=16)[0].shape == (1, 16, 48, 3)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (16, 16), (480, 16), (16, 600), (99, 37)])
@pytest.mark.parametrize("short_side_px", [8, 33, 64])
def test_the_short_side_is_as_asked(render, grays, height: int, width: int, short_side_px: int):
    path = render("a.mp4", pictures=grays([0, 1], height=height, width=width))
    shape = decode_frames(path, [0.0], short_side_px=short_side_px)[0].shape[1:3]
    assert min(shape) == short_side_px
    aspect = min(max(height, width) / min(height, width), MAX_ASPECT)
    assert max(shape) == pytest.approx(short_side_px * aspect, abs=1)
    assert (shape[0] < shape[1]) == (height < width)


def test_a_picture_shrinks_by_averaging(tmp_path: Path):
    pixels = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "checks.png")
    frames, _ = decode_frames(tmp_path / "checks.png", [0.0], short_side_px=16)
    assert np.abs(frames.astype(int) - 127).max() < 8


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
