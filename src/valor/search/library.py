"""A searchable collection of audible video: one folder that knows its model.

The folder holds `library.json` and the tables of `valor.search.tables`. Vectors of different models
never mix: the file carries the model's fingerprint, and another model is refused.
"""

import dataclasses
import datetime
import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from valor.config import configclass, from_dict, parse_json, to_json
from valor.errors import ConfigError, LibraryError, UsageError
from valor.search.asking import Query, Weights, embed_query, parse_using
from valor.search.distributed import ingest_with_ray
from valor.search.ingest import AddReport, Ingest, Progress, Track, find_files
from valor.search.listing import write_listing
from valor.search.query import Scan, balance, best_of, candidates, rank, score
from valor.search.results import Hit, merge
from valor.search.tables import SEGMENT_FIELDS, FileRow, Tables, create_tables
from valor.types import AUDIOVISUAL, Describer, Embedder, Modality

if TYPE_CHECKING:
    from valor.search.screens import ScreenReader
    from valor.search.transcripts import Transcriber

FORMAT_VERSION = 3
_MERGED = 3
"""Segments that are looked at for every hit to be shown, since some are parts of one."""
_INFO_FILE = "library.json"
_LOCK_FILE = "write.lock"
_OUR_FILES = {"files.lance", "segments.lance", _LOCK_FILE, f"{_INFO_FILE}.new"}

Paths = str | Path | Iterable[str | Path]


@configclass
class LibraryInfo:
    """What `library.json` says."""

    format_version: int
    fingerprint: str
    """Of the model that made the vectors."""
    model: str | None
    """Source to load the model from, as for `valor.load`; null if it was given as an object."""
    embed_dim: int
    segment_s: float
    created: str
    """UTC, ISO 8601."""


