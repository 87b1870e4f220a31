"""Frames of a recording by presentation time, upright, with square pixels, as RGB.

Entry points: `decode_frames`, and `frames_in_order` for many stretches in one pass. Times are
matched against timestamps, never against frame numbers, so a variable frame rate needs no special
care.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from valor.errors import MediaError
from valor.media.accelerated import accelerated_frames
from valor.media.container import (
    TIME_LIMIT_S,
    decoded,
    file_path,
    flush,
    go_to,
    open_container,
    origin_s,
    packets,
    time_limit,
    units,
    video_stream,
)
from valor.media.pictures import Converter

_ROUNDING_S = 1e-6
"""Times that differ by less are the same: k / fps against a timestamp."""

_REORDER_S = 0.25
"""An index lists decoding times; a frame may be presented this much later."""

_WORTH_A_SEEK_S = 0.5
"""Fewer frames than this are decoded on the way sooner than a decoder restarts."""

_NEAR_S = 0.1
"""Frames this near to a wanted time are all decoded: two packets may be the fields of one frame."""

_UNINDEXED_GAP_S = 10.0
"""Without an index, only a gap longer than the usual distance of keyframes is worth a seek."""

_SEEK_LEAD_S = {
    **{"matroska,webm": _REORDER_S, "asf": _REORDER_S, "flv": _REORDER_S},
    **{"mov,mp4,m4a,3gp,3g2,mj2": _REORDER_S, "mpegts": 5.0},
}
"""How far ahead to aim in formats whose timestamps stay true after a seek without a full index.

The transport stream knows no keyframes: it goes to any packet, and decoding waits for the next.
"""

Backend = Literal["pyav", "torchcodec"]
"""Who decodes pictures: torchcodec (extra `fast`) does it on a CUDA device where there is one."""

_Way = Callable[[InputContainer, VideoStream, np.ndarray], Iterator[VideoFrame]]
"""Finds a frame for each of the ascending times, which are the container's."""


class _MissedError(Exception):
    """This way to the frames does not work for the file."""


def decode_frames(
    path: str | Path,
    times_s: Sequence[float] | Float[np.ndarray, " frames"],
    *,
    short_side_px: int | None = None,
    backend: Backend = "pyav",
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]]:
    """For each time, the frame that is displayed then.

    Args:
        path: A local file.
        times_s: Seconds from the start of the presentation, in any order. Before the first frame
            the first one is meant, after the last frame the last one.
        short_side_px: Scale the shorter side to this; None keeps the size. The longer side follows,
            up to `MAX_ASPECT` times as long.
        backend: Who decodes.

    Returns:
        RGB frames in the order of `times_s`, and the seconds at which each of them appears.

    Raises:
        MediaError: If the file cannot be opened, or no picture of it can be decoded.
    """
    with time_limit(TIME_LIMIT_S), open_container(path) as container:
        return read_frames(container, times_s, short_side_px=short_side_px, backend=backend)


def read_frames(
    container: InputContainer,
    times_s: Sequence[float] | Float[np.ndarray, " frames"],
    *,
    short_side_px: int | None = None,
    keyframes_only: bool = False,
    backend: Backend = "pyav",
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]]:
    """Do the same as `decode_frames` with a container that was just opened.

    Args:
        container: Whose position is at the start.
        times_s: As for `decode_frames`.
        short_side_px: As for `decode_frames`.
        keyframes_only: True takes the nearest keyframe that is not after the last of the times, and
            decodes no other frame. A file whose keyframes cannot be read alone is read in full.
        backend: Who decodes; torchcodec leaves keyframes, and files that it might read otherwise,
            to PyAV.

    Returns:
        RGB frames in the order of `times_s`, and the seconds at which each of them appears.

    Raises:
        MediaError: If no picture can be decoded.
    """
    stream = video_stream(container)
    if backend == "torchcodec" and stream is not None and not keyframes_only:
        found = accelerated_frames(container, stream, times_s, short_side_px)
        if found is not None:
            return found
    ways: list[_Way] = [partial(_displayed, in_full=False), partial(_displayed, in_full=True)]
    if keyframes_only:
        ways.insert(0, _keyframes)
    return _read_frames(container, times_s, short_side_px, ways)


