"""An application on a socket, until the process is told to end."""

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI

from valor.errors import ValorError
from valor.server.guard import GuardedProtocol

_SHUTDOWN_S = 15
_MAX_CONNECTIONS = 512
_LAST_PORT = 65535


class _Server(uvicorn.Server):
    """Listens from the start, and tells when it is ready."""

    def __init__(
        self, config: uvicorn.Config, listening: socket.socket, ready: Callable[[int], object]
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._ready = ready

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on its socket until it is told to end."""
        super().run(sockets or [self._listening])

    async def startup(self, sockets: Any = None) -> None:
        """Start, then call back."""
        await super().startup(sockets)
        if self.started:
            self._ready(self._listening.getsockname()[1])


def make_server(app: FastAPI, *, port: int, ready: Callable[[int], object]) -> uvicorn.Server:
    """Prepare to serve; `run` on what comes back serves until SIGINT, SIGTERM or `should_exit`.

    Requests that run when it ends are finished first, for some seconds.

    Args:
        app: Whose `state.guard` says where to listen.
        port: Where to listen; 0 takes a free one.
        ready: Called with the port once clients can connect.

    Returns:
        The server.

    Raises:
        ValorError: If nobody can listen there.
    """
    host = app.state.guard.host
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        log_level="warning",
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    return _Server(config, _listen(host, port), ready)


def page_address(host: str, port: int, token: str | None) -> str:
    """Where a browser finds the page; a token comes along once, and is then kept in a cookie."""
    name = f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?token={quote(token)}"
    return f"http://{name}:{port}/{query}"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= _LAST_PORT:
        raise ValorError(f"port {port} is none; give one up to {_LAST_PORT}, 0 for any free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValorError(f"cannot listen on {host}:{port} ({reason}); give --port 0") from None
