"""What a library holds on disk, and the order of writes that makes every file atomic.

Two LanceDB tables: `segments` (vectors) and `files` (one row per file that was tried). Each time a
file is ingested it gets a new key. Its segments are written first, under that key; its row in
`files` comes last and is the commit. Segments whose key is in no file's row do not exist: an ingest
that was killed, or a file that was replaced, leaves such orphans until `Tables.sweep`.

A large table has an index over `pooled`: the weighted mean of a segment's vision tokens, and that
of its audio tokens behind it; zeros stand for neither, and add nothing to a dot product. Rows that
were written later are compared one by one until `Tables.index` takes them in.
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from valor.errors import DependencyError, LibraryError, UsageError
from valor.models.fusion import token_weights
from valor.types import MEDIA_GROUPS, Embeddings, Modality

_READ_ROWS = 2048
_DELETE_PATHS = 1000
_KEEP_VERSIONS = datetime.timedelta(minutes=1)
"""A reader in another process may still be in an old version; a scan takes seconds."""

_MIN_INDEXED = 5_000
"""Fewer segments are scored one by one, in less time than an index would save."""
_MAX_TAIL = 0.1
"""Of the segments may be outside the index after an ingest."""
_PARTITION_ROWS = 500_000
"""One graph each: more would need more memory to build."""
_EF = 400
"""Nodes of the graph that a search keeps in view."""
_MAX_PARTITIONS = 64
TEXT_FIELDS = ("caption", "speech", "screen")

_NOTHING = Modality(0)
_SEGMENT_SCHEMA = pa.schema(
    [
        ("key", pa.int64()),
        ("path", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("modalities", pa.string()),
        ("caption", pa.string()),
        ("speech", pa.string()),
        ("screen", pa.string()),
        ("metadata", pa.string()),
    ]
)
"""What describes a segment; its vectors follow."""
SEGMENT_FIELDS = _SEGMENT_SCHEMA.names[1:]
INDEXED = (Modality.VISION, Modality.AUDIO)
"""The parts of `pooled`."""
_FILE_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("num_segments", pa.int64()),
        ("modalities", pa.string()),
        ("key", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One file that the library tried to read."""

    path: str
    size_bytes: int
    mtime_ns: int
    status: str
    """`ok`, or `bad` for a file that could not be read."""
    reason: str = ""
    """For a bad file a short stable word, such as `unreadable`."""
    detail: str = ""
    num_segments: int = 0
    modalities: Modality = _NOTHING
    """What at least one of the segments has."""
    key: int = 0
    """Joins the file to its segments; 0 for a bad file, which has none."""


