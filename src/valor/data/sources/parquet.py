"""Parquet tables as the Hugging Face hub holds them, with media inside or beside them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from valor.data.manifest import Record
from valor.data.rows import Row
from valor.data.sources.media import MediaFolder, bare, content_of
from valor.data.sources.shared import asked, numbered, split_of, tagged
from valor.errors import ManifestError
from valor.types import AUDIOVISUAL

_IDS = ("id", "video_id", "videoid", "videoID", "clip_id", "audiocap_id", "image_id", "key")
_MEDIA = {"video": "mp4", "mp4": "mp4", "audio": "wav", "image": "jpg", "jpg": "jpg"}
"""Columns of media, and the extension of what is inside where its path does not tell."""
_PATHS = ("file_name", "filename", "path", "video_path", "audio_path", "image_path")
_CAPTIONS = ("captions", "caption", "desc", "text", "sentences", "sentence", "enCap", "txt")
_BATCH_ROWS = 64


def parquet(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read tables whose columns have the usual names.

    Id: `id`, `video_id`, `clip_id`, `key` ..., or else the table's name and the row's number.
    Media: `video`, `audio` or `image` with bytes inside, which are written to the media folder, or
    with a path; or `file_name`, `path` ...; or else files named by id. Texts: `caption`, `desc`,
    `text`, `sentences` ... or `caption_1` and so on; `question` with `answer`. Times: `start_s`
    and `end_s`. Split: `split`, or the table's name.

    Args:
        files: Parquet files.
        media: Where media inside of the tables are written, and those beside them are found.

    Yields:
        A record per row.
    """
    for path in files:
        for number, row in enumerate(read_table(path), start=1):
            yield _record(row, path, number, media)


def read_table(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Read a Parquet table row by row, in bounded memory.

    Args:
        path: The file.
        columns: Those of them that are wanted and there; all by default.

    Yields:
        One row per row.

    Raises:
        ManifestError: If the file is no Parquet table.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        table = pq.ParquetFile(path)
        wanted = [name for name in columns or () if name in table.schema_arrow.names]
        rows = (
            values
            for batch in table.iter_batches(
                _BATCH_ROWS, columns=None if columns is None else wanted
            )
            for values in batch.to_pylist()
        )
        for number, values in enumerate(rows, start=1):
            yield Row(values, f"{path}: row {number}")
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{path}: not a Parquet table ({error})") from None


def _record(row: Row, path: Path, number: int, media: MediaFolder) -> Record:
    id = next((row.id(name) for name in _IDS if name in row), f"{path.stem}-{number}")
    located = _located(row, id, path.stem, media)
    texts = row.texts(*_CAPTIONS) or numbered(row, "caption")
    return Record(
        id=id,
        media=located,
        start_s=row.seconds("start_s") or 0.0,
        end_s=row.seconds("end_s"),
        split=split_of(row.text("split") if "split" in row else path.stem),
        captions=tagged(texts, content_of(located) if located else AUDIOVISUAL),
        questions=asked(row),
    )


def _located(row: Row, id: str, table: str, media: MediaFolder) -> str:
    """The path of a row's media, which are written there if they are inside of the row."""
    for column, extension in _MEDIA.items():
        value: Any = row.values.get(column)
        held = value if isinstance(value, dict) else {"bytes": value}
        name, content = str(held.get("path") or ""), held.get("bytes")
        if isinstance(content, bytes):
            ending = name[len(bare(name)) :] or f".{extension}"
            return media.add(f"{table}/{id.replace('/', '_')}{ending}", content)
        if name or isinstance(content, str):
            return media.find(name or str(content), id)
    return media.find(*(row.text(name) for name in _PATHS if name in row), id)
