"""Captions of short videos."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from valor.data.manifest import Record
from valor.data.rows import Row, json_rows, opened, read_json, table_rows
from valor.data.sources.media import MediaFolder, bare, stretch, stretch_names
from valor.data.sources.shared import clock_s, listed_splits, split_of, tagged
from valor.types import Modality

_LSMDC_COLUMNS = ("clip", "start_aligned", "end_aligned", "start", "end", "sentence")


def msrvtt(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read MSR-VTT, also with the lists of other splits such as 1k-A.

    Args:
        files: JSON objects with `videos` (`video_id`, `split`) and `sentences` (`video_id`,
            `caption`). With CSV lists (column `video_id`), only what is listed is read: a list
            with a column `sentence` is a test set of exactly these sentences, any other gives
            training videos all their captions.
        media: Files named by video id.

    Yields:
        A record per video, or per line of the lists.

    Raises:
        ManifestError: If the captions of listed videos are in none of the files.
    """
    lists = [path for path in files if path.suffix == ".csv"]
    splits: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    for path in files:
        if path not in lists:
            content = Row(read_json(path), str(path))
            for video in content.rows("videos"):
                splits[video.id("video_id")] = split_of(video.text("split"))
            for said in content.rows("sentences"):
                captions.setdefault(said.id("video_id"), []).append(said.text("caption"))
    for path in lists:
        for row in table_rows(path):
            id = row.id("video_id")
            if "sentence" not in row and id not in captions:
                raise row.problem("video_id", f"no caption of {id!r}; add MSRVTT_data.json")
            yield Record(
                id=id,
                media=media.find(id),
                split="test" if "sentence" in row else split_of(path.stem),
                captions=tagged(row.texts("sentence") or captions[id]),
            )
    for id, split in () if lists else splits.items():
        texts = tagged(captions.get(id, []))
        yield Record(id=id, media=media.find(id), split=split, captions=texts)


def vatex(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read the English captions of VATEX.

    Args:
        files: JSON lists of `{"videoID", "enCap"}`; a `videoID` is YouTube id, start and end, as
            in `-2BDtbwJUaQ_000076_000086`.
        media: Stretches named so (see `stretch_names`), or whole videos named by YouTube id, of
            which the stretch is taken.

    Yields:
        A record per video.

    Raises:
        ManifestError: If an id has no times.
    """
    for path in files:
        for row in json_rows(path):
            id = row.id("videoID")
            if (cut := stretch(id)) is None:
                raise row.problem("videoID", f"{id!r}, expected an id with start and end")
            video, start_s, end_s = cut
            found = media.find(id, *stretch_names(*cut))
            yield Record(
                id=id,
                media=found or media.find(video),
                start_s=0.0 if found else start_s,
                end_s=None if found else end_s,
                split=split_of(path.stem),
                captions=tagged(row.texts("enCap")),
            )


def msvd(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read the English captions of MSVD.

    Args:
        files: The CSV table (`VideoID`, `Start`, `End`, `Language`, `Description`), or a text file
            of lines `id caption` such as AllVideoDescriptions.txt; and lists of ids with the
            split in their names, such as `train_list.txt`, without which all is training data.
        media: Files named `VideoID_Start_End`.

    Yields:
        A record per caption that is listed.
    """
    lists = [path for path in files if path.stem.endswith("list")]
    splits = listed_splits(lists)
    for path in files:
        if path not in lists:
            for id, text in _msvd_table(path) if path.suffix == ".csv" else _msvd_lines(path):
                if id in splits or not splits:
                    captions = tagged([text], Modality.VISION)
                    split = splits.get(id, "train")
                    yield Record(id=id, media=media.find(id), split=split, captions=captions)


def _msvd_table(path: Path) -> Iterator[tuple[str, str]]:
    for row in table_rows(path):
        if row.text("Language") == "English":
            id = f"{row.id('VideoID')}_{row.id('Start')}_{row.id('End')}"
            yield id, row.text("Description", default="").strip()


def _msvd_lines(path: Path) -> Iterator[tuple[str, str]]:
    with opened(path) as lines:
        for line in lines:
            id, _, text = line.strip().partition(" ")
            if stretch(id) and text:
                yield id, text


def lsmdc(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read LSMDC.

    Args:
        files: Tables without header, of six columns separated by tabs: name, four times and the
            sentence; some names have several sentences.
        media: Files of these names, also in a folder per movie.

    Yields:
        A record per sentence.
    """
    for path in files:
        for row in table_rows(path, _LSMDC_COLUMNS):
            id = row.id("clip")
            captions = tagged([row.text("sentence").strip()])
            yield Record(id=id, media=media.find(id), split=split_of(path.stem), captions=captions)


def webvid(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read WebVid.

    Args:
        files: CSV tables with `videoid`, `page_dir` and `name`, the caption.
        media: Files named by video id, also in a folder per `page_dir`.

    Yields:
        A record per video.
    """
    for path in files:
        for row in table_rows(path):
            id = row.id("videoid")
            yield Record(
                id=id,
                media=media.find(f"{row.values.get('page_dir', '')}/{id}", id),
                split=split_of(path.stem),
                captions=tagged(row.texts("name"), Modality.VISION),
            )


def tgif(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read TGIF.

    Args:
        files: A table without header, of address and caption separated by a tab; and lists of
            addresses with the split in their names, such as `splits/test.txt`, without which all
            is training data.
        media: Files named as at the end of the address.

    Yields:
        A record per caption that is listed.
    """
    lists = [path for path in files if path.suffix == ".txt"]
    splits = listed_splits(lists, _name_of_address)
    for path in files:
        for row in () if path in lists else table_rows(path, ("url", "caption")):
            id = _name_of_address(row.text("url"))
            if id in splits or not splits:
                captions = tagged([row.text("caption")], Modality.VISION)
                split = splits.get(id, "train")
                yield Record(id=id, media=media.find(id), split=split, captions=captions)


def _name_of_address(url: str) -> str:
    return bare(url.rpartition("/")[2])


def hdvila(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read HD-VILA-100M.

    Args:
        files: JSON lines of `{"video_id", "clip": [{"clip_id", "span": [start, end]}]}`. The
            release has no texts; a `caption` or `text` beside `clip_id` is taken.
        media: Files named by `clip_id`, or whole videos named by `video_id`, of which the span is
            taken.

    Yields:
        A record per clip.

    Raises:
        ManifestError: If a span is not two times.
    """
    for path in files:
        for row in json_rows(path):
            for cut in row.rows("clip"):
                id, span = bare(cut.id("clip_id")), cut.texts("span")
                if len(span) != 2:
                    raise cut.problem("span", f"{len(span)} times, expected start and end")
                found = media.find(id)
                start_s, end_s = (clock_s(time, cut.where) for time in span)
                yield Record(
                    id=id,
                    media=found or media.find(row.id("video_id")),
                    start_s=0.0 if found else start_s,
                    end_s=None if found else end_s,
                    split=split_of(path.stem),
                    captions=tagged(cut.texts("caption", "text"), Modality.VISION),
                )
