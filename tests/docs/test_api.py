"""Every name that pages and examples take from the package stands on a page of the API."""

import ast
import json
import re
from collections.abc import Iterator

import pytest

import valor
from tests.docs.blocks import ROOT, blocks, pages
from valor import errors

DOCUMENTED = {
    name
    for page in ("docs/api.md", "docs/api-extending.md")
    for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)", (ROOT / page).read_text(), re.MULTILINE)
}


def programs() -> Iterator[tuple[str, str]]:
    """Each program that a reader sees, with where it stands."""
    for page in pages():
        yield from (
            (block.where, block.code) for block in blocks(page) if block.language == "python"
        )
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield path.name, path.read_text("utf-8")
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                yield f"{path.name}:{number}", "".join(cell["source"])


def names_used(program: str) -> set[str]:
    """Names of the package, as `valor.module.name`, that a program imports or takes from it."""
    names = set()
    for node in ast.walk(ast.parse(program)):
        match node:
            case ast.ImportFrom(module=str(module)) if f"{module}.".startswith("valor."):
                names |= {f"{module}.{alias.name}" for alias in node.names}
            case ast.Attribute(value=ast.Name(id="valor"), attr=name):
                names.add(f"valor.{name}")
    return names


USED = {where: names_used(program) for where, program in programs()}
"""Read before any test runs: amid others, CPython 3.11 sometimes fails to parse (SystemError)."""


@pytest.mark.parametrize("where", USED)
def test_every_name_that_is_used_is_documented(where: str):
    assert USED[where] - DOCUMENTED == set()


def test_the_sweep_finds_names():
    found = names_used("import valor\nfrom valor.types import A, B as b\nvalor.load('x').y\n")
    assert found == {"valor.types.A", "valor.types.B", "valor.load"}
    assert len(set.union(*USED.values())) > 25


def test_all_of_the_package_and_every_error_are_documented():
    assert {f"valor.{name}" for name in valor.__all__} - DOCUMENTED == set()
    named = {name for name, cls in vars(errors).items() if isinstance(cls, type)}
    assert {f"valor.errors.{name}" for name in named - {"ValorError"}} - DOCUMENTED == set()
