"""Frames by torchcodec, on a CUDA device where there is one: an optional backend (extra `fast`).

Entry point: `accelerated_frames`, which takes only what it reads as `video.py` does and as safely.
torchcodec brings another FFmpeg, without a list of allowed formats: it gets files of the mp4 family
alone, which begin as no playlist or script can, and it gets their bytes but not their names.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from valor.errors import DependencyError
from valor.media.container import MAX_PIXELS, file_path, is_out_of_time, origin_s, remaining_s
from valor.media.pictures import scaled_size

_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2"
_ROUNDING_S = 1e-6
_AT_ONCE = 16
"""Frames in full size that are held in memory."""


def accelerated_frames(
    container: InputContainer,
    stream: VideoStream,
    times_s: Sequence[float] | Float[np.ndarray, " frames"],
    short_side_px: int | None,
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]] | None:
    """Do the same as `video.read_frames`, or decline.

    Args:
        container: As opened by `open_container`; its position does not change.
        stream: Of that container.
        times_s: As for `video.read_frames`.
        short_side_px: As for `video.read_frames`.

    Returns:
        Frames and times as of `video.read_frames`; None for a file that must be read otherwise, as
        it is of another format, has pixels that are no squares or mirrored pictures, is damaged, or
        torchcodec finds other frames in it than are displayed.

    Raises:
        DependencyError: If torchcodec, or the FFmpeg that it needs, cannot be loaded.
        MediaError: If it takes too long (`too_slow`).
    """
    decoders = _loaded()
    path = file_path(container)
    if not _is_trusted(container, stream) or not len(times_s):
        return None
    wanted_s = np.asarray(times_s, dtype=np.float64) + origin_s(container)
    with Path(path).open("rb") as file:
        try:
            decoder = decoders.VideoDecoder(
                _Bytes(file), stream_index=stream.index, dimension_order="NCHW", device=_device()
            )
            found = _found(decoder, wanted_s, short_side_px)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            found = None
        remaining_s(path)
    if found is None:
        return None
    frames, actual_s = found
    return frames, actual_s - origin_s(container)


def _loaded() -> Any:
    """The decoders of torchcodec; importing it loads its libraries, which may fail."""
    try:
        from torchcodec import decoders  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:
        problem = str(error).strip().splitlines()[0]
        advice = "install the extra `fast` and FFmpeg's shared libraries, or use backend pyav"
        raise DependencyError(f"torchcodec cannot be loaded ({problem}); {advice}") from None
    return decoders


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _is_trusted(container: InputContainer, stream: VideoStream) -> bool:
    """True for what both decoders take for the same, whatever else is in the file."""
    with Path(file_path(container)).open("rb") as file:
        begin = file.read(8)
    is_one_format = container.format.name == _FORMAT and begin[0] == 0 and begin[4:] == b"ftyp"
    is_square = stream.sample_aspect_ratio in (None, 0, 1)
    return is_one_format and is_square and 0 < stream.width * stream.height <= MAX_PIXELS


class _Bytes(io.RawIOBase):
    """A file without a name, which ends when the time for it does.

    Args:
        file: The open file.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """The next bytes, or none when the time is up; an error may not pass through FFmpeg."""
        return b"" if is_out_of_time() else self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)


def _found(
    decoder: Any, wanted_s: np.ndarray, short_side_px: int | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Frames and their times, in the container's time; None if others are displayed then."""
    first_s, end_s = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
    shown_s = (wanted_s + _ROUNDING_S).clip(first_s, math.nextafter(end_s, 0))
    frames, actual_s = [], []
    for begin in range(0, len(shown_s), _AT_ONCE):
        batch = decoder.get_frames_played_at(shown_s[begin : begin + _AT_ONCE].tolist())
        begins_s = batch.pts_seconds.numpy()
        late_s = shown_s[begin : begin + _AT_ONCE] - begins_s
        if (late_s < 0).any() or (late_s > batch.duration_seconds.numpy() + _ROUNDING_S).any():
            return None
        frames.append(_resized(batch.data, short_side_px))
        actual_s.append(begins_s)
    return np.concatenate(frames), np.concatenate(actual_s)


def _resized(pictures: Any, short_side_px: int | None) -> np.ndarray:
    """Pictures of the asked size, on the device that they are on, then as an array."""
    from torch.nn import functional

    height, width = pictures.shape[2:]
    to_width, to_height = scaled_size((width, height), short_side_px)
    if (to_width, to_height) != (width, height):
        is_smaller = to_width < width
        pictures = functional.interpolate(
            pictures.float(),
            (to_height, to_width),
            mode="area" if is_smaller else "bicubic",
            **({} if is_smaller else {"align_corners": False}),
        )
        pictures = pictures.round().clamp(0, 255).byte()
    return pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
