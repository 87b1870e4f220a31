"""No file is longer than 500 lines and no function longer than 60."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "benchmarks", "examples")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def python_files() -> dict[str, str]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def function_lengths(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_the_sweep_finds_the_project():
    assert len(python_files()) > 40


def test_files_are_short():
    lengths = {name: len(text.splitlines()) for name, text in python_files().items()}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_functions_are_short():
    too_long = {
        f"{file}::{name}": length
        for file, text in python_files().items()
        for name, length in function_lengths(text)
        if length > MAX_FUNCTION_LINES
    }
    assert too_long == {}
