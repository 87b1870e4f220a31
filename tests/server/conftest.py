"""Running servers: of a store of rendered videos, and of a library of them."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.running import Served, Teller, running, write_other_formats
from valor.data.building.annotations import AnnotationStore
from valor.data.manifest import read_manifest, write_manifest
from valor.inference import load
from valor.search.library import Library
from valor.server import app
from valor.server.annotate import create_app
from valor.server.guard import GuardConfig

MAX_UPLOAD_BYTES = 2 << 20


@pytest.fixture
def manifest(world: Path, tmp_path: Path) -> Path:
    """Two rendered videos, the first only from 0.5 s to 1.5 s, with hints."""
    first, second = read_manifest(world, split="test")[:2]
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, [first, second])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"start_s": 0.5, "end_s": 1.5, "extra": {"hints": ["Bell", "Music"]}}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def store(tmp_path: Path, manifest: Path) -> Iterator[AnnotationStore]:
    """The store of these two."""
    store = AnnotationStore(tmp_path / "store.sqlite")
    store.add(manifest)
    yield store
    store.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., str]]:
    """Starts servers on free ports, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(store: AnnotationStore, *, token: str | None = None, **options: Any) -> str:
            page = create_app(store, guard=GuardConfig(token=token), **options)
            return str(stack.enter_context(running(page)).base_url)

        yield start


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Any:
    return load(model_folder)


@pytest.fixture(scope="session")
def describer(model: Any) -> Teller:
    return Teller(model)


@pytest.fixture(scope="session")
def indexed(
    world: Path, model: Any, describer: Teller, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with `library` and `media`: videos, a sound, and a video that no browser plays."""
    folder = tmp_path_factory.mktemp("indexed")
    media = folder / "media"
    media.mkdir()
    for number in range(8):
        shutil.copy(world / f"media/test-{number:06d}.mp4", media)
    write_other_formats(media)
    Library(folder / "library", model=model).add(media, describer=describer)
    return folder


@pytest.fixture(scope="module")  # While it runs, nothing is decoded in this process.
def served(indexed: Path, model: Any, describer: Teller) -> Iterator[Served]:
    guard = GuardConfig(max_upload_bytes=MAX_UPLOAD_BYTES)
    served_app = app.create_app(indexed / "library", model, describer=describer, guard=guard)
    with running(served_app) as client:
        yield Served(client, served_app, indexed / "media")