def _read_frames(
    container: InputContainer,
    times_s: Sequence[float] | Float[np.ndarray, " frames"],
    short_side_px: int | None,
    ways: Sequence[_Way],
) -> tuple[np.ndarray, np.ndarray]:
    """Read in the first of the ways that works."""
    stream = video_stream(container)
    if stream is None:
        raise MediaError(file_path(container), "no-video", "the file has no video track")
    wanted_s = np.asarray(times_s, dtype=np.float64)
    try:
        found = ways[0](container, stream, origin_s(container) + np.sort(wanted_s))
        return _taken(found, wanted_s, Converter(stream, short_side_px), origin_s(container))
    except (_MissedError, FFmpegError):
        if len(ways) == 1:
            raise
        with open_container(file_path(container)) as fresh:
            return _read_frames(fresh, times_s, short_side_px, ways[1:])


def frames_in_order(
    container: InputContainer,
    times_s: Sequence[Float[np.ndarray, " frames"]],
    *,
    short_side_px: int,
) -> Iterator[tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]]]:
    """Read the frames of many stretches in one pass, holding no more than those of one of them.

    Args:
        container: With pictures, just opened.
        times_s: Seconds for each stretch, in any order within it; no stretch reaches into the next.
        short_side_px: As for `decode_frames`.

    Yields:
        For each stretch what `read_frames` gives. Ends early where something is damaged, or missed
        otherwise, that might not concern a stretch which is read by itself.
    """
    stream = video_stream(container)
    if stream is None:
        return
    origin = origin_s(container)
    ascending_s = origin + np.concatenate([np.sort(some_s) for some_s in times_s])
    found = _displayed(container, stream, ascending_s, in_full=False)
    for wanted_s in times_s:
        some = itertools.islice(found, len(wanted_s))
        try:
            taken = _taken(some, wanted_s, Converter(stream, short_side_px), origin)
        except (_MissedError, FFmpegError):
            return
        yield taken


