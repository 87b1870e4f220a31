"""Search in a large library: time and size to build it, time and recall to search it.

200 000 segments of 10 tokens (8 seen, 2 heard) of 512 dims are drawn with the statistics of a
trained model (`search_statistics.json`, see `search_statistics.py`), given captions, and written
and indexed by the library's own code. Queries are texts about hidden segments, about what is seen,
heard or both, with the noise that the model's own texts have. Time runs from the moment the query's
tokens exist until hits are there; recall compares with scoring every segment. `shell_s` is all of
`valor search` as a command, with the model in the box and as many segments of its 128 dims.
Limits: p50 50 ms, recall@10 0.95, 16 KiB a segment, build 360 s, `shell_s` 6 s (two cores, 200 000
segments). `--num-segments 2000000` needs an hour and 30 GB of disk.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from search_statistics import SINGLES, Generator, Statistics, fit

from valor.evaluation.provenance import finish
from valor.models.fusion import join, similarity
from valor.search.asking import Query
from valor.search.library import Library
from valor.search.tables import FileRow, segment_table
from valor.types import AUDIOVISUAL, Embedder, Embeddings, Modality, Segment

DIM = 512
SEGMENT_S = 4.0
FILE_SEGMENTS = 250
AT_ONCE = 2000
NUM_QUERIES = 60
KINDS = {"vision": Modality.VISION, "audio": Modality.AUDIO, "audiovisual": AUDIOVISUAL}
COLOURS, SHAPES = ("red", "green", "blue", "white"), ("ring", "circle", "pillar", "star")
SOUNDS = ("drum", "siren", "bell", "hum", "flute")


class NoModel:
    """Stands for the model, which a benchmark of search alone never asks for media."""

    fingerprint = "drawn"
    groups = (Modality.VISION, Modality.AUDIO)
    segment_s = SEGMENT_S

    def read(
        self,
        path: str,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        keyframes_only: bool = False,
    ) -> Segment:
        raise NotImplementedError

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        raise NotImplementedError

    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        vectors = torch.zeros(len(texts), 1, DIM)
        valid = torch.ones(len(texts), 1, dtype=torch.bool)
        return Embeddings(vectors=vectors, weight_logits=vectors[..., 0], valid=valid)


@dataclass
class Asked:
    """Queries of one kind, with the best scores of a scan over all segments so far."""

    tokens: Embeddings
    group: Modality
    scores: torch.Tensor
    places: torch.Tensor

    @classmethod
    def about(cls, kind: str, generator: Generator, causes: torch.Tensor) -> "Asked":
        num = len(causes)
        empty = torch.full((num, 10), -9.0), torch.full((num, 10), -1)
        return cls(generator.texts(kind, causes), KINDS[kind], *empty)

    def see(self, media: dict[Modality, Embeddings], first: int) -> None:
        halves = {single: in_half(part) for single, part in media.items()}
        scores = similarity(self.tokens, join(halves, self.group))
        places = torch.arange(first, first + scores.shape[1]).expand(len(scores), -1)
        scores = torch.cat([self.scores, scores], dim=1)
        places = torch.cat([self.places, places], dim=1)
        best = scores.topk(10, dim=1)
        self.scores, self.places = best.values, places.gather(1, best.indices)


def in_half(embeddings: Embeddings) -> Embeddings:
    """What the library keeps."""
    return Embeddings(
        vectors=embeddings.vectors.half().float(),
        weight_logits=embeddings.weight_logits.half().float(),
        valid=embeddings.valid,
    )


def caption(random: np.random.Generator) -> str:
    words = [random.choice(some) for some in (COLOURS, SHAPES, COLOURS, SHAPES, SOUNDS)]
    return "a {} {} moves past a {} {} and sounds like a {}".format(*words)


def rows_of(first: int, num: int, random: np.random.Generator) -> list[dict[str, object]]:
    rows = []
    for place in range(first, first + num):
        file, at = divmod(place, FILE_SEGMENTS)
        path = f"/archive/2026/recording-{file:06}.mp4"
        stretch = {"start_s": at * SEGMENT_S, "end_s": (at + 1) * SEGMENT_S}
        rows.append({"key": file + 1, "path": path, "caption": caption(random), **stretch})
    return rows


def build(
    folder: Path, statistics: Statistics, num: int, model: Embedder | str
) -> tuple[Library, list[Asked], float]:
    """Return the library, the queries with their true answers, and the seconds of building."""
    library = Library(folder, model=model)
    generator = Generator(statistics, dim=library.info.embed_dim, seed=0)
    random = np.random.default_rng(0)
    hidden = generator.segments(NUM_QUERIES)[1]
    asked = [
        Asked.about(kind, generator, part)
        for kind, part in zip(KINDS, hidden.chunk(3), strict=True)
    ]
    build_s = 0.0
    for first in range(0, num, AT_ONCE):
        media, _ = generator.segments(min(AT_ONCE, num - first))
        for questions in asked:
            questions.see(media, first)
        rows = rows_of(first, len(media[SINGLES[0]].valid), random)
        start = time.perf_counter()
        files = {row["path"]: file_row(row) for row in rows if row["start_s"] == 0}
        library._tables.commit([segment_table(rows, media)], list(files.values()))
        build_s += time.perf_counter() - start
    start = time.perf_counter()
    library._tables.index()
    return library, asked, build_s + time.perf_counter() - start


def file_row(row: dict) -> FileRow:
    return FileRow(
        path=row["path"],
        size_bytes=1,
        mtime_ns=1,
        status="ok",
        num_segments=FILE_SEGMENTS,
        modalities=AUDIOVISUAL,
        key=row["key"],
    )


def search(library: Library, asked: list[Asked]) -> dict[str, float]:
    """Time each query once, after a few that are not counted."""
    seconds, recalls, auto = [], {}, []
    warm = Query(tokens=asked[0].tokens.select(torch.tensor([0])))
    for _ in range(3):
        library.find(warm, weights=None)
    for kind, questions in zip(KINDS, asked, strict=True):
        found = []
        for row, places in enumerate(questions.places.tolist()):
            query = Query(tokens=questions.tokens.select(torch.tensor([row])))
            start = time.perf_counter()
            hits = library.find(query, weights={questions.group: 1.0})
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
            library.find(query, weights=None)
            auto.append(time.perf_counter() - start)
            got = {(hit.path, hit.start_s) for hit in hits}
            true = {(r["path"], r["start_s"]) for p in places for r in rows_of(p, 1, RANDOM)}
            found.append(len(got & true) / len(true))
        recalls[f"recall_at_10_{kind}"] = round(float(np.mean(found)), 4)
    return {
        "p50_ms": round(1000 * float(np.quantile(seconds, 0.5)), 1),
        "p95_ms": round(1000 * float(np.quantile(seconds, 0.95)), 1),
        "p50_auto_ms": round(1000 * float(np.quantile(auto, 0.5)), 1),
        "recall_at_10": round(float(np.mean(list(recalls.values()))), 4),
        **recalls,
    }


RANDOM = np.random.default_rng(1)


def measure(statistics: Statistics, num: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        library, asked, build_s = build(Path(folder) / "library", statistics, num, NoModel())
        found = search(library, asked)
        num_bytes = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    return {
        **found,
        "bytes_per_segment": round(num_bytes / num),
        "build_s": round(build_s, 1),
        "num_segments": num,
    }


def from_shell(statistics: Statistics, num: int) -> float:
    """Seconds of one `valor search`, the shortest of five."""
    words = [sys.executable, "-m", "valor", "search"]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "library", statistics, num, "tiny-world")
        for _ in range(5):
            start = time.perf_counter()
            query = ["a red circle moves and a bell rings", "--json"]
            subprocess.run([*words, f"{folder}/library", *query], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    return round(min(seconds), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="2 000 and 10 000 segments")
    parser.add_argument("--num-segments", type=int, default=200_000)
    parser.add_argument("--model", help="measure its statistics instead of reading them")
    parser.add_argument("--world", type=Path, help="manifest of what that model is shown")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.model:
        statistics = fit(arguments.model, arguments.world)
    else:
        statistics = Statistics.read(Path(__file__).with_name("search_statistics.json"))
    num = 10_000 if arguments.quick else arguments.num_segments
    figures: dict[str, float] = {}
    for size in [size for size in (2_000, 20_000) if size < num]:
        found = measure(statistics, size)
        print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
        figures |= {f"{key}_at_{size}": found[key] for key in ("p50_ms", "recall_at_10")}
    figures = measure(statistics, num) | figures | {"shell_s": from_shell(statistics, num)}
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
