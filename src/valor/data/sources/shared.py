"""What several importers do: texts as captions, splits from file names and from lists of ids."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from valor.data.manifest import Question, TaggedText
from valor.data.rows import Row, opened
from valor.errors import ManifestError
from valor.types import AUDIOVISUAL, Modality

_SPLITS = {
    "train": ("train", "training", "development"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "publictest", "publictect", "blindtest"),
}
_SPLIT_OF_WORD = {word: split for split, words in _SPLITS.items() for word in words}


def split_of(name: str, default: str = "train") -> str:
    """The split that a name speaks of: `val` for `captions_val2014.json`."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD), default)


def listed_splits(files: Iterable[Path], name: Callable[[str], str] = str) -> dict[str, str]:
    """The split of each id in text files of an id per line, by the names of the files."""
    splits: dict[str, str] = {}
    for path in files:
        with opened(path) as lines:
            splits |= {name(line.strip()): split_of(path.stem) for line in lines if line.strip()}
    return splits


def tagged(
    texts: Iterable[str], about: Modality = AUDIOVISUAL, style: str | None = None
) -> tuple[TaggedText, ...]:
    """Texts as captions that all speak about the same; blank ones are left out."""
    return tuple(TaggedText(text=text, about=about, style=style) for text in texts if text)


def asked(row: Row) -> tuple[Question, ...]:
    """The question of a row with `question` and `answer`, if it has one."""
    if "question" not in row:
        return ()
    answers = tuple(filter(None, row.texts("answer", "answers")))
    if not answers:
        raise row.problem("answer", "missing, expected a text or a list of texts")
    return (Question(text=row.text("question").strip(), answers=answers),)


def numbered(row: Row, name: str) -> list[str]:
    """The texts of the columns `name_1`, `name_2` and so on, without blank ones."""
    columns = [column for column in row.values if re.fullmatch(rf"{name}_\d+", column)]
    return [text for column in columns for text in row.texts(column) if text]


def clock_s(text: str, where: str) -> float:
    """Seconds of a time such as `00:04:52.140` or `04:52.140`.

    Any other text is a `ManifestError` that begins with `where`.
    """
    text = text.strip()
    if not re.fullmatch(r"(\d+:)?\d+:\d+([.,]\d+)?", text):
        raise ManifestError(f"{where}: {text!r}, expected a time such as 00:04:52.140")
    seconds = 0.0
    for part in text.replace(",", ".").split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
