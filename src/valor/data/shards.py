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
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from valor.data.manifest import Record, make_record
from valor.data.rows import Row, parse_json
from valor.data.storage import is_remote, read_ranges, read_text
from valor.errors import ManifestError

STATS_FILE = "_stats.json"
QUARANTINE_FILE = "quarantine.jsonl"
FRAME_SUFFIX = "jpg"
_BLOCK = tarfile.BLOCKSIZE
_OPEN_INDEXES = 256
"""Indexes that are kept in memory at a time."""


def shard_name(number: int) -> str:
    """The name of a shard without a suffix."""
    return f"shard-{number:06d}"


@dataclass(frozen=True, slots=True, kw_only=True)
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
    def from_json(cls, line: str) -> "Entry":
        """Read a line of the index."""
        values = json.loads(line)
        values["members"] = tuple((suffix, size) for suffix, size in values["members"])
        return cls(**values)

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Offset and size of each member's content by its suffix."""
        ranges, at = {}, self.offset
        for suffix, size in self.members:
            ranges[suffix] = at + _BLOCK, size
            at += _BLOCK + _padded(size)
        return ranges


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
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


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
            stats = parse_json(read_text(path).encode(), path)
        except FileNotFoundError:
            raise ManifestError(
                f"{path}: missing; finish the shards with `valor data shard`"
            ) from None
        self.shards: list[dict[str, Any]] = stats["shards"]
        """Name, checksum and counts of each."""
        self._ends = list(accumulate(shard["num_samples"] for shard in self.shards))
        self._index = lru_cache(maxsize=_OPEN_INDEXES)(self.entries)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """Open the files anew in another process."""
        return Shards, (self.folder,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def entries(self, shard: int) -> tuple[Entry, ...]:
        """The samples of a shard, counted from 0, in their order."""
        text = read_text(f"{self.folder}/{self.shards[shard]['name']}.jsonl")
        return tuple(entry for entry in map(Entry.from_json, text.splitlines()) if entry.is_ok)

    def entry(self, index: int) -> tuple[str, Entry]:
        """The tar file with a sample, and where it is in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: sample {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        place = index - self._ends[shard] + self.shards[shard]["num_samples"]
        return f"{self.folder}/{self.shards[shard]['name']}.tar", self._index(shard)[place]

    def members(self, index: int, suffixes: Sequence[str]) -> dict[str, bytes]:
        """Read some members of a sample, and nothing else.

        Args:
            index: From 0.
            suffixes: Such as `json` or `0003.jpg`; one that the sample does not have is left out.

        Returns:
            Contents by suffix.
        """
        path, entry = self.entry(index)
        ranges = entry.ranges()
        wanted = [suffix for suffix in suffixes if suffix in ranges]
        contents = read_ranges(path, [ranges[suffix] for suffix in wanted])
        return dict(zip(wanted, contents, strict=True))

    def record(self, index: int) -> tuple[Record, dict[str, Any]]:
        """The record of a sample, and what is stored of its media."""
        path, entry = self.entry(index)
        where = f"{path}:{entry.key}.json"
        values = parse_json(self.members(index, ["json"])["json"], where)
        return make_record(Row(values, where), folder=Path(self.folder)), values["extra"]


def damaged(folder: str | Path) -> Iterator[str]:
    """Read every shard again and compare checksums.

    Args:
        folder: Local path or address of complete shards.

    Yields:
        A line for each shard and each sample whose bytes are not those that were written.
    """
    shards = Shards(folder)
    for number, shard in enumerate(shards.shards):
        path = f"{shards.folder}/{shard['name']}.tar"
        try:
            (content,) = read_ranges(path, [(0, shard["bytes"] + 1)])
        except OSError as error:
            yield f"{path}: {error}"
            continue
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            yield f"{path}: not the {shard['bytes']} bytes that were written"
            for entry in shards.entries(number):
                part = content[entry.offset : entry.offset + entry.size]
                if hashlib.sha256(part).hexdigest() != entry.sha256:
                    yield f"{path}: {entry.id}: damaged"
