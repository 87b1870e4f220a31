"""Records with their samples by index: from media files, or from shards of them.

A sample is read in one of two ways: as inference sees it, the middles of equal parts; or, with a
`Draw`, as one step of training sees it: a random moment of each part, changed at random.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from valor.data.manifest import Record
from valor.data.mixture import sample_rng
from valor.data.samples import load_sample
from valor.data.shards import FRAME_SUFFIX, Shards, decode_jpeg
from valor.data.storage import local_copy, temporary_file
from valor.errors import MediaError
from valor.media.audio import decode_waveform, is_silent
from valor.media.probe import probe
from valor.media.segments import DecodePlan, frame_times, sound_in
from valor.media.video import decode_frames
from valor.processing.augment import (
    AugmentConfig,
    crop_and_flip,
    jitter_colour,
    mask_spectrograms,
)
from valor.processing.processor import FrontEnd, Processor
from valor.processing.spectrogram import SpectrogramConfig
from valor.types import Sample, Segment

Stretch = tuple[float, float]
"""Begin and end in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What a sample's randomness depends on, beside its id."""

    seed: int
    step: int
    augment: AugmentConfig | None = None

    def rng(self, id: str) -> np.random.Generator:
        """The sample's randomness."""
        return sample_rng(seed=self.seed, step=self.step, id=id)


class Source(Protocol):
    """Records and their samples by index."""

    def __len__(self) -> int:
        """How many records."""
        ...

    def load(self, index: int, processor: Processor, draw: Draw | None) -> tuple[Record, Sample]:
        """Read a record and its sample; `MediaError` if that is impossible.

        Without a draw the sample is what inference sees.
        """
        ...


