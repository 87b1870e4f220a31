"""The layout of shards, and reading them by index without opening whole archives.

A folder of shards holds tar files in the layout of WebDataset, readable by `webdataset`; beside
each an index with the offsets of its samples and the state of every record; `_stats.json`; and
`quarantine.jsonl`, which lists what was left out and why. Entry point: `Shards`.

A sample consists of `KEY.json`, a line of the manifest with what was stored under `extra`; then
`KEY.0000.jpg` and so on with `KEY.flac` or `KEY.opus`, or else the recording itself.
"""

import hashlib
import io
import json
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from valor.config import Config, configclass, from_dict
from valor.data.manifest import Record, make_record
from valor.data.rows import Row, parse_json
from valor.data.storage import is_remote, read_bytes, read_ranges
from valor.errors import ConfigError, ManifestError, MediaError
from valor.media.pictures import read_picture

STATS_FILE = "_stats.json"
QUARANTINE_FILE = "quarantine.jsonl"
FRAME_SUFFIX = "jpg"
_BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SUFFIX = re.compile(r"[^/\0]{1,50}")
_MOST_RECORDS = 2**31
_OPEN_INDEXES = 256
"""Indexes that are kept in memory at a time."""


def shard_name(number: int) -> str:
    """The name of a shard without a suffix."""
    return f"shard-{number:06d}"


@configclass
class Entry:
    """A line of an index: what became of a record."""

    row: int
    """Of the record in the manifest."""
    id: str
    status: str
    """`ok`, or the reason why it was left out."""
    detail: str = ""
    offset: int = 0
    """Where its first header begins."""
    size: int = 0
    """Of all its members with headers and padding; none if it was left out."""
    sha256: str = ""
    """Of these bytes."""
    duration_s: float = 0.0
    members: tuple[tuple[str, int], ...] = ()
    """Suffix and size of each member, in their order."""

    def __post_init__(self) -> None:
        """Refuse what leads outside of the archive, or to files of other names."""
        if min(self.row, self.offset, *(size for _, size in self.members)) < 0:
            raise ValueError("a row, an offset or a size below 0")
        if not all(map(_SUFFIX.fullmatch, (suffix for suffix, _ in self.members))):
            raise ValueError(f"members={self.members}: a suffix that no file has")
        if len(dict(self.members)) < len(self.members):
            raise ValueError(f"members={self.members}: a suffix stands twice")
        if self.size != sum(_BLOCK + _padded(size) for _, size in self.members):
            raise ValueError(f"size={self.size} is not that of the members")

    @property
    def key(self) -> str:
        """The name of its members without a suffix."""
        return f"{self.row:09d}"

    @property
    def is_ok(self) -> bool:
        """True if there is a sample."""
        return self.status == "ok"

    def to_json(self) -> str:
        """A line of the index."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, line: str | bytes, where: str) -> "Entry":
        """Read a line of the index; `where` begins the `ManifestError` if it is none."""
        return _read(cls, line, where)

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Offset and size of each member's content by its suffix."""
        ranges, at = {}, self.offset
        for suffix, size in self.members:
            ranges[suffix] = at + _BLOCK, size
            at += _BLOCK + _padded(size)
        return ranges


@configclass
class ShardStats:
    """What `_stats.json` says of a shard."""

    name: str
    num_samples: int
    num_records: int
    seconds: float
    bytes: int
    """Of the tar file."""
    sha256: str
    """Of the tar file."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, and names that lead elsewhere."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r}, expected one such as {shard_name(0)}")
        if not 0 <= self.num_samples <= self.num_records <= _MOST_RECORDS or self.bytes < 0:
            raise ValueError(f"impossible counts of {self.name}")


@configclass
class Stats:
    """What is in `_stats.json`."""

    version: Literal[1] = 1
    num_records: int
    num_samples: int
    seconds: float
    bytes: int
    left_out: dict[str, int]
    shards: tuple[ShardStats, ...]


def _read(cls: type[Config], text: str | bytes, where: str) -> Config:
    try:
        return from_dict(cls, parse_json(text, where), where=where)
    except ConfigError as error:
        raise ManifestError(str(error)) from None


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def tar_members(key: str, members: dict[str, bytes]) -> bytes:
    """The part of a tar file with these members, the same bytes whenever it is made."""
    parts: list[bytes] = []
    for suffix, content in members.items():
        header = tarfile.TarInfo(f"{key}.{suffix}")
        header.size = len(content)
        parts += (header.tobuf(tarfile.USTAR_FORMAT), content)
        parts.append(bytes(_padded(len(content)) - len(content)))
    return b"".join(parts)


def tar_end(size: int) -> bytes:
    """What closes a tar file of this size."""
    length = size + 2 * _BLOCK
    return bytes(-(-length // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - size)


def encode_jpeg(frame: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """Compress a picture."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def decode_jpeg(content: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Read a picture; twice as fast as FFmpeg's decoder with its conversion to RGB."""
    return read_picture(io.BytesIO(content), "RGB", formats=("JPEG",))


