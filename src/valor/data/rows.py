"""Rows of files that others wrote: typed fields, and errors that name file, line and field."""

import csv
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from valor import config
from valor.errors import ConfigError, ManifestError


class Row:
    """Takes typed fields out of a JSON object or a line of a table.

    Args:
        values: What was read; anything but an object is an error.
        where: File and line, for errors.
        prefix: The path to this row within the line, such as `captions[0].`.

    Raises:
        ManifestError: If `values` is no object.
    """

    def __init__(self, values: Any, where: str, prefix: str = "") -> None:
        if not isinstance(values, dict):
            name = prefix.rstrip(".") or "line"
            raise ManifestError(f"{where}: {name}: {type(values).__name__}, expected an object")
        self.values, self.where, self.prefix = values, where, prefix

    def __contains__(self, name: str) -> bool:
        """True if the field is there and not null."""
        return self.values.get(name) is not None

    def only(self, known: frozenset[str]) -> None:
        """Refuse fields that are not known."""
        for name in self.values.keys() - known:
            raise self.problem(name, f"unknown field; there is {', '.join(sorted(known))}")

    def text(self, name: str, *, default: str | None = None) -> str:
        """A text; without a default, one that says something."""
        value = self._value(name) if default is None else self.values.get(name, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.problem(name, f"{value!r}, expected a text")
        return value

    def id(self, name: str) -> str:
        """A text or a whole number, as a text."""
        value = self._value(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(name).strip()

    def texts(self, *names: str) -> list[str]:
        """The texts under the first of the names that is there: a text or a list of them."""
        for name in names:
            if name in self:
                value = self.values[name]
                texts = [value] if isinstance(value, str) else value
                if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
                    raise self.problem(name, "expected a text or a list of texts")
                return [text.strip() for text in texts]
        return []

    def number(self, name: str) -> float:
        """A finite number, also one that is written as a text."""
        value = self._value(name)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.problem(name, f"{value!r}, expected a number")
        return number

    def seconds(self, name: str) -> float | None:
        """Seconds from 0, or None where the field is missing."""
        value = self.values.get(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= sys.float_info.max:
            raise self.problem(name, f"{value!r}, expected seconds from 0")
        return float(value)

    def object(self, name: str) -> dict[str, Any]:
        """An object."""
        value = self._value(name)
        if not isinstance(value, dict):
            raise self.problem(name, f"{type(value).__name__}, expected an object")
        return value

    def items(self, name: str) -> list[Any]:
        """A list; empty where the field is missing."""
        value = self.values.get(name, [])
        if not isinstance(value, list):
            raise self.problem(name, f"{type(value).__name__}, expected a list")
        return value

    def rows(self, name: str) -> list["Row"]:
        """A list of objects; empty where the field is missing."""
        return [
            Row(item, self.where, f"{self.prefix}{name}[{index}].")
            for index, item in enumerate(self.items(name))
        ]

    def problem(self, name: str, message: str) -> ManifestError:
        """An error about a field, to be raised."""
        return ManifestError(f"{self.where}: {self.prefix}{name}: {message}")

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise self.problem(name, f"missing field; there is {', '.join(self.values) or 'none'}")
        return self.values[name]


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file; what goes wrong with it inside the block becomes a `ManifestError`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason})") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file; a `ManifestError` if it cannot be read."""
    with opened(path) as file:
        return parse_json(file.read(), str(path))


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON list, of a list under `data`, or of JSON lines, which are streamed.

    Args:
        path: The file.

    Yields:
        One row per object.

    Raises:
        ManifestError: If the file is missing or holds something else.
    """
    with opened(path) as file:
        is_lines = _is_object(file.readline())
        file.seek(0)
        if is_lines:
            values = (
                (f"{path}:{number}", parse_json(line, f"{path}:{number}"))
                for number, line in enumerate(file, start=1)
                if line.strip()
            )
        else:
            values = [(str(path), parse_json(file.read(), str(path)))]
        for where, value in values:
            held = value.get("data", [value]) if isinstance(value, dict) else value
            if not isinstance(held, list):
                raise ManifestError(f"{where}: {type(held).__name__}, expected a list of objects")
            for number, item in enumerate(held, start=1):
                yield Row(item, where if held == [value] else f"{where}: item {number}")


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line, ""), dict)
    except ManifestError:
        return False


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; a `ManifestError` that begins with `where` if it is none."""
    try:
        return config.parse_json(text, where)
    except ConfigError as error:
        raise ManifestError(str(error)) from None


def table_rows(
    path: Path, columns: tuple[str, ...] = (), *, is_ragged: bool = False
) -> Iterator[Row]:
    """The lines of a table that is separated by commas or by tabs.

    Args:
        path: The file. With a tab in its first line, tabs separate and quotes mean nothing.
        columns: Names of the columns; the first line holds them by default.
        is_ragged: True lets a line have more or fewer columns; what is beyond the named ones is
            dropped. It is an error otherwise, as mostly a comma without quotes is the reason.

    Yields:
        One row per line, all of its fields texts.

    Raises:
        ManifestError: If the file is missing or a line is too short or too long.
    """
    with opened(path) as file:
        is_tabbed = "\t" in file.readline()
        file.seek(0)
        quoting = csv.QUOTE_NONE if is_tabbed else csv.QUOTE_MINIMAL
        table = csv.reader(file, delimiter="\t" if is_tabbed else ",", quoting=quoting, strict=True)
        try:
            names = columns or tuple(next(table, ()))
            for cells in filter(None, table):
                where = f"{path}:{table.line_num}"
                if len(cells) != len(names) and not is_ragged:
                    raise ManifestError(f"{where}: {len(cells)} columns, expected {len(names)}")
                yield Row(dict(zip(names, cells, strict=False)), where)
        except csv.Error as error:
            raise ManifestError(f"{path}:{table.line_num}: not a table ({error})") from None
