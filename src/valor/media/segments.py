"""Cut a recording into segments, and decode them: what is seen and what is heard.

Entry points: `cut`, `decode_segment` for one, and `decode_segments` for many in one pass.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from jaxtyping import Float

from valor.config import configclass
from valor.errors import MediaError
from valor.media.audio import decode_waveform, is_silent, waveforms_in_order
from valor.media.container import (
    TIME_LIMIT_S,
    audio_stream,
    is_still_image,
    open_container,
    time_limit,
    video_stream,
)
from valor.media.isolation import is_isolated, isolated
from valor.media.probe import duration_s
from valor.media.video import Backend, frames_in_order, read_frames
from valor.types import Segment

_ROUNDING = 1e-6
"""Lengths that differ by less are equal: three times 0.1 and 0.3."""
_SHORTEST_SOUND_S = 0.025
"""One frame of a spectrogram."""

_ISOLATED_SEGMENTS = 16
"""Of one call to another process."""


@configclass
class DecodePlan:
    """How densely a segment is read."""

    num_frames: int
    """Positions in the segment at which it is looked at."""
    frames_per_burst: int = 1
    """Frames taken around each position, so that motion can be seen."""
    burst_step_s: float = 0.125
    """Time between the frames of a burst; less where the segment is too short for the burst."""
    short_side_px: int
    """Size of the frames; the longer side follows the picture's shape."""
    sample_rate_hz: int
    """Rate of the waveform."""
    keyframes_only: bool = False
    """Take the nearest keyframes, many times faster where they are some seconds apart."""
    backend: Backend = "pyav"
    """Who decodes the pictures."""
    time_limit_s: float = TIME_LIMIT_S
    """A segment that takes longer is given up as `too_slow`."""

    def __post_init__(self) -> None:
        """Refuse what nothing can be decoded with."""
        for name in ("num_frames", "frames_per_burst", "short_side_px", "sample_rate_hz"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.burst_step_s < 0:
            raise ValueError("burst_step_s must not be negative")
        if self.time_limit_s <= 0:
            raise ValueError("time_limit_s must be positive")


def frame_times(start_s: float, end_s: float, plan: DecodePlan) -> Float[np.ndarray, " frames"]:
    """When to look at a segment: bursts around the centres of equal parts of it.

    Args:
        start_s: Begin of the segment.
        end_s: Its end, which no time reaches.
        plan: How many positions, and the shape of a burst.

    Returns:
        Ascending seconds within each burst, burst by burst.
    """
    length_s = end_s - start_s
    part_s = length_s / plan.num_frames
    step_s = min(plan.burst_step_s, length_s / plan.frames_per_burst)
    offsets_s = step_s * (np.arange(plan.frames_per_burst) - (plan.frames_per_burst - 1) / 2)
    centres_s = start_s + part_s * (np.arange(plan.num_frames) + 0.5)
    margin_s = offsets_s[-1] + min(part_s, step_s) / 2
    centres_s = centres_s.clip(start_s + margin_s, end_s - margin_s)
    return (centres_s[:, None] + offsets_s).reshape(-1)


def cut(
    duration_s: float, *, segment_s: float, min_last_s: float = 1.0
) -> list[tuple[float, float]]:
    """Cut a recording into equal half-open segments that cover it without overlap.

    Args:
        duration_s: Length of the recording; a still image has 0 and becomes one segment.
        segment_s: Length of a segment.
        min_last_s: A shorter rest is joined to the segment before it.

    Returns:
        `(start_s, end_s)` of each segment, at least one.

    Raises:
        ValueError: If `segment_s` is not positive.
    """
    if segment_s <= 0:
        raise ValueError(f"segment_s={segment_s} must be positive")
    num_whole = math.floor(duration_s / segment_s + _ROUNDING)
    rest_s = duration_s - num_whole * segment_s
    num_segments = max(1, num_whole + (rest_s >= max(min_last_s, _ROUNDING)))
    bounds = [index * segment_s for index in range(num_segments)] + [duration_s]
    return list(itertools.pairwise(bounds))


@isolated
def decode_segment(
    path: str | Path, plan: DecodePlan, *, start_s: float = 0.0, end_s: float | None = None
) -> Segment:
    """Read what is seen and what is heard in a stretch of a recording.

    A track that is missing, or of which nothing can be decoded, is None; where it breaks off, what
    came before is used. A still image is one burst of the same picture and has no sound.

    Args:
        path: A local file.
        plan: How densely to read it.
        start_s: Begin of the stretch.
        end_s: Its end; None, or a time after it, means the end of the recording.

    Returns:
        The decoded stretch with the end that it really has.

    Raises:
        MediaError: If the file cannot be opened, the stretch is `outside` of the recording or
            `too_long`, decoding is `too_slow`, or neither picture nor sound can be decoded.
    """
    with time_limit(plan.time_limit_s):
        return _decode_segment(path, plan, start_s, end_s)


def _decode_segment(
    path: str | Path, plan: DecodePlan, start_s: float, end_s: float | None
) -> Segment:
    frames = frame_times_s = waveform = None
    with open_container(path, with_pictures=not plan.keyframes_only) as container:
        if is_still_image(container):
            start_s = end_s = 0.0
            times_s = np.zeros(plan.frames_per_burst)
        else:
            end_s = _clipped_end(str(path), start_s, end_s, duration_s(container))
            times_s = frame_times(start_s, end_s, plan)
        has_audio = audio_stream(container) is not None
        if video_stream(container) is not None:
            try:
                frames, frame_times_s = read_frames(
                    container,
                    times_s,
                    short_side_px=plan.short_side_px,
                    keyframes_only=plan.keyframes_only,
                    backend=plan.backend,
                )
            except (MediaError, FFmpegError) as error:
                if not has_audio or not _is_undecodable(error):
                    raise
    if has_audio:
        waveform = _sound(path, plan, start_s, end_s, is_needed=frames is None)
    return _segment(path, plan, (start_s, end_s), (frames, frame_times_s), waveform)


def decode_segments(
    path: str | Path, plan: DecodePlan, stretches: Sequence[tuple[float, float]]
) -> Iterator[Segment]:
    """Read many stretches of a recording in one pass, holding no more of it than one of them.

    Where a pass would not give the same as `decode_segment`, as at damaged places, a stretch is
    read by itself, and a new pass begins after it.

    Args:
        path: A local file.
        plan: How densely to read it; keyframes, and other backends, are read without a pass.
        stretches: Begin and end of each in seconds, ascending and without overlap.

    Yields:
        For each stretch what `decode_segment` gives, in time order.

    Raises:
        MediaError: As `decode_segment`, when that stretch is due.
    """
    if not is_isolated():
        yield from _decode_segments(path, plan, stretches)
        return
    at_once = _ISOLATED_SEGMENTS
    for first in range(0, len(stretches), _ISOLATED_SEGMENTS):
        some = stretches[first : first + _ISOLATED_SEGMENTS]
        if at_once > 1:
            try:
                yield from decode_stretches(path, plan, some)
                continue
            except MediaError:
                at_once = 1  # A single one may take as much time and memory as all together.
        for start_s, end_s in some:
            yield decode_segment(path, plan, start_s=start_s, end_s=end_s)


@isolated
def decode_stretches(
    path: str | Path, plan: DecodePlan, stretches: Sequence[tuple[float, float]]
) -> list[Segment]:
    """Do the same as `decode_segments` all at once."""
    return list(_decode_segments(path, plan, stretches))


def _decode_segments(
    path: str | Path, plan: DecodePlan, stretches: Sequence[tuple[float, float]]
) -> Iterator[Segment]:
    num_read = 0
    while num_read < len(stretches):
        segments = _in_order(path, plan, stretches[num_read:])
        while (segment := _next(segments, plan)) is not None:
            yield segment
            num_read += 1
        if num_read < len(stretches):
            start_s, end_s = stretches[num_read]
            yield decode_segment(path, plan, start_s=start_s, end_s=end_s)
            num_read += 1


def _next(segments: Iterator[Segment], plan: DecodePlan) -> Segment | None:
    """The next segment of a pass, or None if it must be read by itself."""
    try:
        with time_limit(plan.time_limit_s):
            return next(segments, None)
    except MediaError as error:
        if error.reason == "too_slow":
            raise
        return None


def _in_order(
    path: str | Path, plan: DecodePlan, stretches: Sequence[tuple[float, float]]
) -> Iterator[Segment]:
    """Read stretches up to one that must be read by itself."""
    if plan.keyframes_only or plan.backend != "pyav":
        return
    seen, heard = itertools.repeat((None, None)), itertools.repeat(None)
    with ExitStack() as opened:
        container = opened.enter_context(open_container(path))
        if is_still_image(container):
            return
        length_s = duration_s(container)
        parts = [(start, _clipped_end(str(path), start, end, length_s)) for start, end in stretches]
        if video_stream(container) is not None:
            times_s = [frame_times(*part, plan) for part in parts]
            seen = frames_in_order(container, times_s, short_side_px=plan.short_side_px)
        if audio_stream(container) is not None:
            # Each track has its own position, so that neither waits in memory for the other.
            other = opened.enter_context(open_container(path, with_pictures=False))
            heard = waveforms_in_order(other, parts, sample_rate_hz=plan.sample_rate_hz)
        for part, (frames, times), waveform in zip(parts, seen, heard, strict=False):
            sound = sound_in(waveform, plan)
            if frames is None and sound is None:
                return
            yield _segment(path, plan, part, (frames, times), sound)


def _segment(
    path: str | Path,
    plan: DecodePlan,
    stretch: tuple[float, float],
    seen: tuple[np.ndarray | None, np.ndarray | None],
    waveform: np.ndarray | None,
) -> Segment:
    start_s, end_s = stretch
    return Segment(
        path=str(path),
        start_s=start_s,
        end_s=end_s,
        frames=seen[0],
        frame_times_s=seen[1],
        waveform=waveform,
        sample_rate_hz=plan.sample_rate_hz,
        is_silent=waveform is not None and is_silent(waveform),
    )


def _is_undecodable(error: MediaError | FFmpegError) -> bool:
    """True if a track is as good as absent; too little time is no such reason."""
    return isinstance(error, FFmpegError) or error.reason == "undecodable"


def _clipped_end(path: str, start_s: float, end_s: float | None, length_s: float) -> float:
    end_s = length_s if end_s is None else min(end_s, length_s)
    if not 0 <= start_s < end_s:
        detail = f"[{start_s:.3f}, {end_s:.3f}) s is empty of {length_s:.3f} s; correct it"
        raise MediaError(path, "outside", detail)
    return end_s


def _sound(
    path: str | Path, plan: DecodePlan, start_s: float, end_s: float, *, is_needed: bool
) -> np.ndarray | None:
    """The stretch's waveform, or None where there is no sound; raises for that if it is needed."""
    try:
        waveform = decode_waveform(
            path, sample_rate_hz=plan.sample_rate_hz, start_s=start_s, end_s=end_s
        )
    except MediaError as error:
        if is_needed or not _is_undecodable(error):
            raise
        return None
    sound = sound_in(waveform, plan)
    if sound is None and is_needed:
        raise MediaError(str(path), "undecodable", "neither picture nor sound can be decoded")
    return sound


def sound_in(
    waveform: Float[np.ndarray, " samples"] | None, plan: DecodePlan
) -> Float[np.ndarray, " samples"] | None:
    """The waveform, or None if it is too short for any front end to hear something in it."""
    if waveform is None or len(waveform) < _SHORTEST_SOUND_S * plan.sample_rate_hz:
        return None
    return waveform
