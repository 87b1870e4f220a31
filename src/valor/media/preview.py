"""Small pictures of a segment for reports and pages: what it looks like and what it sounds like."""

import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from valor.types import Segment

_JPEG_QUALITY = 85

_WINDOW_S = 0.032
"""Long enough to part the harmonics of a voice."""

_WINDOWS_PER_COLUMN = 4
"""Looked at in each column of the picture; the loudest counts."""

_RANGE_DB = 80.0
"""From the loudest point down to black."""

_LOWEST_HZ = 50.0

_RAMP = np.array(
    [
        *((0, 0, 4), (40, 17, 89), (114, 31, 129), (183, 55, 121)),
        *((241, 96, 93), (254, 176, 120), (252, 253, 191)),
    ],
    dtype=np.float64,
)
"""Colours from silent to loud, after matplotlib's magma (CC0)."""


def thumbnail(segment: Segment, *, max_side_px: int = 320) -> bytes:
    """The middle frame as a JPEG.

    Args:
        segment: A segment with frames.
        max_side_px: The longer side is made no larger than this.

    Returns:
        The bytes of the JPEG file.

    Raises:
        ValueError: If the segment has no frames.
    """
    if segment.frames is None:
        raise ValueError(f"{segment.path} has no picture; show spectrogram_png of its sound")
    picture = Image.fromarray(segment.frames[len(segment.frames) // 2])
    picture.thumbnail((max_side_px, max_side_px))
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def spectrogram_png(
    waveform: Float[np.ndarray, " samples"],
    sample_rate_hz: int,
    *,
    width: int = 480,
    height: int = 120,
) -> bytes:
    """Draw how loud each pitch is over time: low pitch at the bottom, silence black.

    Args:
        waveform: Mono samples; empty gives a black picture.
        sample_rate_hz: Their rate.
        width: Of the picture, in pixels; spans the whole waveform.
        height: Of the picture, in pixels; spaced in octaves up to half the rate.

    Returns:
        The bytes of the PNG file.
    """
    levels = _levels(waveform, sample_rate_hz, width)
    bins = levels.shape[1]
    lowest = max(1.0, _LOWEST_HZ / (sample_rate_hz / 2) * (bins - 1))
    rows = np.geomspace(bins - 1, lowest, height)
    below = np.floor(rows).astype(int)
    above = np.minimum(below + 1, bins - 1)
    picture = levels.T[below] + (rows - below)[:, None] * (levels.T[above] - levels.T[below])
    file = io.BytesIO()
    Image.fromarray(_coloured(picture)).save(file, format="PNG")
    return file.getvalue()


def _levels(
    waveform: np.ndarray, sample_rate_hz: int, num_columns: int
) -> Float[np.ndarray, "columns bins"]:
    """Loudness in [0, 1] of each frequency bin, for equal parts of the waveform."""
    size = max(4, round(_WINDOW_S * sample_rate_hz))
    padded = np.pad(waveform, (size // 2, size))
    num_windows = num_columns * _WINDOWS_PER_COLUMN
    starts = np.linspace(0, len(waveform), num_windows, endpoint=False).astype(int)
    windows = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(windows)) ** 2
    power = power.reshape(num_columns, _WINDOWS_PER_COLUMN, -1).max(axis=1)
    if not power.max() > 0:
        return np.zeros_like(power)
    decibels = 10 * np.log10(np.maximum(power / power.max(), 1e-12))
    return (decibels / _RANGE_DB + 1).clip(0, 1)


def _coloured(levels: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of values in [0, 1]."""
    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(levels, stops, channel) for channel in _RAMP.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
