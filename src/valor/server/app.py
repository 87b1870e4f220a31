"""The application: one library, its model, and everything that clients may ask of them.

Requests for the model go through `batching.Entrance`; every file is decoded in a child process
(`sandbox`).
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import valor
from valor.media.isolation import isolate
from valor.search.library import Library
from valor.server import problems, routes
from valor.server.batching import BatchedModel, Entrance
from valor.server.guard import Guard, GuardConfig
from valor.server.jobs import Jobs
from valor.server.media import MediaFiles, Views
from valor.server.metrics import Metrics
from valor.server.sandbox import Limits, Sandbox
from valor.server.service import Service
from valor.server.uploads import Uploads

STATIC = Path(__file__).parent / "static"


def create_app(
    library: str | Path,
    model: Any,
    *,
    describer: Any = None,
    roots: Sequence[Path] = (),
    guard: GuardConfig | None = None,
    limits: Limits | None = None,
    max_waiting: int = 64,
) -> FastAPI:
    """Put the application together.

    Args:
        library: Folder of a library; made if needed.
        model: Embeds; must be the one that built the library.
        describer: Captions and answers; None if nothing does.
        roots: Folders that may be indexed and served; by default those of the library's files.
        guard: Limits of requests, and the token.
        limits: Of every decoding.
        max_waiting: Requests for the model, running or in line; more are refused with 429.

    Returns:
        An ASGI application; its processes start and end with its lifespan.

    Raises:
        LibraryError: If there is something wrong with the library, or the model is another.
        UsageError: If other machines could reach it without a token.
    """
    guard = guard or GuardConfig()
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batched = BatchedModel(model, describer, metrics)
        app.state.sandbox = Sandbox(limits)
        app.state.entrance = Entrance(metrics, max_waiting=max_waiting)
        app.state.jobs = Jobs(metrics)
        try:
            with tempfile.TemporaryDirectory(prefix="valor-") as scratch:
                app.state.service = _service(Path(library), batched, roots, Path(scratch))
                with isolate(app.state.sandbox):
                    yield
                    await asyncio.to_thread(app.state.jobs.close)
        finally:
            batched.close()
            app.state.sandbox.close()

    return _routed(lifespan, guard, metrics)


def _routed(lifespan: Any, guard: GuardConfig, metrics: Metrics) -> FastAPI:
    app = FastAPI(
        title="valor",
        summary="Search, caption and question audible video",
        version=valor.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": routes.PROBLEM},
    )
    app.state.metrics = metrics
    app.state.guard = guard
    problems.install(app)
    app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Guard, config=guard, metrics=metrics)
    return app


def _service(library: Path, model: BatchedModel, roots: Sequence[Path], scratch: Path) -> Service:
    folders = {name: scratch / name for name in ("uploads", "previews")}
    for folder in folders.values():
        folder.mkdir(mode=0o700)
    opened = Library(library, model=model)
    return Service(
        opened,
        model,
        files=MediaFiles(opened, roots),
        views=Views(folders["previews"]),
        uploads=Uploads(folders["uploads"]),
    )
