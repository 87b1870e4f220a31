"""Laws of endpoints, with a server on this machine that records what it is asked."""

import base64
import io
import json
import math
import threading
import wave
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from valor.checkpoints.endpoint import Endpoint
from valor.cli.main import main
from valor.data.manifest import read_manifest
from valor.errors import MediaError, ModelError
from valor.inference import load
from valor.types import AUDIOVISUAL, Describer, Embedder, Modality, Segment

VISION, AUDIO = Modality.VISION, Modality.AUDIO


class Server(ThreadingHTTPServer):
    """Says `text`, or what is planned in `statuses` for the next requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict, dict]] = []
        self.statuses: list[int] = []
        self.text = "a red circle rings"
        self.logprobs: list[float] | None = None
        self.refused: set[str] = set()
        self.refusal = 400

    def reply_to(self, body: dict) -> tuple[int, dict]:
        content = body["messages"][0]["content"]
        parts = content if isinstance(content, list) else ()
        kinds = {part["type"] for part in parts} | set(body)
        if self.statuses:
            return self.statuses.pop(0), {"error": {"message": "later"}}
        if kinds & self.refused:
            return self.refusal, {"error": {"message": "unknown field"}}
        choice: dict = {"message": {"role": "assistant", "content": self.text}}
        if self.logprobs and body.get("logprobs"):
            choice["logprobs"] = {"content": [{"logprob": value} for value in self.logprobs]}
        return 200, {"choices": [choice]}


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        status, reply = self.server.reply_to(body)
        content = json.dumps(reply, indent=1).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("VALOR_API_KEY", raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def source(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1#some/model"


@pytest.fixture
def model(source) -> Endpoint:
    return Endpoint(source, timeout_s=10, backoff_s=0)


def segment(*, sound: bool = True, frames: int = 2) -> Segment:
    tone = np.sin(np.arange(8000) / 10).astype(np.float32) / 2
    return Segment(
        path="a.mp4",
        start_s=0.0,
        end_s=4.0,
        frames=np.full((frames, 24, 40, 3), 200, np.uint8) if frames else None,
        frame_times_s=np.arange(frames, dtype=np.float64) if frames else None,
        waveform=tone if sound else None,
        sample_rate_hz=8000,
    )


def test_is_a_describer_and_no_embedder(source, model):
    assert isinstance(load(source), Endpoint)
    assert model.fingerprint != Endpoint(f"{source}-2").fingerprint
    with pytest.raises(ModelError, match="some/model: describes, but does not embed"):
        model.embed("a.mp4")
    assert isinstance(model, Describer)
    assert not isinstance(model, Embedder)
    with pytest.raises(
        ModelError, match=r"which model\? It names none; write http://host/v1#MODEL"
    ):
        load("http://host/v1")


def test_what_is_sent_is_the_segment_and_nothing_else(server, model, monkeypatch):
    monkeypatch.setenv("VALOR_API_KEY", "secret")
    (caption,) = model.describe([segment()])
    assert (caption.text, caption.modalities_used) == ("a red circle rings", AUDIOVISUAL)
    assert caption.segments == ((0.0, 4.0),)
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body.keys() == {"model", "messages", "max_tokens", "temperature"}
    assert body["model"] == "some/model"
    (message,) = body["messages"]
    prompt, *pictures, sound = message["content"]
    assert "seen and heard" in prompt["text"]
    assert "a.mp4" not in json.dumps(body)
    for picture in pictures:
        kind, _, data = picture["image_url"]["url"].partition(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (kind, image.format, image.size) == ("data:image/jpeg", "JPEG", (40, 24))
    assert len(pictures) == 2
    assert sound["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(sound["input_audio"]["data"]))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 8000, 8000)
        samples = np.frombuffer(file.readframes(8000), "<i2") / 32767
    np.testing.assert_allclose(samples, segment().waveform, atol=1e-4)


@pytest.mark.parametrize(
    ("part", "using", "used", "kinds", "words"),
    [
        (segment(), VISION, VISION, {"text", "image_url"}, "what is seen in"),
        (segment(), AUDIO, AUDIO, {"text", "input_audio"}, "what is heard in"),
        (segment(sound=False), AUDIOVISUAL, VISION, {"text", "image_url"}, "what is seen in"),
        (segment(frames=0), AUDIOVISUAL, AUDIO, {"text", "input_audio"}, "what is heard in"),
    ],
)
def test_only_what_is_there_and_asked_for_is_sent(server, model, part, using, used, kinds, words):
    (caption,) = model.describe([part], using=using)
    assert caption.modalities_used == used
    content = server.requests[0][2]["messages"][0]["content"]
    assert {item["type"] for item in content} == kinds
    assert words in content[0]["text"]


def test_nothing_to_use_is_no_request(server, model):
    assert model.describe([segment(sound=False)], using=AUDIO)[0].modalities_used == Modality(0)
    assert server.requests == []


def test_confidence_is_the_mean_probability_or_unknown(server, model):
    server.logprobs = [math.log(0.5), math.log(0.125)]
    server.text = "a bell"
    (answer,) = model.answer([segment()], ["what rings?"])
    assert (answer.text, answer.modalities_used) == ("a bell", AUDIOVISUAL)
    assert answer.confidence == pytest.approx(0.25)
    assert server.requests[0][2]["messages"][0]["content"][0]["text"].endswith("what rings?")
    server.logprobs = None
    assert math.isnan(model.answer([segment()], ["what rings?"])[0].confidence)


@pytest.mark.parametrize("status", [400, 500])
def test_what_an_endpoint_refuses_is_left_out_and_the_result_says_so(server, model, status):
    server.refused, server.refusal = {"input_audio", "logprobs"}, status
    (answer,) = model.answer([segment()], ["what rings?"])
    assert answer.modalities_used == VISION
    assert math.isnan(answer.confidence)
    num_requests = len(server.requests)
    assert model.answer([segment()], ["what rings?"])[0].modalities_used == VISION
    assert model.describe([segment()])[0].modalities_used == VISION
    assert len(server.requests) == num_requests + 2
    assert model.describe([segment(frames=0)])[0].modalities_used == Modality(0)


def test_a_busy_endpoint_is_asked_again_but_not_for_ever(server, model):
    server.statuses = [429, 503, 500]
    assert model.describe([segment()])[0].text == "a red circle rings"
    assert len(server.requests) == 4
    server.statuses = [503] * 4
    with pytest.raises(ModelError, match=r"some/model: HTTP 503 .*later"):
        model.describe([segment()])
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("status", "problem"),
    [(401, "HTTP 401 .*; set VALOR_API_KEY"), (404, "HTTP 404"), (302, "HTTP 302")],
)
def test_a_lasting_problem_is_one_clear_error_at_once(server, model, status, problem):
    server.statuses = [status]
    with pytest.raises(ModelError, match=problem) as caught:
        model.describe([segment()])
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


def test_a_reply_without_text_and_a_dead_endpoint_are_clear_errors(server, model):
    server.text = " "
    with pytest.raises(ModelError, match="a reply without text"):
        model.describe([segment()])
    dead = Endpoint("http://127.0.0.1:1/v1#none", timeout_s=1, backoff_s=0)
    with pytest.raises(ModelError, match=r"cannot be reached .* start it"):
        dead.describe([segment()])


def test_the_verbs_work_on_files(server, source, world, capsys):
    video = str(world / "media/test-000000.mp4")
    assert main(["caption", source, video, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["caption"], row["modalities_used"]) == ("a red circle rings", "audiovisual")
    assert main(["ask", source, video, "what rings?", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["answer"], row["confidence"]) == ("a red circle rings", None)
    assert main(["ask", source, video, "what rings?"]) == 0
    assert "confidence unknown" in capsys.readouterr().out
    server.refused = {"input_audio"}
    model = load(source)
    assert model.caption(video).modalities_used == VISION
    with pytest.raises(MediaError, match="no audio to describe"):
        model.caption(video, using=AUDIO)


def test_an_endpoint_describes_what_a_public_model_indexes(
    server, source, public, world, tmp_path, capsys
):
    library, video = str(tmp_path / "library"), str(world / "media/test-000000.mp4")
    words = ["index", library, video, "--model", str(public / "clip"), "--describer", source]
    assert main(words) == 0
    assert main(["search", library, "bell", "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert hit["caption"] == "a red circle rings"
    assert main(["search", library, "bell"]) == 0
    assert "a red circle rings" in capsys.readouterr().out


def test_evaluation_measures_what_a_describer_can_do(source, world, tmp_path, capsys):
    words = ["evaluate", source, "--data", str(world), "--split", "val", "--out", str(tmp_path)]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["retrieval"] == report["pairs"] == report["by_caption"] == {}
    assert report["captioning"].keys() == {"vision", "audio", "audiovisual"}
    assert report["answering"]["audiovisual"]["num"] > 0
    assert (tmp_path / "report.html").is_file()


def test_an_endpoint_replies_to_a_text_alone(server, model):
    server.text = " one caption "
    assert model.complete("merge this") == "one caption"
    ((_, _, body),) = server.requests
    assert body["messages"] == [{"role": "user", "content": "merge this"}]
    server.statuses = [401]
    with pytest.raises(ModelError, match=r"HTTP 401 .*; set VALOR_API_KEY"):
        model.complete("merge this")


def test_captions_are_drafted_merged_and_chosen(
    server, source, world, model_folder, tmp_path, capsys
):
    out, judge = tmp_path / "captions.jsonl", str(model_folder)
    words = ["data", "caption", str(world), "--out", str(out), "--vision", source]
    words += ["--audio", source, "--merge", source]
    assert main([*words, "--embedder", judge, "--keep-share", "0.5", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["num_records"] == 22
    assert 11 <= row["num_kept"] < 22
    assert row["rejected"] == {"unlike": 22 - row["num_kept"]}
    assert row["thresholds"].keys() == {"vision", "audio", "audiovisual"}
    assert len(read_manifest(out)) == row["num_kept"]
    assert len(server.requests) == 3 * 22
    assert main([*words, "--embedder", judge, "--min-similarity", "-1"]) == 0
    assert capsys.readouterr().out == "kept 22 of 22 records\n"
    assert len(server.requests) == 3 * 22, "only what is kept is chosen anew"
    assert main(words) == 1
    assert "another configuration" in capsys.readouterr().err
    assert main([*words, "--embedder", judge]) == 1
    assert "an embedder needs min_similarity or keep_share" in capsys.readouterr().err
    words[words.index("--out") + 1] = str(world / "manifest.jsonl")
    assert main(words) == 2
    words[words.index("--out") + 1] = str(tmp_path / "folder-model.jsonl")
    assert main([*words[:-1], judge]) == 1
    assert "merge by rules or by URL#MODEL" in capsys.readouterr().err
