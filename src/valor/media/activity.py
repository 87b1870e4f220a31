"""How loud a recording is and how much its picture changes over time, in bounded memory.

Entry point: `measure`. Both tracks are decoded once, in the order of the file; what is kept of an
hour is a few hundred kilobytes.
"""

import math
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float, Int16

from valor.errors import MediaError
from valor.media.audio import SILENCE_PEAK, samples_of
from valor.media.container import (
    TIME_LIMIT_S,
    audio_stream,
    decoded,
    go_to,
    is_still_image,
    open_container,
    origin_s,
    packets,
    playable_streams,
    time_limit,
    video_stream,
)
from valor.media.probe import duration_s

HOP_S = 0.05
"""Length of the stretches whose loudness is measured."""

MOTION_STEP_S = 0.25
"""Motion is the change of the picture within this time."""

_ROUNDING_S = 1e-6
_THUMB_PX = 32
_SEEK_LEAD_S = 5.0
"""A stretch that begins later is read from this much before it on."""


_SPARED_FPS = 20
"""From this frame rate on, frames to which no other refers are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What can be heard and what moves in a stretch of a recording."""

    start_s: float
    end_s: float
    has_video: bool
    has_audio: bool
    is_image: bool
    power: Float[np.ndarray, " hops"]
    """Mean square of the samples, all channels mixed into one; 0 where there is no sound."""
    peak: Float[np.ndarray, " hops"]
    """The loudest sample, 1 being full scale."""
    frame_times_s: Float[np.ndarray, " frames"]
    """Of the frames that were decoded, within the recording."""
    changes: Float[np.ndarray, " frames"]
    """By how much of full scale half of each one, or more, differs from the one before."""
    motions: Float[np.ndarray, " motions"]
    """Mean differences of pictures `MOTION_STEP_S` apart, or as far as frames allow."""
    motion_starts_s: Float[np.ndarray, " motions"]
    """When the earlier ones appear,"""
    motion_ends_s: Float[np.ndarray, " motions"]
    """and the later ones."""

    def level_db(self, start_s: float, end_s: float) -> float:
        """Mean loudness of a stretch in dBFS; minus infinity without a sound."""
        power = self.power[self._hops(start_s, end_s)].sum() * HOP_S / max(end_s - start_s, HOP_S)
        return 10 * math.log10(power) if power else -math.inf

    def is_silent(self, start_s: float, end_s: float) -> bool:
        """True if most of a stretch is digital silence; codecs smear what is beside it into it."""
        return bool(np.median(self.peak[self._hops(start_s, end_s)]) <= SILENCE_PEAK)

    def motion(self, start_s: float, end_s: float) -> float:
        """Mean change of a stretch's picture within `MOTION_STEP_S`; a frozen one counts as 0."""
        first = np.searchsorted(self.motion_starts_s, start_s - _ROUNDING_S)
        last = np.searchsorted(self.motion_ends_s, end_s - _ROUNDING_S)
        num_steps = max((end_s - start_s) / MOTION_STEP_S - 1, 1.0)
        return float(self.motions[first:last].sum() / num_steps)

    def _hops(self, start_s: float, end_s: float) -> slice:
        first = min(round((start_s - self.start_s) / HOP_S), len(self.power) - 1)
        return slice(first, max(first + 1, round((end_s - self.start_s) / HOP_S)))


def measure(path: str | Path, *, start_s: float = 0.0, end_s: float | None = None) -> Activity:
    """Measure loudness, changes of the picture and motion of a stretch of a recording.

    Damaged parts count as silent and still.

    Args:
        path: A local file.
        start_s: Begin of the stretch.
        end_s: Its end; None, or a time after it, means the end of the recording.

    Returns:
        The measurements; those of a still image are empty.

    Raises:
        MediaError: If the file cannot be opened, the stretch is `outside` of it, it takes longer to
            decode than to play and `TIME_LIMIT_S` more (`too_slow`), or no track can be decoded.
    """
    with time_limit(TIME_LIMIT_S), open_container(path) as container:
        is_image = is_still_image(container)
        length_s = duration_s(container)
    end_s = length_s if end_s is None else min(end_s, length_s)
    if not is_image and not 0 <= start_s < end_s:
        detail = f"[{start_s:.3f}, {end_s:.3f}) s is empty of {length_s:.3f} s; correct it"
        raise MediaError(str(path), "outside", detail)
    meter = _Meter(start_s, end_s)
    with time_limit(TIME_LIMIT_S + end_s - start_s):
        if not is_image and start_s > _SEEK_LEAD_S:
            with open_container(path) as container:
                meter.read(container, from_s=start_s - _SEEK_LEAD_S)
        if not is_image and not meter.is_any:
            with open_container(path) as container:
                meter.read(container)
    if not is_image and not meter.is_any:
        raise MediaError(str(path), "undecodable", "neither picture nor sound can be decoded")
    return meter.activity(is_image=is_image)


