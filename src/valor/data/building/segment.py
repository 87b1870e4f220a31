"""Cut raw recordings into segments that can be heard and that move.

A recording is measured once (`media.activity`) and then cut: into stretches of equal length, where
the scene changes, or where it is silent. Together its stretches cover it without overlap. Those
that are audible and move become records of a manifest; every other one is listed with the reason.
Entry point: `segment`.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from valor.config import configclass
from valor.data.building.rows import KEPT, Row, Task, Work, do_rows, failed, write_rows
from valor.data.manifest import Record, read_manifest, write_manifest
from valor.data.sources.media import bare, media_files
from valor.data.storage import local_copy
from valor.errors import ManifestError, MediaError
from valor.media.activity import HOP_S, Activity, measure
from valor.media.segments import cut

_NEIGHBOURS = 4
"""Frames before and after a change of the scene that it is compared with."""


@configclass
class SegmentConfig:
    """How recordings are cut, and which stretches of them are kept."""

    by: Literal["fixed", "scene", "silence"] = "fixed"
    """Cut into equal lengths, where the scene changes, or where it is silent."""
    length_s: float = 10.0
    """Length of a segment; the longest one of `scene` and `silence`, which are cut again."""
    min_length_s: float = 1.0
    """A shorter one is rejected as `short`, or joined to the one before it if it is a rest."""
    min_level_db: float = -60.0
    """One of less mean loudness in dBFS is rejected: as `silent` if it is digital silence, or as
    `quiet`."""
    min_motion: float = 0.002
    """One whose picture changes less within 0.25 s is rejected as `still`; 1 is black to white."""
    scene_change: float = 0.03
    """The scene changes where half of the picture changes at once by that much of full scale,"""
    scene_ratio: float = 4.0
    """and this many times as much as from frame to frame before and after."""
    silence_s: float = 1.0
    """Recordings are cut by `silence` where it is below `min_level_db` at least this long."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        for name in ("length_s", "scene_change", "silence_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.min_length_s <= self.length_s:
            raise ValueError(f"min_length_s={self.min_length_s} must be in [0, length_s]")


@dataclass(slots=True, kw_only=True)
class Segmented:
    """What became of recordings."""

    num_recordings: int
    num_kept: int
    kept_s: float
    total_s: float
    """Of all recordings that could be read."""
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    """Stretches by reason."""
    rejected_s: dict[str, float] = field(default_factory=dict[str, float])
    bad: dict[str, str] = field(default_factory=dict[str, str])
    """Reason by medium, of recordings that could not be read."""


def segment(recordings: Sequence[Record], config: SegmentConfig, work: Work) -> Segmented:
    """Write a manifest of the segments of recordings, and beside it what became of all the rest.

    Args:
        recordings: Files, or stretches of them. Their texts speak of more than a segment and are
            left out.
        config: How to cut.
        work: The manifest, and how it is made.

    Returns:
        What was kept and what not.

    Raises:
        ConfigError: If the manifest was begun with another configuration.
    """
    rows = do_rows(partial(segment_task, config=config), recordings, config, work)
    records = [
        record
        for recording, row in zip(recordings, rows, strict=True)
        for record in _records(recording, row)
    ]
    write_rows(work.out, rows)
    write_manifest(work.out, records)
    return _summary(rows)


def recordings(paths: Sequence[Path]) -> list[Record]:
    """What is to be cut.

    Args:
        paths: Media files, folders of them at any depth, and manifests: JSONL files, or folders
            that hold a manifest.jsonl.

    Returns:
        A record per recording; a file is named by its path without the extension, or with it where
        two files have that name.

    Raises:
        ManifestError: If nothing is found, a manifest is wrong, or two recordings have one name.
    """
    found: list[Record] = []
    for path in paths:
        if path.suffix == ".jsonl" or (path / "manifest.jsonl").is_file():
            found += read_manifest(path)
            continue
        names = sorted(media_files(path)) if path.is_dir() else [path.name]
        root = (path if path.is_dir() else path.parent).resolve()
        same = Counter(map(bare, names))
        ids = {name: bare(name) if same[bare(name)] == 1 else name for name in names}
        found += [Record(id=ids[name], media=str(root / name)) for name in names]
    if not found:
        raise ManifestError(
            f"{', '.join(map(str, paths))}: no recording; give media, folders or manifests"
        )
    id, num = Counter(record.id for record in found).most_common(1)[0]
    if num > 1:
        raise ManifestError(f"{num} recordings are named {id!r}; give the folder that holds both")
    return found


def segment_task(task: Task, *, config: SegmentConfig) -> list[Row]:
    """Measure and cut recordings; one that cannot be read has the reason as its status."""
    return [_row(record, config) for record in task.records]


def _row(record: Record, config: SegmentConfig) -> Row:
    try:
        with local_copy(record.media) as path:
            activity = measure(path, start_s=record.start_s, end_s=record.end_s)
    except MediaError as error:
        return failed(error.reason, error.detail)
    except Exception as error:  # Whatever a file does to a decoder is that file's row.
        return failed("failed", f"{type(error).__name__}: {error}")
    stretches = [judge(activity, *stretch, config) for stretch in cuts(activity, config)]
    return {"status": "ok", "stretches": stretches}


