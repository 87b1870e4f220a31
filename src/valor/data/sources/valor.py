"""VALOR and VAST: captions of what is seen and heard, and questions about it."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from valor.data.manifest import Question, Record
from valor.data.rows import Row, json_rows, read_json, table_rows
from valor.data.sources.media import MediaFolder, stretch, stretch_names
from valor.data.sources.shared import asked, numbered, split_of, tagged
from valor.errors import ManifestError
from valor.types import Modality

_NEEDS = {"visual": "vision", "audio": "audio", "both": "both"}


def valor(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read VALOR-1M and VALOR-32K, and the sets that VAST is fine-tuned on.

    Args:
        files: JSON lists of `{"video_id", "desc"}`; `caption` stands for `desc`, either may be a
            list, and `question` with `answer` is a question.
        media: Files named by video id; for an id with times, `id_20.000_30.000`, also by the
            other ways to write it (see `stretch_names`).

    Yields:
        A record per row; the split is in the file's name.

    Raises:
        ManifestError: If a row has none of these fields; a text in them may be blank.
    """
    for path in files:
        for row in json_rows(path):
            if not any(name in row for name in ("desc", "caption", "question")):
                raise row.problem("desc", "missing, as are caption and question")
            id = row.id("video_id")
            yield Record(
                id=id,
                media=_found(media, id),
                split=split_of(path.stem),
                captions=tagged(row.texts("desc", "caption")),
                questions=asked(row),
            )


def _found(media: MediaFolder, id: str) -> str:
    cut = stretch(id)
    return media.find(id, *(stretch_names(*cut) if cut else ()))


def valor_ids(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read the layout of VALOR's release: lists of ids, and one mapping of ids to texts.

    Args:
        files: JSON lists of ids, whose names hold the split, such as `train_id.json`; and a JSON
            object such as `txt_mapper.json`, whose values are a text, a list of texts, or a list
            of `{"question", "answer"}`.
        media: Files named by id.

    Yields:
        A record per listed id; one that the mapping does not know has no texts.

    Raises:
        ManifestError: If there is no list or no mapping.
    """
    contents = {path: read_json(path) for path in files}
    mappings = [content for content in contents.values() if isinstance(content, dict)]
    lists = {path: content for path, content in contents.items() if isinstance(content, list)}
    if not mappings or not lists:
        names = ", ".join(map(str, files))
        raise ManifestError(f"{names}: expected lists of ids and an object of texts by id")
    texts: dict[str, Any] = {id: said for mapping in mappings for id, said in mapping.items()}
    for path, ids in lists.items():
        for number, item in enumerate(ids, start=1):
            where = f"{path}: item {number}"
            id = Row({"id": item}, where).id("id")
            row = Row({id: texts.get(id, [])}, where)
            is_asked = _is_asked(row.values[id])
            yield Record(
                id=id,
                media=_found(media, id),
                split=split_of(path.stem),
                captions=() if is_asked else tagged(row.texts(id)),
                questions=tuple(itertools.chain(*map(asked, row.rows(id) if is_asked else ()))),
            )


def _is_asked(said: Any) -> bool:
    return isinstance(said, list) and any(isinstance(item, dict) for item in said)


def valor_avqa(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read VALOR-32K-AVQA: captions of VALOR-32K with questions about what is seen and heard.

    Args:
        files: CSV tables with `video_id`, `start_time`, `end_time`, `caption`, `question`,
            `answer_1` to `answer_3`, `mode` and `type`. Some lines of the release have more or
            fewer answers than the header names; of these only the first is known to be right.
        media: Files named by video id and times, as for `valor`.

    Yields:
        A record per question; the first question of a video carries its caption.
    """
    for path in files:
        known: set[str] = set()
        for row in table_rows(path, is_ragged=True):
            start_s, end_s = row.number("start_time"), row.number("end_time")
            names = stretch_names(row.id("video_id"), start_s, end_s)
            if (mode := row.text("mode")) not in _NEEDS:
                raise row.problem("mode", f"{mode!r}, expected one of {', '.join(_NEEDS)}")
            is_regular = row.values.get("correct_mcq", "").isdecimal()
            others = numbered(row, "answer")[1:] if is_regular else ()
            question = Question(
                text=row.text("question"),
                answers=(row.text("answer_1"), *others),
                needs=_NEEDS[mode],
                type=row.text("type"),
            )
            yield Record(
                id=names[0],
                media=media.find(*names),
                split=split_of(path.stem),
                captions=() if names[0] in known else tagged(row.texts("caption")),
                questions=(question,),
            )
            known.add(names[0])


def vast(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read VAST-27M: captions of what is seen, of what is heard, and of both.

    Args:
        files: JSON lists or JSON lines of `{"clip_id", "vision_cap", "audio_cap", "vast_cap",
            "subtitle"}`; each text may be a list or missing.
        media: Files named by `clip_id`.

    Yields:
        A record per row.
    """
    for path in files:
        for row in json_rows(path):
            yield Record(
                id=row.id("clip_id"),
                media=media.find(row.id("clip_id")),
                split=split_of(path.stem),
                captions=(
                    *tagged(row.texts("vast_cap")),
                    *tagged(row.texts("vision_cap"), Modality.VISION),
                    *tagged(row.texts("audio_cap"), Modality.AUDIO),
                    *tagged(row.texts("subtitle"), Modality.AUDIO, "subtitle"),
                ),
            )
