"""Captions of sounds."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from valor.data.manifest import Record
from valor.data.rows import json_rows, table_rows
from valor.data.sources.media import MediaFolder, bare, stretch_names
from valor.data.sources.shared import numbered, split_of, tagged
from valor.types import Modality

_SEGMENT_S = 10.0


def audiocaps(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read AudioCaps.

    Args:
        files: CSV tables with `audiocap_id`, `youtube_id`, `start_time` and `caption`; the five
            captions of a test sound are five lines.
        media: Stretches of 10 s named by YouTube id and times (see `stretch_names`), by the
            YouTube id alone, also with a Y before it, or by `audiocap_id`.

    Yields:
        A record per line, its id made of YouTube id and start.
    """
    for path in files:
        for row in table_rows(path):
            video, start_s = row.id("youtube_id"), row.number("start_time")
            cut = stretch_names(video, start_s, start_s + _SEGMENT_S)
            yield Record(
                id=f"{video}_{start_s:g}",
                media=media.find(*cut, f"Y{video}", video, row.id("audiocap_id")),
                split=split_of(path.stem),
                captions=tagged([row.text("caption")], Modality.AUDIO),
            )


def clotho(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read Clotho, and AudioCaps as WavCaps publishes it.

    Args:
        files: CSV tables with `file_name` and `caption_1`, `caption_2` and so on.
        media: Files of these names; another extension will do.

    Yields:
        A record per line, its id the name without extension.
    """
    for path in files:
        for row in table_rows(path):
            yield Record(
                id=bare(row.text("file_name")),
                media=media.find(row.text("file_name")),
                split=split_of(path.stem),
                captions=tagged(numbered(row, "caption"), Modality.AUDIO),
            )


def wavcaps(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read WavCaps.

    Args:
        files: JSON lists, by themselves or under `data`, of `{"id", "caption"}`; `caption_1` and
            so on stand for several captions.
        media: Files named by `id`; another extension will do.

    Yields:
        A record per sound.
    """
    for path in files:
        for row in json_rows(path):
            texts = row.texts("caption") or numbered(row, "caption")
            yield Record(
                id=bare(row.id("id")),
                media=media.find(row.id("id")),
                split=split_of(path.stem),
                captions=tagged(texts, Modality.AUDIO),
            )