def _taken(
    found: Iterator[VideoFrame], wanted_s: np.ndarray, converter: Converter, origin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Frames that were found for the ascending times, and their own times, as they were wanted."""
    frames = np.zeros((0, 0, 0, 3), dtype=np.uint8)
    actual_s = np.zeros(len(wanted_s))
    for index, frame in zip(np.argsort(wanted_s, kind="stable"), found, strict=True):
        picture = converter.convert(frame)
        if not frames.size:
            frames = np.empty((len(wanted_s), *picture.shape), dtype=np.uint8)
        frames[index] = picture
        actual_s[index] = _time_s(frame) - origin
    return frames, actual_s


def _time_s(shown: VideoFrame | Packet) -> float:
    """When it appears, in the container's time; a picture may have no time."""
    if shown.pts is None or shown.time_base is None:
        return 0.0
    return float(shown.pts * shown.time_base)


def _displayed(
    container: InputContainer, stream: VideoStream, times_s: np.ndarray, *, in_full: bool
) -> Iterator[VideoFrame]:
    """The displayed frame for each of the ascending times.

    In full means that all frames are decoded, and damaged ones left out. Otherwise it is a miss if
    one is damaged, for that may come from what was left out.
    """
    if in_full:
        frames = decoded(packets(container, [stream]))
    else:
        frames = decoded(_sparing(container, stream, times_s), skip_damage=False)
    shown = coming = None
    position_s = origin_s(container)
    for time_s in times_s:
        if not in_full and _should_seek(container, stream, position_s=position_s, time_s=time_s):
            frames = _sought(container, stream, times_s[times_s >= time_s])
            shown = coming = None
        if shown is None and coming is None:
            coming = next(frames, None)
        while coming is not None and (shown is None or _time_s(coming) <= time_s + _ROUNDING_S):
            shown, coming = coming, next(frames, None)
        if shown is None:
            raise MediaError(file_path(container), "undecodable", "no picture can be decoded")
        if shown.is_corrupt and not in_full:
            raise _MissedError
        position_s = _time_s(shown if coming is None else coming)
        yield shown


def _sparing(
    container: InputContainer, stream: VideoStream, times_s: np.ndarray
) -> Iterator[Packet]:
    """Packets, before each of which the decoder is told whether the frame may be left out.

    That is so if at every later one of the ascending times another frame is known to be displayed.
    The decoder leaves a frame out only if no other frame refers to it.
    """
    is_timed = container.format.name in _SEEK_LEAD_S
    ahead_s: list[float] = []  # Later frames whose packets came already, the next one last.
    for packet in packets(container, [stream]):
        stream.codec_context.skip_frame = "DEFAULT"
        if is_timed and packet.pts is not None:
            time_s = _time_s(packet)
            while ahead_s and ahead_s[-1] <= time_s:
                ahead_s.pop()
            near = int(np.searchsorted(times_s, time_s - _NEAR_S))
            if near < len(times_s) and ahead_s and ahead_s[-1] <= times_s[near]:
                stream.codec_context.skip_frame = "NONREF"
            ahead_s.append(time_s)
        yield packet


def _should_seek(
    container: InputContainer, stream: VideoStream, *, position_s: float, time_s: float
) -> bool:
    """True if decoding can start again much later than at `position_s` and still be in time."""
    if stream.time_base is None or time_s - position_s < _WORTH_A_SEEK_S:
        return False
    index = stream.index_entries
    if 0 < stream.frames <= len(index):
        entry = index.search_timestamp(units(time_s - _REORDER_S, stream.time_base))
        keyframe_s = float(index[entry].timestamp * stream.time_base) if entry >= 0 else -math.inf
        return keyframe_s > position_s + _WORTH_A_SEEK_S
    return container.format.name in _SEEK_LEAD_S and time_s - position_s > _UNINDEXED_GAP_S


def _sought(
    container: InputContainer, stream: VideoStream, times_s: np.ndarray
) -> Iterator[VideoFrame]:
    """Frames from a keyframe on that is in time for the first of the times."""
    _go_before(container, times_s[0])
    frames = decoded(_sparing(container, stream, times_s), skip_damage=False)
    first = next(frames, None)
    # A stream that is refreshed bit by bit counts predicted frames as keyframes.
    if first is None or first.pict_type != PictureType.I:
        raise _MissedError
    if _time_s(first) > times_s[0] + _ROUNDING_S:
        raise _MissedError
    yield first
    yield from frames


def _go_before(container: InputContainer, time_s: float) -> None:
    go_to(container, time_s - _SEEK_LEAD_S.get(container.format.name, _REORDER_S))


def _keyframes(
    container: InputContainer, stream: VideoStream, times_s: np.ndarray
) -> Iterator[VideoFrame]:
    """For each of the ascending times the nearest keyframe, but none after the last time."""
    was_sought = _should_seek(container, stream, position_s=origin_s(container), time_s=times_s[0])
    if was_sought:
        _go_before(container, times_s[0])
    num_found = 0
    keyframes = _nearest(_keyframe_packets(container, stream, times_s[-1]))
    for place, (packet, until_s) in enumerate(keyframes):
        if was_sought and place == 0 and _time_s(packet) > times_s[0]:
            raise _MissedError
        num_near = int(np.searchsorted(times_s, until_s)) - num_found
        if num_near:
            yield from [_alone(packet)] * num_near
            num_found += num_near
    if not num_found:
        raise _MissedError


def _keyframe_packets(
    container: InputContainer, stream: VideoStream, last_s: float
) -> Iterator[Packet]:
    """Keyframes from the container's position on that appear by `last_s`, or else the next one."""
    is_any = False
    for packet in packets(container, [stream]):
        if packet.pts is None:
            return
        is_past = _time_s(packet) > last_s
        if packet.is_keyframe and not (is_any and is_past):
            yield packet
            is_any = True
        decoding_s = last_s if packet.dts is None else packet.dts * packet.time_base
        if is_any and is_past and decoding_s > last_s:
            return


def _nearest(keyframes: Iterator[Packet]) -> Iterator[tuple[Packet, float]]:
    """Each with the time up to which it is the nearest one."""
    held = None
    for packet in keyframes:
        if held is not None:
            if _time_s(packet) < _time_s(held):  # A damaged order.
                raise _MissedError
            yield held, (_time_s(held) + _time_s(packet)) / 2
        held = packet
    if held is not None:
        yield held, math.inf


def _alone(packet: Packet) -> VideoFrame:
    """Decode a keyframe, and make the decoder ready for another one."""
    frame = next(decoded([packet, flush(packet.stream)], skip_damage=False), None)
    packet.stream.codec_context.flush_buffers()
    if frame is None or frame.is_corrupt or frame.pict_type != PictureType.I:
        raise _MissedError
    return frame
