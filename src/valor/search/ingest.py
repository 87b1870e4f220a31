"""From files to committed segments, in bounded memory whatever the length of a recording.

Segments of all files form one stream: a few threads decode ahead, each a long recording's runs of
segments in one pass; the model embeds them in batches that cross file borders, and what is finished
is committed every few seconds. A file that cannot be read is reported and remembered; it never
stops the others.
"""

import itertools
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from valor.data.sources.media import is_media
from valor.errors import MediaError
from valor.media.probe import probe
from valor.media.reading import plan_of, read_in_order
from valor.media.segments import cut
from valor.search.tables import FileRow, parse_modalities, segment_table
from valor.search.tracks import read_subtitles, sidecar_of, words_between
from valor.types import Describer, Embedder, Modality, Segment

BATCH_SEGMENTS = 16
COMMIT_SEGMENTS = 256
COMMIT_S = 2.0
"""A kill loses at most this much finished work; a commit costs some 20 ms."""
_READ_THREADS = min(4, os.cpu_count() or 1)


Track = Callable[[Sequence[tuple[str, float, float]]], list[str | None]]
"""Writes down the words of segments, of which it gets path, start and end in seconds."""


class Sink(Protocol):
    """Where segments go."""

    def commit(self, segments: Sequence[pa.Table], files: Sequence[FileRow]) -> object:
        """Take segments, and the rows of files whose segments are all there."""


class BadFile(NamedTuple):
    """A file that could not be read."""

    path: str
    """The file."""
    reason: str
    """A short stable word, such as `unreadable`."""
    detail: str
    """What exactly is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an ingest has come."""

    path: str
    """The file that is being read."""
    num_files: int
    done_fraction: float
    """Of the files, in [0, 1]; a file that is being read counts in part."""
    seconds_of_media: float
    """Embedded so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport:
    """What an ingest did."""

    num_files: int
    """Files that were found: added, skipped and bad ones."""
    num_segments: int
    """Segments that were written."""
    added: int
    """Files that were read."""
    skipped: int
    """Files that had not changed since they were added."""
    bad: list[BadFile]
    """Including those that were bad before and have not changed."""
    seconds_of_media: float
    removed: int = 0
    """Files that the library forgot because they are gone."""


def find_files(paths: Iterable[str | Path]) -> list[str]:
    """Return the absolute paths of named files, and of all media below folders, sorted.

    What is below a folder is picked by its extension; a file that is named is always tried.
    """
    found: set[str] = set()
    for path in paths:
        root = Path(path).resolve()
        found.update(map(str, _media_below(root) if root.is_dir() else [root]))
    return sorted(found)


def _media_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_media(path.name) and not is_hidden and path.is_file():
            yield path


def plan(path: str, *, segment_s: float) -> list[tuple[float, float]]:
    """Return the start and end of each segment of a file in seconds; raises `MediaError`."""
    return cut(probe(path).duration_s, segment_s=segment_s)


def metadata_text(values: Mapping[str, str]) -> str | None:
    """Write names and values as `NAME=VALUE;` by name, so that SQL finds one with LIKE."""
    pairs = [f"{name}={' '.join(v.replace(';', ',').split())};" for name, v in values.items()]
    return " ".join(sorted(pairs)) or None


def _read_alike(embedder: Embedder, describer: Describer) -> bool:
    """True if one reading serves both."""
    plan = plan_of(embedder)
    return describer is embedder or (plan is not None and plan == plan_of(describer))


def _run_segments() -> int:
    """As many that all threads have a run to read while a batch is embedded."""
    return max(1, 2 * BATCH_SEGMENTS // max(2, _READ_THREADS))


class _File:
    """A file on its way through the stream; `row` is what will be committed."""

    def __init__(self, path: str, place: int) -> None:
        stat = Path(path).stat()
        sidecar = sidecar_of(path)
        self.cues = read_subtitles(sidecar) if sidecar else []
        self.metadata: str | None = None
        mtime_ns = max(stat.st_mtime_ns, sidecar.stat().st_mtime_ns if sidecar else 0)
        self.place = place
        self.is_bad = False
        self.row = FileRow(
            path=path,
            size_bytes=stat.st_size,
            mtime_ns=mtime_ns,
            status="ok",
            key=secrets.randbits(62) + 1,
        )

    def is_unchanged(self, row: FileRow | None) -> bool:
        now = (self.row.size_bytes, self.row.mtime_ns)
        return row is not None and (row.size_bytes, row.mtime_ns) == now


@dataclass(frozen=True, slots=True)
class _Stretch:
    file: _File
    start_s: float
    end_s: float
    done_fraction: float
    """Of the file, with this stretch."""

    @property
    def place(self) -> tuple[str, float, float]:
        return self.file.row.path, self.start_s, self.end_s

    @property
    def is_last(self) -> bool:
        return self.done_fraction == 1


_Read = tuple[Segment, ...]
"""A stretch as the embedder wants it, and as the describer does where that is another way."""

_Reading = tuple[_Stretch, _Read | MediaError]


class _Lane:
    """Some runs of a file's stretches, which are read in one pass, one run after the other."""

    def __init__(self, segments: Iterator[_Read]) -> None:
        self._segments = segments
        self._before: Future[list[_Reading]] | None = None

    def read(self, pool: ThreadPoolExecutor, run: Sequence[_Stretch]) -> Future[list[_Reading]]:
        """Read the next run, as soon as the one before it is there."""
        self._before = pool.submit(self._read, run, self._before)
        return self._before

    def _read(
        self, run: Sequence[_Stretch], before: Future[list[_Reading]] | None
    ) -> list[_Reading]:
        if before is not None:
            wait([before])
        readings: list[_Reading] = []
        for stretch in run:
            if stretch.file.is_bad:
                break
            try:
                pair = next(self._segments, None)
            except MediaError as error:
                readings.append((stretch, error))
                break
            if pair is None:  # The pass broke off in a run before.
                break
            readings.append((stretch, pair))
        return readings


