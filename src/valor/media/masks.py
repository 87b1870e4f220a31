"""Masks to look at: pictures with a palette, and the video with its classes over it."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_MIN_SIDE_PX = 240
"""Smaller pictures are enlarged by a whole factor, so that the legend can be read."""
_LINE_PX = 18
_OPACITY = 0.5


def save_mask(
    path: Path, labels: UInt8[np.ndarray, "height width"], colours: Sequence[Colour]
) -> None:
    """Write a PNG whose values are the labels and whose palette is the classes' colours.

    Args:
        path: The file.
        labels: Class of each pixel.
        colours: Of the classes.
    """
    picture = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
    picture.putpalette([part for colour in colours for part in colour])
    picture.save(path, format="PNG")


def overlay(
    frame: UInt8[np.ndarray, "height width 3"],
    labels: UInt8[np.ndarray, "height width"],
    colours: Sequence[Colour],
) -> UInt8[np.ndarray, "height width 3"]:
    """Half the frame, half the colours of its classes."""
    shown = np.array(colours, np.float32)[labels]
    mixed = (1 - _OPACITY) * frame.astype(np.float32) + _OPACITY * shown
    return mixed.round().astype(np.uint8)


def write_overlay(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    *,
    fps: float,
    legend: Sequence[tuple[str, Colour]],
) -> None:
    """Write an H.264 video of frames with a legend of the classes on the right.

    Args:
        path: An mp4 file.
        frames: All of one size.
        fps: Their rate.
        legend: Name and colour of each class.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        table: np.ndarray | None = None
        for number, frame in enumerate(frames):
            factor = max(1, -(-_MIN_SIDE_PX // min(frame.shape[:2])))
            large = frame.repeat(factor, axis=0).repeat(factor, axis=1)
            table = _legend(legend, large.shape[0]) if table is None else table
            large = np.pad(large, ((0, len(table) - len(large)), (0, 0), (0, 0)))
            joined = np.concatenate([large, table], axis=1)
            joined = joined[:, : joined.shape[1] // 2 * 2]  # H.264 halves the colours' resolution
            if number == 0:
                stream.height, stream.width = joined.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(joined), format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _legend(
    legend: Sequence[tuple[str, Colour]], height: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A column of coloured squares with the names beside them, at least as high as the frame."""
    font = ImageFont.load_default(13)
    width = max(round(font.getlength(name)) for name, _ in legend) + 36
    height = max(height, _LINE_PX * len(legend) + 8)
    picture = Image.new("RGB", (width, height + height % 2), (24, 24, 24))
    pen = ImageDraw.Draw(picture)
    for line, (name, colour) in enumerate(legend):
        top = 6 + line * _LINE_PX
        pen.rectangle((8, top, 20, top + 12), fill=colour, outline=(200, 200, 200))
        pen.text((26, top - 1), name, fill=(240, 240, 240), font=font)
    return np.asarray(picture)
