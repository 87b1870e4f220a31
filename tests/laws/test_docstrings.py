"""What docstrings of public functions say of results and errors, so that pages show it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import valor
from valor import errors

SOURCE = Path(valor.__file__).parent
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*, commands: bool) -> dict[str, str]:
    """The package's files, with those of the command line or without."""
    paths = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
    return {
        name: path.read_text("utf-8")
        for name, path in paths.items()
        if commands or not name.startswith("cli/")
    }


def results_with_a_colon(text: str) -> Iterator[str]:
    """Results whose first line has a colon: Sphinx takes what stands before it for their type."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            told = re.search(r"^(?:Returns|Yields):\n +(.*)$", ast.get_docstring(node) or "", re.M)
            if told and ":" in told[1]:
                yield f"{node.lineno} {node.name}"


def public_functions(
    node: ast.Module | ast.ClassDef,
) -> Iterator[tuple[Function, str]]:
    """Functions and methods that can be called by name, with what documents them."""
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)
        elif isinstance(child, Function) and child.name == "__init__":
            yield child, ast.get_docstring(node) or ""
        elif isinstance(child, Function) and not child.name.startswith("_"):
            yield child, ast.get_docstring(child) or ""


def own(node: ast.AST) -> Iterator[ast.AST]:
    """What is within a function, but not within those that it defines."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda):
            yield child
            yield from own(child)


def untold_errors(text: str) -> Iterator[str]:
    """Functions that raise an error of ours which their docstring does not name.

    One that has sections names it in that of errors.
    """
    for function, docstring in public_functions(ast.parse(text)):
        raised = (node.exc for node in own(function) if isinstance(node, ast.Raise) and node.exc)
        names = {ast.unparse(e.func if isinstance(e, ast.Call) else e) for e in raised}
        _, has_sections, sections = docstring.partition("\n\nArgs:")
        told = sections.partition("\n\nRaises:")[2] if has_sections else docstring
        if untold := {name for name in names & ERRORS if not re.search(rf"\b{name}\b", told)}:
            yield f"{function.lineno} {function.name} {' '.join(sorted(untold))}"


def test_no_result_is_taken_for_its_type():
    found = {n: list(results_with_a_colon(text)) for n, text in sources(commands=True).items()}
    assert {name: at for name, at in found.items() if at} == {}


def test_public_functions_name_the_errors_that_they_raise():
    found = {name: list(untold_errors(text)) for name, text in sources(commands=False).items()}
    assert {name: at for name, at in found.items() if at} == {}


@pytest.mark.parametrize(
    ("told", "count"), [("A pair: of two.", 1), ("A pair.", 0), ("A pair\n        of: two.", 0)]
)
def test_the_sweep_sees_a_colon(told: str, count: int):
    text = f'def f():\n    """Sum.\n\n    Returns:\n        {told}\n    """\n'
    assert len(list(results_with_a_colon(text))) == count


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('def f():\n    "Sum."\n    raise ModelError("no")', ["1 f ModelError"]),
        ('def f():\n    "Sum; or a `ModelError`."\n    raise ModelError("no") from None', []),
        (
            'def f():\n    "ModelError.\\n\\nArgs:\\n  x: No."\n    raise ModelError',
            ["1 f ModelError"],
        ),
        ('def f():\n    "Sum."\n    raise KeyError("no")', []),
        ('def _f():\n    "Sum."\n    raise ModelError("no")', []),
        (
            'class A:\n    "All."\n    def __init__(self): raise MediaError',
            ["3 __init__ MediaError"],
        ),
    ],
)
def test_the_sweep_sees_an_error(text: str, found: list[str]):
    assert list(untold_errors(text)) == found
