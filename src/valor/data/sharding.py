"""Write shards: decode every record once, and go on after any kill with the same bytes.

A shard holds a fixed range of the manifest's records, so that its bytes depend on records and
configuration alone, not on workers or restarts. Its index grows beside it with every record that is
done; a restart cuts the tar file behind the last of these and goes on there. Entry point: `shard`.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from jaxtyping import Float

from valor.config import configclass, from_dict, to_json
from valor.data.executors import Executor
from valor.data.manifest import Record, record_values
from valor.data.rows import Row, parse_json
from valor.data.shards import (
    FRAME_SUFFIX,
    QUARANTINE_FILE,
    STATS_FILE,
    Entry,
    encode_jpeg,
    shard_name,
    tar_end,
    tar_members,
)
from valor.data.storage import local_copy, locked, write_whole
from valor.errors import ConfigError, DependencyError, MediaError, ValorError
from valor.media.probe import MediaInfo, probe
from valor.media.segments import DecodePlan, decode_segment
from valor.media.video import Backend
from valor.types import Segment

_OPUS_RATES_HZ = (8000, 12_000, 16_000, 24_000, 48_000)
_FLAC_BLOCK = 4608
"""Samples, the most that all decoders read; each block costs time, however small."""
_DEATHS = 2
"""A record with which this many workers died is left out as `crashed`."""


@configclass
class ShardConfig:
    """What is stored of a record."""

    records_per_shard: int = 500
    """Of the manifest, in one tar file; unreadable ones count too."""
    content: Literal["frames", "original"] = "frames"
    """Pictures and sound, decoded and compressed anew, or the bytes of the whole media file."""
    short_side_px: int = 256
    """Pictures are scaled to this; the longer side follows."""
    fps: float = 4.0
    """Pictures per second, each from the middle of its part of the record."""
    backend: Backend = "pyav"
    """Who decodes the pictures."""
    jpeg_quality: int = 90
    """Of pictures, from 1 to 100."""
    audio: Literal["flac", "opus"] = "flac"
    """How sound is compressed: FLAC without loss, or Opus, which is smaller."""
    sample_rate_hz: int = 48_000
    """Sound of a lower rate keeps it in FLAC."""
    longest_s: float = 300.0
    """A longer record is left out as `too_long`: cut recordings into segments first."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        for name in ("records_per_shard", "short_side_px", "fps", "sample_rate_hz", "longest_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality={self.jpeg_quality} must be in [1, 100]")
        if self.audio == "opus" and self.sample_rate_hz not in _OPUS_RATES_HZ:
            rates = ", ".join(map(str, _OPUS_RATES_HZ))
            raise ValueError(f"sample_rate_hz={self.sample_rate_hz}, but opus knows {rates}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to be written."""

    folder: Path
    number: int
    first_row: int
    records: tuple[Record, ...]
    config: ShardConfig
    crashed: frozenset[int] = frozenset()
    """Rows to be left out because workers died with them."""

    def path(self, suffix: str) -> Path:
        """One of the shard's files."""
        return self.folder / f"{shard_name(self.number)}{suffix}"


def shard(
    records: Sequence[Record],
    out: Path,
    config: ShardConfig,
    executor: Executor,
    *,
    part: tuple[int, int] = (0, 1),
    retry: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> bool:
    """Write shards, or go on with those that are not finished.

    Args:
        records: The whole manifest, also if only a part is to be written.
        out: Folder of the shards; made if needed.
        config: What to store.
        executor: Runs the tasks.
        part: Index and number of parts of a job array; every part writes other shards.
        retry: Make shards anew of which records were left out.
        progress: Told how many of how many shards of this part are done.

    Returns:
        True if the shards of all parts are there, with statistics and quarantine list.

    Raises:
        ConfigError: If the folder holds shards of other records or another configuration.
        ValorError: If there is no such part.
    """
    index, num_parts = part
    if not 0 <= index < num_parts:
        raise ValorError(f"part {index} of {num_parts}: expected 0 to {num_parts - 1}")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, records)
    tasks = list(_tasks(records, out, config))
    mine = tasks[index::num_parts]
    for task in mine if retry else ():
        if not all(entry.is_ok for entry in _journal(task.path(".jsonl"))):
            task.path(".jsonl").unlink()
    undone = [task for task in mine if not task.path(".jsonl").is_file()]
    done = len(mine) - len(undone)
    deaths: Counter[int] = Counter()
    while undone:
        again: list[ShardTask] = []
        for task, result in executor.run(write_shard, undone):
            if result is None:
                again.append(_after_death(task, deaths))
            else:
                done += 1
                progress("shard", done, len(mine))
        undone = again
    if not all(task.path(".jsonl").is_file() for task in tasks):
        return False
    _summarise(out, tasks)
    return True


def _claim(out: Path, config: ShardConfig, records: Sequence[Record]) -> None:
    """Write what the folder is for, or check that it is for the same."""
    path = out / "config.json"
    digest = hashlib.sha256(repr(records).encode()).hexdigest()
    wanted = {"shards": json.loads(to_json(config)), "records": digest}
    try:
        found = Row(parse_json(path.read_bytes(), str(path)), str(path))
    except FileNotFoundError:
        write_whole(path, json.dumps(wanted, indent=2) + "\n")
        return
    if found.text("records") != digest:
        raise ConfigError(f"{out} holds shards of other records; choose another --out")
    if from_dict(ShardConfig, found.object("shards"), where=str(path)) != config:
        raise ConfigError(f"{out} holds shards of another configuration; choose another --out")


def _tasks(records: Sequence[Record], out: Path, config: ShardConfig) -> Iterator[ShardTask]:
    size = config.records_per_shard
    for number, first in enumerate(range(0, len(records), size)):
        yield ShardTask(
            folder=out,
            number=number,
            first_row=first,
            records=tuple(records[first : first + size]),
            config=config,
        )


def _after_death(task: ShardTask, deaths: Counter[int]) -> ShardTask:
    """The task to be run again; a record that kills workers is given up."""
    row = task.first_row + len(_journal(task.path(".jsonl.partial")))
    deaths[row] += 1
    return replace(task, crashed=task.crashed | {row}) if deaths[row] >= _DEATHS else task


def _summarise(out: Path, tasks: Sequence[ShardTask]) -> None:
    """Write statistics and quarantine list of all shards."""
    shards: list[dict[str, Any]] = []
    bad: list[dict[str, str]] = []
    reasons: Counter[str] = Counter()
    for task in tasks:
        entries = _journal(task.path(".jsonl"))
        samples = [entry for entry in entries if entry.is_ok]
        size = samples[-1].offset + samples[-1].size if samples else 0
        shards.append(
            {
                "name": shard_name(task.number),
                "num_samples": len(samples),
                "num_records": len(entries),
                "seconds": round(sum(entry.duration_s for entry in samples), 3),
                "bytes": size + len(tar_end(size)),
                "sha256": task.path(".sha256").read_text(encoding="utf-8").split()[0],
            }
        )
        for entry, record in zip(entries, task.records, strict=True):
            if not entry.is_ok:
                row = {"id": entry.id, "media": record_values(record, task.folder)["media"]}
                bad.append({**row, "reason": entry.status, "detail": entry.detail})
                reasons[entry.status] += 1
    totals = {
        name: round(sum(shard[name] for shard in shards), 3)
        for name in ("num_records", "num_samples", "seconds", "bytes")
    }
    stats = {"version": 1, **totals, "left_out": dict(sorted(reasons.items())), "shards": shards}
    write_whole(out / QUARANTINE_FILE, "".join(json.dumps(row) + "\n" for row in bad))
    write_whole(out / STATS_FILE, json.dumps(stats, indent=2) + "\n")


def write_shard(task: ShardTask) -> int:
    """Write one shard, or what is missing of it; returns how many samples it has."""
    final, index = task.path(".tar"), task.path(".jsonl")
    partial, journal = task.path(".tar.partial"), task.path(".jsonl.partial")
    if index.is_file():
        return sum(entry.is_ok for entry in _journal(index))
    if final.is_file():
        final.rename(partial)
    with locked(partial) as tar:
        entries = _journal(journal)
        while entries and entries[-1].offset + entries[-1].size > partial.stat().st_size:
            entries.pop()
        journal.write_text("".join(entry.to_json() for entry in entries), encoding="utf-8")
        size = max((entry.offset + entry.size for entry in entries), default=0)
        tar.truncate(size)
        tar.seek(size)
        with journal.open("a", encoding="utf-8") as lines:
            for place in range(len(entries), len(task.records)):
                entry, content = _pack(task, place, size)
                tar.write(content)
                tar.flush()
                lines.write(entry.to_json())
                lines.flush()
                entries.append(entry)
                size += entry.size
            os.fsync(lines.fileno())
        tar.write(tar_end(size))
        tar.flush()
        os.fsync(tar.fileno())
        tar.seek(0)
        digest = hashlib.file_digest(tar, "sha256").hexdigest()
        write_whole(task.path(".sha256"), f"{digest}  {final.name}\n")
        partial.rename(final)
        journal.rename(index)
    return sum(entry.is_ok for entry in entries)


def _journal(path: Path) -> list[Entry]:
    """The records that are done; a line that a kill cut short does not count."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [Entry.from_json(line, str(path)) for line in lines if line.endswith("\n")]


def _pack(task: ShardTask, place: int, offset: int) -> tuple[Entry, bytes]:
    """A record's entry, and its members as they stand in the tar file."""
    row, record = task.first_row + place, task.records[place]
    entry = Entry(row=row, id=record.id, status="ok", offset=offset)
    try:
        if row in task.crashed:
            raise MediaError(record.media, "crashed", "the process that reads it dies")
        media, extra = _members(record, task.config)
    except MediaError as error:
        return replace(entry, status=error.reason, detail=error.detail), b""
    except DependencyError:
        raise
    except Exception as error:  # Whatever a file does to a decoder is that file's line.
        detail = f"{type(error).__name__}: {error}"
        return replace(entry, status="failed", detail=detail), b""
    values = {**record_values(record, task.folder), "extra": extra}
    members = {"json": (json.dumps(values) + "\n").encode(), **media}
    content = tar_members(entry.key, members)
    done = replace(
        entry,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        duration_s=round(extra["end_s"] - extra["start_s"], 6),
        members=tuple((suffix, len(member)) for suffix, member in members.items()),
    )
    return done, content


def _members(record: Record, config: ShardConfig) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Media to be stored, by suffix, and what is to be known of them."""
    with local_copy(record.media) as path:
        info = probe(path)
        end_s = info.duration_s if record.end_s is None else min(record.end_s, info.duration_s)
        length_s = end_s - record.start_s
        if length_s > config.longest_s:
            detail = f"{length_s:.1f} s exceed longest_s={config.longest_s:g}; cut it into segments"
            raise MediaError(record.media, "too_long", detail)
        if config.content == "original":
            suffix = Path(record.media).suffix.lower().lstrip(".")[:20] or "bin"
            extra = {"start_s": record.start_s, "end_s": end_s, "original": suffix}
            return {suffix: Path(path).read_bytes()}, extra
        plan = DecodePlan(
            num_frames=max(1, round(length_s * config.fps)),
            short_side_px=config.short_side_px,
            sample_rate_hz=_rate_hz(info, config),
            backend=config.backend,
        )
        segment = decode_segment(path, plan, start_s=record.start_s, end_s=record.end_s)
    return _compressed(segment, config)


def _rate_hz(info: MediaInfo, config: ShardConfig) -> int:
    own_hz = info.sample_rate_hz or config.sample_rate_hz
    return min(own_hz, config.sample_rate_hz) if config.audio == "flac" else config.sample_rate_hz


def _compressed(segment: Segment, config: ShardConfig) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The members of a decoded record."""
    members = {
        f"{number:04d}.{FRAME_SUFFIX}": encode_jpeg(frame, config.jpeg_quality)
        for number, frame in enumerate([] if segment.frames is None else segment.frames)
    }
    extra: dict[str, Any] = {"start_s": segment.start_s, "end_s": segment.end_s}
    if segment.frame_times_s is not None:
        extra["frame_times_s"] = np.round(segment.frame_times_s, 6).tolist()
    if segment.waveform is not None:
        extra |= {"audio": config.audio, "sample_rate_hz": segment.sample_rate_hz}
        extra["is_silent"] = segment.is_silent
        members[config.audio] = encode_audio(segment.waveform, segment.sample_rate_hz, config.audio)
    return members, extra


def encode_audio(waveform: Float[np.ndarray, " samples"], sample_rate_hz: int, codec: str) -> bytes:
    """Compress mono sound.

    Args:
        waveform: Samples in [-1, 1].
        sample_rate_hz: Their rate.
        codec: `flac`, exact to 16 bits, or `opus`.

    Returns:
        A file, the same bytes for the same sound.
    """
    file = io.BytesIO()
    container, encoder = ("flac", "flac") if codec == "flac" else ("ogg", "libopus")
    options = {"frame_size": str(_FLAC_BLOCK)} if codec == "flac" else {}
    samples = np.round(waveform * 32768.0).clip(-32768, 32767).astype(np.int16)
    with av.open(file, "w", format=container, container_options={"fflags": "bitexact"}) as output:
        stream = output.add_stream(encoder, rate=sample_rate_hz, options=options)
        stream.layout = "mono"
        stream.codec_context.thread_count = 1
        frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = sample_rate_hz
        for packet in (*stream.encode(frame), *stream.encode(None)):
            output.mux(packet)
    return file.getvalue()
