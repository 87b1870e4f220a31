"""Errors as RFC 9457 problem details, each with one clear status.

Status | what happened
--- | ---
400 | a request that is no HTTP, or breaks off
401 | no token, or a wrong one, where one is needed
403 | a path outside the library's roots; a request that another site's page makes
404 | no such route, file, upload or job; every attempt to climb out of a path
408 | the client sends too slowly
409 | what the library, model or annotator cannot do, such as captions without a describer
413 | a body, or an upload's duration, over the limit
415 | an upload whose type is none of sound, picture and video, or that is compressed in transit
416 | a range outside the file
421 | a request for another host's name (DNS rebinding)
422 | wrong fields; media that cannot be decoded: damaged, lying headers, decompression bombs
429 | the queue is full; `Retry-After` says when to come back
431 | a head of the request over the limit
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from valor.errors import AnnotationError, LibraryError, MediaError, ModelError, ValorError
from valor.server.batching import BusyError, LeftError

CONTENT_TYPE = "application/problem+json"
CLIENT_LEFT = 499
"""As others log it; nobody is there to read it."""


class Problem(HTTPException):
    """An error with its own status.

    Args:
        status: HTTP status.
        detail: What is wrong with this request, and what to do about it.
        headers: More headers.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


def response(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """Write a problem.

    Args:
        status: HTTP status.
        detail: What is wrong, in a sentence.
        headers: More headers.
        **members: More members of the object, such as the `reason` of a media error.

    Returns:
        An `application/problem+json` response.
    """
    title = HTTPStatus(status).phrase if status != CLIENT_LEFT else "Client Closed Request"
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(problem | members, status, headers=headers, media_type=CONTENT_TYPE)


def of_error(error: ValorError) -> tuple[int, dict[str, Any]]:
    """Return status and more members of an error that the input is to blame for."""
    if isinstance(error, MediaError):
        return 422, {"reason": error.reason}
    return (409 if isinstance(error, LibraryError | ModelError | AnnotationError) else 422), {}


def detail_of(error: ValorError) -> str:
    """What to tell a client: of a file its name, never where it lies."""
    if isinstance(error, MediaError):
        return f"{error.path.rpartition('/')[2]}: {error.detail}"
    return str(error)


def install(app: FastAPI) -> None:
    """Let every error of an app be answered by a problem."""

    async def plain(request: Request, error: HTTPException) -> Response:
        return response(error.status_code, str(error.detail), headers=error.headers)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        wrong = [
            {"where": ".".join(map(str, one["loc"])), "problem": one["msg"]}
            for one in error.errors()
        ]
        first = f"{wrong[0]['where']}: {wrong[0]['problem']}"
        return response(422, first, errors=wrong)

    async def ours(request: Request, error: ValorError) -> Response:
        status, members = of_error(error)
        return response(status, detail_of(error), **members)

    async def busy(request: Request, error: BusyError) -> Response:
        return response(429, str(error), headers={"Retry-After": f"{error.retry_after_s:.0f}"})

    async def left(request: Request, error: LeftError) -> Response:
        return response(CLIENT_LEFT, "the client has left")

    async def bug(request: Request, error: Exception) -> Response:
        return response(500, "an error of the server; its log has more")

    handlers: dict[type[Exception], Any] = {
        HTTPException: plain,
        RequestValidationError: invalid,
        ValorError: ours,
        BusyError: busy,
        LeftError: left,
        Exception: bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
