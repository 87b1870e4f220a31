"""Annotation files and stand-ins for their media."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from valor.data.sources.formats import Imported, import_records

ANNOTATIONS = Path(__file__).parent / "annotations"
collect_ignore_glob = [] if ANNOTATIONS.is_dir() else ["test_sources_*.py"]
"""The source archive leaves out the excerpts of others' files."""


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file: a text, or anything else as JSON."""

    def put(name: str, content: Any = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return path

    return put


@pytest.fixture
def load(tmp_path: Path, put: Callable[..., Path]) -> Callable[..., Imported]:
    """Imports annotations: paths, or names of real excerpts. The media are empty files."""

    def load(format: str, *files: str | Path, media: str = "", **options: Any) -> Imported:
        for name in media.split():
            put(f"media/{name}")
        paths = [ANNOTATIONS / file if isinstance(file, str) else file for file in files]
        return import_records(format, paths, tmp_path / "media", **options)

    return load
