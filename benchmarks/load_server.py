"""2 000 requests from 32 clients over loopback to `valor serve`: statuses, latency, memory.

The server runs as its own process over a library of rendered videos, with the model of a recipe
after a few steps: how well it answers does not matter here. Clients keep their connections and send
searches by text (two thirds, every one another text), texts to embed, ranges of files and posters.
Limits: no status of 5xx, and resident memory grows by at most 0.1 of it between the first quarter
(with `--quick`, half), by which everything is loaded, and the end.
"""

import argparse
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.data.world.render import World, render_world
from valor.evaluation.provenance import finish
from valor.inference import load
from valor.models.verbs import need_describer
from valor.recipes.tiny import tiny
from valor.search.library import Library
from valor.training.run import run

NUM_CLIENTS = 32
NUM_LOADING = 320
"""Requests, at least, before memory is looked at first."""
MAX_GROWTH = 0.10
WORDS = (
    *("a", "red", "blue", "green", "circle", "bar", "cross", "moves", "up", "down", "while"),
    *("bell", "drum", "siren", "rings", "fast"),
)


def build(root: Path, *, num_videos: int) -> Path:
    """A library whose model has been trained for two steps."""
    world = World(num=num_videos, num_val=0, num_test=4, seed=0, level="duet")
    render_world(root / "world", world, workers=2)
    config = evolve(tiny(), {"num_steps": 2, "save_every": 2, "precision": "float32"})
    model = run(config, read_manifest(root / "world", split="train"), root / "run")
    Library(root / "library", model=str(model)).add(
        root / "world/media", describer=need_describer(load(model))
    )
    return root / "library"


class Server:
    """`valor serve` on a free port."""

    def __init__(self, library: Path) -> None:
        words = ["serve", str(library), "--no-open", "--port", "0"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "valor.cli.main", *words], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self._process.stdout.readline())
        assert found is not None, "the server does not start"
        self.port = int(found.group(1))

    def ask(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        content = connection.getresponse().read()
        connection.close()
        return content

    def resident_bytes(self) -> int:
        found = re.search(rb"^valor_resident_bytes (\S+)$", self.ask("/metrics"), re.MULTILINE)
        assert found is not None
        return int(float(found.group(1)))

    def stop(self) -> int:
        """Ask it to end, as a service manager does; returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)


class Client(threading.Thread):
    """Sends its share of requests one after another."""

    def __init__(self, port: int, media: list[str], *, number: int, num_requests: int) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._media = media
        self._choices = random.Random(number)
        self._num_requests = num_requests
        self.statuses: Counter[int] = Counter()
        self.seconds: list[tuple[str, float]] = []

    def run(self) -> None:
        for _ in range(self._num_requests):
            kind, method, path, body, headers = self._next()
            begin_s = time.perf_counter()
            self._connection.request(method, path, body=body, headers=headers)
            response = self._connection.getresponse()
            response.read()
            self.seconds.append((kind, time.perf_counter() - begin_s))
            self.statuses[response.status] += 1
        self._connection.close()

    def _next(self) -> tuple[str, str, str, str | None, dict[str, str]]:
        chance, media = self._choices.random(), self._choices.choice(self._media)
        text = " ".join(self._choices.choices(WORDS, k=8))
        as_json = {"Content-Type": "application/json"}
        if chance < 0.67:
            return "search", "POST", "/search", json.dumps({"text": text}), as_json
        if chance < 0.77:
            return "embed", "POST", "/v1/embeddings", json.dumps({"input": [text]}), as_json
        if chance < 0.92:
            return "range", "GET", f"/media/{media}", None, {"Range": "bytes=0-65535"}
        return "poster", "GET", f"/media/{media}/poster?side_px=240", None, {}


def send(port: int, media: list[str], *, num_requests: int, seed: int) -> list[Client]:
    clients = [
        Client(port, media, number=seed + number, num_requests=num_requests // NUM_CLIENTS)
        for number in range(NUM_CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return clients


def measure(server: Server, *, num_requests: int) -> dict[str, Any]:
    search = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    body = json.dumps({"text": "a circle", "limit": 100})
    search.request("POST", "/search", body=body, headers={"Content-Type": "application/json"})
    media = sorted({hit["media"] for hit in json.loads(search.getresponse().read())["hits"]})
    begin_s = time.perf_counter()
    num_first = max(num_requests // 4, NUM_LOADING)
    clients = send(server.port, media, num_requests=num_first, seed=0)
    loaded_bytes = server.resident_bytes()
    clients += send(server.port, media, num_requests=num_requests - num_first, seed=1000)
    total_s = time.perf_counter() - begin_s
    end_bytes = server.resident_bytes()
    statuses = sum((client.statuses for client in clients), Counter[int]())
    timed = [row for client in clients for row in client.seconds]
    figures: dict[str, Any] = {
        "memory_growth": round(end_bytes / loaded_bytes - 1, 4),
        "num_requests": len(timed),
        "num_clients": NUM_CLIENTS,
        "num_5xx": sum(n for status, n in statuses.items() if status >= 500),
        "num_429": statuses[429],
        "num_other_errors": sum(n for s, n in statuses.items() if 400 <= s < 500 and s != 429),
        "requests_per_s": round(len(timed) / total_s, 1),
        "resident_mb": round(end_bytes / 2**20, 1),
    }
    for kind in ("all", "search", "embed", "range", "poster"):
        ms = [1000 * seconds for name, seconds in timed if kind in ("all", name)]
        prefix = "" if kind == "all" else f"{kind}_"
        figures[f"{prefix}p50_ms"] = round(float(np.percentile(ms, 50)), 1)
        figures[f"{prefix}p95_ms"] = round(float(np.percentile(ms, 95)), 1)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder), num_videos=8 if arguments.quick else 60)
        server = Server(library)
        try:
            figures = measure(server, num_requests=640 if arguments.quick else 2048)
        finally:
            exit_code = server.stop()
    figures["exit_code"] = exit_code
    finish(figures, arguments.json)
    print("limits: num_5xx 0, memory_growth at most", MAX_GROWTH)
    sys.exit(figures["num_5xx"] > 0 or figures["memory_growth"] > MAX_GROWTH)


if __name__ == "__main__":
    main()
