"""Command line arguments from dataclasses, with one line for whatever is wrong with them."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro

from valor.errors import UsageError
from valor.types import AUDIOVISUAL, Modality

T = TypeVar("T")
_POSITIONAL = get_args(tyro.conf.Positional[int])[1]

Json = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]
"""A flag `--json`: machine-readable output on stdout."""
TrustCode = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Import the code outside this package that a model folder names."),
]
"""A flag `--trust-code`."""


def access_token(given: str | None) -> str | None:
    """What clients of a server must know: what was given, or the environment's VALOR_TOKEN."""
    return given or os.environ.get("VALOR_TOKEN")


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
    _label(cls)
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


@functools.cache
def _label(cls: type) -> None:
    """Show what has a place by its name, what may be left out by its type, and texts unbroken."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    texts = {
        ast.unparse(field.target): " ".join(ast.literal_eval(told.value).split())
        for field, told in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(told, ast.Expr)
    }
    for field in dataclasses.fields(cls):
        bare, *marks = get_args(field.type) if get_origin(field.type) is Annotated else [field.type]
        is_many, name = get_origin(bare) is tuple, field.name.upper()
        metavar = hint = None
        if _POSITIONAL in marks and get_origin(bare) is not Literal:
            metavar = f"{name} [{name} ...]" if is_many else name
            if field.default is dataclasses.MISSING:
                hint = "(required)"
            else:
                metavar = f"[{metavar}]"
        elif NoneType in get_args(bare):
            metavar = "|".join(_type_name(kind) for kind in get_args(bare) if kind is not NoneType)
        if field.default in (None, ()):
            hint = ""
        shown = tyro.conf.arg(metavar=metavar, help=texts.get(field.name), help_behavior_hint=hint)
        cls.__annotations__[field.name] = Annotated[field.type, shown]


def _type_name(kind: Any) -> str:
    return "GROUP" if kind is Group else kind.__name__.upper()


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
        wrong = f"unknown kind {kind!r}" if kind else "of which kind?"
        raise UsageError(f"valor {verb}: {wrong}; use {', '.join(kinds)}")
    return parse(kinds[kind], argv[1:], verb=f"{verb} {kind}")


def _one_line(box: str) -> str:
    """What tyro's framed message says first, and which options it takes for similar."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    # Below a title; the parts are set off by rules, which are dashes on a terminal of old.
    lines = [re.sub(r"[\u2500-\u257f]|-{9,}", " ", line).rstrip() for line in text.splitlines()[1:]]
    parts = [list(part) for has_words, part in itertools.groupby(lines, bool) if has_words]
    first = parts[0] if parts else [""]
    if "Missing from" in first[0]:
        names = [line.strip() for line in first if re.match(r" {6}\S", line)]  # Not their help.
        return f"{first[0].strip()} {', '.join(names)}; see"
    told = " ".join(" ".join(first).split())
    told = told.replace("; ", ", ").rstrip(".") or "wrong arguments"
    of_several = r"no type matching (?:\{None\}\|)?(.+) could be instantiated from (.+)"
    told = re.sub(of_several, r"expected \1, got \2", told)
    similar = re.findall(r"^ {6}(--\S+)", "\n".join(lines), re.MULTILINE)
    if similar and re.search("similar|meant", text):
        return f"{told}; did you mean {' or '.join(similar)}? See"
    return f"{told}; see"