def is_shards(folder: str) -> bool:
    """True for a folder of finished shards; addresses name nothing else."""
    return is_remote(folder) or (Path(folder) / STATS_FILE).is_file()


class Shards:
    """A folder of shards, by index; what was left out does not count.

    Args:
        folder: A local path or an address such as s3://bucket/shards.

    Raises:
        ManifestError: If there are no complete shards.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder).rstrip("/")
        path = f"{self.folder}/{STATS_FILE}"
        try:
            stats = _read(Stats, read_bytes(path), path)
        except FileNotFoundError:
            raise ManifestError(
                f"{path}: missing; finish the shards with `valor data shard`"
            ) from None
        self.shards = stats.shards
        """Name, checksum and counts of each."""
        self._ends = list(accumulate(shard.num_samples for shard in self.shards))
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self.entries)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """Open the files anew in another process."""
        return Shards, (self.folder,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def entries(self, shard: int) -> tuple[Entry, ...]:
        """The samples of a shard, counted from 0, in their order; `ManifestError` if damaged."""
        path = f"{self.folder}/{self.shards[shard].name}.jsonl"
        try:
            lines = read_bytes(path).splitlines()
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error})") from None
        read = (Entry.from_json(line, f"{path}:{at}") for at, line in enumerate(lines, start=1))
        entries = tuple(entry for entry in read if entry.is_ok)
        if len(entries) != self.shards[shard].num_samples:
            wanted = f"{self.shards[shard].num_samples} by {STATS_FILE}"
            raise ManifestError(f"{path}: {len(entries)} samples, {wanted}; copy the folder again")
        return entries

    def entry(self, index: int) -> tuple[str, Entry]:
        """The tar file with a sample, and where it is in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: sample {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        place = index - self._ends[shard] + self.shards[shard].num_samples
        return f"{self.folder}/{self.shards[shard].name}.tar", self._index(shard)[place]

    def members(self, index: int, suffixes: Sequence[str]) -> dict[str, bytes]:
        """Read some members of a sample, and nothing else.

        Args:
            index: From 0.
            suffixes: Such as `json` or `0003.jpg`; one that the sample does not have is left out.

        Returns:
            Contents by suffix.

        Raises:
            MediaError: If the archive is `missing`, or `truncated`.
        """
        path, entry = self.entry(index)
        ranges = {suffix: part for suffix, part in entry.ranges().items() if suffix in suffixes}
        try:
            contents = read_ranges(path, list(ranges.values()))
        except OSError as error:
            raise MediaError(
                path, "missing", f"cannot be read ({error}); copy the folder again"
            ) from None
        if any(len(c) < size for c, (_, size) in zip(contents, ranges.values(), strict=True)):
            raise MediaError(path, "truncated", f"ends before {entry.id}; copy the file again")
        return dict(zip(ranges, contents, strict=True))

    def record(self, index: int) -> tuple[Record, dict[str, Any]]:
        """The record of a sample, and what is stored of its media."""
        path, entry = self.entry(index)
        where = f"{path}:{entry.key}.json"
        row = Row(parse_json(self.members(index, ["json"]).get("json", b""), where), where)
        return make_record(row, folder=Path(self.folder)), row.object("extra")


def damaged(folder: str | Path) -> Iterator[str]:
    """Read every shard again and compare checksums.

    Args:
        folder: Local path or address of complete shards.

    Yields:
        A line for each shard and each sample whose bytes are not those that were written.
    """
    shards = Shards(folder)
    for number, shard in enumerate(shards.shards):
        path = f"{shards.folder}/{shard.name}.tar"
        try:
            (content,) = read_ranges(path, [(0, shard.bytes + 1)])
        except OSError as error:
            yield f"{path}: {error}"
            continue
        if hashlib.sha256(content).hexdigest() != shard.sha256:
            yield f"{path}: not the {shard.bytes} bytes that were written"
            for entry in shards.entries(number):
                part = content[entry.offset : entry.offset + entry.size]
                if hashlib.sha256(part).hexdigest() != entry.sha256:
                    yield f"{path}: {entry.id}: damaged"
