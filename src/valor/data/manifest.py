"""The manifest: one JSON object per line, with media paths relative to the file.

Reading is strict; an error names file, line, field and what was expected.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valor.errors import ManifestError, UsageError
from valor.types import AUDIOVISUAL, Modality

_FIELDS = frozenset(
    {"id", "media", "start_s", "end_s", "split", "captions", "questions", "source", "extra"}
)
_NEEDS = ("vision", "audio", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedText:
    """A caption and what it speaks about."""

    text: str
    about: Modality = AUDIOVISUAL
    style: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its accepted answers."""

    text: str
    answers: tuple[str, ...]
    needs: str | None = None
    """`vision`, `audio` or `both`, where known."""
    type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stretch of one file, with its texts."""

    id: str
    media: str
    """Absolute path."""
    start_s: float = 0.0
    end_s: float | None = None
    split: str = "train"
    captions: tuple[TaggedText, ...] = ()
    questions: tuple[Question, ...] = ()
    source: str | None = None


def read_manifest(path: str | Path, *, split: str | None = None) -> list[Record]:
    """Read a manifest.

    Args:
        path: A JSONL file, or the folder that holds `manifest.jsonl`.
        split: Keep only records of this split.

    Returns:
        The records in file order.

    Raises:
        ManifestError: If the file is missing, a line is wrong or an id stands twice.
    """
    file = Path(path)
    file = file / "manifest.jsonl" if file.is_dir() else file
    if not file.is_file():
        raise ManifestError(f"{path}: no such manifest; a JSONL file or its folder is needed")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file}: not UTF-8 text ({error.reason})") from None
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = parse_record(line, folder=file.parent, where=f"{file}:{number}")
        if record.id in seen:
            where = f"{file}:{number}: id"
            raise ManifestError(f"{where}: {record.id!r} stands in line {seen[record.id]} already")
        seen[record.id] = number
        if split is None or record.split == split:
            records.append(record)
    return records


def parse_record(line: str, *, folder: Path, where: str) -> Record:
    """Read one line.

    Args:
        line: JSON text.
        folder: What the media path is relative to.
        where: File and line, for the error.

    Returns:
        The record.

    Raises:
        ManifestError: If a field is unknown, missing or of the wrong type.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    reader = _Reader(row, where)
    reader.only(_FIELDS)
    return Record(
        id=reader.text("id"),
        media=str((folder / reader.text("media")).resolve()),
        start_s=reader.seconds("start_s") or 0.0,
        end_s=reader.seconds("end_s"),
        split=reader.text("split", default="train"),
        captions=tuple(_caption(item, where) for item in reader.items("captions")),
        questions=tuple(_question(item, where) for item in reader.items("questions")),
        source=reader.text("source", default="") or None,
    )


def _caption(item: Any, where: str) -> TaggedText:
    if isinstance(item, str):
        return TaggedText(text=item)
    reader = _Reader(item, where, prefix="captions.")
    reader.only({"text", "about", "style"})
    try:
        about = Modality.parse(reader.text("about", default="audiovisual"))
    except UsageError as error:
        raise reader.problem("about", str(error)) from None
    style = reader.text("style", default="") or None
    return TaggedText(text=reader.text("text"), about=about, style=style)


def _question(item: Any, where: str) -> Question:
    reader = _Reader(item, where, prefix="questions.")
    reader.only({"question", "answers", "needs", "type"})
    needs = reader.text("needs", default="") or None
    if needs is not None and needs not in _NEEDS:
        raise reader.problem("needs", f"{needs!r}, expected one of {', '.join(_NEEDS)}")
    answers = reader.items("answers")
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise reader.problem("answers", "expected a list of texts")
    return Question(
        text=reader.text("question"),
        answers=tuple(answers),
        needs=needs,
        type=reader.text("type", default="") or None,
    )


class _Reader:
    """Takes typed fields out of a JSON object and names what is wrong."""

    def __init__(self, row: Any, where: str, prefix: str = "") -> None:
        if not isinstance(row, dict):
            name = prefix.rstrip(".") or "line"
            raise ManifestError(f"{where}: {name}: {type(row).__name__}, expected an object")
        self.row, self.where, self.prefix = row, where, prefix

    def only(self, known: set[str] | frozenset[str]) -> None:
        for name in self.row.keys() - known:
            raise self.problem(name, f"unknown field; there is {', '.join(sorted(known))}")

    def text(self, name: str, *, default: str | None = None) -> str:
        value = self.row.get(name, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.problem(name, f"{value!r}, expected a text")
        return value

    def seconds(self, name: str) -> float | None:
        value = self.row.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise self.problem(name, f"{value!r}, expected seconds from 0")
        return float(value)

    def items(self, name: str) -> list[Any]:
        value = self.row.get(name, [])
        if not isinstance(value, list):
            raise self.problem(name, f"{type(value).__name__}, expected a list")
        return value

    def problem(self, name: str, message: str) -> ManifestError:
        return ManifestError(f"{self.where}: {self.prefix}{name}: {message}")
