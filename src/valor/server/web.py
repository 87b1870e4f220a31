"""What every page needs: errors as problem details, who may ask, and a socket to listen on."""

import ipaddress
import secrets
import socket
from collections.abc import Callable
from http import HTTPStatus

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from valor.errors import ValorError

TOKEN_COOKIE = "valor_token"


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as a problem detail (RFC 9457)."""
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Let every error of an app be answered by a problem detail; a `ValorError` is a conflict."""

    @app.exception_handler(AnyHTTPException)
    def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "request"
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {first['msg']}")

    @app.exception_handler(ValorError)
    def impossible(request: Request, error: ValorError) -> JSONResponse:
        return problem(HTTPStatus.CONFLICT, str(error))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__} in the server")


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a host of this name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard(token: str | None) -> Callable[[Request], None]:
    """A dependency of routes that refuses whoever may not ask.

    Args:
        token: Asked for in the cookie or as a bearer; without one, only this machine may ask, and
            only by a loopback name, so that no page of the web can under another.

    Returns:
        A function that raises `HTTPException`.
    """

    def check(request: Request) -> None:
        if token is None:
            if not is_loopback(request.url.hostname or ""):
                raise HTTPException(HTTPStatus.FORBIDDEN, "only this machine may ask; give a token")
        elif not is_token(request, token):
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: open the address that the server printed",
                {"WWW-Authenticate": "Bearer"},
            )

    return check


def is_token(request: Request, token: str) -> bool:
    """True if a request carries the token: in its address, as a bearer or in the cookie."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    given = request.query_params.get("token") or bearer or request.cookies.get(TOKEN_COOKIE, "")
    return secrets.compare_digest(given.encode(), token.encode())


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free. A `ValorError` if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValorError(f"cannot listen on {host}:{port} ({reason}); give --port 0") from None


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer requests on a socket until the process is interrupted."""
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
