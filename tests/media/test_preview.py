"""Previews show the middle of what is seen, and what sounds where."""

import io

import numpy as np
import pytest
from PIL import Image

from valor.media.preview import spectrogram_png, thumbnail
from valor.types import Segment

RATE_HZ = 16_000


def segment(frames: np.ndarray | None) -> Segment:
    return Segment(
        path="a.mp4",
        start_s=0.0,
        end_s=1.0,
        frames=frames,
        frame_times_s=None if frames is None else np.arange(len(frames)) / 4,
        waveform=None,
        sample_rate_hz=RATE_HZ,
    )


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def tone(hz: float, *, from_s: float = 0.0, to_s: float = 2.0) -> np.ndarray:
    times_s = np.arange(2 * RATE_HZ) / RATE_HZ
    is_on = (times_s >= from_s) & (times_s < to_s)
    return (0.3 * np.sin(2 * np.pi * hz * times_s) * is_on).astype(np.float32)


def test_a_thumbnail_is_the_middle_frame():
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    frames[1] = (200, 100, 50)
    content = thumbnail(segment(frames), max_side_px=30)
    assert content.startswith(b"\xff\xd8")
    picture = opened(content)
    assert picture.shape == (20, 30, 3)
    assert np.abs(picture - (200, 100, 50)).max() < 6


def test_a_thumbnail_is_never_enlarged():
    picture = opened(thumbnail(segment(np.zeros((1, 40, 60, 3), np.uint8)), max_side_px=500))
    assert picture.shape == (40, 60, 3)


def test_without_a_picture_there_is_no_thumbnail():
    with pytest.raises(ValueError, match="no picture"):
        thumbnail(segment(None))


def test_a_higher_pitch_is_drawn_higher():
    def brightest_row(hz: float) -> int:
        picture = opened(spectrogram_png(tone(hz), RATE_HZ, width=40, height=60))
        assert picture.shape == (60, 40, 3)
        return int(picture.sum(axis=(1, 2)).argmax())

    rows = [brightest_row(hz) for hz in (200, 800, 3200)]
    assert rows[0] > rows[1] > rows[2]
    # Octaves are evenly spaced.
    assert rows[0] - rows[1] == pytest.approx(rows[1] - rows[2], abs=2)


def test_sound_is_drawn_where_it_is_heard():
    picture = opened(spectrogram_png(tone(500, from_s=1, to_s=1.5), RATE_HZ, width=80, height=40))
    loud = np.flatnonzero(picture.sum(axis=2).max(axis=0) > 400)
    assert (loud.min(), loud.max()) == pytest.approx((40, 60), abs=2)


@pytest.mark.parametrize("num_samples", [0, 1, 100, RATE_HZ])
def test_silence_is_black_at_any_length(num_samples: int):
    picture = opened(spectrogram_png(np.zeros(num_samples, np.float32), RATE_HZ))
    assert picture.max() < 8
