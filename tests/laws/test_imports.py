"""What may be imported and called where; the layers themselves are import-linter's to check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import valor

SOURCE = Path(valor.__file__).parent
DISTRIBUTED_FILES = {
    "processes.py",
    "training/parallel.py",
    "training/state.py",
}
DISTRIBUTED = re.compile(r"torch\.distributed|from torch import .*\bdistributed\b")


def source_files() -> dict[str, str]:
    paths = sorted(SOURCE.rglob("*.py"))
    return {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def called_names(text: str) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return {ast.unparse(call.func) for call in calls}


def test_the_sweep_finds_the_package():
    assert len(source_files()) > 30


def test_importing_valor_takes_no_heavy_package():
    code = "import sys, valor; print(*sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


@pytest.mark.parametrize("name", valor.__all__)
def test_every_public_name_resolves(name: str):
    assert getattr(valor, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        valor.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_only_three_files_mention_torch_distributed():
    mentioning = {name for name, text in source_files().items() if DISTRIBUTED.search(text)}
    assert mentioning == DISTRIBUTED_FILES


def test_search_and_evaluation_know_models_by_their_protocols_alone():
    """Beside these there is the one similarity, and `load` for a library that knows its model."""
    pattern = re.compile(r"(?:from|import) (valor\.(?:models|checkpoints|inference)[.\w]*)")
    sources = {n: t for n, t in source_files().items() if n.startswith(("search/", "evaluation/"))}
    imported = {name for text in sources.values() for name in pattern.findall(text)}
    assert imported == {"valor.models.fusion", "valor.inference"}
    assert not any("VideoModel" in text for text in sources.values())


def test_only_the_command_line_prints_or_exits():
    outside = {name: called_names(text) for name, text in source_files().items()}
    offending = {
        name: calls & {"print", "exit", "sys.exit"}
        for name, calls in outside.items()
        if not name.startswith("cli/") and calls & {"print", "exit", "sys.exit"}
    }
    assert offending == {}
