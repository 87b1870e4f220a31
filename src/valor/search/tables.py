"""What a library holds on disk, and the order of writes that makes every file atomic.

Two LanceDB tables: `segments` (vectors) and `files` (one row per file that was tried). Each time a
file is ingested it gets a new key. Its segments are written first, under that key; its row in
`files` comes last and is the commit. Segments whose key is in no file's row do not exist: an ingest
that was killed, or a file that was replaced, leaves such orphans until `Tables.sweep`.
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from valor.errors import DependencyError, LibraryError
from valor.models.fusion import token_weights
from valor.types import MEDIA_GROUPS, Embeddings, Modality

_READ_ROWS = 2048
_DELETE_PATHS = 1000
_KEEP_VERSIONS = datetime.timedelta(minutes=1)
"""A reader in another process may still be in an old version; a scan takes seconds."""

_NOTHING = Modality(0)
_SEGMENT_SCHEMA = pa.schema(
    [
        ("key", pa.int64()),
        ("path", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("modalities", pa.string()),
        ("caption", pa.string()),
    ]
)
"""What describes a segment; its vectors follow."""
SEGMENT_FIELDS = _SEGMENT_SCHEMA.names[1:]
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

    def segments(self, *, with_vectors: bool) -> Iterator[pa.RecordBatch]:
        """Read all segments, a few thousand at a time."""
        live = self._live_keys()
        columns = ["key", *SEGMENT_FIELDS]
        if with_vectors:
            columns += [name for group in MEDIA_GROUPS for name in _vector_fields(group)[:2]]
        for batch in self._segments.search().select(columns).to_batches(_READ_ROWS):
            is_live = np.isin(batch.column("key").to_numpy(), live)
            if is_live.any():
                yield batch.filter(pa.array(is_live))

    def _live_keys(self) -> np.ndarray:
        return self._files.search().select(["key"]).to_arrow()["key"].to_numpy()


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
    groups = [_NOTHING] * len(rows)
    columns: dict[str, pa.Array] = {}
    for single in MEDIA_GROUPS:
        embeddings = media.get(single) or _no_embeddings(len(rows), embed_dim)
        columns |= zip(_vector_fields(single), _vector_columns(embeddings), strict=True)
        for row in torch.nonzero(embeddings.present)[:, 0].tolist():
            groups[row] |= single
    labelled = [row | {"modalities": group.label} for row, group in zip(rows, groups, strict=True)]
    table = pa.Table.from_pylist(labelled, schema=_SEGMENT_SCHEMA)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table.filter(pa.array([group != _NOTHING for group in groups]))


def embeddings_of(batch: pa.RecordBatch, single: Modality) -> Embeddings:
    """Read one modality's vectors back, padded to the longest row, in float16."""
    vectors_field, logits_field, _ = _vector_fields(single)
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


def parse_modalities(label: str) -> Modality:
    """Read a stored group; a bad file's is empty."""
    return Modality.parse(label) if label else _NOTHING


def _connect(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError:
        raise DependencyError(
            "search needs the package lancedb; run `pip install valor-omni[search]`"
        ) from None
    # Zero: look for commits of other processes at every read.
    return lancedb.connect(folder, read_consistency_interval=datetime.timedelta(0))


def _segment_schema(embed_dim: int) -> pa.Schema:
    vector = pa.list_(pa.float16(), embed_dim)
    schema = _SEGMENT_SCHEMA
    for single in MEDIA_GROUPS:
        types = (pa.list_(vector), pa.list_(pa.float16()), vector)
        for name, kind in zip(_vector_fields(single), types, strict=True):
            schema = schema.append(pa.field(name, kind))
    return schema


def _vector_fields(single: Modality) -> tuple[str, str, str]:
    name = single.label
    return f"{name}_vectors", f"{name}_weight_logits", f"{name}_pooled"


def _vector_columns(embeddings: Embeddings) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Token vectors, their logits, and their weighted mean (null without tokens)."""
    valid = embeddings.valid.cpu()
    vectors = embeddings.vectors.cpu().float()
    dim = vectors.shape[2]
    offsets = pa.array(np.append(0, valid.sum(dim=1).cumsum(0).numpy()), pa.int32())
    pooled = torch.einsum("bn,bne->be", token_weights(embeddings).cpu().float(), vectors)
    return (
        pa.ListArray.from_arrays(offsets, _fixed(vectors[valid], dim)),
        pa.ListArray.from_arrays(offsets, _halves(embeddings.weight_logits.cpu()[valid])),
        _fixed(pooled, dim, mask=pa.array(~valid.any(dim=1).numpy())),
    )


def _fixed(vectors: torch.Tensor, dim: int, *, mask: pa.Array | None = None) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(_halves(vectors.flatten()), dim, mask=mask)


def _halves(values: torch.Tensor) -> pa.Array:
    return pa.array(values.half().numpy())


def _no_embeddings(num_rows: int, embed_dim: int) -> Embeddings:
    return Embeddings(
        vectors=torch.zeros(num_rows, 0, embed_dim),
        weight_logits=torch.zeros(num_rows, 0),
        valid=torch.zeros(num_rows, 0, dtype=torch.bool),
    )


def _file_row(row: dict[str, Any]) -> FileRow:
    row["modalities"] = parse_modalities(row["modalities"])
    return FileRow(**row)