class FileSource:
    """Media files, local or s3:// and gs://, decoded whenever they are read.

    Args:
        records: In the order of their indexes.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def load(self, index: int, processor: Processor, draw: Draw | None) -> tuple[Record, Sample]:
        """Read a record and its sample."""
        record = self._records[index]
        with local_copy(record.media) as path:
            return record, _from_file(replace(record, media=path), processor, draw)


class PartSource:
    """Some rows of another source.

    Args:
        whole: All rows.
        rows: Which of them, in this order.
    """

    def __init__(self, whole: Source, rows: Sequence[int]) -> None:
        self._whole, self._rows = whole, rows

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, index: int, processor: Processor, draw: Draw | None) -> tuple[Record, Sample]:
        """Read a record and its sample."""
        return self._whole.load(int(self._rows[index]), processor, draw)


class JoinedSource:
    """Several sources, one behind the other.

    Args:
        sources: By what stands before the ids of their records and `/`; nothing if it is empty.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._names, self._sources = list(sources), list(sources.values())
        self._ends = list(accumulate(map(len, self._sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def load(self, index: int, processor: Processor, draw: Draw | None) -> tuple[Record, Sample]:
        """Read a record and its sample."""
        part = bisect_right(self._ends, index)
        row = index - self._ends[part] + len(self._sources[part])
        record, sample = self._sources[part].load(row, processor, draw)
        if name := self._names[part]:
            id = f"{name}/{record.id}"
            record, sample = replace(record, id=id), replace(sample, id=id)
        return record, sample


class ShardSource:
    """Samples of shards.

    Args:
        shards: Local or elsewhere.
        rows: Which of them, in this order; all if not given.
    """

    def __init__(self, shards: Shards, rows: Sequence[int] | None = None) -> None:
        self._shards = shards
        self._rows = range(len(shards)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, index: int, processor: Processor, draw: Draw | None) -> tuple[Record, Sample]:
        """Read a record and its sample."""
        index = self._rows[index]
        record, stored = self._shards.record(index)
        suffix = stored.get("original")
        if suffix:
            (content,) = self._shards.members(index, [suffix]).values()
            with temporary_file(content, f".{suffix}") as path:
                return record, _from_file(replace(record, media=path), processor, draw)
        return record, self._stored(index, record.id, stored, processor, draw)

    def _stored(
        self, index: int, id: str, stored: dict[str, Any], processor: Processor, draw: Draw | None
    ) -> Sample:
        """A sample of stored pictures and sound; only what it needs is read and decoded."""
        plan, start_s, end_s = processor.plan, stored["start_s"], stored["end_s"]
        rng = None if draw is None else draw.rng(id)
        times_s = view_times(start_s, end_s, plan, rng)
        stored_s = np.asarray(stored.get("frame_times_s", ()))
        nearest = [f"{int(at):04d}.{FRAME_SUFFIX}" for at in _nearest(stored_s, times_s)]
        codec = "none" if stored.get("is_silent") else stored.get("audio", "none")
        members = self._shards.members(index, [*dict.fromkeys(nearest), codec])
        sound = members.pop(codec, None)
        frames = None
        if members:
            pictures = {suffix: decode_jpeg(content) for suffix, content in members.items()}
            frames = np.stack([pictures[suffix] for suffix in nearest])
        windows = view_windows(start_s, end_s, processor.config.spectrogram, rng)
        waveforms = []
        if sound is not None:
            with temporary_file(sound, f".{codec}") as path:
                inside = [(begin_s - start_s, stop_s - start_s) for begin_s, stop_s in windows]
                waveforms = _heard(path, plan, inside)
        return _prepared(id, frames, waveforms, processor, rng, draw)


def read_shards(folder: str, *, split: str) -> tuple[list[Record], ShardSource]:
    """The records of one split of a folder of shards, and where their samples are read."""
    shards = Shards(folder)
    records = {row: shards.record(row)[0] for row in range(len(shards))}
    chosen = {row: record for row, record in records.items() if record.split == split}
    return list(chosen.values()), ShardSource(shards, list(chosen))


def _nearest(stored_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """The index of the stored time that is nearest to each; none if nothing is stored."""
    if not len(stored_s):
        return np.zeros(0, np.int64)
    return np.abs(stored_s - times_s[:, None]).argmin(axis=1)


def view_times(
    start_s: float, end_s: float, plan: DecodePlan, rng: np.random.Generator | None
) -> Float[np.ndarray, " frames"]:
    """When to look at a stretch.

    Args:
        start_s: Its begin.
        end_s: Its end, which no time reaches; equal to the begin for a still image.
        plan: How many positions, and the shape of a burst.
        rng: Draws the position in each of equal parts; None takes its middle.

    Returns:
        Seconds, burst by burst.
    """
    if end_s <= start_s:
        return np.full(plan.frames_per_burst, start_s)
    middles = frame_times(start_s, end_s, plan)
    if rng is None:
        return middles
    part_s = (end_s - start_s) / plan.num_frames
    bursts = middles.reshape(plan.num_frames, -1)
    # No further than the first burst lies from the begin, and the last from the end.
    reach_s = min(part_s / 2, max(0.0, bursts[0, 0] - start_s))
    moves_s = reach_s * (2 * rng.random(plan.num_frames) - 1)
    return (bursts + moves_s[:, None]).reshape(-1)


def view_windows(
    start_s: float, end_s: float, sound: FrontEnd, rng: np.random.Generator | None
) -> list[Stretch]:
    """What to hear of a stretch: all of it at once, or with a generator a window of each part.

    Args:
        start_s: Begin of the stretch.
        end_s: Its end.
        sound: How long a window is, and how many there are at most.
        rng: Draws where in its part of the stretch a window lies.

    Returns:
        Stretches, none of a still image.
    """
    if rng is None or end_s <= start_s:
        return [(start_s, end_s)] if end_s > start_s else []
    length_s = window_s(sound)
    num = min(sound.num_windows, max(1, int(np.ceil((end_s - start_s) / length_s - 1e-6))))
    parts_s = np.linspace(start_s, end_s, num + 1)
    slack_s = parts_s[1] - parts_s[0] - length_s
    begins_s = (parts_s[:-1] + slack_s * rng.random(num)).clip(start_s, None)
    begins_s = np.minimum(begins_s, max(start_s, end_s - length_s))
    return [(float(at), float(min(at + length_s, end_s))) for at in begins_s]


def window_s(sound: FrontEnd) -> float:
    """The length of sound that fills one window."""
    if isinstance(sound, SpectrogramConfig):
        return sound.frame_s + (sound.hops_per_window - 1) * sound.hop_s
    return float(sound.window_s)


def _from_file(record: Record, processor: Processor, draw: Draw | None) -> Sample:
    """The sample of a local file."""
    if draw is None:
        return load_sample(record, processor)
    rng, plan = draw.rng(record.id), processor.plan
    info = probe(record.media)
    start_s = 0.0 if info.is_image else record.start_s
    end_s = info.duration_s if record.end_s is None else min(record.end_s, info.duration_s)
    if end_s <= start_s and not info.is_image:
        detail = f"[{start_s:.3f}, {end_s:.3f}) s is empty; correct it"
        raise MediaError(record.media, "outside", detail)
    times_s = view_times(start_s, end_s, plan, rng)
    windows = view_windows(start_s, end_s, processor.config.spectrogram, rng)
    frames, waveforms, problem = None, [], None
    if info.has_video:
        try:
            frames, _ = decode_frames(
                record.media, times_s, short_side_px=plan.short_side_px, backend=plan.backend
            )
        except MediaError as error:
            problem = error
    if info.has_audio:
        try:
            waveforms = _heard(record.media, plan, windows)
        except MediaError as error:
            problem = problem or error
    if frames is None and not waveforms:
        detail = "neither picture nor sound can be decoded"
        raise problem or MediaError(record.media, "undecodable", detail)
    return _prepared(record.id, frames, waveforms, processor, rng, draw)


def _heard(path: str, plan: DecodePlan, windows: Sequence[Stretch]) -> list[np.ndarray]:
    """The waveform of each window in which there is something to hear."""
    waveforms = (
        decode_waveform(path, sample_rate_hz=plan.sample_rate_hz, start_s=begin_s, end_s=end_s)
        for begin_s, end_s in windows
    )
    return [sound for waveform in waveforms if (sound := sound_in(waveform, plan)) is not None]


def _prepared(
    id: str,
    frames: UInt8[np.ndarray, "frames height width 3"] | None,
    waveforms: Sequence[np.ndarray],
    processor: Processor,
    rng: np.random.Generator | None,
    draw: Draw | None,
) -> Sample:
    """Model inputs; with a draw each waveform is one window."""
    augment = None if draw is None else draw.augment
    if frames is not None and augment is not None and rng is not None:
        frames = crop_and_flip(frames, augment, rng)
    whole = Segment(
        path=id,
        start_s=0.0,
        end_s=0.0,
        frames=frames,
        frame_times_s=None,
        waveform=waveforms[0] if waveforms else None,
        sample_rate_hz=processor.plan.sample_rate_hz,
        is_silent=all(map(is_silent, waveforms)),
    )
    sample = processor.prepare(whole, id=id)
    if sample.spectrograms is not None and rng is not None:
        rest = [replace(whole, frames=None, waveform=waveform) for waveform in waveforms[1:]]
        windows = [sample, *(processor.prepare(segment) for segment in rest)]
        first = [window.spectrograms[:1] for window in windows if window.spectrograms is not None]
        sample.spectrograms = np.concatenate(first)
    if augment is not None and rng is not None:
        if sample.pixels is not None:
            sample.pixels = jitter_colour(sample.pixels, augment, rng)
        if sample.spectrograms is not None:
            sample.spectrograms = mask_spectrograms(sample.spectrograms, augment, rng)
    return sample
