"""What indexing a collection will cost, measured on some of it before anything is written."""

import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from valor.errors import MediaError
from valor.media.probe import probe
from valor.media.segments import cut
from valor.search.ingest import Ingest, find_files
from valor.search.tables import FileRow
from valor.types import Describer, Embedder

_PROBED_FILES = 200
"""More are taken to be as long as these on average."""
_GRAPH_BYTES = 160
"""Of the index for each segment, beside one byte for each pooled number."""
_LEAST_S = 1e-4
"""Of a caption, which may be written while the next segments are read."""
_WARM_COMMITS = 3
"""With so many, what comes before the first one does not count, unless all was measured."""
_FILE_SEGMENTS, _ALL_SEGMENTS = 32, 4096
"""At least so many are read of each file in turn; of few files more, up to so many in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What indexing a collection takes on this machine."""

    num_files: int
    hours_of_media: float
    num_segments: int
    num_measured: int
    """Segments that were embedded to know; nothing is known of the others, and of writing them."""
    gigabytes: float
    embed_hours: float
    embed_media_hours_per_hour: float
    """Hours of media that one hour of this machine embeds, decoding included."""
    caption_hours: float | None = None
    """Beside embedding; None without a describer."""
    caption_media_hours_per_hour: float | None = None


def estimate(
    paths: Sequence[str],
    embedder: Embedder,
    describer: Describer | None = None,
    *,
    seconds: float = 60.0,
) -> Cost:
    """Measure for a while what a collection will take.

    Args:
        paths: Files, or folders with media below them.
        embedder: Embeds.
        describer: Captions, if there is one.
        seconds: To spend at most, beside the batch that is under way.

    Returns:
        The cost of all files, as far as some of them tell.

    Raises:
        MediaError: If there is no file that can be read.
    """
    files = find_files(paths)
    some = random.Random(0).sample(files, min(_PROBED_FILES, len(files)))
    num_probed, duration_s = _probed(some, embedder.segment_s)
    if not num_probed:
        raise MediaError(str(paths[0]), "empty", "no media that can be read; name another folder")
    scale = len(files) / len(some)
    share_s = seconds / (1 if describer is None else 2)
    embedding = _measured(some, embedder, None, share_s)
    embed_s, caption_s = embedding.seconds_each, None
    if describer is not None:
        both_s = _measured(some, embedder, describer, share_s).seconds_each
        caption_s = max(_LEAST_S, both_s - embed_s)
    num_segments, media_hours = round(num_probed * scale), duration_s * scale / 3600
    embed_hours = embed_s * num_segments / 3600
    caption_hours = None if caption_s is None else caption_s * num_segments / 3600
    return Cost(
        num_files=len(files),
        hours_of_media=media_hours,
        num_segments=num_segments,
        num_measured=embedding.num,
        gigabytes=num_segments * embedding.bytes_each / 1e9,
        embed_hours=embed_hours,
        embed_media_hours_per_hour=media_hours / embed_hours,
        caption_hours=caption_hours,
        caption_media_hours_per_hour=caption_hours and media_hours / caption_hours,
    )


def _probed(files: Sequence[str], segment_s: float) -> tuple[int, float]:
    """How many segments files have, and how long all that can be read lasts."""
    num, total_s = 0, 0.0
    for path in files:
        try:
            length_s = probe(path).duration_s
        except MediaError:
            continue
        num += len(cut(length_s, segment_s=segment_s))
        total_s += length_s
    return num, total_s


class _EnoughError(Exception):
    """Ends an ingest that has run for long enough."""


class _Measured:
    """Takes what an ingest would commit, counts it and drops it."""

    def __init__(self, seconds: float) -> None:
        self._end_s = time.perf_counter() + seconds
        self._seen = [(time.perf_counter(), 0)]
        self._num_bytes = 0.0
        self.is_whole = True

    def commit(self, segments: Sequence[pa.Table], files: Sequence[FileRow]) -> None:
        now_s, num = time.perf_counter(), self._seen[-1][1]
        for table in segments:
            indexed_bytes = table.schema.field("pooled").type.list_size + _GRAPH_BYTES
            self._num_bytes += table.nbytes + len(table) * indexed_bytes
        self._seen.append((now_s, num + sum(map(len, segments))))
        if now_s > self._end_s:
            self.is_whole = False
            raise _EnoughError

    @property
    def num(self) -> int:
        """Segments that were embedded."""
        return self._seen[-1][1]

    @property
    def bytes_each(self) -> float:
        """Of a segment in the library, with its place in the index."""
        return self._num_bytes / max(1, self.num)

    @property
    def seconds_each(self) -> float:
        """Of a segment; the first commit only warms up, if there are enough others.

        At the end of all files that does not hold: what was read ahead by the first commit would be
        embedded after it for nothing.
        """
        is_warm = len(self._seen) > _WARM_COMMITS and not self.is_whole
        (start_s, before), (end_s, num) = self._seen[is_warm], self._seen[-1]
        return (end_s - start_s) / max(1, num - before)


def _measured(
    files: Sequence[str], embedder: Embedder, describer: Describer | None, seconds: float
) -> _Measured:
    """Ingest the beginnings of files into nothing until the time is over."""
    measured = _Measured(seconds)
    most = max(_FILE_SEGMENTS, _ALL_SEGMENTS // len(files))
    with contextlib.suppress(_EnoughError):
        Ingest(measured, embedder, describer, progress=None).run(files, {}, max_segments=most)
    return measured
