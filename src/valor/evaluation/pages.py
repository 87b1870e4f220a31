"""Pages that need no other file, made of tables and sections; a table is plain text too."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from valor.types import MEDIA_GROUPS

GROUPS = [group.label for group in MEDIA_GROUPS]
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells with a heading."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    num_names: int = 1
    """The first columns, which name the row; all others are figures."""
    picture: str = ""
    """HTML to show above."""


def plain_text(table: Table) -> str:
    """Write the cells in columns."""
    lines = [table.columns, *table.rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < table.num_names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table_section(table: Table) -> str:
    """A card with the table; none without rows."""

    def row(tag: str, cells: list[str]) -> str:
        kinds = ["name"] * table.num_names + ["figure"] * (len(cells) - table.num_names)
        pairs = zip(kinds, cells, strict=True)
        return "".join(f'<{tag} class="{kind}">{group_name(cell)}</{tag}>' for kind, cell in pairs)

    if not table.rows:
        return ""
    body = "\n".join(f"<tr>{row('td', cells)}</tr>" for cells in table.rows)
    html = (
        f'<div class="scroll"><table>\n<thead><tr>{row("th", table.columns)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n"
    )
    return section(table.title, table.note, table.picture + html)


def section(title: str, note: str, html: str) -> str:
    """A card of the page; none without content."""
    return html and f"<section>\n<h2>{title}</h2>\n<p>{escape(note)}</p>\n{html}</section>\n"


def group_name(text: str) -> str:
    """A group's name gets the dot of its colour."""
    return f'<i class="dot of-{text}"></i>{text}' if text in GROUPS else escape(text)


def write_page(path: Path, title: str, introduction: Sequence[str], body: str) -> None:
    """Write a page in the style of all; `path` is replaced only when all of it is written.

    Args:
        path: The HTML file.
        title: Its heading.
        introduction: A sentence, and quiet lines below it.
        body: HTML.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(_page(title, introduction, body), encoding="utf-8", newline="\n")
    partial.replace(path)


def _page(title: str, introduction: Sequence[str], body: str) -> str:
    style = files("valor.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    first, *rest = (escape(line) for line in introduction)
    quiet = "".join(f'<p class="quiet">{line}</p>\n' for line in rest)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>{escape(title)}</h1>\n<p>{first}</p>\n{quiet}</header>\n{body}</body>\n</html>\n"
    )
