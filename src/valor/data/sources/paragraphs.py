"""Videos whose moments are described one by one; all of a video's sentences make a paragraph."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from valor.data.manifest import Record
from valor.data.rows import Row, json_rows, read_json
from valor.data.sources.media import MediaFolder, bare
from valor.data.sources.shared import split_of, tagged

_CHUNK_S = 5.0
"""DiDeMo counts time in chunks of 5 s, of which it describes at most six."""
_CHUNKS = 6


def didemo(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read DiDeMo for retrieval by paragraph: the descriptions of a video, one after the other.

    Args:
        files: JSON lists of `{"video", "description", "num_segments"}`, a row per moment.
        media: Files named as in `video`; another extension will do.

    Yields:
        A record per video, of the 30 s that were described.
    """
    for path in files:
        moments: defaultdict[str, list[Row]] = defaultdict(list)
        for row in json_rows(path):
            moments[row.text("video")].append(row)
        for video, rows in moments.items():
            text = " ".join(row.text("description").strip() for row in rows)
            chunks = max(row.number("num_segments") if "num_segments" in row else 0 for row in rows)
            yield Record(
                id=bare(video),
                media=media.find(video),
                end_s=_CHUNK_S * (chunks or _CHUNKS),
                split=split_of(path.stem),
                captions=tagged([text]),
            )


def didemo_moments(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read DiDeMo moment by moment, at the times on which most annotators agree.

    Args:
        files: JSON lists of `{"annotation_id", "video", "description", "times"}`; a time is the
            first and the last chunk of 5 s.
        media: Files named as in `video`; another extension will do.

    Yields:
        A record per description.

    Raises:
        ManifestError: If a description has no times, or wrong ones.
    """
    for path in files:
        for row in json_rows(path):
            times = Counter(_pair(row, "times", time) for time in row.items("times"))
            if not times:
                raise row.problem("times", "missing, expected pairs of chunks")
            first, last = times.most_common(1)[0][0]
            yield Record(
                id=f"{bare(row.text('video'))}#{row.id('annotation_id')}",
                media=media.find(row.text("video")),
                start_s=_CHUNK_S * first,
                end_s=_CHUNK_S * (last + 1),
                split=split_of(path.stem),
                captions=tagged([row.text("description").strip()]),
            )


def activitynet(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read ActivityNet Captions for retrieval by paragraph: the sentences, one after the other.

    Args:
        files: JSON objects of `{"sentences"}` by video id, such as `val_1.json`.
        media: Files named by video id, with `v_` before it or without.

    Yields:
        A record per video; of two annotations of a video, each makes a caption.
    """
    for path in files:
        for id, row in _activitynet_rows(path):
            captions = tagged([" ".join(row.texts("sentences"))])
            found = media.find(id, id.removeprefix("v_"))
            yield Record(id=id, media=found, split=split_of(path.stem), captions=captions)


def activitynet_events(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read ActivityNet Captions sentence by sentence, each at its time.

    Args:
        files: JSON objects of `{"sentences", "timestamps"}` by video id.
        media: Files named by video id, with `v_` before it or without.

    Yields:
        A record per sentence.

    Raises:
        ManifestError: If sentences and times are not as many, or a time is wrong.
    """
    for path in files:
        for id, row in _activitynet_rows(path):
            texts, times = row.texts("sentences"), row.items("timestamps")
            if len(texts) != len(times):
                raise row.problem("timestamps", f"{len(times)} for {len(texts)} sentences")
            found = media.find(id, id.removeprefix("v_"))
            for number, (text, time) in enumerate(zip(texts, times, strict=True)):
                start_s, end_s = sorted(_pair(row, "timestamps", time))
                yield Record(
                    id=f"{id}#{path.stem}#{number}",
                    media=found,
                    start_s=start_s,
                    end_s=end_s,
                    split=split_of(path.stem),
                    captions=tagged([text]),
                )


def _pair(row: Row, name: str, value: Any) -> tuple[float, float]:
    values = value if isinstance(value, list) else []
    numbers = [float(v) for v in values if type(v) in (int, float) and 0 <= v < math.inf]
    if len(values) != 2 or len(numbers) != 2:
        raise row.problem(name, f"{value!r}, expected two numbers from 0")
    return numbers[0], numbers[1]


def _activitynet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    for id, values in Row(read_json(path), str(path)).values.items():
        yield id, Row(values, str(path), f"{id}.")
