"""Sound of a recording as one mono waveform, aligned with the start of the presentation.

Entry points: `decode_waveform`, and `waveforms_in_order` for many stretches in one pass. Sound that
starts late, or stops and goes on, keeps its time: what lies between is zeros.
"""

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.filter import Graph
from jaxtyping import Float

from valor.errors import MediaError
from valor.media.container import (
    TIME_LIMIT_S,
    audio_stream,
    decoded,
    go_to,
    open_container,
    origin_s,
    packets,
    time_limit,
)
from valor.media.isolation import isolated
from valor.media.probe import duration_s

SILENCE_PEAK = 1e-4
"""-80 dBFS: above what lossy codecs make of digital silence, below any microphone's noise."""

_GAP_S = 0.05
"""Timestamps that are off by less are jitter, not a gap."""

_SEEK_FROM_S = 2.0
"""An earlier start is decoded from the beginning."""

_LEAD_IN_S = 1.0
"""Decoded and dropped before the start, so that the decoder has settled."""

_SETTLE_S = 0.1
"""Resampled and dropped before the start: samples do not depend on where decoding began."""

MAX_STRETCH_S = 3600.0
"""More is not decoded at once, so that memory is bounded whatever times a file claims."""

_SAMPLE_RATES_HZ = (100, 10_000_000)
"""Outside of these a header is broken, and resampling would take gigabytes."""

_PUSHES_PER_PULL = 16
_PIECE_SAMPLES = 8192
"""Taking a piece out of the resampler costs more than resampling a frame: few large ones."""


_SCALES = {"uint8": (128, 128), "int16": (0, 2**15), "int32": (0, 2**31), "int64": (0, 2**63)}
"""Silence and full scale of samples that are no floating-point numbers."""


class _SeekMissedError(Exception):
    """After a seek the sound starts too late."""


