"""Media with their texts in files beside them, or together in tar archives."""

import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from valor.data.manifest import Record, make_record
from valor.data.rows import Row, opened, parse_json, read_json
from valor.data.sources.media import (
    MediaFolder,
    bare,
    content_of,
    is_media,
    media_files,
    rank,
)
from valor.data.sources.parquet import read_table
from valor.data.sources.shared import clock_s, split_of, tagged
from valor.errors import ManifestError
from valor.types import Modality

_TAG = re.compile(r"<[^>]*>")


def folder(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read a folder of media with text files of the same names beside them.

    `clip.txt` has a caption per line. `clip.json` is an object of the fields of a manifest line
    but `id` and `media`. Each cue of `clip.vtt` becomes a record of its own, with the cue's time
    and its words as a caption of style `subtitle` about what is heard. Of several media files of
    a name the best is taken (see `MediaFolder`).

    Args:
        files: Folders; a folder within one that is named as a split gives the split.
        media: Not used: the media are those in the folders.

    Yields:
        A record per media file, also for one without texts, and one per cue.

    Raises:
        ManifestError: If one of them is not a folder.
    """
    for root in files:
        if not root.is_dir():
            raise ManifestError(
                f"{root}: not a folder; give the one that holds media and their texts"
            )
        best = {bare(name): name for name in reversed(media_files(root))}
        for id in sorted(best):
            yield from _with_sidecars(root / best[id], id)


def _with_sidecars(path: Path, id: str) -> Iterator[Record]:
    split = split_of(id.partition("/")[0]) if "/" in id else "train"
    texts, about_it, cues = (path.with_suffix(end) for end in (".txt", ".json", ".vtt"))
    values = {"split": split}
    if about_it.is_file():
        values |= Row(read_json(about_it), str(about_it)).values
    row = Row({**values, "id": id, "media": path.name}, str(about_it))
    record = make_record(row, folder=path.parent.resolve())
    if texts.is_file():
        with opened(texts) as lines:
            said = tagged(line.strip() for line in lines)
        record = replace(record, captions=record.captions + said)
    yield record
    for number, (start_s, end_s, text) in enumerate(read_cues(cues) if cues.is_file() else ()):
        yield Record(
            id=f"{id}#{number}",
            media=record.media,
            start_s=start_s,
            end_s=end_s,
            split=record.split,
            captions=tagged([text], Modality.AUDIO, "subtitle"),
        )


def read_cues(path: Path) -> Iterator[tuple[float, float, str]]:
    """Read the subtitles of a WebVTT file.

    Args:
        path: The file.

    Yields:
        Start and end in seconds and the words of each cue that has any, without markup.

    Raises:
        ManifestError: If the file cannot be read or a time is wrong.
    """
    with opened(path) as file:
        blocks = re.split(r"\n\s*\n", file.read().replace("\r\n", "\n"))
    for block in blocks:
        head, arrow, rest = block.partition("-->")
        if arrow:
            times, _, text = rest.partition("\n")
            words = " ".join(_TAG.sub("", text).split())
            start_s = clock_s(head.split("\n")[-1], str(path))
            end_s = clock_s(times.strip().partition(" ")[0], str(path))
            if words and end_s > start_s:
                yield start_s, end_s, words


def webdataset(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read what img2dataset and video2dataset download, and other WebDataset folders.

    Files of one name before the first dot are one sample: a media file, `txt` with a caption, and
    `json` whose `caption` stands in where there is no `txt`. A sample of several media files has
    the best of them (see `MediaFolder`). A table `00000.parquet` beside the shard `00000.tar` or
    `00000/` lists what should be in it.

    Args:
        files: Shards (see `shards`).
        media: Where the media of archives are written; those of folders stay where they are.

    Yields:
        A record per sample, its id the name.
    """
    for path in files:
        found: set[str] = set()
        for key, texts, located in _in_folder(path) if path.is_dir() else _in_tar(path, media):
            found.add(key)
            row = Row(parse_json(texts.get("json", b"{}"), f"{path}: {key}.json"), f"{path}: {key}")
            said = texts.get("txt", b"").decode(errors="replace").strip()
            captions = tagged([said] if said else row.texts("caption"), content_of(located))
            yield Record(id=key, media=located, split=split_of(path.stem), captions=captions)
        for key in _listed_keys(path.with_suffix(".parquet")):
            if key not in found:
                yield Record(id=key, media="", split=split_of(path.stem))


def shards(path: Path) -> list[Path]:
    """The shards of a downloaded set: its archives, or else its folders, or else the one given."""
    if not path.is_dir():
        return [path]
    folders = [below for below in sorted(path.iterdir()) if below.is_dir()]
    return sorted(path.glob("*.tar")) or folders or [path]


_Sample = tuple[str, dict[str, bytes], str]
"""Name, texts by extension, and the path of the media file."""


def _in_folder(folder: Path) -> Iterator[_Sample]:
    seen: set[str] = set()
    for name in media_files(folder):
        path = folder / name
        key = path.name.partition(".")[0]
        if key not in seen:
            seen.add(key)
            beside = {end: path.with_name(f"{key}.{end}") for end in ("json", "txt")}
            texts = {end: text.read_bytes() for end, text in beside.items() if text.is_file()}
            yield key, texts, str(path.resolve())


def _in_tar(path: Path, media: MediaFolder) -> Iterator[_Sample]:
    try:
        with tarfile.open(path) as archive:
            members = (member for member in archive if member.isfile())
            for key, same in itertools.groupby(members, lambda member: _key(member.name)):
                held = {m.name: _content(archive, m) for m in same}
                best = min(filter(is_media, held), key=rank, default=None)
                if best is not None:
                    texts = {name.rpartition(".")[2]: text for name, text in held.items()}
                    target = f"{path.stem}/{PurePosixPath(best).name}"
                    yield key, texts, media.add(target, held[best])
    except (tarfile.TarError, EOFError, OSError) as error:
        message = f"a damaged archive ({error}); get it again or leave it out"
        raise ManifestError(f"{path}: {message}") from None


def _key(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[0]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _listed_keys(table: Path) -> list[str]:
    rows = read_table(table, columns=["key"]) if table.is_file() else ()
    return [row.id("key") for row in rows if "key" in row]
