"""The page on which people write captions and check those of others.

Entry point: `create_app`. Whatever is done goes to the store at once. The only files that are ever
served are the page's own and the media of the store's items, which are asked for by number.
"""

import dataclasses
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from pydantic import BaseModel, StringConstraints

from valor.data.building.agreement import report
from valor.data.building.annotations import Action, AnnotationStore, Task
from valor.data.sources.media import content_of, is_media
from valor.errors import MediaError
from valor.media.probe import probe
from valor.server import problems
from valor.server.guard import TOKEN_COOKIE, Guard, GuardConfig
from valor.server.metrics import Metrics
from valor.types import AUDIOVISUAL, Modality

_STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("annotate.js", "annotate.css", "style.css")
_OPEN_PATHS = ("/", *(f"/static/{name}" for name in _SCRIPTS))
_FRESH = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_PAGE = {
    **_FRESH,
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:",
    "Referrer-Policy": "no-referrer",
}
_KINDS = {AUDIOVISUAL: "video", Modality.AUDIO: "audio", Modality.VISION: "image"}
_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-([1-9]\d*))")

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]


class Wish(BaseModel):
    """Someone who looks for work."""

    annotator: Name
    role: Literal["write", "check"]


class Deed(BaseModel):
    """What someone did to a caption; `text` is the caption or the reason."""

    annotator: Name
    action: Action
    text: Annotated[str, StringConstraints(max_length=5000)] = ""


def create_app(
    store: AnnotationStore,
    *,
    guard: GuardConfig | None = None,
    concepts: Sequence[str] | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        store: With the items to be described.
        guard: Who is answered; without a token the page asks for it, and gets nothing else.
        concepts: Audio concepts that the report counts.

    Returns:
        An ASGI application.
    """
    app = FastAPI(title="valor annotate", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.guard = guard = replace(guard or GuardConfig(), open_paths=_OPEN_PATHS)
    problems.install(app)
    app.include_router(_page(guard.token))
    app.include_router(_api(store, concepts))
    app.add_middleware(Guard, config=guard, metrics=Metrics())
    return app


def _page(token: str | None) -> APIRouter:
    router = APIRouter()

    @router.get("/")
    def page(request: Request) -> Response:
        """The page; with the right token in its address, that token becomes a cookie."""
        if token is None or request.query_params.get("token") != token:
            return FileResponse(_STATIC / "annotate.html", headers=_PAGE)
        known = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        known.set_cookie(TOKEN_COOKIE, token, httponly=True, samesite="strict")
        return known

    @router.get("/static/{name}")
    def script(name: str) -> FileResponse:
        if name not in _SCRIPTS:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no file {name!r}")
        return FileResponse(_STATIC / name, headers=_FRESH)

    return router


def _api(store: AnnotationStore, concepts: Sequence[str] | None) -> APIRouter:
    router = APIRouter()

    @router.post("/api/tasks")
    def take(wish: Wish) -> dict[str, Any]:
        """The next thing to do, or null."""
        task = store.take(wish.annotator, wish.role)
        return {"task": task and _shown(task), "lease_s": store.lease_s}

    @router.post("/api/captions/{slot}")
    def act(slot: int, deed: Deed) -> dict[str, Any]:
        """Write, accept, return, skip, or go on holding a caption."""
        return dataclasses.asdict(store.act(deed.annotator, deed.action, slot, deed.text))

    @router.get("/api/progress")
    def progress(annotator: Name) -> dict[str, int]:
        """Captions by state, and those that wait for their writer."""
        return {**store.counts(), "returned_to_me": store.num_returned_to(annotator)}

    @router.get("/api/report")
    def numbers() -> dict[str, Any]:
        """Agreement and audio concepts of what was accepted."""
        return dataclasses.asdict(report(store, concepts))

    @router.api_route("/media/{item}", methods=["GET", "HEAD"])
    def media(item: int, request: Request) -> FileResponse:
        """The file of an item, or the range of its bytes that is asked for."""
        record = store.record(item)
        path = Path(record.media) if record else None
        if path is None or not is_media(path.name) or not path.is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND, f"item {item} has no media file here")
        _check_range(request, path.stat().st_size)
        return FileResponse(path, media_type=_media_type(path), headers=_FRESH)

    return router


def _check_range(request: Request, size: int) -> None:
    """Refuse what cannot be served, as every other error is; one range at a time is enough."""
    wanted = request.headers.get("range")
    match = _RANGE.fullmatch(wanted) if wanted else None
    first, last = (match[1], match[2]) if match else (None, None)
    is_backward = bool(first and last and int(first) > int(last))
    if wanted and (not match or is_backward or int(first or 0) >= size):
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"Range {wanted!r}, expected one such as bytes=0-99 within {size} bytes",
            {"Content-Range": f"bytes */{size}"},
        )


def _media_type(path: Path) -> str:
    kind = _KINDS[content_of(path.name)]
    known = mimetypes.guess_type(path.name)[0] or ""
    return known if known.startswith(kind) else f"{kind}/{path.suffix[1:].lower()}"


def _shown(task: Task) -> dict[str, Any]:
    """A task as the page needs it."""
    record, slot = task.record, task.slot
    try:
        info = probe(record.media)
    except MediaError:  # The page says itself that it cannot play the file.
        info = None
    return {
        "slot": slot.number,
        "id": record.id,
        "media": f"/media/{slot.item}",
        "kind": _KINDS[content_of(record.media)] if is_media(record.media) else "video",
        "has_sound": info and info.has_audio,
        "start_s": record.start_s,
        "end_s": record.end_s,
        "source": record.source,
        "hints": task.hints,
        "drafts": [
            {"text": c.text, "about": c.about.label, "style": c.style} for c in record.captions
        ],
        "text": slot.text,
        "writer": slot.writer,
        "checker": slot.checker,
        "reason": slot.reason,
    }
