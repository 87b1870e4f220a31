"""What indexing a collection will cost, measured on some of it before anything is written."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from valor.errors import MediaError
from valor.media.probe import probe
from valor.search.ingest import BATCH_SEGMENTS, find_files, plan, read
from valor.search.tables import INDEXED, segment_table
from valor.types import Describer, Embedder, Segment

_PROBED_FILES = 200
"""More are taken to be as long as these on average."""
_GRAPH_BYTES = 160
"""Of the index for each segment, beside one byte for each pooled number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What indexing a collection takes on this machine."""

    num_files: int
    hours_of_media: float
    num_segments: int
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
    stretches, duration_s = _stretches(some, embedder.segment_s)
    if not stretches:
        raise MediaError(str(paths[0]), "empty", "no media that can be read; name another folder")
    scale = len(files) / len(some)
    share_s = seconds / (1 if describer is None else 2)
    num_bytes: list[float] = []

    def embed(segments: list[Segment]) -> None:
        if media := embedder.embed_media(segments):
            rows = [{"key": 0, "path": s.path, "start_s": 0.0, "end_s": 0.0} for s in segments]
            pooled_dim = len(INDEXED) * next(iter(media.values())).vectors.shape[2]
            stored = segment_table(rows, media).nbytes / len(segments)
            num_bytes.append(stored + pooled_dim + _GRAPH_BYTES)

    embed_s = _seconds_each(embedder, embed, stretches, share_s)
    caption_s = None
    if describer is not None:
        caption_s = _seconds_each(describer, describer.describe, stretches, share_s)
    num_segments, media_hours = round(len(stretches) * scale), duration_s * scale / 3600
    embed_hours = embed_s * num_segments / 3600
    caption_hours = None if caption_s is None else caption_s * num_segments / 3600
    return Cost(
        num_files=len(files),
        hours_of_media=media_hours,
        num_segments=num_segments,
        gigabytes=num_segments * sum(num_bytes) / max(1, len(num_bytes)) / 1e9,
        embed_hours=embed_hours,
        embed_media_hours_per_hour=media_hours / embed_hours,
        caption_hours=caption_hours,
        caption_media_hours_per_hour=caption_hours and media_hours / caption_hours,
    )


def _stretches(
    files: Sequence[str], segment_s: float
) -> tuple[list[tuple[str, float, float]], float]:
    """The segments of files in a random order, and how long all that can be read lasts."""
    stretches: list[tuple[str, float, float]] = []
    total_s = 0.0
    for path in files:
        try:
            total_s += probe(path).duration_s
            stretches += [(path, *part) for part in plan(path, segment_s=segment_s)]
        except MediaError:
            continue
    random.Random(0).shuffle(stretches)
    return stretches, total_s


def _seconds_each(
    model: Embedder | Describer,
    work: Callable[[list[Segment]], object],
    stretches: Sequence[tuple[str, float, float]],
    seconds: float,
) -> float:
    """Decode and work on batches until the time is over; the first one only warms up."""
    num, start = 0, time.perf_counter()
    for first in range(0, len(stretches), BATCH_SEGMENTS):
        segments = []
        for path, start_s, end_s in stretches[first : first + BATCH_SEGMENTS]:
            try:
                segments.append(read(model, path, start_s=start_s, end_s=end_s))
            except MediaError:
                continue
        if segments:
            work(segments)
        num += BATCH_SEGMENTS
        elapsed = time.perf_counter() - start
        if elapsed > seconds:
            break
        if first == 0 and len(stretches) > BATCH_SEGMENTS:
            num, start = 0, time.perf_counter()
    return (time.perf_counter() - start) / max(1, min(num, len(stretches)))
