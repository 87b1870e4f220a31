"""What the routes answer."""

import base64
import json
import re
import time

import httpx2
import numpy as np
import pytest
from PIL import Image

VIDEO = "test-000003.mp4"


def search(served, **body):
    response = served.client.post("/search", json=body)
    assert response.status_code == 200, response.text
    return response.json()["hits"]


def events(response):
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", response.text)
    return [(name, json.loads(data)) for name, data in found]


def finished(served, job):
    deadline_s = time.monotonic() + 120
    while job["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline_s
        job = served.client.get(f"/jobs/{job['id']}").json()
    return job


def test_a_text_finds_what_the_library_finds(served):
    hits = search(served, text="a red circle", limit=5)
    direct = served.app.state.service.library.search("a red circle", limit=5)
    assert [(hit["name"], hit["start_s"]) for hit in hits] == [
        (hit.path.rpartition("/")[2], hit.start_s) for hit in direct
    ]
    assert hits[0]["path"] == f"media/{hits[0]['name']}"
    assert hits[0]["matched"] in hits[0]["by_modality"]


@pytest.mark.parametrize(("balance", "alone"), [(0, "vision"), (1, "audio")])
def test_the_ends_of_the_balance_are_one_modality_alone(served, balance, alone):
    hits = search(served, text="a bell", balance=balance)
    assert all(alone in hit["by_modality"] for hit in hits)
    scores = [hit["by_modality"][alone] for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_the_balance_between_orders_by_the_weighted_mean(served):
    hits = search(served, text="a bell", balance=0.25, limit=100)
    both = [hit["by_modality"] for hit in hits if hit["by_modality"].keys() >= {"vision", "audio"}]
    assert len(both) > 3
    means = [0.75 * one["vision"] + 0.25 * one["audio"] for one in both]
    assert means == sorted(means, reverse=True)
    assert {hit["name"] for hit in hits} >= {"tone.wav", "tape.mxf"}


@pytest.mark.parametrize("by", [None, "audio", "image"])
def test_an_upload_finds_the_recording_that_it_is_a_copy_of(served, by):
    content = (served.media / VIDEO).read_bytes()
    sent = served.client.post("/uploads", content=content, headers={"content-type": "video/mp4"})
    assert sent.status_code == 201
    assert sent.json() | {"upload": ""} == {
        "upload": "",
        "kind": "video",
        "duration_s": 4.0,
        "has_audio": True,
        "num_bytes": len(content),
    }
    hits = search(served, upload=sent.json()["upload"], **({"by": by} if by else {}))
    score = {hit["name"]: hit["score"] for hit in hits}
    assert score[VIDEO] == max(score.values())
    assert search(served, upload=sent.json()["upload"], text="a bell")


def test_a_segment_finds_others_like_it_and_not_itself(served):
    media = served.id_of(VIDEO)
    hits = search(served, segment={"media": media, "start_s": 0, "end_s": 4})
    assert hits
    assert VIDEO not in {hit["name"] for hit in hits}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "  "},
        {"text": 3},
        {"text": "x", "limit": 0},
        {"text": "x", "limitt": 3},
        {"text": "x", "balance": 1.5},
        {"segment": {"media": "a", "start_s": 2, "end_s": 1}},
    ],
)
def test_wrong_fields_are_a_problem_that_names_them(served, body):
    response = served.client.post("/search", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    assert problem["errors"][0]["where"].startswith("body")


def test_captions_and_answers_say_what_they_were_made_from(served):
    media = served.id_of(VIDEO)
    whole = served.client.post("/caption", json={"media": media}).json()
    assert (whole["text"], whole["modalities_used"]) == ("audiovisual from 0 s", "audiovisual")
    part = {"media": media, "using": "vision", "start_s": 2}
    seen = served.client.post("/caption", json=part).json()
    assert (seen["text"], seen["modalities_used"]) == ("vision from 2 s", "vision")
    question = {"media": media, "question": "what is heard", "using": "audio"}
    answer = served.client.post("/ask", json=question).json()
    assert answer["text"] == "what is heard: audio from 0 s"
    assert answer["confidence"] == 0.5
    nothing = served.client.post("/ask", json=question | {"media": served.id_of("tape.mxf")})
    assert (nothing.status_code, nothing.json()["reason"]) == (422, "nothing_usable")
    outside = served.client.post("/caption", json={"media": media, "start_s": 100})
    assert (outside.status_code, outside.json()["reason"]) == (422, "outside")


@pytest.mark.parametrize("route", ["/caption", "/ask"])
def test_a_stream_says_every_part_and_then_the_whole(served, route):
    body = {"media": served.id_of(VIDEO)} | ({"question": "what"} if route == "/ask" else {})
    plain = served.client.post(route, json=body).json()
    response = served.client.post(route, json=body | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, (last, whole) = events(response)
    assert last == "done"
    assert whole == plain
    said = [part for name, part in parts if name == "part"]
    assert [{k: part[k] for k in plain["parts"][0]} for part in said] == plain["parts"]


@pytest.mark.parametrize("route", ["/caption", "/ask"])
def test_a_stream_says_first_what_is_used_and_then_word_after_word(served, route):
    body = {"media": served.id_of(VIDEO), "stream": True, "using": "audio"}
    response = served.client.post(route, json=body | ({"question": "q"} if "ask" in route else {}))
    texts = [text for name, text in events(response) if name == "text"]
    words = texts[-1]["text"].split()
    assert len(words) > 3
    assert [text["text"] for text in texts] == [
        " ".join(words[:num]) for num in range(len(words) + 1)
    ]
    assert {text["modalities_used"] for text in texts} == {"audio"}
    assert events(response)[-1][1]["text"] == " ".join(words)


def test_a_file_is_served_whole_and_by_range(served):
    content = (served.media / VIDEO).read_bytes()
    address = f"/media/{served.id_of(VIDEO)}"
    whole = served.client.get(address)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["accept-ranges"] == "bytes"
    part = served.client.get(address, headers={"range": "bytes=10-29"})
    assert (part.status_code, part.content) == (206, content[10:30])
    assert part.headers["content-range"] == f"bytes 10-29/{len(content)}"
    end = served.client.get(address, headers={"range": "bytes=-7"})
    assert (end.status_code, end.content) == (206, content[-7:])
    assert (
        served.client.get(address, headers={"range": f"bytes={len(content)}-"}).status_code == 416
    )
    head = served.client.head(address)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))


