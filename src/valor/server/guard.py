"""What every request passes before any route sees it: who asks, how much, and how slowly.

`Guard` is plain ASGI, so that streams and disconnects go through untouched. `GuardedProtocol` ends
connections whose head of a request does not come in time, which uvicorn would keep for ever.
"""

import asyncio
import hmac
import ipaddress
import time
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from valor.config import configclass
from valor.errors import UsageError
from valor.server.metrics import Metrics
from valor.server.problems import Problem, response

TOKEN_COOKIE = "valor_token"
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a host of this name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@configclass
class GuardConfig:
    """Limits of requests."""

    host: str = "127.0.0.1"
    """Where the server listens."""
    token: str | None = None
    """Needed by every client if there is one."""
    names: tuple[str, ...] = ()
    """By which a proxy on this machine may ask, beside this machine's own."""
    open_paths: tuple[str, ...] = ("/healthz",)
    """Need no token."""
    max_body_bytes: int = 1 << 20
    """Of all requests but uploads."""
    max_upload_bytes: int = 256 << 20
    """Of one uploaded file."""
    chunk_timeout_s: float = 10.0
    """Within this, a client has to go on sending."""
    body_timeout_s: float = 300.0
    """Within this, a body has to be there."""

    def __post_init__(self) -> None:
        """Refuse to let other machines in without a token."""
        if not self.is_loopback and not self.token:
            raise UsageError(f"host {self.host} can be reached by others; give a --token")
        if self.names and not self.token:
            raise UsageError(f"others can ask for {self.names[0]}; give a --token")

    @property
    def is_loopback(self) -> bool:
        """True if only programs of this machine can ask."""
        return is_loopback(self.host)


class Guard:
    """ASGI middleware that refuses requests with a problem, and counts all of them.

    Args:
        app: What is guarded.
        config: Limits.
        metrics: Gets times and statuses.
    """

    def __init__(self, app: ASGIApp, *, config: GuardConfig, metrics: Metrics) -> None:
        self._app = app
        self._config = config
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin_s = time.monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        body = _Body(receive, self._config, self._body_limit(scope))
        try:
            self._check(scope, body)
            await self._app(scope, body.receive, answer)
        except Problem as problem:
            if status:
                raise
            refusal = response(problem.status_code, problem.detail, headers=problem.headers)
            await refusal(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count("requests_total", route=route, status=str(status))
            self._metrics.observe("request_seconds", time.monotonic() - begin_s, route=route)

    def _body_limit(self, scope: Scope) -> int:
        config = self._config
        return config.max_upload_bytes if scope["path"] == "/uploads" else config.max_body_bytes

    def _check(self, scope: Scope, body: "_Body") -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        self._check_origin(scope, headers)
        if scope["path"] not in self._config.open_paths:
            self._check_token(scope, headers)
        if headers.get("content-encoding", "identity") != "identity":
            raise Problem(415, "a compressed body is not accepted; send it as it is")
        length = headers.get("content-length")
        if length is not None and length.isdigit() and int(length) > body.limit:
            raise body.too_large()

    def _check_host(self, headers: Headers) -> None:
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        is_known = is_loopback(name) or name in self._config.names
        if self._config.is_loopback and not is_known:
            raise Problem(421, f"this is no server of {name!r}; ask for localhost")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        is_ours = origin is None or urlsplit(origin).netloc == headers.get("host")
        if not is_ours and scope["method"] not in _SAFE_METHODS:
            raise Problem(403, f"pages of {origin} may not ask this server")

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        token = self._config.token
        if token is None:
            return
        cookie = SimpleCookie(headers.get("cookie", "")).get(TOKEN_COOKIE)
        query = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        given = (headers.get("authorization", "").removeprefix("Bearer "), query[0])
        given += (cookie.value if cookie else "",)
        if not any(hmac.compare_digest(one.encode(), token.encode()) for one in given):
            hint = "needs the token that the server was started with, as `Authorization: Bearer`"
            raise Problem(401, hint, {"WWW-Authenticate": "Bearer"})


class _Body:
    """A request's body that must be small enough and arrive in time."""

    def __init__(self, receive: Receive, config: GuardConfig, limit: int) -> None:
        self.limit = limit
        self._receive = receive
        self._config = config
        self._num_bytes = 0
        self._is_complete = False
        self._deadline_s = time.monotonic() + config.body_timeout_s

    async def receive(self) -> Message:
        """The next message; raises `Problem` for a client that sends too much or too slowly."""
        if self._is_complete:
            return await self._receive()
        left_s = self._deadline_s - time.monotonic()
        try:
            wait_s = max(0.0, min(self._config.chunk_timeout_s, left_s))
            message = await asyncio.wait_for(self._receive(), wait_s)
        except TimeoutError:
            raise Problem(408, "the request comes too slowly", {"Connection": "close"}) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self.limit:
            raise self.too_large()
        self._is_complete = not message.get("more_body", False)
        return message

    def too_large(self) -> Problem:
        """What a body over the limit is answered with."""
        detail = f"the body is larger than {self.limit} bytes"
        return Problem(413, detail, {"Connection": "close"})


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 whose requests must begin in time."""

    head_timeout_s = 15.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take a piece; if a head is still incomplete after it, the clock runs on."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None and self.conn.trailing_data[0]:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()
