"""Laws of the annotation server: who is answered, what is served, how errors look."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from valor.data.building.annotations import LEASE_S, AnnotationStore
from valor.server.annotate import create_app
from valor.server.guard import GuardConfig

pytestmark = pytest.mark.media

HERE = "http://127.0.0.1"


@pytest.fixture
def client(store):
    return TestClient(create_app(store, concepts=["bell"]), base_url=HERE)


def take(client, annotator, role="write"):
    body = {"annotator": annotator, "role": role}
    return client.post("/api/tasks", json=body).raise_for_status().json()["task"]


def act(client, annotator, task, action, text=""):
    body = {"annotator": annotator, "action": action, "text": text}
    return client.post(f"/api/captions/{task['slot']}", json=body)


def is_problem(response, status):
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert {"type", "title", "status", "detail"} <= set(content)
    assert content["detail"]
    return response.status_code == content["status"] == status


def test_a_caption_goes_from_writer_to_checker_and_back(client):
    task = take(client, "Ann")
    assert (task["start_s"], task["end_s"], task["hints"]) == (0.5, 1.5, ["Bell", "Music"])
    assert task["drafts"]
    assert task["has_sound"] is True
    assert act(client, "Ann", task, "write", "a bell rings").json()["state"] == "written"
    assert take(client, "ann", "check") is None
    assert act(client, "Ben", take(client, "Ben", "check"), "return", "which?").status_code == 200
    progress = client.get("/api/progress", params={"annotator": "ann"}).json()
    assert progress["returned_to_me"] == 1
    again = take(client, "ann")
    assert (again["slot"], again["text"], again["reason"]) == (
        task["slot"],
        "a bell rings",
        "which?",
    )
    act(client, "ann", again, "write", "a red bell rings")
    assert act(client, "Ben", take(client, "Ben", "check"), "accept").json()["state"] == "accepted"
    report = client.get("/api/report").json()
    assert report["captions"]["accepted"] == 1
    assert report["with_audio_concept_fraction"] == 1


def test_a_lease_that_is_over_gives_the_task_to_the_next(manifest, tmp_path):
    now = [0.0]
    store = AnnotationStore(tmp_path / "leases.sqlite", clock=lambda: now[0])
    store.add(manifest)
    client = TestClient(create_app(store), base_url=HERE)
    first = take(client, "ann")
    assert take(client, "ben")["slot"] != first["slot"]
    assert take(client, "cleo") is None
    now[0] = LEASE_S
    assert take(client, "cleo")["slot"] == first["slot"]
    refused = act(client, "ann", first, "write", "too late")
    assert is_problem(refused, 409)
    assert "not with ann any more" in refused.json()["detail"]
    assert act(client, "ann", first, "take").status_code == 409
    store.close()


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-50", slice(-50, None)),
        ("bytes=10-999999999", slice(10, None)),
    ],
)
def test_media_are_served_by_ranges(client, store, wanted, part):
    content = Path(store.record(1).media).read_bytes()
    answer = client.get("/media/1", headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.content == content[part]
    start, end, _ = part.indices(len(content))
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
    assert answer.headers["content-type"] == "video/mp4"
    whole = client.get("/media/1")
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["accept-ranges"] == "bytes"
    assert client.head("/media/1").headers["content-length"] == str(len(content))


@pytest.mark.parametrize("wanted", ["bytes=999999999-", "bytes=5-2", "bytes=0-1,4-5", "lines=1-2"])
def test_a_range_that_cannot_be_served_is_a_problem(client, store, wanted):
    answer = client.get("/media/1", headers={"Range": wanted})
    assert is_problem(answer, 416)
    size = Path(store.record(1).media).stat().st_size
    assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/media/99", 404),
        ("/media/0", 404),
        ("/media/-1", 404),
        ("/media/..%2fmanifest.jsonl", 404),
        ("/media/%2e%2e%2fstore.sqlite", 404),
        ("/media/manifest.jsonl", 422),
        ("/media//etc/passwd", 404),
        ("/static/..%2f..%2fannotate.py", 404),
        ("/static/%2e%2e/annotate.py", 404),
        ("/static/annotate.html", 404),
        ("/static/annotate.py", 404),
        ("/store.sqlite", 404),
    ],
)
def test_nothing_else_is_served(client, path, status):
    assert is_problem(client.get(path), status)


def test_a_file_that_is_no_media_is_not_served_even_if_a_manifest_names_it(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    rows = '{"id": "a", "media": "secret.txt"}\n{"id": "b", "media": "gone.mp4"}\n'
    (tmp_path / "manifest.jsonl").write_text(rows)
    store = AnnotationStore(tmp_path / "store.sqlite")
    store.add(tmp_path)
    client = TestClient(create_app(store), base_url=HERE)
    assert is_problem(client.get("/media/1"), 404)
    assert is_problem(client.get("/media/2"), 404)
    assert take(client, "ann")["has_sound"] is None
    store.close()


ROUTES = ["/api/report", "/api/progress?annotator=ann", "/media/1"]


@pytest.mark.parametrize("path", ROUTES)
def test_with_a_token_only_who_knows_it_is_answered(store, path):
    client = TestClient(
        create_app(store, guard=GuardConfig(host="0.0.0.0", token="quite secret")),
        base_url="http://a.example",
    )
    assert is_problem(client.get(path), 401)
    assert is_problem(client.get(path, headers={"Authorization": "Bearer wrong"}), 401)
    assert is_problem(client.post("/api/tasks", json={"annotator": "a", "role": "write"}), 401)
    known = {"Authorization": "Bearer quite secret"}
    assert client.get(path, headers=known).status_code == 200
    assert client.get("/").status_code == 200
    assert client.get("/?token=wrong").status_code == 200
    assert is_problem(client.get(path), 401)
    entered = client.get("/", params={"token": "quite secret"}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_without_a_token_only_a_loopback_name_is_answered(store, path):
    """A page of the web whose name leads to this machine gets nothing."""
    app = create_app(store)
    assert is_problem(TestClient(app, base_url="http://evil.example").get(path), 421)
    for host in (HERE, "http://localhost:7861", "http://[::1]:7861"):
        assert TestClient(app, base_url=host).get(path).status_code == 200


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"annotator": " ", "role": "write"}, "annotator"),
        ({"annotator": "ann", "role": "dance"}, "role"),
        ({"role": "write"}, "annotator"),
        ({"annotator": "a" * 81, "role": "write"}, "annotator"),
    ],
)
def test_a_malformed_request_is_a_problem_that_names_the_field(client, body, where):
    answer = client.post("/api/tasks", json=body)
    assert is_problem(answer, 422)
    assert answer.json()["detail"].startswith(f"body.{where}: ")


def test_a_form_of_another_page_cannot_act(client):
    """A browser sends such a request to any address without asking, but never as JSON."""
    words = '{"annotator": "ann", "role": "write"}'
    answer = client.post("/api/tasks", content=words, headers={"Content-Type": "text/plain"})
    assert is_problem(answer, 422)


def test_a_bug_is_a_problem_too(store, monkeypatch):
    monkeypatch.setattr(store, "counts", lambda: 1 / 0)
    client = TestClient(create_app(store), base_url=HERE, raise_server_exceptions=False)
    assert is_problem(client.get("/api/progress?annotator=ann"), 500)


def test_the_page_comes_with_all_its_files(client):
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    names = [part.split('"')[0] for part in page.text.split('"/static/')[1:]]
    assert sorted(names) == ["annotate.css", "annotate.js", "style.css"]
    for name in names:
        assert client.get(f"/static/{name}").status_code == 200
        assert "http" not in client.get(f"/static/{name}").text