@isolated
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
        MediaError: If the file cannot be opened, its sound not be decoded, or the stretch is longer
            than `MAX_STRETCH_S` (`too_long`).
    """
    with time_limit(TIME_LIMIT_S), open_container(path, with_pictures=False) as container:
        if audio_stream(container) is None:
            return None
        end_s = duration_s(container) if end_s is None else end_s
        if end_s - start_s > MAX_STRETCH_S:
            detail = f"{end_s - start_s:.0f} s at once exceed {MAX_STRETCH_S:.0f} s; cut them"
            raise MediaError(str(path), "too_long", detail)
        stretch = [(start_s, end_s)]
        try:
            return next(_cut_out(_frames_from(container, start_s), stretch, sample_rate_hz))
        except _SeekMissedError:
            with open_container(path, with_pictures=False) as fresh:
                return next(_cut_out(_frames(fresh), stretch, sample_rate_hz))


def samples_of(frame: AudioFrame) -> Float[np.ndarray, "channels samples"]:
    """Samples of a decoded frame in [-1, 1] at its own rate; NaN and infinite ones count as 0."""
    samples = frame.to_ndarray()
    middle, full = _SCALES.get(samples.dtype.name, (0, 1))
    if frame.format.is_packed:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    return np.nan_to_num((samples - float(middle)) / full, nan=0.0, posinf=0.0, neginf=0.0)


def is_silent(waveform: Float[np.ndarray, "*samples"]) -> bool:
    """True for digital silence: no sample louder than `SILENCE_PEAK`."""
    return not np.any(np.abs(waveform) > SILENCE_PEAK)


def waveforms_in_order(
    container: InputContainer, stretches: Sequence[tuple[float, float]], *, sample_rate_hz: int
) -> Iterator[Float[np.ndarray, " samples"]]:
    """Decode the sound of many stretches in one pass, holding no more of it than one of them.

    Args:
        container: With sound, just opened.
        stretches: Begin and end of each in seconds, ascending and without overlap; at least one.
        sample_rate_hz: Rate of the results.

    Yields:
        For each stretch what `decode_waveform` gives. Ends early at one that cannot be reached.
    """
    if max(end_s - start_s for start_s, end_s in stretches) > MAX_STRETCH_S:
        return
    try:
        yield from _cut_out(_frames_from(container, stretches[0][0]), stretches, sample_rate_hz)
    except _SeekMissedError:
        return


def _frames(container: InputContainer) -> Iterator[tuple[float | None, AudioFrame]]:
    """Decoded frames with their presentation times; None continues the frame before."""
    stream = audio_stream(container)
    if stream is None:
        return
    origin = origin_s(container)
    for frame in decoded(packets(container, [stream])):
        yield (None if frame.time is None else frame.time - origin), frame


def _frames_from(
    container: InputContainer, start_s: float
) -> Iterator[tuple[float | None, AudioFrame]]:
    """The same from shortly before `start_s` on, where the format lets us go there."""
    if start_s <= _SEEK_FROM_S:
        yield from _frames(container)
        return
    try:
        go_to(container, origin_s(container) + start_s - _LEAD_IN_S)
    except FFmpegError as error:
        raise _SeekMissedError from error
    frames = _frames(container)
    first = next(frames, None)
    if first is None or first[0] is None or first[0] > start_s:
        raise _SeekMissedError
    yield first
    yield from frames


def _cut_out(
    frames: Iterator[tuple[float | None, AudioFrame]],
    stretches: Sequence[tuple[float, float]],
    sample_rate_hz: int,
) -> Iterator[np.ndarray]:
    """Resample for each stretch the frames that reach it, each at its time."""
    pending, waiting = deque(stretches), deque[_Waveform]()
    position_s = 0.0
    for time_s, frame in frames:
        position_s = position_s if time_s is None else time_s
        for waveform in waiting:
            waveform.take(time_s, frame)
        while pending and _is_wanted(frame, position_s, pending[0][0]):
            waveform = _Waveform(sample_rate_hz, *pending.popleft(), position_s=position_s)
            waveform.take(time_s, frame)
            waiting.append(waveform)
            while waiting and not waiting[0].is_open:
                yield waiting.popleft().finished()
        while waiting and not waiting[0].is_open:
            yield waiting.popleft().finished()
        if not pending and not waiting:
            return
        position_s += frame.samples / frame.sample_rate
    for waveform in waiting:
        yield waveform.finished()
    for stretch in pending:
        yield _Waveform(sample_rate_hz, *stretch, position_s=position_s).finished()


def _is_wanted(frame: AudioFrame, position_s: float, start_s: float) -> bool:
    """True if a frame, or what the resampler makes of it, reaches a stretch."""
    return position_s + frame.samples / frame.sample_rate > start_s - _SETTLE_S


class _Waveform:
    """A stretch of time that decoded frames are resampled into."""

    def __init__(
        self, sample_rate_hz: int, start_s: float, end_s: float, *, position_s: float
    ) -> None:
        self._rate = sample_rate_hz
        self._start_s = start_s
        self._end_s = end_s
        self._samples = np.zeros(max(0, round((end_s - start_s) * sample_rate_hz)), np.float32)
        self._num_heard = 0
        self._cursor = 0
        self._resampler: _Resampler | None = None
        self._layout: tuple[str, str, int] | None = None
        self._position_s = position_s
        self.is_open = True
        """False once a frame came that begins after the end."""

    def take(self, time_s: float | None, frame: AudioFrame) -> None:
        """Resample a frame at its time; one after the end closes the stretch."""
        if not self.is_open:
            return
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        is_gap = time_s is not None and abs(time_s - self._position_s) > _GAP_S
        if self._resampler is None or is_gap or layout != self._layout:
            self._add(None)
            self._resampler, self._layout = _Resampler(frame, self._rate), layout
            self._position_s = self._position_s if time_s is None else time_s
            self._cursor = round((self._position_s - self._start_s) * self._rate)
        self.is_open = self._position_s < self._end_s
        if self.is_open:
            self._add(frame)
            self._position_s += frame.samples / frame.sample_rate

    def finished(self) -> Float[np.ndarray, " samples"]:
        """The stretch as far as there is sound."""
        self._add(None)
        heard = self._samples[: self._num_heard]
        np.nan_to_num(heard, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return np.clip(heard, -1.0, 1.0, out=heard)

    def _add(self, frame: AudioFrame | None) -> None:
        """Resample a frame, or with None what the resampler still holds, and keep what fits."""
        for samples in () if self._resampler is None else self._resampler.resampled(frame):
            end = min(self._cursor + len(samples), len(self._samples))
            begin = max(0, self._cursor)
            if begin < end:
                self._samples[begin:end] = samples[begin - self._cursor : end - self._cursor]
                self._num_heard = max(self._num_heard, end)
            self._cursor += len(samples)


class _Resampler:
    """Mixes frames like the first one to mono at the rate.

    `av.AudioResampler` would start a thread per processor for each file.
    """

    def __init__(self, first: AudioFrame, sample_rate_hz: int) -> None:
        low, high = _SAMPLE_RATES_HZ
        if not low <= first.sample_rate <= high:
            raise InvalidDataError(errno.EINVAL, f"{first.sample_rate} samples per second")
        self._graph = graph = Graph()
        self._num_pushed = 0
        graph.threads = 1
        source = graph.add(
            "abuffer",
            sample_rate=str(first.sample_rate),
            sample_fmt=first.format.name,
            channel_layout=first.layout.name,
            time_base=f"1/{first.sample_rate}",
        )
        steps = [
            # Floating point would else be mixed without normalisation: 0.9 in stereo gives 1.27.
            graph.add("aresample", f"{sample_rate_hz}:rematrix_maxval=1"),
            graph.add("aformat", sample_fmts="flt", channel_layouts="mono"),
            graph.add("asetnsamples", n=str(_PIECE_SAMPLES), p="0"),
            graph.add("abuffersink"),
        ]
        num_channels = first.layout.nb_channels
        if first.layout.name == f"{num_channels} channels":  # in places that nobody knows
            shares = "+".join(f"{1 / num_channels}*c{channel}" for channel in range(num_channels))
            steps.insert(0, graph.add("pan", f"mono|c0={shares}"))
        graph.link_nodes(source, *steps).configure()

    def resampled(self, frame: AudioFrame | None) -> Iterator[Float[np.ndarray, " samples"]]:
        """Put in a frame, and take out what is ready; None empties the resampler."""
        self._graph.push(frame)
        self._num_pushed += 1
        if frame is not None and self._num_pushed % _PUSHES_PER_PULL:
            return
        while True:
            try:
                yield self._graph.pull().to_ndarray()[0]
            except (BlockingIOError, EOFError):
                return
