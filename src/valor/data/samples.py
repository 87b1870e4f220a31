"""Records to samples: decoded and prepared once, then read from a memory-mapped cache.

Bad media is counted with its reason and left out, never replaced by another sample. A cache belongs
to one list of records and one preprocessing; another list or preprocessing makes a new one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from valor.config import fingerprint
from valor.data.manifest import Record
from valor.errors import MediaError
from valor.media.segments import decode_segment
from valor.processing.processor import Processor
from valor.types import Sample

Progress = Callable[[int, int], None]
"""Called with how many of how many are done."""


def load_sample(record: Record, processor: Processor) -> Sample:
    """Decode and prepare one record; raises `MediaError`."""
    segment = decode_segment(
        record.media, processor.plan, start_s=record.start_s, end_s=record.end_s
    )
    return processor.prepare(segment, id=record.id)


@dataclass(slots=True, kw_only=True)
class SampleStore:
    """Prepared samples of the readable records, row for row."""

    records: list[Record]
    bad: dict[str, str]
    """Reason by id of every record that could not be read."""
    pixels: UInt8[np.ndarray, "records frames 3 height width"]
    spectrograms: Float[np.ndarray, "records windows mels hops"]
    num_frames: list[int]
    """How many of a record's frames are there; so for windows."""
    num_windows: list[int]

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int, processor: Processor, draw: object) -> tuple[Record, Sample]:
        """A record and its sample, which is the same at every step."""
        return self.records[index], self[index]

    def __getitem__(self, index: int) -> Sample:
        frames, windows = self.num_frames[index], self.num_windows[index]
        return Sample(
            id=self.records[index].id,
            pixels=self.pixels[index, :frames] if frames else None,
            spectrograms=self.spectrograms[index, :windows] if windows else None,
        )


def load_store(
    records: Sequence[Record],
    processor: Processor,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> SampleStore:
    """Return the samples of all records, decoding them only the first time.

    Args:
        records: What to read.
        processor: Prepares the samples.
        folder: Holds caches; made if needed.
        progress: Told about every record decoded.

    Returns:
        The store; its `bad` lists what could not be read.
    """
    listing = [(r.id, r.media, r.start_s, r.end_s, change_stamp(r.media)) for r in records]
    key = f"{fingerprint(processor.config)} {json.dumps(listing)}"
    cache = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not (cache / "rows.json").is_file():
        partial = cache.with_name(f"{cache.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _fill(partial, records, processor, progress)
        partial.rename(cache)
    rows = json.loads((cache / "rows.json").read_text(encoding="utf-8"))
    unreadable = {row for row, _ in rows["bad"]}
    kept = [record for row, record in enumerate(records) if row not in unreadable]
    return SampleStore(
        records=kept,
        bad={records[row].id: reason for row, reason in rows["bad"]},
        pixels=np.load(cache / "pixels.npy", mmap_mode="r"),
        spectrograms=np.load(cache / "spectrograms.npy", mmap_mode="r"),
        num_frames=rows["num_frames"],
        num_windows=rows["num_windows"],
    )


def change_stamp(media: str) -> tuple[int, int]:
    """Size and time of the last change of a file; zeros for what is no local file."""
    try:
        status = Path(media).stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _fill(
    folder: Path, records: Sequence[Record], processor: Processor, progress: Progress | None
) -> None:
    frames, sound = processor.config.frames, processor.config.spectrogram
    num_frames = frames.num_bursts * frames.frames_per_burst
    shape = (len(records), num_frames, 3, frames.image_px, frames.image_px)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
    shape = (len(records), sound.num_windows, sound.num_mels, sound.hops_per_window)
    spectrograms = np.lib.format.open_memmap(folder / "spectrograms.npy", "w+", np.float16, shape)
    rows: dict[str, list] = {"bad": [], "num_frames": [], "num_windows": []}

    def read(record: Record) -> Sample | MediaError:
        try:
            return load_sample(record, processor)
        except MediaError as error:
            return error

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, sample in enumerate(pool.map(read, records)):
            if isinstance(sample, MediaError):
                rows["bad"].append((done, sample.reason))
            else:
                row = len(rows["num_frames"])
                rows["num_frames"].append(_copy(sample.pixels, pixels[row]))
                rows["num_windows"].append(_copy(sample.spectrograms, spectrograms[row]))
            if progress:
                progress(done + 1, len(records))
    pixels.flush()
    spectrograms.flush()
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def _copy(value: np.ndarray | None, target: np.ndarray) -> int:
    """Copy what is there; return how many positions that is."""
    if value is None:
        return 0
    target[: len(value)] = value
    return len(value)
