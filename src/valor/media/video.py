"""Frames of a recording by presentation time, upright, with square pixels, as RGB.

Entry point: `decode_frames`. Times are matched against timestamps, never against frame numbers, so
a variable frame rate needs no special care.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from valor.errors import MediaError
from valor.media.probe import (
    decoded,
    file_path,
    open_container,
    origin_s,
    quarter_turns,
    stored_size,
    video_stream,
)

MAX_ASPECT = 8
"""A picture longer than this many short sides is squeezed to it, so that its memory is bounded."""

_ROUNDING_S = 1e-6
"""Times that differ by less are the same: k / fps against a timestamp."""

_REORDER_S = 0.25
"""An index lists decoding times; a frame may be presented this much later."""

_WORTH_A_SEEK_S = 0.5
"""Fewer frames than this are decoded on the way sooner than a decoder restarts."""

_UNINDEXED_GAP_S = 10.0
"""Without an index, only a gap longer than the usual distance of keyframes is worth a seek."""

_SEEK_LEAD_S = {
    **{"matroska,webm": _REORDER_S, "asf": _REORDER_S, "flv": _REORDER_S},
    **{"mov,mp4,m4a,3gp,3g2,mj2": _REORDER_S, "mpegts": 5.0},
}
"""How far ahead to aim in formats whose timestamps stay true after a seek without a full index.

The transport stream knows no keyframes: it goes to any packet, and decoding waits for the next.
"""


class _SeekMissedError(Exception):
    """After a seek the frame is damaged, or the decoder started too late for it."""


def decode_frames(
    path: str | Path, times_s: Sequence[float] | np.ndarray, *, short_side_px: int | None = None
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]]:
    """For each time, the frame that is displayed then.

    Args:
        path: A local file.
        times_s: Seconds from the start of the presentation, in any order. Before the first frame
            the first one is meant, after the last frame the last one.
        short_side_px: Scale the shorter side to this; None keeps the size. The longer side follows,
            up to `MAX_ASPECT` times as long.

    Returns:
        RGB frames in the order of `times_s`, and the seconds at which each of them appears.

    Raises:
        MediaError: If the file cannot be opened, or no picture of it can be decoded.
    """
    with open_container(path) as container:
        return read_frames(container, times_s, short_side_px=short_side_px)


def read_frames(
    container: InputContainer,
    times_s: Sequence[float] | np.ndarray,
    *,
    short_side_px: int | None = None,
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]]:
    """Do the same as `decode_frames` with a container that was just opened."""
    try:
        return _read_frames(container, times_s, short_side_px=short_side_px, may_seek=True)
    except _SeekMissedError:
        with open_container(file_path(container)) as fresh:
            return _read_frames(fresh, times_s, short_side_px=short_side_px, may_seek=False)


def _read_frames(
    container: InputContainer,
    times_s: Sequence[float] | np.ndarray,
    *,
    short_side_px: int | None,
    may_seek: bool,
) -> tuple[np.ndarray, np.ndarray]:
    stream = video_stream(container)
    if stream is None:
        raise MediaError(file_path(container), "no-video", "the file has no video track")
    wanted_s = np.asarray(times_s, dtype=np.float64)
    order = np.argsort(wanted_s, kind="stable")
    converter = _Converter(stream, short_side_px)
    frames = np.zeros((0, 0, 0, 3), dtype=np.uint8)
    actual_s = np.zeros(len(wanted_s))
    origin = origin_s(container)
    displayed = _displayed(container, stream, origin + wanted_s[order], may_seek=may_seek)
    for index, frame in zip(order, displayed, strict=True):
        picture = converter.convert(frame)
        if not frames.size:
            frames = np.empty((len(wanted_s), *picture.shape), dtype=np.uint8)
        frames[index] = picture
        actual_s[index] = _time_s(frame) - origin
    return frames, actual_s


def _time_s(frame: VideoFrame) -> float:
    """When the frame appears, in the container's time; a picture may have no time."""
    return frame.time or 0.0


