"""The routes. See `schemas` for what they take and give, `problems` for their errors."""

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, StreamingResponse

import valor
from valor.errors import ValorError
from valor.server import problems, schemas
from valor.server.batching import BusyError, Entrance, told, unless_left
from valor.server.guard import TOKEN_COOKIE
from valor.server.jobs import Job, Jobs
from valor.server.media import PREVIEW_S
from valor.server.problems import Problem
from valor.server.service import Service, joined

T = TypeVar("T")

PROBLEM: dict[str, Any] = {
    "description": "RFC 9457 problem",
    "content": {problems.CONTENT_TYPE: {"schema": schemas.Problem.model_json_schema()}},
}
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
_PAGE = Path(__file__).parent / "static" / "index.html"
_KEEP = {"Cache-Control": "private, max-age=3600"}
_TYPES = {".mkv": "video/x-matroska", ".m4v": "video/mp4", ".opus": "audio/ogg"}

router = APIRouter()


def _service(request: Request) -> Service:
    return request.app.state.service


def _jobs(request: Request) -> Jobs:
    return request.app.state.jobs


ServiceOf = Annotated[Service, Depends(_service)]
JobsOf = Annotated[Jobs, Depends(_jobs)]


async def _in_line(request: Request, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a function that needs the model or a decoder, as long as the client waits for it."""
    entrance: Entrance = request.app.state.entrance
    with entrance.admit() as ticket:
        work = entrance.run(ticket, function, *args, **kwargs)
        return await unless_left(request.receive, ticket, work)


@router.get("/", include_in_schema=False)
def page(request: Request) -> Response:
    """The page; an address with the token leaves it in a cookie, for pictures and videos."""
    response = HTMLResponse(
        _PAGE.read_text(encoding="utf-8"), headers={"Cache-Control": "no-cache"}
    )
    token = request.query_params.get("token")
    if token is not None and token == request.app.state.guard.token:
        response = Response(status_code=303, headers={"Location": "/"})
        response.set_cookie(TOKEN_COOKIE, token, httponly=True, samesite="strict")
    return response


@router.get("/healthz", tags=["state"])
def health() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ok", "version": valor.__version__}


@router.get("/metrics", tags=["state"], response_class=PlainTextResponse)
def metrics(request: Request) -> PlainTextResponse:
    """Figures for Prometheus."""
    state = request.app.state
    state.metrics.set("decoder_deaths", state.sandbox.num_deaths)
    return PlainTextResponse(state.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/library", tags=["state"])
async def library(request: Request, service: ServiceOf) -> schemas.LibraryResponse:
    """What is in the library, and what can be done with it."""

    def look() -> schemas.LibraryResponse:
        return schemas.LibraryResponse(
            name=service.library.path.name,
            fingerprint=service.library.fingerprint,
            num_files=len(service.files.paths()),
            num_segments=len(service.library),
            segment_s=service.model.segment_s,
            describes=service.model.describes,
            roots=[root.name for root in service.files.roots],
            examples=service.examples(),
            max_upload_bytes=request.app.state.guard.max_upload_bytes,
            version=valor.__version__,
        )

    return await _in_line(request, look)


@router.post("/search", tags=["search"])
async def search(
    request: Request, body: schemas.SearchRequest, service: ServiceOf
) -> schemas.SearchResponse:
    """Find moments by text, by a sound, picture or video, by another segment, or by two of them."""
    hits, took_ms = await _in_line(request, service.timed_search, body)
    return schemas.SearchResponse(hits=hits, took_ms=took_ms)


@router.post(
    "/uploads",
    tags=["search"],
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                f"{kind}/*": {"schema": {"type": "string", "format": "binary"}}
                for kind in ("audio", "image", "video")
            },
        }
    },
)
async def upload(request: Request, service: ServiceOf) -> schemas.UploadResponse:
    """Send a sound, picture or video as the body, to search by it or have it described."""
    said = request.headers.get("content-type", "")
    kept = await service.uploads.receive(said, request.stream())
    request.app.state.metrics.count("upload_bytes", kept.num_bytes)
    return schemas.UploadResponse(
        upload=kept.id,
        kind=kept.kind,  # type: ignore[arg-type]
        duration_s=kept.info.duration_s,
        has_audio=kept.info.has_audio,
        num_bytes=kept.num_bytes,
    )


@router.post("/caption", tags=["describe"], responses={200: {"content": _EVENTS}})
async def caption(
    request: Request, body: schemas.DescribeRequest, service: ServiceOf
) -> schemas.DescribeResponse:
    """Describe a file or a part of it by what is seen and heard."""
    return await _describe(request, body, service, None)


@router.post("/ask", tags=["describe"], responses={200: {"content": _EVENTS}})
async def ask(
    request: Request, body: schemas.AskRequest, service: ServiceOf
) -> schemas.DescribeResponse:
    """Answer a question about a file or a part of it."""
    return await _describe(request, body, service, body.question)


async def _describe(
    request: Request, body: schemas.DescribeRequest, service: Service, question: str | None
) -> Any:
    path, parts = await _in_line(request, service.source, body)
    say = partial(service.say, path, using=body.using, question=question)
    if body.stream:
        events = _events(request.app.state.entrance, say, parts, is_answer=question is not None)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )
    said = [await _in_line(request, say, part=part) for part in parts]
    return joined(said, is_answer=question is not None)


async def _events(
    entrance: Entrance,
    say: Callable[..., schemas.Said],
    parts: list[tuple[float, float]],
    *,
    is_answer: bool,
) -> AsyncIterator[str]:
    """Server-sent events, or `problem`: `text` after every word, `part`, and `done` with it all."""
    said: list[schemas.Said] = []
    try:
        with entrance.admit() as ticket:
            for number, part in enumerate(parts, start=1):
                place = {"of": len(parts), "number": number, "start_s": part[0]}
                work = partial(entrance.run, ticket, say, part=part)
                async for text in told(ticket, work):
                    if isinstance(text, schemas.Said):
                        said.append(text)
                        yield _event("part", text.model_dump() | place)
                    else:
                        members = {"text": text.text, "modalities_used": text.modalities_used.label}
                        yield _event("text", members | place)
        yield _event("done", joined(said, is_answer=is_answer).model_dump())
    except BusyError as error:
        yield _event("problem", {"status": 429, "detail": str(error)})
    except ValorError as error:
        status, members = problems.of_error(error)
        detail = problems.detail_of(error)
        yield _event("problem", {"status": status, "detail": detail, **members})


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@router.get("/media/{media}", tags=["media"], response_class=FileResponse)
@router.head("/media/{media}", include_in_schema=False)
def media_file(media: str, service: ServiceOf) -> FileResponse:
    """The file as it is; understands ranges."""
    path = service.files.find(media)
    kind = _TYPES.get(path.suffix.lower())
    return FileResponse(path, media_type=kind, headers={"Cache-Control": "private, no-cache"})


@router.get("/media/{media}/info", tags=["media"])
async def media_info(request: Request, media: str, service: ServiceOf) -> schemas.MediaResponse:
    """What a player needs to know."""
    path, known = await _in_line(request, service.look_at, media)
    info = known.info
    return schemas.MediaResponse(
        media=media,
        name=path.name,
        path=service.shown(path),
        duration_s=info.duration_s,
        has_video=info.has_video,
        has_audio=info.has_audio,
        is_image=info.is_image,
        width=info.width,
        height=info.height,
        fps=info.fps,
        is_playable=known.is_playable,
        preview_part_s=PREVIEW_S,
    )


@router.get(
    "/media/{media}/poster", tags=["media"], responses={200: {"content": {"image/jpeg": {}}}}
)
async def poster(
    request: Request,
    media: str,
    service: ServiceOf,
    at_s: Annotated[float, Query(ge=0, le=1e6)] = 0.0,
    side_px: Annotated[int, Query(ge=16, le=1280)] = 480,
) -> Response:
    """One frame as a JPEG."""
    jpeg = await _in_line(request, service.poster, media, at_s=at_s, side_px=side_px)
    return Response(jpeg, media_type="image/jpeg", headers=_KEEP)


@router.get("/media/{media}/sound", tags=["media"], responses={200: {"content": {"image/png": {}}}})
async def sound(
    request: Request,
    media: str,
    service: ServiceOf,
    start_s: Annotated[float, Query(ge=0, le=1e6)] = 0.0,
    end_s: Annotated[float, Query(ge=0, le=1e6)] = 30.0,
    width: Annotated[int, Query(ge=16, le=2048)] = 960,
    height: Annotated[int, Query(ge=16, le=512)] = 120,
) -> Response:
    """The spectrogram of a stretch as a PNG."""
    stretch = {"start_s": start_s, "end_s": end_s}
    png = await _in_line(request, service.sound, media, **stretch, width=width, height=height)
    return Response(png, media_type="image/png", headers=_KEEP)


@router.get("/media/{media}/preview", tags=["media"], response_class=FileResponse)
async def preview(
    request: Request,
    media: str,
    service: ServiceOf,
    part: Annotated[int, Query(ge=0, le=100_000)] = 0,
) -> FileResponse:
    """A part of the file as H.264 and AAC, for what a browser cannot play."""
    made = await _in_line(request, service.preview, media, part)
    return FileResponse(made, media_type="video/mp4", headers=_KEEP)


@router.get("/jobs", tags=["jobs"])
def list_jobs(jobs: JobsOf) -> list[schemas.JobResponse]:
    """The jobs, the latest first."""
    return [_job(job) for job in jobs.all()]


@router.post("/jobs", tags=["jobs"], status_code=202)
def start_job(body: schemas.JobRequest, jobs: JobsOf, service: ServiceOf) -> schemas.JobResponse:
    """Index folders or caption a recording, in the background."""
    if isinstance(body, schemas.CaptionJob):
        path = service.files.find(body.media)
        job = Job(kind="caption", title=path.name)
        return _job(jobs.add(job, partial(service.caption_all, path=path, using=body.using)))
    paths = [service.files.inside(path) for path in body.paths] or service.files.roots
    if not paths:
        raise Problem(409, "no folder may be indexed yet; start the server with --root FOLDER")
    job = Job(kind="index", title=", ".join(path.name for path in paths)[:200])
    return _job(jobs.add(job, partial(service.index, paths=paths, describe=body.describe)))


@router.get("/jobs/{job}", tags=["jobs"])
def show_job(job: str, jobs: JobsOf) -> schemas.JobResponse:
    """One job."""
    return _job(_found(jobs, job))


@router.delete("/jobs/{job}", tags=["jobs"], status_code=202)
def stop_job(job: str, jobs: JobsOf) -> schemas.JobResponse:
    """Stop a job; what it has finished stays."""
    found = _found(jobs, job)
    jobs.stop(found)
    return _job(found)


@router.post("/v1/embeddings", tags=["search"])
async def embeddings(
    request: Request, body: schemas.EmbeddingsRequest, service: ServiceOf
) -> schemas.EmbeddingsResponse:
    """Vectors of texts, as OpenAI's clients ask for them."""
    return await _in_line(request, service.embeddings, body)


def _found(jobs: Jobs, name: str) -> Job:
    job = jobs.find(name)
    if job is None:
        raise Problem(404, f"no job {name!r}")
    return job


def _job(job: Job) -> schemas.JobResponse:
    return schemas.JobResponse(
        id=job.id,
        kind=job.kind,
        title=job.title,
        state=job.state,
        done_fraction=job.done_fraction,
        message=job.message,
        elapsed_s=job.elapsed_s,
        left_s=job.left_s,
        result=job.result,
    )
