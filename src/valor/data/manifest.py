"""The manifest: one JSON object per line, with media paths relative to the file.

Reading is strict; an error names file, line, field and what was expected.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valor.data.rows import Row, parse_json
from valor.data.storage import is_remote
from valor.errors import ManifestError, UsageError
from valor.types import AUDIOVISUAL, Modality

_FIELDS = frozenset(
    {"id", "media", "start_s", "end_s", "split", "captions", "questions", "source", "extra"}
)
_CAPTION_FIELDS = frozenset({"text", "about", "style"})
_QUESTION_FIELDS = frozenset({"question", "answers", "needs", "type"})
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
    """Absolute path, or an address such as s3://bucket/file.mp4."""
    start_s: float = 0.0
    end_s: float | None = None
    split: str = "train"
    captions: tuple[TaggedText, ...] = ()
    questions: tuple[Question, ...] = ()
    source: str | None = None

    @property
    def texts(self) -> list[str]:
        """Everything that is said of it: captions, questions and answers."""
        texts = [caption.text for caption in self.captions]
        for question in self.questions:
            texts += [question.text, *question.answers]
        return texts


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
    file = manifest_file(path)
    folder = file.parent.resolve()
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, line in manifest_lines(file):
        record = parse_record(line, folder=folder, where=f"{file}:{number}")
        if record.id in seen:
            where = f"{file}:{number}: id"
            raise ManifestError(
                f"{where}: {record.id!r} stands in line {seen[record.id]} already; "
                "give each line an id of its own"
            )
        seen[record.id] = number
        if split is None or record.split == split:
            records.append(record)
    return records


def manifest_file(path: str | Path) -> Path:
    """The JSONL file itself, given it or its folder; a `ManifestError` if there is none."""
    file = Path(path)
    file = file / "manifest.jsonl" if file.is_dir() else file
    if not file.is_file():
        raise ManifestError(
            f"{path}: no such manifest; give a JSONL file, or the folder that holds manifest.jsonl"
        )
    return file


def manifest_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, with their numbers from 1."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def parse_record(line: bytes, *, folder: Path, where: str) -> Record:
    """Read one line.

    Args:
        line: JSON text.
        folder: What the media path is relative to; an absolute path.
        where: File and line, for the error.

    Returns:
        The record.

    Raises:
        ManifestError: If a field is unknown, missing or of the wrong type.
    """
    return make_record(Row(parse_json(line, where), where), folder=folder)


def make_record(row: Row, *, folder: Path) -> Record:
    """Turn a row into a record; `folder`, an absolute path, is what its media are relative to."""
    row.only(_FIELDS)
    start_s, end_s = row.seconds("start_s") or 0.0, row.seconds("end_s")
    if end_s is not None and end_s <= start_s:
        raise row.problem("end_s", f"{end_s:g}, expected more than start_s={start_s:g}")
    return Record(
        id=row.text("id"),
        media=_located(row.text("media"), folder),
        start_s=start_s,
        end_s=end_s,
        split=row.text("split", default="train"),
        captions=tuple(_caption(item, row, at) for at, item in enumerate(row.items("captions"))),
        questions=tuple(map(_question, row.rows("questions"))),
        source=row.text("source", default="") or None,
    )


def _located(media: str, folder: Path) -> str:
    if is_remote(media):
        return media
    # Two slashes at the begin, which `normpath` keeps, would name another file than one.
    return re.sub("^//", "/", os.path.normpath(os.path.join(folder, media)))  # noqa: PTH118


def _caption(item: Any, record: Row, index: int) -> TaggedText:
    if isinstance(item, str) and item.strip():
        return TaggedText(text=item)
    if isinstance(item, str):
        raise record.problem(f"captions[{index}]", "'', expected a text")
    row = Row(item, record.where, prefix=f"captions[{index}].")
    row.only(_CAPTION_FIELDS)
    try:
        about = Modality.parse(row.text("about", default="audiovisual"))
    except UsageError as error:
        raise row.problem("about", str(error)) from None
    style = row.text("style", default="") or None
    return TaggedText(text=row.text("text"), about=about, style=style)


def _question(row: Row) -> Question:
    row.only(_QUESTION_FIELDS)
    needs = row.text("needs", default="") or None
    if needs is not None and needs not in _NEEDS:
        raise row.problem("needs", f"{needs!r}, expected one of {', '.join(_NEEDS)}")
    answers = row.items("answers")
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise row.problem("answers", "expected a list of texts")
    return Question(
        text=row.text("question"),
        answers=tuple(answers),
        needs=needs,
        type=row.text("type", default="") or None,
    )


def write_manifest(path: Path, records: Iterable[Record]) -> None:
    """Write a manifest that `read_manifest` reads back; all of it or nothing.

    Args:
        path: The JSONL file; its folder is made if needed.
        records: In the order of the lines.
    """
    folder = path.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as lines:
            for record in records:
                lines.write(json.dumps(record_values(record, folder)) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def record_values(record: Record, folder: Path) -> dict[str, Any]:
    """The fields of a line in a manifest of this folder, without those that say nothing."""
    media = record.media if is_remote(record.media) else os.path.relpath(record.media, folder)
    values = {
        "id": record.id,
        "media": media,
        "start_s": record.start_s or None,
        "end_s": record.end_s,
        "split": record.split,
        "captions": [
            _said({"text": c.text, "about": c.about.label, "style": c.style})
            for c in record.captions
        ],
        "questions": [
            _said(
                {"question": q.text, "answers": list(q.answers), "needs": q.needs, "type": q.type}
            )
            for q in record.questions
        ],
        "source": record.source,
    }
    return _said(values)


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, [])}