class Library:
    """Index audible video once, then search it by what is seen and heard.

    Args:
        path: The library's folder.
        model: The model that embeds, or the source to load it from, as for `valor.load`. An
            existing library remembers where its model came from, and loads it when it is first
            needed.
        create: Make the library if it is not there.
        rebuild: Throw away what the library holds and start again, with this model.
        trust_code: Whether a model folder may name code outside this package, to be imported.

    Raises:
        LibraryError: If there is no such library and `create` is False, if it is damaged, or if it
            was built with another model.
        DependencyError: If lancedb is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: Embedder | str | Path | None = None,
        create: bool = True,
        rebuild: bool = False,
        trust_code: bool = False,
    ) -> None:
        self.path = Path(path).absolute()
        self._trust_code = trust_code
        self._embedder: Embedder | None = None
        exists = (self.path / _INFO_FILE).exists()
        if not exists and not create:
            raise LibraryError(
                f"{self.path}: no library; make one with `valor index {path} FILES --model MODEL`"
            )
        if rebuild or not exists:
            self._model = model or (self.info.model if exists else None)
            self._start()
        else:
            self._model = model or self.info.model
            if model is not None and not isinstance(model, str | Path):
                self._embedder = self._checked(self._load())
        self._open()

    def __len__(self) -> int:
        """Number of segments."""
        return sum(row.num_segments for row in self._tables.files().values())

    @property
    def info(self) -> LibraryInfo:
        """What `library.json` says now; another process may have built the library again.

        Raises:
            LibraryError: If it cannot be read.
        """
        return _read_info(self.path)

    @property
    def fingerprint(self) -> str:
        """Names the model whose vectors the library holds."""
        return self.info.fingerprint

    @property
    def embedder(self) -> Embedder:
        """The library's model, loaded when it is first asked for.

        Raises:
            LibraryError: If it is not the model that built the library, or none was given.
        """
        self._embedder = self._checked(self._load())
        return self._embedder

    def rebuild(self) -> None:
        """Throw away all that the library holds and start again; the media stay untouched."""
        self._start()
        self._open()

    def files(self) -> list[FileRow]:
        """Return every file that was tried, good or bad, sorted by path."""
        return list(self._tables.files().values())

    def add(
        self,
        paths: Paths,
        *,
        describer: Describer | None = None,
        transcriber: "Transcriber | None" = None,
        screen_reader: "ScreenReader | None" = None,
        metadata: Mapping[str, str] | None = None,
        keyframes_only: bool = False,
        progress: Callable[[Progress], object] | None = None,
    ) -> AddReport:
        """Index files, and folders with all media below them.

        Stopped at any moment, it goes on where it was when it is called again. Files that have not
        changed (size and time) are skipped, changed ones replaced; bad ones are listed.

        Args:
            paths: One file or folder, or several.
            describer: Captions every segment, for hits and exports to show.
            transcriber: Writes down what is said in files without subtitles beside them.
            screen_reader: Writes down what pictures say.
            metadata: Names and values to keep about every new file, beside the tags of its
                container; `where` finds them, as in `metadata LIKE '%camera=2;%'`.
            keyframes_only: True looks at the keyframes of videos only, which is many times faster;
                what is seen may be some seconds off.
            progress: Called after every batch of segments.

        Returns:
            What was added, skipped and bad.

        Raises:
            LibraryError: If another process is writing to the library, or the model is another.
            ModelError: If the describer fails.
        """
        tracks: dict[str, Track] = {}
        if transcriber is not None:
            tracks["speech"] = transcriber.transcribe
        if screen_reader is not None:
            tracks["screen"] = screen_reader.read
        with self._writing():
            self._tables.sweep()
            ingest = Ingest(
                self._tables,
                self.embedder,
                describer,
                tracks=tracks,
                metadata=metadata,
                keyframes_only=keyframes_only,
                progress=progress,
            )
            report = ingest.run(find_files(_listed(paths)), self._tables.files())
            self._tables.sweep()
            self._tables.index()
        return report

    def add_with_ray(
        self,
        paths: Paths,
        *,
        num_workers: int,
        metadata: Mapping[str, str] | None = None,
        keyframes_only: bool = False,
        progress: Callable[[Progress], object] | None = None,
    ) -> AddReport:
        """Do what `add` does by workers of a Ray cluster, or by some on this machine.

        Args:
            paths: One file or folder, or several, at the same place on every machine.
            num_workers: Each loads the model by its name.
            metadata: As for `add`.
            keyframes_only: As for `add`.
            progress: Called after every file.

        Returns:
            What was added, skipped and bad.

        Raises:
            LibraryError: If the model has no name to load it by, or another process is writing.
            DependencyError: If Ray is not installed.
        """
        source = self.info.model
        if source is None:
            raise LibraryError(f"{self.path}: workers need a model with a name; give its folder")
        options = {"metadata": metadata, "keyframes_only": keyframes_only}
        with self._writing():
            self._tables.sweep()
            report = ingest_with_ray(
                self._tables,
                (source, self.fingerprint, options),
                find_files(_listed(paths)),
                num_workers=num_workers,
                progress=progress,
            )
            self._tables.sweep()
            self._tables.index()
        return report

    def remove(self, paths: Paths) -> int:
        """Forget files, and all files below folders; the media stay untouched.

        Args:
            paths: One file or folder, or several; they need not exist any more.

        Returns:
            How many files were forgotten.

        Raises:
            LibraryError: If another process is writing to the library.
        """
        roots = {Path(path).resolve() for path in _listed(paths)}
        with self._writing():
            known = self._tables.files()
            gone = [path for path in known if roots & {Path(path), *Path(path).parents}]
            self._tables.remove(gone)
            self._tables.sweep()
        return len(gone)

    def refresh(self, *, progress: Callable[[Progress], object] | None = None) -> AddReport:
        """Index changed files again and forget vanished ones.

        Args:
            progress: Called after every batch of segments.

        Returns:
            What was added, skipped, bad and removed.

        Raises:
            LibraryError: If another process is writing to the library, or the model is another.
        """
        paths = list(self._tables.files())
        removed = self.remove([path for path in paths if not Path(path).exists()])
        report = self.add([path for path in paths if Path(path).exists()], progress=progress)
        return dataclasses.replace(report, removed=removed)

    def compact(self) -> None:
        """Give back the space of removed and replaced files, and merge small pieces.

        Raises:
            LibraryError: If another process is writing to the library.
        """
        with self._writing():
            self._tables.sweep()
            self._tables.optimize()

    def search(
        self,
        query: str | Path,
        *,
        by: str = "text",
        also: str | Path | None = None,
        using: str | Mapping[str, float] = "auto",
        where: str | None = None,
        limit: int = 10,
        merged: bool = True,
    ) -> list[Hit]:
        """Find the stretches that fit a query best.

        Args:
            query: A text, or the path of a file whose first segment shows what to look for;
                `PATH@SECONDS` takes the segment at that second.
            by: What the query is: `text`, `audio`, `image` or `video`.
            also: A file whose sound belongs to a query by text.
            using: What of the segments to search: `vision`, `audio`, `audiovisual`, `text`
                (captions and text tracks), several of these with weights, or `auto`, which weighs
                them by the query. A segment that lacks one of two is scored by the other;
                `modalities_used` says so.
            where: SQL over the fields of `export`, such as `path LIKE '%street%'`.
            limit: How many hits to return at most.
            merged: Whether neighbouring segments and copies make one hit.

        Returns:
            Hits, best first.

        Raises:
            UsageError: If `by`, `using`, `where` or `limit` is impossible or the text is empty.
            MediaError: If the query is a file that cannot be read, or lacks what is asked for.
            LibraryError: If the model is not the one that built the library.
        """
        weights = parse_using(using)
        if limit < 1:
            raise UsageError(f"cannot return {limit} hits; set a limit of 1 or more")
        seen = Modality(0)
        for group in weights or {AUDIOVISUAL: 1.0}:
            seen |= group & AUDIOVISUAL
        embedded = embed_query(
            self.embedder,
            query,
            by=by,
            group=seen or AUDIOVISUAL,
            also=None if also is None else str(also),
        )
        most = _MERGED * limit if merged else limit
        found = self.find(embedded, weights=weights, where=where, limit=most)
        return merge(found, limit=limit) if merged else found

    def find(
        self, query: Query, *, weights: Weights | None, where: str | None = None, limit: int = 10
    ) -> list[Hit]:
        """Rank segments for a query that is embedded already; `search` is the way in.

        Args:
            query: What to look for.
            weights: How much each group of modalities counts; None lets the query decide.
            where: A filter, as for `search`.
            limit: How many hits to return at most.

        Returns:
            Hits, best first.

        Raises:
            UsageError: If the filter makes no sense.
        """
        if "pooled" not in self._tables.indexed():
            return rank(self._scan.blocks(where), query, weights=weights, limit=limit)
        sample = self._scan.sample()
        if any(AUDIOVISUAL in block.media for block in sample):
            # The index knows single modalities, and no vectors that a model fused itself.
            return rank(self._scan.blocks(where), query, weights=weights, limit=limit)
        groups = query.groups if weights is None else tuple(weights)
        sampled = [score(block, query, groups) for block in sample]
        balanced = balance(sampled, weights)
        blocks = candidates(self._tables, sample, sampled, query, balanced, where, limit=limit)
        scores = [score(block, query, balanced.weights) for block in blocks]
        return best_of(blocks, scores, query, balanced, limit=limit)

    def export(self, path: str | Path, *, where: str | None = None) -> int:
        """Write the list of segments, without vectors.

        Args:
            path: A file that ends in .json, .csv or .edl; the last has the sources' timecode.
            where: SQL over the exported fields; other segments are left out.

        Returns:
            How many segments were written.

        Raises:
            UsageError: If it ends in anything else, or the filter makes no sense.
        """
        batches = self._tables.segments(with_vectors=False, where=where)
        rows = [row for batch in batches for row in batch.select(SEGMENT_FIELDS).to_pylist()]
        rows.sort(key=lambda row: (row["path"], row["start_s"]))
        write_listing(Path(path), rows)
        return len(rows)

    def _open(self) -> None:
        self._tables = Tables(self.path)
        self._scan = Scan(self._tables)

    def _start(self) -> None:
        """Make empty tables; `library.json` comes last and makes the library valid."""
        if self.path.is_dir() and not (self.path / _INFO_FILE).exists():
            strange = sorted({entry.name for entry in self.path.iterdir()} - _OUR_FILES)
            if strange:
                raise LibraryError(
                    f"{self.path}: is no library and holds {strange[0]!r}; choose an empty folder"
                )
        embedder = self._embedder = self._load()
        embed_dim = embedder.embed_text(["width"]).vectors.shape[2]
        self.path.mkdir(parents=True, exist_ok=True)
        info = LibraryInfo(
            format_version=FORMAT_VERSION,
            fingerprint=embedder.fingerprint,
            model=_name_of(self._model),
            embed_dim=embed_dim,
            segment_s=embedder.segment_s,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        with self._writing():
            create_tables(self.path, embed_dim)
            new = self.path / f"{_INFO_FILE}.new"
            new.write_text(to_json(info), encoding="utf-8")
            new.replace(self.path / _INFO_FILE)

    def _load(self) -> Embedder:
        if self._embedder is not None:
            return self._embedder
        if self._model is None:
            raise LibraryError(
                f"{self.path} is new and needs a model; give a folder or a hub id, such as "
                "`--model facebook/pe-av-small`, or `--model tiny-world` for a first taste"
            )
        from valor.inference import load

        source = self._model
        if isinstance(source, str | Path):
            embedder = load(source, trust_code=self._trust_code)
        else:
            embedder = source
        if not isinstance(embedder, Embedder):
            raise LibraryError(
                f"{self.path}: {source} does not embed; use a model folder or a public "
                "embedding model, such as facebook/pe-av-small"
            )
        return embedder

    def _checked(self, embedder: Embedder) -> Embedder:
        if embedder.fingerprint != self.info.fingerprint:
            name = f" ({self.info.model})" if self.info.model else ""
            raise LibraryError(
                f"{self.path}: built with model {self.info.fingerprint}{name}, but this is model "
                f"{embedder.fingerprint}; use that one, or index again with `valor index --rebuild`"
            )
        return embedder

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the library's lock; the system drops it when the process dies."""
        with (self.path / _LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LibraryError(
                    f"{self.path}: another process is writing to it; wait until it is done"
                ) from None
            yield


def _read_info(folder: Path) -> LibraryInfo:
    path = folder / _INFO_FILE
    try:
        values = parse_json(path.read_bytes(), str(path))
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise LibraryError(
                f"{path}: format {version}, this valor reads {FORMAT_VERSION}; "
                "upgrade valor or build it again with `valor index --rebuild`"
            )
        return from_dict(LibraryInfo, values, where=str(path))
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise LibraryError(
            f"{path}: damaged ({error}); build the library again with `valor index --rebuild`"
        ) from None


def _name_of(model: Embedder | str | Path | None) -> str | None:
    """Where to load the model from later: absolute paths of folders, a hub id as it is."""
    if not isinstance(model, str | Path):
        return None
    parts = [str(model)] if Path(model).exists() else str(model).split("+")
    return "+".join(str(Path(p).absolute()) if Path(p).exists() else p for p in parts)


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)
