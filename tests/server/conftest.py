"""A store of rendered videos, and a running server of it."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from valor.data.building.annotations import AnnotationStore
from valor.data.manifest import read_manifest, write_manifest
from valor.server.annotate import create_app
from valor.server.web import listen


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
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(store: AnnotationStore, **options: Any) -> str:
        socket = listen("127.0.0.1", 0)
        app = create_app(store, **options)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{socket.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()