def cuts(activity: Activity, config: SegmentConfig) -> list[tuple[float, float]]:
    """Cut a recording.

    Args:
        activity: Of the recording.
        config: How to cut it.

    Returns:
        Start and end of each stretch in seconds, to the millisecond; together they cover the
        recording without overlap.
    """
    within: list[float] = []
    if config.by == "scene":
        within = scene_changes(activity, config).tolist()
    elif config.by == "silence":
        within = silence_bounds(activity, config)
    bounds = sorted({activity.start_s, *within, activity.end_s})
    stretches: list[tuple[float, float]] = []
    for start_s, end_s in itertools.pairwise(bounds):
        parts = cut(end_s - start_s, segment_s=config.length_s, min_last_s=config.min_length_s)
        stretches += [(start_s + begin_s, start_s + stop_s) for begin_s, stop_s in parts]
    rounded = sorted({round(start_s, 3) for start_s, _ in stretches} | {round(activity.end_s, 3)})
    return list(itertools.pairwise(rounded)) or [(activity.start_s, activity.end_s)]


def scene_changes(activity: Activity, config: SegmentConfig) -> Float[np.ndarray, " cuts"]:
    """When the picture changes at once, and more than it does before and after.

    Fades and dissolves, which take many frames, are not found.
    """
    changes = activity.changes
    around = np.pad(changes, _NEIGHBOURS, mode="reflect") if len(changes) > _NEIGHBOURS else changes
    if len(around) == len(changes):
        return np.zeros(0)
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * _NEIGHBOURS + 1)
    usual = np.median(np.delete(windows, _NEIGHBOURS, axis=1), axis=1)
    is_change = (changes >= config.scene_change) & (changes >= config.scene_ratio * usual)
    return activity.frame_times_s[is_change]


def silence_bounds(activity: Activity, config: SegmentConfig) -> list[float]:
    """Where silences that are long enough begin and end."""
    is_silent = activity.power < 10 ** (config.min_level_db / 10)
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False)).reshape(-1, 2)
    long = edges[(edges[:, 1] - edges[:, 0]) * HOP_S >= config.silence_s - 1e-6]
    bounds_s = activity.start_s + HOP_S * long.reshape(-1)
    return bounds_s[bounds_s < activity.end_s].tolist()


def judge(activity: Activity, start_s: float, end_s: float, config: SegmentConfig) -> Row:
    """Say whether a stretch is kept, and how loud it is and how much it moves.

    Args:
        activity: Of the recording.
        start_s: Begin of the stretch.
        end_s: Its end.
        config: What is kept.

    Returns:
        `status` is `kept`, or the first reason that holds of `image`, `no-audio`, `no-picture`,
        `short`, `silent`, `quiet` and `still`.
    """
    level_db, motion, is_silent = -math.inf, 0.0, True
    if not activity.is_image:
        level_db, motion = activity.level_db(start_s, end_s), activity.motion(start_s, end_s)
        is_silent = activity.is_silent(start_s, end_s)
    reasons = {
        "image": activity.is_image,
        "no-audio": not activity.has_audio,
        "no-picture": not activity.has_video,
        "short": end_s - start_s < config.min_length_s - 1e-6,
        "silent": level_db < config.min_level_db and is_silent,
        "quiet": level_db < config.min_level_db,
        "still": motion < config.min_motion,
    }
    return {
        "start_s": start_s,
        "end_s": end_s,
        "status": next((reason for reason, holds in reasons.items() if holds), KEPT),
        "level_db": None if level_db == -math.inf else round(level_db, 1),
        "motion": round(motion, 5),
    }


def _records(recording: Record, row: Row) -> list[Record]:
    return [
        Record(
            id=f"{recording.id}#{number:04d}",
            media=recording.media,
            start_s=stretch["start_s"],
            end_s=stretch["end_s"],
            split=recording.split,
            source=recording.source,
        )
        for number, stretch in enumerate(row.get("stretches", ()))
        if stretch["status"] == KEPT
    ]


def _summary(rows: Sequence[Row]) -> Segmented:
    num, seconds = Counter[str](), Counter[str]()
    for row in rows:
        for stretch in row.get("stretches", ()):
            num[stretch["status"]] += 1
            seconds[stretch["status"]] += stretch["end_s"] - stretch["start_s"]
    reasons = sorted(num.keys() - {KEPT})
    return Segmented(
        num_recordings=len(rows),
        num_kept=num[KEPT],
        kept_s=round(seconds[KEPT], 3),
        total_s=round(seconds.total(), 3),
        rejected={reason: num[reason] for reason in reasons},
        rejected_s={reason: round(seconds[reason], 3) for reason in reasons},
        bad={row["media"]: row["status"] for row in rows if row["status"] != "ok"},
    )
