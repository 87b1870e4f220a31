"""From a decoded frame to an upright RGB array with square pixels, in the asked size."""

import math
from pathlib import Path
from typing import IO, cast

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from valor.errors import MediaError
from valor.media.container import MAX_PIXELS

MAX_ASPECT = 8
"""A picture longer than this many short sides is squeezed to it, so that its memory is bounded."""

_PIXEL_ASPECTS = (0.1, 10.0)
"""Outside of these a header is broken; no lens does that."""

_PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Without those that other programs read for Pillow, such as EPS."""

_SIDE_DATA_KINDS = 64
"""FFmpeg 8 has 32; some room for more."""


def stored_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height of a frame in square pixels, before it is turned upright."""
    aspect = stream.sample_aspect_ratio
    if not aspect or not _PIXEL_ASPECTS[0] <= aspect <= _PIXEL_ASPECTS[1]:
        return frame.width, frame.height
    return max(1, round(frame.width * aspect)), frame.height


def orientation(frame: VideoFrame) -> tuple[bool, int]:
    """How to turn a stored frame for display.

    Args:
        frame: As the decoder gives it.

    Returns:
        True if it is to be mirrored left to right, and how many times it is to be turned
        counterclockwise by 90 degrees after that, 0 to 3.
    """
    # A frame and its side data refer to each other: only garbage collection would free its memory,
    # and that of the decoder with it. So we ask a very small copy.
    small = VideoReformatter().reformat(
        frame, 16, 16, format="rgb24", interpolation=Interpolation.POINT, threads=1
    )
    try:
        side_data = small.side_data
    except ValueError:
        side_data = _known_to_pyav(small).side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 0
    # The stored point (x, y) is shown at (right_x * x + down_x * y, right_y * x + down_y * y).
    right_x, right_y, _, down_x, down_y = np.frombuffer(matrix, np.int32)[:5].tolist()
    is_mirrored = right_x * down_y < right_y * down_x
    if is_mirrored:
        right_x, right_y = -right_x, -right_y
    return is_mirrored, round(-math.atan2(right_y, right_x) / (math.pi / 2)) % 4


def _known_to_pyav(frame: VideoFrame) -> VideoFrame:
    """Drop what FFmpeg knows of a frame and PyAV has no name for, such as EXIF of a photo."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    unknown = range(max(kind.value for kind in SideData) + 1, _SIDE_DATA_KINDS)
    steps = [graph.add("sidedata", f"mode=delete:type={kind}") for kind in unknown]
    graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
    graph.push(frame)
    return cast(VideoFrame, graph.pull())


def read_picture(
    source: str | Path | IO[bytes],
    mode: str | None = None,
    *,
    formats: tuple[str, ...] = _PICTURE_FORMATS,
) -> UInt8[np.ndarray, "..."]:
    """Read a stored picture as it is, where FFmpeg's conversions would change its values.

    Args:
        source: A file, or its open content.
        mode: Pillow's name of the wanted channels; None keeps palette indexes and gray values.
        formats: What the content may be, whatever its name says.

    Returns:
        Height, width and, if there is more than one, channels.

    Raises:
        MediaError: If it is `unreadable`, or `too_large`.
    """
    name = str(getattr(source, "name", "picture")) if hasattr(source, "read") else str(source)
    try:
        with Image.open(source, formats=formats) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width} by {picture.height}"
                detail = f"{size} pixels, more than {MAX_PIXELS}"
                raise MediaError(name, "too_large", detail)
            return np.asarray(picture.convert(mode) if mode else picture)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(name, "too_large", str(error)) from None
    except Exception as error:  # Pillow raises whatever its decoders run into.
        detail = f"cannot be read as a picture ({error})"
        raise MediaError(name, "unreadable", detail) from None


class Converter:
    """Turns decoded frames into RGB arrays that all have the size of the first one.

    Args:
        stream: Where the frames come from.
        short_side_px: Scale the shorter side to this; None keeps the size.
    """

    def __init__(self, stream: VideoStream, short_side_px: int | None) -> None:
        self._stream = stream
        self._short_side_px = short_side_px
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._orientation = False, 0
        self._last: tuple[VideoFrame, np.ndarray] | None = None

    def convert(self, frame: VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        """Scale, convert and turn a frame; a repeated one costs nothing."""
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._convert(frame)
        return self._last[1]

    def _convert(self, frame: VideoFrame) -> np.ndarray:
        if self._size is None:
            self._size = scaled_size(stored_size(frame, self._stream), self._short_side_px)
            self._orientation = orientation(frame)
        width, height = self._size
        kernel = Interpolation.AREA if width < frame.width else Interpolation.BICUBIC
        rgb = self._reformatter.reformat(
            frame,
            width,
            height,
            format="rgb24",
            interpolation=kernel | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            threads=1,
        ).to_ndarray()
        is_mirrored, turns = self._orientation
        return np.rot90(rgb[:, ::-1] if is_mirrored else rgb, turns)


def scaled_size(size: tuple[int, int], short_side_px: int | None) -> tuple[int, int]:
    """Width and height of a picture after its shorter side was scaled; None keeps the size."""
    if short_side_px is None:
        return size
    scale = short_side_px / min(size)
    longest = MAX_ASPECT * short_side_px
    width, height = (min(longest, max(short_side_px, round(side * scale))) for side in size)
    return width, height
