"""A folder that grows: what has come to rest in it is indexed, until somebody says stop."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from valor.search.ingest import AddReport, find_files

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""


def watch(
    paths: list[str | Path],
    add: Callable[[list[str]], AddReport],
    *,
    every_s: float,
    stop: threading.Event,
) -> Iterator[AddReport]:
    """Index files as they come and as they change.

    A file is settled, and handed over, when it has not changed from one look to the next: a
    recording that is still being written or copied grows.

    Args:
        paths: Files, or folders with media below them.
        add: Indexes settled files, such as `Library.add`.
        every_s: Seconds from one look to the next.
        stop: Ends it, at the next look at the latest.

    Yields:
        What each look that found something settled did; files that were known count as skipped.
    """
    seen: dict[str, Stamp] = {}
    handed: dict[str, Stamp] = {}
    while not stop.is_set():
        now = _stamps(paths)
        settled = [
            path
            for path, stamp in now.items()
            if seen.get(path) == stamp and handed.get(path) != stamp
        ]
        if settled:
            yield add(settled)
            handed |= {path: now[path] for path in settled}
        seen = now
        stop.wait(every_s)


def _stamps(paths: list[str | Path]) -> dict[str, Stamp]:
    stamps = {}
    for path in find_files(paths):
        try:
            stat = Path(path).stat()
        except OSError:
            continue
        if stat.st_size:
            stamps[path] = stat.st_size, stat.st_mtime_ns
    return stamps
