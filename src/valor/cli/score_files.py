"""Files of captions, answers and scores in the layouts of COCO, VQA and plain JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from valor.errors import ValorError
from valor.metrics.ranking import numbered

_CAPTION_IDS = ("image_id", "video_id", "question_id", "id")
_ANSWER_IDS = ("question_id", "id", "image_id", "video_id")
_CAPTION_FIELDS = ("caption", "captions", "desc")
_ANSWER_FIELDS = ("answers", "answer", "anser")
_TYPE_FIELDS = ("answer_type", "type", "question_type")
_QUESTION_FIELDS = ("question", "question_content")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question's answer or answers."""

    texts: list[str]
    type: str | None = None
    question: str | None = None


def read_matrix(path: Path) -> Float[np.ndarray, "texts media"]:
    """Read a matrix of real numbers; a `ValorError` that names the file if it is none."""
    try:
        scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValorError(f"{path}: not a readable .npy array ({error})") from None
    if not isinstance(scores, np.ndarray) or scores.ndim != 2:
        shape = getattr(scores, "shape", "an archive")
        raise ValorError(f"{path}: expected a matrix (texts, media), got {shape}")
    if scores.dtype.kind not in "fiu":
        raise ValorError(f"{path}: expected real numbers, got {scores.dtype}")
    return scores.astype(np.float64)


def _read_json(path: Path) -> object:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValorError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValorError(f"{path}: not JSON ({error})") from None
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return content["annotations"]
    return content


def read_captions(path: Path) -> dict[str, list[str]]:
    """Read captions by id from any of the accepted layouts; those of one id stand together.

    Args:
        path: JSON: {id: caption or captions}, COCO annotations or results.

    Returns:
        At least one caption by id.

    Raises:
        ValorError: If a record has another form; names file and record.
    """
    texts: dict[str, list[str]] = {}
    for id, record, where in _records(path, _CAPTION_IDS):
        value = _field(record, _CAPTION_FIELDS, where) if isinstance(record, dict) else record
        texts.setdefault(id, []).extend(_texts(value, where))
    return texts


def read_answers(path: Path) -> dict[str, Answered]:
    """Read answers by id from any of the accepted layouts; a repeated id gets a number.

    Args:
        path: JSON: {id: answer or answers}, VQA annotations or results, MUSIC-AVQA's questions.

    Returns:
        What stands there by id, without questions that the authors have deleted.

    Raises:
        ValorError: If a record has another form; names file and record.
    """
    found: list[tuple[str, Answered]] = []
    for id, record, where in _records(path, _ANSWER_IDS):
        if not isinstance(record, dict):
            found.append((id, Answered(texts=_texts(record, where))))
        elif not record.get("question_deleted"):
            kind = next((record[name] for name in _TYPE_FIELDS if name in record), None)
            asked = next((record[name] for name in _QUESTION_FIELDS if name in record), None)
            texts = _texts(_field(record, _ANSWER_FIELDS, where), where)
            found.append(
                (id, Answered(texts=texts, type=_type(kind), question=asked and str(asked)))
            )
    ids = numbered([id for id, _ in found])
    return dict(zip(ids, (answered for _, answered in found), strict=True))


def _records(path: Path, ids: tuple[str, ...]) -> Iterator[tuple[str, Any, str]]:
    """Id, record or plain value, and place of everything in a file."""
    content = _read_json(path)
    if not isinstance(content, dict | list):
        raise ValorError(f"{path}: expected an object or a list, got {type(content).__name__}")
    if not content:
        raise ValorError(f"{path}: no record")
    if isinstance(content, dict):
        for id, value in content.items():
            # Plain values here: a list holds texts, or objects with one text each.
            yield id, value if not isinstance(value, dict) else [value], f"{path}: {id}"
    else:
        for index, record in enumerate(content):
            where = f"{path}: record {index}"
            yield str(_field(record, ids, where)), record, where


def _type(kind: object) -> str | None:
    """A type's name; MUSIC-AVQA writes `["Audio", "Counting"]` inside of a text."""
    if isinstance(kind, str) and kind.startswith("["):
        return " ".join(json.loads(kind)).lower()
    return None if kind is None else str(kind)


def _field(record: object, names: tuple[str, ...], where: str) -> object:
    if not isinstance(record, dict):
        raise ValorError(f"{where}: expected an object, got {type(record).__name__}")
    for name in names:
        if name in record:
            return record[name]
    raise ValorError(f"{where}: no field {' or '.join(map(repr, names))}")


def _texts(value: object, where: str) -> list[str]:
    """Read one text or several; an annotator's record holds its text in `answer` or `caption`."""
    texts: list[str] = []
    for entry in value if isinstance(value, list) else [value]:
        text = _field(entry, ("answer", "caption"), where) if isinstance(entry, dict) else entry
        if not isinstance(text, str):
            raise ValorError(f"{where}: expected a text, got {text!r}")
        texts.append(text)
    if not texts:
        raise ValorError(f"{where}: expected at least one text, got none")
    return texts


def single(texts: list[str], where: str) -> str:
    """The only text; a `ValorError` if there are more."""
    if len(texts) != 1:
        raise ValorError(f"{where}: expected one text, got {len(texts)}")
    return texts[0]


def check_ids(
    predicted: Mapping[str, Any], expected: Mapping[str, Any], predictions: Path, truth: Path
) -> None:
    """Refuse predictions that are not of exactly the ids of the truth."""
    missing = sorted(expected.keys() - predicted.keys())
    if missing:
        raise ValorError(
            f"{predictions}: {len(missing)} of the {len(expected)} ids of {truth} are missing, "
            f"the first is {missing[0]!r}"
        )
    unknown = sorted(predicted.keys() - expected.keys())
    if unknown:
        raise ValorError(
            f"{predictions}: {len(unknown)} ids are not in {truth}, the first is {unknown[0]!r}"
        )


def read_vocabulary(path: Path) -> list[str]:
    """Read a JSON list of answers."""
    return _texts(_read_json(path), str(path))