def test_pictures_of_a_file_are_what_they_say(served, tmp_path):
    address = f"/media/{served.id_of(VIDEO)}"
    for name, size in (
        ("poster?at_s=2&side_px=64", (64, 64)),
        ("sound?end_s=4&width=90", (90, 120)),
    ):
        response = served.client.get(f"{address}/{name}")
        (tmp_path / "picture").write_bytes(response.content)
        with Image.open(tmp_path / "picture") as picture:
            assert picture.size == size
            assert picture.get_format_mimetype() == response.headers["content-type"]
    assert served.client.get(f"/media/{served.id_of('tone.wav')}/poster").status_code == 422


def test_what_no_browser_plays_gets_a_preview(served, tmp_path):
    media = served.id_of("tape.mxf")
    info = served.client.get(f"/media/{media}/info").json()
    assert (info["is_playable"], info["has_audio"], info["width"]) == (False, False, 64)
    preview = served.client.get(f"/media/{media}/preview")
    assert preview.headers["content-type"] == "video/mp4"
    sent = served.client.post(
        "/uploads", content=preview.content, headers={"content-type": "video/mp4"}
    ).json()
    assert sent["duration_s"] == pytest.approx(info["duration_s"], abs=0.1)
    assert served.client.get(f"/media/{media}/preview?part=5").status_code == 422
    for name in (VIDEO, "tone.wav"):
        assert served.client.get(f"/media/{served.id_of(name)}/info").json()["is_playable"]


def test_indexing_adds_new_files_and_lists_bad_ones(served, world):
    new, bad = served.media / "new.mp4", served.media / "bad.mp4"
    new.write_bytes((world / "media/test-000007.mp4").read_bytes())
    bad.write_text("no video")
    try:
        job = served.client.post("/jobs", json={"kind": "index", "paths": [str(served.media)]})
        assert job.status_code == 202
        done = finished(served, job.json())
        assert done["state"] == "done", done
        assert done["result"]["added"] == 1
        assert [(one["path"], one["reason"]) for one in done["result"]["bad"]] == [
            ("media/bad.mp4", "unreadable")
        ]
        assert done["id"] in {job["id"] for job in served.client.get("/jobs").json()}
    finally:
        served.app.state.service.library.remove([new, bad])
        new.unlink()
        bad.unlink()


def test_a_caption_job_describes_all_parts(served):
    job = served.client.post("/jobs", json={"kind": "caption", "media": served.id_of(VIDEO)})
    done = finished(served, job.json())
    whole = served.client.post("/caption", json={"media": served.id_of(VIDEO)}).json()
    assert done["result"]["parts"] == whole["parts"]


def test_embeddings_are_unit_vectors_in_both_encodings(served):
    body = {"input": ["a bell", "a dog"], "model": "any"}
    plain = served.client.post("/v1/embeddings", json=body).json()
    packed = served.client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    for index, (one, other) in enumerate(zip(plain["data"], packed["data"], strict=True)):
        vector = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert one["index"] == index
        np.testing.assert_allclose(vector, one["embedding"], rtol=1e-6)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert plain["usage"]["total_tokens"] > 0


def test_metrics_count_requests_and_state_tells_the_library(served):
    before = metric(served, 'valor_requests_total{route="/healthz",status="200"}')
    assert served.client.get("/healthz").json()["status"] == "ok"
    assert metric(served, 'valor_requests_total{route="/healthz",status="200"}') == before + 1
    assert metric(served, "valor_resident_bytes") > 1e7
    library = served.client.get("/library").json()
    assert library["num_files"] == 10
    assert (library["describes"], library["roots"]) == (True, ["media"])


def metric(served, name):
    lines = served.client.get("/metrics").text.splitlines()
    return float(next((line.split()[-1] for line in lines if line.startswith(name)), 0))


def test_a_full_queue_is_429_with_a_time_to_come_back(served):
    entrance = served.app.state.entrance
    entrance._num_inside += entrance._max_waiting
    try:
        response = served.client.post("/search", json={"text": "a bell"})
    finally:
        entrance._num_inside -= entrance._max_waiting
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["title"] == "Too Many Requests"


def test_a_client_that_leaves_ends_what_is_written_for_it(served):
    body = {"media": served.id_of(VIDEO), "question": "for ever", "stream": True}
    with (
        httpx2.Client(base_url=served.url) as client,
        client.stream("POST", "/ask", json=body) as response,
    ):
        assert next(response.iter_lines()) == "event: text"
    begin_s = time.monotonic()
    assert search(served, text="a bell")
    while served.app.state.entrance._num_inside:
        assert time.monotonic() < begin_s + 30
    assert time.monotonic() < begin_s + 30  # The model itself would have gone on for a minute.
