"""What the server refuses, and with which status."""

import asyncio
import socket
import struct
import zlib
from pathlib import Path

import pytest

from tests.server.conftest import MAX_UPLOAD_BYTES
from tests.server.running import running
from valor.errors import UsageError
from valor.server.app import create_app
from valor.server.guard import Guard, GuardConfig, GuardedProtocol
from valor.server.metrics import Metrics

VIDEO = "test-000003.mp4"
PNG = {"content-type": "image/png"}


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def wav(*, rate_hz: int, claimed_bytes: int) -> bytes:
    """The header of mono samples of 16 bits."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    data = struct.pack("<4sI", b"data", claimed_bytes)
    return struct.pack("<4sI4s", b"RIFF", 36 + claimed_bytes, b"WAVE") + form + data


def raw(served, request: bytes, *, timeout_s: float = 30) -> bytes:
    """Send bytes as they are; returns all that comes back until the server closes."""
    address = (served.client.base_url.host, served.client.base_url.port)
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def upload(served, content, headers):
    response = served.client.post("/uploads", content=content, headers=headers)
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert served.uploads == []
    return response


@pytest.fixture
def no_uploads(served):
    service = served.app.state.service
    for kept in list(service.uploads._kept):
        service.uploads._kept.pop(kept).path.unlink()


@pytest.mark.parametrize(
    "path",
    [
        "/media/../../../etc/passwd",
        "/media/..%2f..%2f..%2fetc%2fpasswd",
        "/media/%2fetc%2fpasswd",
        "/media/%00",
        "/media//etc/passwd",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/../../etc/passwd",
    ],
)
def test_no_path_leads_out(served, path):
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = raw(served, request.encode())
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b"root:" not in answer
    assert b"import " not in answer


def test_a_listed_file_that_became_a_link_out_of_the_roots_is_403(served, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_text("secret")
    listed, kept = served.media / VIDEO, served.media / "kept.mp4"
    media = served.id_of(VIDEO)
    listed.rename(kept)
    try:
        listed.symlink_to(secret)
        answers = [served.client.get(f"/media/{media}{view}") for view in ("", "/info", "/poster")]
    finally:
        listed.unlink()
        kept.rename(listed)
    assert [answer.status_code for answer in answers] == [403] * 3
    assert served.client.get(f"/media/{media}").status_code == 200


def test_a_file_that_the_library_does_not_list_is_404(served):
    assert (served.media / "unlisted.wav").write_bytes(b"RIFF")
    try:
        assert served.client.get("/media/unlisted.wav").status_code == 404
    finally:
        (served.media / "unlisted.wav").unlink()


@pytest.mark.parametrize("path", ["/etc", "../..", "/", "\x00", "a" * 4000])
def test_nothing_outside_of_the_roots_is_indexed(served, path):
    response = served.client.post("/jobs", json={"kind": "index", "paths": [path]})
    assert response.status_code in (403, 404)


def test_a_link_below_a_root_is_not_followed_out_of_it(served, world):
    link = served.media / "link.mp4"
    link.symlink_to(world / "media/test-000005.mp4")
    try:
        job = served.client.post("/jobs", json={"kind": "index"}).json()
        while job["state"] in ("waiting", "running"):
            job = served.client.get(f"/jobs/{job['id']}").json()
    finally:
        link.unlink()
    assert [(bad["path"], bad["reason"]) for bad in job["result"]["bad"]] == [
        ("media/link.mp4", "outside")
    ]
    assert job["result"]["added"] == 0


def test_a_huge_upload_is_413_before_it_is_sent(served, no_uploads):
    length = f"Content-Length: {1 << 40}\r\nContent-Type: audio/wav"
    request = f"POST /uploads HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n"
    assert raw(served, request.encode()).startswith(b"HTTP/1.1 413")
    assert served.uploads == []


def test_an_upload_that_does_not_tell_its_size_is_cut_off_at_the_limit(served, no_uploads):
    def endless():
        for _ in range(MAX_UPLOAD_BYTES // 65536 + 1):
            yield bytes(65536)

    assert upload(served, endless(), {"content-type": "audio/wav"}).status_code == 413


def test_a_huge_json_is_413(served):
    content = b'{"text": "' + b"x" * (2 << 20) + b'"}'
    response = served.client.post(
        "/search", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"<html>", {"content-type": "text/html"}, 415),
        (b"RIFF", {}, 415),
        (zlib.compress(b"x"), {"content-type": "audio/wav", "content-encoding": "gzip"}, 415),
        (b"", {"content-type": "audio/wav"}, 422),
        (b"just some text", {"content-type": "audio/wav"}, 422),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", {"content-type": "video/mp4"}, 422),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", {"content-type": "video/mp4"}, 422),
        # Decompression bombs: a picture of 10 gigapixels, and one whose data goes on and on.
        (png(100_000, 100_000, zlib.compress(bytes(1 << 20))), PNG, 422),
        (png(60_000, 60_000, zlib.compress(bytes(1 << 24), 9)), PNG, 422),
    ],
)
def test_what_is_no_media_is_refused_and_forgotten(served, no_uploads, content, headers, status):
    assert upload(served, content, headers).status_code == status


def test_headers_that_lie_are_refused(served, no_uploads):
    tone = (served.media / "tone.wav").read_bytes()
    assert upload(served, tone, PNG).status_code == 422
    # A header that promises 500 MB of samples, of which there are none.
    lie = wav(rate_hz=16_000, claimed_bytes=500_000_000)
    assert upload(served, lie, {"content-type": "audio/wav"}).status_code == 422


def test_a_sound_that_lasts_too_long_is_413(served, no_uploads):
    slow = wav(rate_hz=100, claimed_bytes=400_000) + bytes(400_000)
    response = upload(served, slow, {"content-type": "audio/wav"})
    assert response.status_code == 413
    assert "2000 s" in response.json()["detail"]


def test_a_crash_of_the_decoder_is_one_failed_upload(served, no_uploads, monkeypatch):
    monkeypatch.setattr("valor.server.sandbox._Worker._receive", dies)
    tone = (served.media / "tone.wav").read_bytes()
    failed = upload(served, tone, {"content-type": "audio/wav"})
    assert (failed.status_code, failed.json()["reason"]) == (422, "crashed")
    monkeypatch.undo()
    sent = served.client.post("/uploads", content=tone, headers={"content-type": "audio/wav"})
    assert sent.status_code == 201


def dies(worker, size, deadline_s):
    worker._process.kill()
    raise EOFError


def test_a_body_that_comes_too_slowly_is_408():
    async def scenario() -> list[dict]:
        sent: list[dict] = []

        async def app(scope, receive, send) -> None:
            while (await receive())["more_body"]:
                pass

        async def receive() -> dict:
            if not sent_pieces:
                sent_pieces.append(1)
                return {"type": "http.request", "body": b"x", "more_body": True}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message) -> None:
            sent.append(message)

        sent_pieces: list[int] = []
        guard = Guard(app, config=GuardConfig(chunk_timeout_s=0.01), metrics=Metrics())
        headers = [(b"host", b"localhost"), (b"content-length", b"1000")]
        scope = {"type": "http", "method": "POST", "path": "/uploads", "headers": headers}
        await guard(scope | {"query_string": b""}, receive, send)
        return sent

    start, *_ = asyncio.run(scenario())
    assert start["status"] == 408


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_head_that_comes_too_slowly_is_408(served, monkeypatch, begin):
    monkeypatch.setattr(GuardedProtocol, "head_timeout_s", 0.05)
    assert raw(served, begin).startswith(b"HTTP/1.1 408")


def test_another_name_of_the_host_is_421(served):
    response = served.client.get("/library", headers={"host": "evil.example"})
    assert response.status_code == 421


def test_pages_of_others_may_not_ask(served):
    headers = {"origin": "http://evil.example"}
    assert served.client.post("/jobs", json={"kind": "index"}, headers=headers).status_code == 403
    headers = {"origin": served.url.rstrip("/")}
    assert served.client.post("/search", json={"text": "x"}, headers=headers).status_code == 200


def test_the_page_may_load_nothing_from_elsewhere(served):
    page = served.client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    static = Path(__file__).parents[2] / "src/valor/server/static"
    texts = [path.read_text() for path in static.glob("*.*") if path.suffix != ".svg"]
    assert len(texts) >= 7
    assert not any(
        "https://" in text or "http://" in text.replace("http://www.w3.org", "") for text in texts
    )


def test_another_host_needs_a_token(indexed, model):
    with pytest.raises(UsageError, match="--token"):
        create_app(indexed / "library", model, guard=GuardConfig(host="0.0.0.0"))


def test_with_a_token_nothing_is_answered_without_it(indexed, model):
    app = create_app(indexed / "library", model, guard=GuardConfig(token="right"))
    with running(app) as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/", "/library", "/metrics", "/static/app.js", "/openapi.json"):
            assert client.get(path).status_code == 401
            wrong = client.get(path, headers={"authorization": "Bearer wrong"})
            assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
        right = {"authorization": "Bearer right"}
        assert client.get("/library", headers=right).status_code == 200
        assert client.get("/?token=right").status_code == 303
        assert client.get("/library").status_code == 200, "the cookie is as good"
        assert "httponly" in client.get("/?token=right").headers["set-cookie"].lower()


def test_what_is_written_is_for_this_user_alone(served):
    folder = served.app.state.service.uploads._folder
    for own in (folder, folder.parent):
        assert own.stat().st_mode & 0o077 == 0
