"""Who may ask a server that stands behind a proxy."""

import asyncio

import pytest

from valor.errors import UsageError
from valor.server.guard import Guard, GuardConfig
from valor.server.metrics import Metrics

NAMED = GuardConfig(token="secret", names=("videos.example.org",))


def status(host: str, origin: str | None = None) -> int:
    """How a search with the token is answered."""
    sent: list = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message) -> None:
        sent.append(message)

    headers = [(b"host", host.encode()), (b"authorization", b"Bearer secret")]
    headers += [(b"origin", origin.encode())] if origin else []
    scope = {"type": "http", "method": "POST", "path": "/search", "headers": headers}
    guard = Guard(app, config=NAMED, metrics=Metrics())
    asyncio.run(guard(scope | {"query_string": b""}, None, send))
    return sent[0]["status"]


def test_a_proxy_may_ask_by_the_names_that_the_server_was_told():
    assert status("videos.example.org", "https://videos.example.org") == 200
    assert status("localhost:7860") == 200
    assert status("evil.example.org") == 421
    assert status("videos.example.org", "https://evil.example.org") == 403


def test_a_name_for_others_needs_a_token():
    with pytest.raises(UsageError, match="--token"):
        GuardConfig(names=("videos.example.org",))