def _displayed(
    container: InputContainer, stream: VideoStream, times_s: np.ndarray, *, may_seek: bool
) -> Iterator[VideoFrame]:
    """The displayed frame for each of the ascending times, in the container's time."""
    frames, shown, coming = decoded(container, stream), None, None
    position_s = origin_s(container)
    was_sought = is_started = False
    for time_s in times_s:
        if may_seek and _should_seek(container, stream, position_s=position_s, time_s=time_s):
            frames, coming = _seek(container, stream, time_s)
            shown, was_sought, is_started = None, True, True
        elif not is_started:
            coming, is_started = next(frames, None), True
        try:
            while coming is not None and (shown is None or _time_s(coming) <= time_s + _ROUNDING_S):
                shown, coming = coming, next(frames, None)
        except FFmpegError as error:
            raise _SeekMissedError from error
        if shown is None:
            raise MediaError(file_path(container), "undecodable", "no picture can be decoded")
        if was_sought and shown.is_corrupt:
            raise _SeekMissedError
        position_s = _time_s(shown if coming is None else coming)
        yield shown


def _should_seek(
    container: InputContainer, stream: VideoStream, *, position_s: float, time_s: float
) -> bool:
    """True if decoding can start again much later than at `position_s` and still be in time."""
    if stream.time_base is None or time_s - position_s < _WORTH_A_SEEK_S:
        return False
    index = stream.index_entries
    if 0 < stream.frames <= len(index):
        entry = index.search_timestamp(int((time_s - _REORDER_S) / stream.time_base))
        keyframe_s = float(index[entry].timestamp * stream.time_base) if entry >= 0 else -math.inf
        return keyframe_s > position_s + _WORTH_A_SEEK_S
    return container.format.name in _SEEK_LEAD_S and time_s - position_s > _UNINDEXED_GAP_S


def _seek(
    container: InputContainer, stream: VideoStream, time_s: float
) -> tuple[Iterator[VideoFrame], VideoFrame]:
    """Go to a keyframe in time for `time_s`; all frames from there on, and the first of them."""
    try:
        lead_s = _SEEK_LEAD_S.get(container.format.name, _REORDER_S)
        container.seek(int((time_s - lead_s) * av.time_base))
        frames = decoded(container, stream, skip_damage=False)
        first = next(frames, None)
    except FFmpegError as error:
        raise _SeekMissedError from error
    # A stream that is refreshed bit by bit counts predicted frames as keyframes.
    if first is None or first.pict_type != PictureType.I or _time_s(first) > time_s + _ROUNDING_S:
        raise _SeekMissedError
    return frames, first


class _Converter:
    """Turns decoded frames into RGB arrays that all have the size of the first one."""

    def __init__(self, stream: VideoStream, short_side_px: int | None) -> None:
        self._stream = stream
        self._short_side_px = short_side_px
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._turns = 0
        self._last: tuple[VideoFrame, np.ndarray] | None = None

    def convert(self, frame: VideoFrame) -> np.ndarray:
        """Scale, convert and turn a frame; a repeated one costs nothing."""
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._convert(frame)
        return self._last[1]

    def _convert(self, frame: VideoFrame) -> np.ndarray:
        if self._size is None:
            self._size = _scaled(stored_size(frame, self._stream), self._short_side_px)
            self._turns = quarter_turns(frame)
        width, height = self._size
        kernel = Interpolation.AREA if width < frame.width else Interpolation.BICUBIC
        rgb = self._reformatter.reformat(
            frame,
            width,
            height,
            format="rgb24",
            interpolation=kernel | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            threads=1,
        )
        return np.rot90(rgb.to_ndarray(), self._turns)


def _scaled(size: tuple[int, int], short_side_px: int | None) -> tuple[int, int]:
    if short_side_px is None:
        return size
    scale = short_side_px / min(size)
    longest = MAX_ASPECT * short_side_px
    width, height = (min(longest, max(short_side_px, round(side * scale))) for side in size)
    return width, height