class Ingest:
    """One run over many files.

    Args:
        tables: Where to write.
        embedder: The library's model.
        describer: Captions the segments, if there is one.
        tracks: Who writes down what is said (`speech`) in files without subtitles, and what
            pictures say (`screen`).
        metadata: What to keep about every file, beside the tags of its container.
        keyframes_only: True looks at no other frames of a video.
        progress: Called after every batch.
    """

    def __init__(
        self,
        tables: Sink,
        embedder: Embedder,
        describer: Describer | None = None,
        *,
        tracks: Mapping[str, Track] | None = None,
        metadata: Mapping[str, str] | None = None,
        keyframes_only: bool = False,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        self._tracks = tracks or {}
        self._metadata = metadata or {}
        self._tables = tables
        self._embedder = embedder
        self._describer = describer
        self._readers: list[Embedder | Describer] = [embedder]
        if describer is not None and not _read_alike(embedder, describer):
            self._readers.append(describer)
        self._keyframes_only = keyframes_only
        self._progress = progress
        self._num_files = 0
        self._added = self._skipped = self._num_segments = 0
        self._seconds_of_media = 0.0
        self._bad: list[BadFile] = []
        self._segments: list[pa.Table] = []
        self._files: list[FileRow] = []
        self._committed_at_s = time.monotonic()

    def run(
        self,
        paths: Sequence[str],
        known: Mapping[str, FileRow],
        *,
        max_segments: int | None = None,
    ) -> AddReport:
        """Add the files that are not known or have changed.

        Args:
            paths: Absolute paths.
            known: The rows of the files that the library has.
            max_segments: Read no more of each file, to see what it would cost.

        Returns:
            What was done.
        """
        self._num_files = len(paths)
        pool = ThreadPoolExecutor(_READ_THREADS)
        try:
            reading = self._read_ahead(pool, self._runs(paths, known, max_segments))
            while batch := list(itertools.islice(reading, BATCH_SEGMENTS)):
                self._embed(batch)
                since_s = time.monotonic() - self._committed_at_s
                if sum(map(len, self._segments)) >= COMMIT_SEGMENTS or since_s >= COMMIT_S:
                    self._commit()
        finally:
            pool.shutdown(cancel_futures=True)
        self._commit()
        return AddReport(
            num_files=self._num_files,
            num_segments=self._num_segments,
            added=self._added,
            skipped=self._skipped,
            bad=sorted(self._bad),
            seconds_of_media=self._seconds_of_media,
        )

    def _runs(
        self, paths: Sequence[str], known: Mapping[str, FileRow], max_segments: int | None
    ) -> Iterator[tuple[_Lane, list[_Stretch]]]:
        """Plan the work, lazily: what is not asked for yet costs no memory."""
        for place, path in enumerate(paths):
            try:
                file = _File(path, place)
            except OSError as error:
                self._bad.append(
                    BadFile(path, "missing", f"cannot be opened ({error.strerror}); check the path")
                )
                continue
            if file.is_unchanged(known.get(path)):
                self._skip(known[path])
                continue
            try:
                info = probe(path)
            except MediaError as error:
                self._fail(file, error)
                continue
            file.metadata = metadata_text({**info.tags, **self._metadata})
            parts = cut(info.duration_s, segment_s=self._embedder.segment_s)[:max_segments]
            stretches = [
                _Stretch(file, start_s, end_s, number / len(parts))
                for number, (start_s, end_s) in enumerate(parts, start=1)
            ]
            starts = range(0, len(stretches), _run_segments())
            runs = [stretches[start : start + _run_segments()] for start in starts]
            lanes = [self._lane(path, runs[lane::_READ_THREADS]) for lane in range(_READ_THREADS)]
            for lane, run in zip(itertools.cycle(lanes), runs, strict=False):
                if file.is_bad:
                    break
                yield lane, run

    def _skip(self, row: FileRow) -> None:
        if row.status == "ok":
            self._skipped += 1
        else:
            self._bad.append(BadFile(row.path, row.reason, row.detail))

    def _lane(self, path: str, runs: Sequence[Sequence[_Stretch]]) -> _Lane:
        places = [(s.start_s, s.end_s) for run in runs for s in run]
        segments, *described = (
            read_in_order(model, path, places, keyframes_only=self._keyframes_only)
            for model in self._readers
        )
        return _Lane(zip(segments, *described, strict=True))

    def _read_ahead(
        self, pool: ThreadPoolExecutor, runs: Iterator[tuple[_Lane, list[_Stretch]]]
    ) -> Iterator[_Reading]:
        """Decode up to two batches in advance, so that it overlaps with embedding."""
        ahead: deque[tuple[int, Future[list[_Reading]]]] = deque()
        for lane, run in runs:
            ahead.append((len(run), lane.read(pool, run)))
            while sum(size for size, _ in ahead) > 2 * BATCH_SEGMENTS:
                yield from ahead.popleft()[1].result()
        for _, future in ahead:
            yield from future.result()

    def _embed(self, batch: Sequence[_Reading]) -> None:
        stretches: list[_Stretch] = []
        segments: list[_Read] = []
        for stretch, found in batch:
            if isinstance(found, MediaError):
                self._fail(stretch.file, found)
            else:
                segments.append(found)
                stretches.append(stretch)
        if segments:
            captions = self._captions([pair[-1] for pair in segments])
            self._collect(stretches, [pair[0] for pair in segments], captions)
        for stretch in stretches:
            if stretch.is_last and not stretch.file.is_bad:
                self._finish(stretch.file)
        if self._progress:
            last = batch[-1][0]
            now = Progress(
                path=last.file.row.path,
                num_files=self._num_files,
                done_fraction=(last.file.place + last.done_fraction) / self._num_files,
                seconds_of_media=self._seconds_of_media,
            )
            self._progress(now)

    def _captions(self, segments: Sequence[Segment]) -> list[str | None]:
        if self._describer is None:
            return [None] * len(segments)
        return [caption.text or None for caption in self._describer.describe(segments)]

    def _collect(
        self,
        stretches: Sequence[_Stretch],
        segments: Sequence[Segment],
        captions: Sequence[str | None],
    ) -> None:
        self._seconds_of_media += sum(s.end_s - s.start_s for s in stretches)
        media = self._embedder.embed_media(segments)
        if not media:
            return
        texts = zip(captions, self._speech(stretches), self._screens(stretches), strict=True)
        rows = [
            {"key": s.file.row.key, "path": s.file.row.path, "start_s": s.start_s, "end_s": s.end_s}
            | {"caption": caption, "speech": said, "screen": written, "metadata": s.file.metadata}
            for s, (caption, said, written) in zip(stretches, texts, strict=True)
        ]
        table = segment_table(rows, media)
        self._segments.append(table)
        files = {stretch.file.row.key: stretch.file for stretch in stretches}
        for row in table.select(["key", "modalities"]).to_pylist():
            file = files[row["key"]]
            file.row = replace(
                file.row,
                num_segments=file.row.num_segments + 1,
                modalities=file.row.modalities | parse_modalities(row["modalities"]),
            )

    def _speech(self, stretches: Sequence[_Stretch]) -> list[str | None]:
        """The words of each stretch: its subtitles, or else a transcript."""
        said = [words_between(s.file.cues, s.start_s, s.end_s) for s in stretches]
        if "speech" not in self._tracks:
            return said
        rows = [row for row, stretch in enumerate(stretches) if not stretch.file.cues]
        heard = [stretches[row].place for row in rows]
        for row, text in zip(rows, self._tracks["speech"](heard), strict=True):
            said[row] = text
        return said

    def _screens(self, stretches: Sequence[_Stretch]) -> list[str | None]:
        if "screen" not in self._tracks:
            return [None] * len(stretches)
        return self._tracks["screen"]([stretch.place for stretch in stretches])

    def _finish(self, file: _File) -> None:
        if not file.row.num_segments:
            detail = "nothing to see or hear that this model can use"
            self._fail(file, MediaError(file.row.path, "empty", detail))
            return
        self._added += 1
        self._num_segments += file.row.num_segments
        self._files.append(file.row)

    def _fail(self, file: _File, error: MediaError) -> None:
        if file.is_bad:
            return
        file.is_bad = True
        self._bad.append(BadFile(file.row.path, error.reason, error.detail))
        found = {"num_segments": 0, "modalities": Modality(0), "key": 0}
        problem = {"status": "bad", "reason": error.reason, "detail": error.detail}
        self._files.append(replace(file.row, **found, **problem))

    def _commit(self) -> None:
        self._tables.commit(self._segments, self._files)
        self._segments, self._files = [], []
        self._committed_at_s = time.monotonic()
