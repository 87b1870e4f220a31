"""A library's list of segments as a file: JSON, CSV, or an edit decision list (EDL)."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from valor.errors import MediaError, UsageError
from valor.media.container import open_container
from valor.search.tables import SEGMENT_FIELDS

_FALLBACK_FPS = 25
_REEL_LETTERS = 8


def write_listing(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the library, or hits, in the format that the name asks for.

    Args:
        path: A file that ends in .json, .csv or .edl.
        rows: With the fields of a segment.

    Raises:
        UsageError: If it ends in anything else.
    """
    writers: dict[str, Callable[[TextIO, Sequence[dict[str, Any]]], None]] = {
        ".json": _write_json,
        ".csv": _write_csv,
        ".edl": _write_edl,
    }
    if path.suffix not in writers:
        names = ", ".join(writers)
        raise UsageError(f"cannot export to {path.name!r}; choose a name that ends in {names}")
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8", newline="") as file:
        writers[path.suffix](file, rows)
    new.replace(path)


def _write_json(file: TextIO, rows: Sequence[dict[str, Any]]) -> None:
    json.dump(rows, file, indent=2, ensure_ascii=False)


def _write_csv(file: TextIO, rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, SEGMENT_FIELDS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


def _write_edl(file: TextIO, rows: Sequence[dict[str, Any]]) -> None:
    """CMX 3600: every stretch is a cut of its source, one after the other on the record side."""
    file.write("TITLE: valor\nFCM: NON-DROP FRAME\n\n")
    clocks: dict[str, tuple[int, int]] = {}
    record = 0
    for number, row in enumerate(rows, start=1):
        path = row["path"]
        if path not in clocks:
            clocks[path] = source_clock(path)
        fps, first = clocks[path]
        start, end = (first + round(row[key] * fps) for key in ("start_s", "end_s"))
        spans = [start, end, record, record + end - start]
        times = " ".join(timecode(frame, fps) for frame in spans)
        record = spans[-1]
        reel = "".join(c for c in Path(path).stem if c.isalnum())[:_REEL_LETTERS].upper() or "AX"
        file.write(f"{number:03}  {reel:8} AA/V  C        {times}\n")
        file.write(f"* FROM CLIP NAME: {Path(path).name}\n")
        if row.get("caption"):
            file.write(f"* COMMENT: {' '.join(row['caption'].split())}\n")
        file.write("\n")


def source_clock(path: str) -> tuple[int, int]:
    """Return a file's frames per second and the frame number of its first timecode.

    A file that is gone, or has no picture or no timecode, counts from zero at 25 frames.
    """
    try:
        with open_container(path, with_pictures=False) as container:
            video = container.streams.video[0] if container.streams.video else None
            rate = video.average_rate if video else None
            fps = round(float(rate)) if rate else _FALLBACK_FPS
            tags = [container.metadata, *(stream.metadata for stream in container.streams)]
    except MediaError:
        return _FALLBACK_FPS, 0
    start = next((tag["timecode"] for tag in tags if "timecode" in tag), "00:00:00:00")
    parts = start.replace(";", ":").split(":")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        return fps, 0
    hours, minutes, seconds, frames = map(int, parts)
    return fps, ((hours * 60 + minutes) * 60 + seconds) * fps + frames


def timecode(frame: int, fps: int) -> str:
    """Write a frame number as HH:MM:SS:FF, without dropped frames."""
    seconds, frames = divmod(frame, fps)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}:{frames:02}"
