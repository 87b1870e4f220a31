"""Command line arguments from dataclasses, with one line for whatever is wrong with them."""

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

import tyro

from valor.errors import UsageError
from valor.types import AUDIOVISUAL, Modality

T = TypeVar("T")

Json = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]
"""A flag `--json`: machine-readable output on stdout."""
TrustCode = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Import the code outside this package that a model folder names."),
]
"""A flag `--trust-code`."""


def _media_group(label: str) -> Modality:
    group = Modality.parse(label)
    if Modality.TEXT in group:
        raise UsageError(f"group {label!r}; use vision, audio or audiovisual")
    return group


Group = Annotated[
    Modality,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="GROUP",
        instance_from_str=lambda words: _media_group(words[0]),
        is_instance=lambda value: isinstance(value, Modality),
        str_from_instance=lambda group: [group.label],
    ),
]
"""A group of modalities by its name, such as `audiovisual`."""

__all__ = ["AUDIOVISUAL", "Group", "Json", "parse", "parse_kind"]


def parse(cls: type[T], argv: Sequence[str], *, verb: str) -> T:
    """Read a verb's arguments into a dataclass.

    Args:
        cls: Its docstring and its fields' docstrings are the help.
        argv: Words after the verb.
        verb: For the help's first line.

    Returns:
        The arguments.

    Raises:
        UsageError: If an argument is unknown, missing or impossible.
        SystemExit: With code 0, after `--help`.
    """
    problem = io.StringIO()
    try:
        with contextlib.redirect_stderr(problem):
            arguments = tyro.cli(cls, args=list(argv), prog=f"valor {verb}")
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_one_line(problem.getvalue())} `valor {verb} --help`") from None
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if getattr(arguments, field.name) == () and field.default is dataclasses.MISSING:
            raise UsageError(f"{field.name}: expected at least one; see `valor {verb} --help`")
    return arguments


def parse_kind(kinds: Mapping[str, type[T]], argv: Sequence[str], *, verb: str) -> T:
    """Read the arguments of a verb that has kinds, such as `valor score captions`.

    Args:
        kinds: The dataclass of each kind; the first line of its docstring is the help.
        argv: Words after the verb.
        verb: For the help's first line.

    Returns:
        The arguments of the kind that the first word names.

    Raises:
        UsageError: If there is no such kind, or its arguments are wrong.
        SystemExit: With code 0, after `--help`.
    """
    kind = argv[0] if argv else ""
    if kind in ("-h", "--help"):
        width = max(map(len, kinds))
        print(f"usage: valor {verb} {{{','.join(kinds)}}} ...\n")
        for name, cls in kinds.items():
            print(f"  {name:{width}}  {(cls.__doc__ or '').splitlines()[0]}")
        print(f"\n`valor {verb} KIND --help` explains the options.")
        raise SystemExit(0)
    if kind not in kinds:
        raise UsageError(f"valor {verb}: unknown kind {kind!r}; use {', '.join(kinds)}")
    return parse(kinds[kind], argv[1:], verb=f"{verb} {kind}")


def _one_line(box: str) -> str:
    """What tyro's framed message says first, and which options it takes for similar."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"[\u2500-\u257f]", " ", line).rstrip() for line in text.splitlines()]
    told = " ".join(
        " ".join(itertools.takewhile(bool, lines[1:])).replace("(required)", "").split()
    )
    told = told.replace("; ", ", ").rstrip(".") or "wrong arguments"
    similar = re.findall(r"^ {6}(--\S+)", "\n".join(lines), re.MULTILINE)
    if similar and re.search("similar|meant", text):
        return f"{told}; did you mean {' or '.join(similar)}? See"
    return f"{told}; see"
