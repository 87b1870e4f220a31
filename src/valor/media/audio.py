"""Sound of a recording as one mono waveform, aligned with the start of the presentation.

Entry point: `decode_waveform`. Sound that starts late, or stops and goes on, keeps its time: what
lies between is zeros.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from jaxtyping import Float

from valor.media.probe import audio_stream, decoded, open_container, origin_s

SILENCE_PEAK = 1e-4
"""-80 dBFS: above what lossy codecs make of digital silence, below any microphone's noise."""

_GAP_S = 0.05
"""Timestamps that are off by less are jitter, not a gap."""

_SEEK_FROM_S = 2.0
"""An earlier start is decoded from the beginning."""

_LEAD_IN_S = 1.0
"""Decoded and dropped before the start, so that decoder and resampler have settled."""


class _SeekMissedError(Exception):
    """After a seek the sound starts too late."""


def decode_waveform(
    path: str | Path, *, sample_rate_hz: int, start_s: float = 0.0, end_s: float | None = None
) -> Float[np.ndarray, " samples"] | None:
    """Decode a stretch of the sound, all channels mixed into one.

    Args:
        path: A local file.
        sample_rate_hz: Rate of the result.
        start_s: Seconds from the start of the presentation; the result's first sample.
        end_s: Where to stop; None for the end of the sound.

    Returns:
        Samples in [-1, 1] as float32, or None if the file has no audio track. It is shorter than
        asked for where the sound ends early, down to empty; NaN and infinite samples count as 0.

    Raises:
        MediaError: If the file cannot be opened or its sound not be decoded.
    """
    with open_container(path) as container:
        if audio_stream(container) is None:
            return None
        waveform = _Waveform(sample_rate_hz, start_s, end_s)
        if start_s <= _SEEK_FROM_S:
            return waveform.filled_from(_frames(container))
        try:
            return waveform.filled_from(_frames_near(container, start_s))
        except _SeekMissedError:
            pass
    with open_container(path) as fresh:
        return _Waveform(sample_rate_hz, start_s, end_s).filled_from(_frames(fresh))


def is_silent(waveform: Float[np.ndarray, " samples"]) -> bool:
    """True for digital silence: no sample louder than `SILENCE_PEAK`."""
    return not np.any(np.abs(waveform) > SILENCE_PEAK)


def _frames(container: InputContainer) -> Iterator[tuple[float | None, AudioFrame]]:
    """Decoded frames with their presentation times; None continues the frame before."""
    stream = audio_stream(container)
    if stream is None:
        return
    origin = origin_s(container)
    for frame in decoded(container, stream):
        yield (None if frame.time is None else frame.time - origin), frame


def _frames_near(
    container: InputContainer, start_s: float
) -> Iterator[tuple[float | None, AudioFrame]]:
    """The same from shortly before `start_s` on, where the format lets us go there."""
    try:
        container.seek(int((origin_s(container) + start_s - _LEAD_IN_S) * av.time_base))
    except FFmpegError as error:
        raise _SeekMissedError from error
    frames = _frames(container)
    first = next(frames, None)
    if first is None or first[0] is None or first[0] > start_s:
        raise _SeekMissedError
    yield first
    yield from frames


class _Waveform:
    """A stretch of time that decoded frames are resampled into."""

    def __init__(self, sample_rate_hz: int, start_s: float, end_s: float | None) -> None:
        self._rate = sample_rate_hz
        self._start_s = start_s
        self._end_s = math.inf if end_s is None else end_s
        self._chunks: list[tuple[int, np.ndarray]] = []
        self._cursor = 0

    def filled_from(self, frames: Iterator[tuple[float | None, AudioFrame]]) -> np.ndarray:
        """Resample the frames, each at its time, and return the stretch."""
        resampler, layout, position_s = None, None, 0.0
        for time_s, frame in frames:
            frame_layout = (frame.format.name, frame.layout.name, frame.sample_rate)
            is_gap = time_s is not None and abs(time_s - position_s) > _GAP_S
            if resampler is None or is_gap or frame_layout != layout:
                self._add(resampler, None)
                resampler, layout = _resampler(frame, self._rate), frame_layout
                position_s = position_s if time_s is None else time_s
                self._cursor = round((position_s - self._start_s) * self._rate)
            if position_s >= self._end_s:
                break
            self._add(resampler, frame)
            position_s += frame.samples / frame.sample_rate
        self._add(resampler, None)
        return self._joined()

    def _add(self, resampler: Graph | None, frame: AudioFrame | None) -> None:
        """Resample a frame, or with None what the resampler still holds, and keep what fits."""
        for samples in () if resampler is None else _resampled(resampler, frame):
            begin = max(0, -self._cursor)
            if begin < len(samples):
                self._chunks.append((self._cursor + begin, samples[begin:]))
            self._cursor += len(samples)

    def _joined(self) -> np.ndarray:
        length = max((at + len(samples) for at, samples in self._chunks), default=0)
        if self._end_s < math.inf:
            length = min(length, round((self._end_s - self._start_s) * self._rate))
        waveform = np.zeros(max(length, 0), dtype=np.float32)
        for at, samples in self._chunks:
            room = waveform[at : at + len(samples)]
            room[:] = samples[: len(room)]
        np.nan_to_num(waveform, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return np.clip(waveform, -1.0, 1.0, out=waveform)


def _resampler(frame: AudioFrame, sample_rate_hz: int) -> Graph:
    """A filter graph from frames like this one to mono at the rate.

    `av.AudioResampler` would start a thread per processor for each file.
    """
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "abuffer",
        sample_rate=str(frame.sample_rate),
        sample_fmt=frame.format.name,
        channel_layout=frame.layout.name,
        time_base=f"1/{frame.sample_rate}",
    )
    # Floating point output would else be mixed without normalisation: 0.9 in stereo gives 1.27.
    convert = graph.add("aresample", f"{sample_rate_hz}:rematrix_maxval=1")
    shape = graph.add("aformat", sample_fmts="flt", channel_layouts="mono")
    graph.link_nodes(source, convert, shape, graph.add("abuffersink")).configure()
    return graph


def _resampled(resampler: Graph, frame: AudioFrame | None) -> Iterator[np.ndarray]:
    resampler.push(frame)
    while True:
        try:
            yield resampler.pull().to_ndarray()[0]
        except (BlockingIOError, EOFError):
            return
