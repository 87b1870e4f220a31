"""The same ingest on many machines: Ray's workers read and embed whole files, one process writes.

The files, and the model's folder if it is one, must lie at the same path on every machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from valor.errors import DependencyError, LibraryError
from valor.search.ingest import AddReport, Ingest, Progress
from valor.search.tables import FileRow, Tables
from valor.types import Embedder


@dataclass
class _Kept:
    """What an ingest would have written."""

    segments: list[pa.Table] = field(default_factory=list[pa.Table])
    files: list[FileRow] = field(default_factory=list[FileRow])

    def commit(self, segments: Sequence[pa.Table], files: Sequence[FileRow]) -> None:
        self.segments += segments
        self.files += files


class Worker:
    """Reads and embeds files somewhere.

    Args:
        source: The model, as for `valor.load`.
        fingerprint: Of the library's model.
        options: Of `Ingest`.

    Raises:
        LibraryError: If the model is another one here, or does not embed.
    """

    def __init__(self, source: str, fingerprint: str, options: Mapping[str, Any]) -> None:
        from valor.inference import load

        model = load(source)
        if not isinstance(model, Embedder) or model.fingerprint != fingerprint:
            raise LibraryError(f"{source}: on a worker this is not model {fingerprint}; copy it")
        self._model = model
        self._options = options

    def ingest(
        self, path: str, known: FileRow | None
    ) -> tuple[list[pa.Table], list[FileRow], AddReport]:
        """Make what belongs to a file, unless it has not changed since it was added."""
        kept = _Kept()
        ingest = Ingest(kept, self._model, progress=None, **self._options)
        report = ingest.run([path], {} if known is None else {path: known})
        return kept.segments, kept.files, report


def ingest_with_ray(
    tables: Tables,
    worker: tuple[str, str, Mapping[str, Any]],
    paths: Sequence[str],
    *,
    num_workers: int,
    progress: Callable[[Progress], object] | None,
) -> AddReport:
    """Add files by workers of the Ray cluster that this process belongs to, or of a local one.

    Args:
        tables: Where to write; every file as soon as a worker is done with it.
        worker: The arguments of `Worker`.
        paths: Absolute paths.
        num_workers: Each has the model in memory.
        progress: Called after every file.

    Returns:
        What was done.

    Raises:
        DependencyError: If Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.util import ActorPool  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DependencyError(
            '--ray needs the package ray; run `pip install "valor-omni[ray]"`'
        ) from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    known = tables.files()
    remote: Any = ray.remote(Worker)
    actors = [remote.remote(*worker) for _ in range(min(num_workers, max(1, len(paths))))]
    done = ActorPool(actors).map_unordered(
        lambda actor, path: actor.ingest.remote(path, known.get(path)), list(paths)
    )
    reports: list[AddReport] = []
    try:
        for segments, files, report in done:
            tables.commit(segments, files)
            reports.append(report)
            if progress:
                progress(_progress(reports, files[-1].path if files else "", len(paths)))
    finally:
        for actor in actors:
            ray.kill(actor)
    return _sum(reports)


def _progress(reports: Sequence[AddReport], path: str, num_files: int) -> Progress:
    return Progress(
        path=path,
        num_files=num_files,
        done_fraction=len(reports) / num_files,
        seconds_of_media=sum(report.seconds_of_media for report in reports),
    )


def _sum(reports: Sequence[AddReport]) -> AddReport:
    return AddReport(
        num_files=sum(report.num_files for report in reports),
        num_segments=sum(report.num_segments for report in reports),
        added=sum(report.added for report in reports),
        skipped=sum(report.skipped for report in reports),
        bad=sorted(bad for report in reports for bad in report.bad),
        seconds_of_media=sum(report.seconds_of_media for report in reports),
    )