class _Meter:
    """Takes frames of both tracks as they are decoded."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self._start_s, self._end_s = start_s, end_s
        num_hops = math.ceil((end_s - start_s) / HOP_S - _ROUNDING_S)
        self._energy, self._peak = np.zeros(num_hops), np.zeros(num_hops, np.float32)
        self._times, self._changes = array("d"), array("f")
        self._motion_starts, self._motion_ends = array("d"), array("d")
        self._motions = array("f")
        self._reformatter = VideoReformatter()
        self._last: np.ndarray | None = None
        self._reference: np.ndarray | None = None
        self._reference_s = -math.inf
        self._heard_until_s = 0.0
        self._has_video = self._has_audio = False
        self.is_any = False

    def read(self, container: InputContainer, *, from_s: float = 0.0) -> None:
        """Read from about a time on, or nothing where the format does not let us go there."""
        origin = origin_s(container)
        try:
            if from_s:
                go_to(container, origin + from_s)
        except FFmpegError:
            return
        self._has_audio = audio_stream(container) is not None
        if (video := video_stream(container)) is not None:
            if (video.average_rate or 0) >= _SPARED_FPS:
                video.codec_context.skip_frame = "NONREF"
            self._has_video = True
        left = streams = playable_streams(container)
        for packet in packets(container, streams):
            if packet.stream not in left:
                continue
            for frame in decoded([packet]):
                if frame.time is not None and frame.time - origin >= self._end_s:
                    left = [stream for stream in left if stream is not packet.stream]
                elif isinstance(frame, AudioFrame):
                    self._hear(frame, origin)
                elif frame.time is not None:
                    self._see(frame, frame.time - origin)
            if not left:
                return

    def _hear(self, frame: AudioFrame, origin: float) -> None:
        self.is_any = True
        begin_s = self._heard_until_s if frame.time is None else frame.time - origin
        samples = samples_of(frame).mean(axis=0)
        self._heard_until_s = begin_s + len(samples) / frame.sample_rate
        times_s = begin_s - self._start_s + np.arange(len(samples)) / frame.sample_rate
        hops = np.floor(times_s / HOP_S + _ROUNDING_S).astype(int)
        inside = (hops >= 0) & (hops < len(self._energy))
        if inside.any():
            hops, samples = hops[inside], samples[inside]
            first, share = hops[0], 1 / (HOP_S * frame.sample_rate)
            energy = np.bincount(hops - first, samples**2) * share
            self._energy[first : first + len(energy)] += energy
            np.maximum.at(self._peak, hops, np.abs(samples))

    def _see(self, frame: VideoFrame, time_s: float) -> None:
        self.is_any = True
        if time_s < self._start_s:
            return
        picture = self._thumb(frame)
        self._times.append(time_s)
        self._changes.append(0.0 if self._last is None else _change(self._last, picture))
        self._last = picture
        if time_s >= self._reference_s + MOTION_STEP_S - _ROUNDING_S:
            if self._reference is not None:
                self._motion_starts.append(self._reference_s)
                self._motion_ends.append(time_s)
                self._motions.append(_difference(self._reference, picture))
            self._reference, self._reference_s = picture, time_s

    def _thumb(self, frame: VideoFrame) -> Int16[np.ndarray, "height width 3"]:
        rgb = self._reformatter.reformat(
            frame, _THUMB_PX, _THUMB_PX, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        return rgb.to_ndarray().astype(np.int16)

    def activity(self, *, is_image: bool) -> Activity:
        """What was measured."""
        return Activity(
            start_s=self._start_s,
            end_s=self._end_s,
            has_video=self._has_video,
            has_audio=self._has_audio,
            is_image=is_image,
            power=self._energy,
            peak=self._peak,
            frame_times_s=np.array(self._times),
            changes=np.array(self._changes),
            motions=np.array(self._motions),
            motion_starts_s=np.array(self._motion_starts),
            motion_ends_s=np.array(self._motion_ends),
        )


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean() / 255)


def _change(one: np.ndarray, other: np.ndarray) -> float:
    """Of half of the picture, so that something that flashes does not count."""
    return float(np.median(np.abs(one - other).max(axis=2)) / 255)