class Tables:
    """The tables of one library folder.

    Args:
        folder: The library's folder.

    Raises:
        DependencyError: If lancedb is not installed.
        LibraryError: If a table is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._live: tuple[int, np.ndarray] | None = None
        self._indexed: tuple[int, set[str]] | None = None
        try:
            database = _connect(folder)
            self._files = database.open_table("files")
            self._segments = database.open_table("segments")
        except (ValueError, OSError, RuntimeError) as error:
            problem = str(error).partition("\n")[0]
            raise LibraryError(
                f"{folder}: damaged ({problem}); build it again with `valor index --rebuild`"
            ) from None

    @property
    def version(self) -> tuple[int, int]:
        """Changes with every commit, also with those of other processes."""
        return self._files.version, self._segments.version

    def files(self) -> dict[str, FileRow]:
        """Return every file's row by path, sorted by path."""
        rows = self._files.search().to_arrow().sort_by("path").to_pylist()
        return {row["path"]: _file_row(row) for row in rows}

    def commit(self, segments: Sequence[pa.Table], files: Sequence[FileRow]) -> None:
        """Write segments, then the rows of files whose segments are all written."""
        if segments:
            self._segments.add(pa.concat_tables(segments))
        if files:
            rows = [asdict(row) | {"modalities": row.modalities.label} for row in files]
            upsert = self._files.merge_insert("path").when_matched_update_all()
            upsert = upsert.when_not_matched_insert_all()
            upsert.execute(pa.Table.from_pylist(rows, schema=_FILE_SCHEMA))

    def remove(self, paths: Sequence[str]) -> None:
        """Forget files; their segments become orphans."""
        quoted = ["'" + path.replace("'", "''") + "'" for path in paths]
        for start in range(0, len(quoted), _DELETE_PATHS):
            self._files.delete(f"path IN ({', '.join(quoted[start : start + _DELETE_PATHS])})")

    def sweep(self) -> None:
        """Delete orphans. Only for the one process that holds the library's lock."""
        live = self._live_keys()
        found: set[int] = set()
        for batch in self._segments.search().select(["key"]).to_batches():
            found.update(np.unique(batch.column("key").to_numpy()).tolist())
        orphans = sorted(found.difference(live.tolist()))
        if orphans:
            self._segments.delete(f"key IN ({', '.join(map(str, orphans))})")

    def optimize(self) -> None:
        """Merge small pieces and free the space of what was deleted."""
        self._files.optimize(cleanup_older_than=_KEEP_VERSIONS)
        self._segments.optimize(cleanup_older_than=_KEEP_VERSIONS)
        if self._segments.count_rows() >= _MIN_INDEXED:
            self._build()

    def segments(self, *, with_vectors: bool, where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Read all segments, or those of a filter, a few thousand at a time.

        Args:
            with_vectors: Whether to read tokens.
            where: SQL over the fields that describe a segment.

        Yields:
            Segments.

        Raises:
            UsageError: If the filter makes no sense.
        """
        live = self._live_keys()
        groups = MEDIA_GROUPS if with_vectors else ()
        search = self._segments.search().select(_with_vectors(groups))
        try:
            batches = search.where(where) if where else search
            for batch in batches.to_batches(_READ_ROWS):
                if (kept := _only(batch, live)).num_rows:
                    yield kept
        except (ValueError, RuntimeError) as error:
            raise _wrong_filter(where, error) from None

    def sample(self, num: int) -> list[pa.RecordBatch]:
        """Read some segments with their vectors, evenly spread."""
        offsets = np.linspace(0, self._segments.count_rows() - 1, num).astype(int)
        taken = self._segments.take_offsets(sorted(set(offsets.tolist())))
        return self._read(taken, MEDIA_GROUPS)

    def take(self, row_ids: Sequence[int]) -> list[pa.RecordBatch]:
        """Read segments, by what `nearest` and `matching` found, with the vectors of `INDEXED`."""
        return self._read(self._segments.take_row_ids(list(row_ids)), INDEXED)

    def nearest(
        self, queries: Float[np.ndarray, "queries pooled"], *, limit: int, where: str | None
    ) -> list[int]:
        """Find the segments with the greatest dot products of `pooled`, for any of the queries."""
        search = self._segments.search(list(queries), vector_column_name="pooled")
        search = search.distance_type("dot").ef(max(_EF, limit)).nprobes(_MAX_PARTITIONS)
        return _row_ids(search.limit(limit), "_distance", where)

    def matching(self, text: str, *, limit: int, where: str | None) -> list[int]:
        """Find the segments that share words with a text in a caption or a text track."""
        found: list[int] = []
        for field in [field for field in TEXT_FIELDS if field in self.indexed()]:
            search = self._segments.search(text, query_type="fts", fts_columns=field)
            found += _row_ids(search.limit(limit), "_score", where)
        return found

    def indexed(self) -> set[str]:
        """The columns that have an index: `pooled` if `nearest` has more to offer than a scan."""
        version = self._segments.version
        if self._indexed is None or self._indexed[0] != version:
            columns = {index.columns[0] for index in self._segments.list_indices()}
            self._indexed = version, columns
        return self._indexed[1]

    def index(self) -> None:
        """Bring the index up to date; only for the one process that holds the library's lock."""
        num_rows = self._segments.count_rows()
        if num_rows < _MIN_INDEXED:
            return
        names = {index.columns[0]: index.name for index in self._segments.list_indices()}
        if "pooled" in names:
            stats = self._segments.index_stats(names["pooled"])
            if stats.num_unindexed_rows <= _MAX_TAIL * num_rows:
                return
        # Also merges the small pieces that commits leave, from which reading takes twice as long.
        self._segments.optimize(cleanup_older_than=_KEEP_VERSIONS)
        if "pooled" not in names:
            self._build()
            self._segments.optimize(cleanup_older_than=_KEEP_VERSIONS)

    def _build(self) -> None:
        from lancedb.index import FTS, HnswSq

        num_rows = self._segments.count_rows()
        graph = HnswSq(
            distance_type="dot",
            num_partitions=min(-(-num_rows // _PARTITION_ROWS), _MAX_PARTITIONS),
            m=16,
            ef_construction=100,
        )
        self._segments.create_index("pooled", config=graph)
        for field in TEXT_FIELDS:
            if self._segments.count_rows(f"{field} IS NOT NULL"):
                self._segments.create_index(field, config=FTS(remove_stop_words=False))

    def _read(self, taken: Any, groups: Sequence[Modality]) -> list[pa.RecordBatch]:
        live = self._live_keys()
        batches = taken.select(_with_vectors(groups)).to_arrow().combine_chunks().to_batches()
        return [_only(batch, live) for batch in batches]

    def _live_keys(self) -> np.ndarray:
        version = self._files.version
        if self._live is None or self._live[0] != version:
            keys = self._files.search().select(["key"]).to_arrow()["key"].to_numpy()
            self._live = version, keys
        return self._live[1]


def create_tables(folder: Path, embed_dim: int) -> None:
    """Create both tables empty, in place of any that are there."""
    database = _connect(folder)
    schemas = {"files": _FILE_SCHEMA, "segments": _segment_schema(embed_dim)}
    for name, schema in schemas.items():
        mode = "overwrite" if (folder / f"{name}.lance").exists() else "create"
        database.create_table(name, schema=schema, mode=mode)


def segment_table(rows: Sequence[dict[str, Any]], media: dict[Modality, Embeddings]) -> pa.Table:
    """Make rows of `segments`.

    Args:
        rows: Key, path, start and end of each segment.
        media: Embeddings of the same segments, row for row; not empty.

    Returns:
        One row per segment that has any modality.
    """
    embed_dim = next(iter(media.values())).vectors.shape[2]
    means = torch.zeros(len(rows), len(INDEXED), embed_dim)
    groups = [_NOTHING] * len(rows)
    columns: dict[str, pa.Array] = {}
    for single in MEDIA_GROUPS:
        embeddings = media.get(single) or _no_embeddings(len(rows), embed_dim)
        columns |= zip(_vector_fields(single), _vector_columns(embeddings), strict=True)
        if single in INDEXED:
            means[:, INDEXED.index(single)] = token_mean(embeddings)
        for row in torch.nonzero(embeddings.present)[:, 0].tolist():
            groups[row] |= single
    labelled = [row | {"modalities": group.label} for row, group in zip(rows, groups, strict=True)]
    table = pa.Table.from_pylist(labelled, schema=_SEGMENT_SCHEMA)
    columns["pooled"] = _fixed(means, len(INDEXED) * embed_dim)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table.filter(pa.array([group != _NOTHING for group in groups]))


def media_of(batch: pa.RecordBatch) -> dict[Modality, Embeddings]:
    """Read the vectors of a batch back; what no segment has, or was not read, is left out."""
    read = [group for group in MEDIA_GROUPS if _vector_fields(group)[0] in batch.schema.names]
    media = {group: embeddings_of(batch, group) for group in read}
    return {group: part for group, part in media.items() if part.valid.any()}


def embeddings_of(batch: pa.RecordBatch, single: Modality) -> Embeddings:
    """Read one modality's vectors back, padded to the longest row, in float16."""
    vectors_field, logits_field = _vector_fields(single)
    lists = batch.column(vectors_field)
    counts = lists.value_lengths().to_numpy()
    valid = np.arange(counts.max(initial=0)) < counts[:, None]
    dim = lists.type.value_type.list_size
    vectors = np.zeros((*valid.shape, dim), np.float16)
    vectors[valid] = lists.flatten().flatten().to_numpy().reshape(-1, dim)
    logits = np.zeros(valid.shape, np.float16)
    logits[valid] = batch.column(logits_field).flatten().to_numpy()
    return Embeddings(
        vectors=torch.from_numpy(vectors),
        weight_logits=torch.from_numpy(logits),
        valid=torch.from_numpy(valid),
    )


def token_mean(embeddings: Embeddings) -> Float[torch.Tensor, "batch embed"]:
    """The weighted mean of each row's tokens; zeros for a row without any."""
    weights = token_weights(embeddings).cpu().float()
    return torch.einsum("bn,bne->be", weights, embeddings.vectors.cpu().float())


def parse_modalities(label: str) -> Modality:
    """Read a stored group; a bad file's is empty."""
    return Modality.parse(label) if label else _NOTHING


def _connect(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError:
        raise DependencyError(
            'search needs the package lancedb; run `pip install "valor-omni[search]"`'
        ) from None
    # Zero: look for commits of other processes at every read.
    return lancedb.connect(folder, read_consistency_interval=datetime.timedelta(0))


def _segment_schema(embed_dim: int) -> pa.Schema:
    vector = pa.list_(pa.float16(), embed_dim)
    schema = _SEGMENT_SCHEMA
    for single in MEDIA_GROUPS:
        types = (pa.list_(vector), pa.list_(pa.float16()))
        for name, kind in zip(_vector_fields(single), types, strict=True):
            schema = schema.append(pa.field(name, kind))
    return schema.append(pa.field("pooled", pa.list_(pa.float16(), len(INDEXED) * embed_dim)))


def _vector_fields(single: Modality) -> tuple[str, str]:
    return f"{single.label}_vectors", f"{single.label}_weight_logits"


def _with_vectors(groups: Sequence[Modality]) -> list[str]:
    return ["key", *SEGMENT_FIELDS, *(name for group in groups for name in _vector_fields(group))]


def _vector_columns(embeddings: Embeddings) -> tuple[pa.Array, pa.Array]:
    """Token vectors and their logits."""
    valid = embeddings.valid.cpu()
    vectors = embeddings.vectors.cpu().float()
    dim = vectors.shape[2]
    offsets = pa.array(np.append(0, valid.sum(dim=1).cumsum(0).numpy()), pa.int32())
    return (
        pa.ListArray.from_arrays(offsets, _fixed(vectors[valid], dim)),
        pa.ListArray.from_arrays(offsets, _halves(embeddings.weight_logits.cpu()[valid])),
    )


def _fixed(vectors: torch.Tensor, dim: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(_halves(vectors.flatten()), dim)


def _halves(values: torch.Tensor) -> pa.Array:
    return pa.array(values.half().numpy())


def _no_embeddings(num_rows: int, embed_dim: int) -> Embeddings:
    return Embeddings(
        vectors=torch.zeros(num_rows, 0, embed_dim),
        weight_logits=torch.zeros(num_rows, 0),
        valid=torch.zeros(num_rows, 0, dtype=torch.bool),
    )


def _only(batch: pa.RecordBatch, live: np.ndarray) -> pa.RecordBatch:
    return batch.filter(pa.array(np.isin(batch.column("key").to_numpy(), live)))


def _row_ids(search: Any, score: str, where: str | None) -> list[int]:
    search = search.select([score]).with_row_id(True)
    try:
        found = (search.where(where) if where else search).to_arrow()
    except (ValueError, RuntimeError) as error:
        raise _wrong_filter(where, error) from None
    return found["_rowid"].to_pylist()


def _wrong_filter(where: str | None, error: Exception) -> Exception:
    """What a failed read is: the filter's fault, or none of the user's."""
    if where is None:
        return error
    problem = str(error).partition("\n")[0]
    fields = ", ".join(SEGMENT_FIELDS)
    return UsageError(f"cannot filter by {where!r} ({problem}); use SQL over {fields}")


def _file_row(row: dict[str, Any]) -> FileRow:
    row["modalities"] = parse_modalities(row["modalities"])
    return FileRow(**row)
