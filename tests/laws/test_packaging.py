"""What is built holds what is needed, and `python -m valor` is `valor`."""

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import valor

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/valor"
OTHERS = "tests/data/annotations/"
"""Excerpts of files that are not all ours to give on; see NOTICE."""
BUILD = "import sys; from hatchling.build import {0}; print({0}(sys.argv[1]))"


def build(hook: str, folder: Path) -> Path:
    words = [sys.executable, "-c", BUILD.format(hook), str(folder)]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return folder / built.stdout.splitlines()[-1]


def needed() -> set[str]:
    """Every file of the package."""
    files = (
        path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {f"valor/{path.relative_to(SOURCE).as_posix()}" for path in files}


@pytest.mark.skipif(not importlib.util.find_spec("hatchling"), reason="needs hatchling")
def test_the_wheel_holds_every_file_of_the_package_and_no_other(tmp_path: Path):
    with zipfile.ZipFile(build("build_wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
    assert {name for name in names if name.startswith("valor/")} == needed()
    assert {"valor/py.typed", "valor/server/static/index.html"} <= names
    others = {name.partition("/")[0] for name in names} - {"valor"}
    assert others == {f"valor_omni-{valor.__version__}.dist-info"}
    assert any(name.endswith("licenses/NOTICE") for name in names)


@pytest.mark.skipif(not importlib.util.find_spec("hatchling"), reason="needs hatchling")
def test_the_source_archive_holds_package_tests_and_docs(tmp_path: Path):
    with tarfile.open(build("build_sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in needed()} <= names
    assert {"README.md", "LICENSE", "Makefile", "constraints.txt", "docs/index.md"} <= names
    assert {"pyproject.toml", "tests/tiny.py", "examples/caption_to_csv.py"} <= names
    assert not any(name.startswith(("runs/", ".venv/", OTHERS)) for name in names)


def test_the_package_runs_as_a_module():
    words = [sys.executable, "-m", "valor", "--version"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == valor.__version__
