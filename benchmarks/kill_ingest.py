"""Kill an ingest with SIGKILL at random moments; what was committed stays, the rest is made up for.

Every trial adds rendered videos to a new library in a process of its own, which writes after every
batch of two segments, and kills it in the middle. Then the library is opened, must search, and the
same videos are added again. Limit: every trial ends with the segments of an undisturbed run, none
of them twice on disk, and no committed file is read again.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import lancedb
from bench_ingest import write_model

from valor.data.world.render import World, render_world
from valor.evaluation.provenance import write_figures
from valor.inference import load
from valor.models.verbs import need_embedder
from valor.search import ingest
from valor.search.library import Library
from valor.types import Embedder

_PROCESSES = multiprocessing.get_context("spawn")


def add(library: str, media: str, model: str, ready: Connection) -> None:
    """Run in a process of its own; says when it begins to read, and when it is done."""
    ingest.BATCH_SEGMENTS, ingest.COMMIT_S = 2, 0.0
    target = Library(library, model=need_embedder(load(model)))
    ready.send("reads")
    target.add(media)
    ready.send("done")


class Trial:
    """One ingest in a process, to be killed after some seconds; None lets it end."""

    def __init__(self, library: Path, media: Path, model: Path, *, after_s: float | None) -> None:
        ours, theirs = _PROCESSES.Pipe()
        words = (str(library), str(media), str(model), theirs)
        process = _PROCESSES.Process(target=add, args=words)
        process.start()
        ours.recv()
        start = time.perf_counter()
        self.was_done = ours.poll(after_s)
        process.kill()
        process.join()
        self.seconds = time.perf_counter() - start


def segments(library: Library, folder: Path) -> list[tuple[str, float, float]]:
    """What the library lists."""
    library.export(folder / "list.json")
    rows = json.loads((folder / "list.json").read_text(encoding="utf-8"))
    return [(row["path"], row["start_s"], row["end_s"]) for row in rows]


def outcome(
    path: Path, media: Path, model: Embedder, wanted: list[tuple[str, float, float]], root: Path
) -> dict[str, int]:
    """Look at a library after a kill, then complete it."""
    library = Library(path, model=model)
    committed = len(library.files())
    found = library.search("a red circle", limit=len(wanted) + 1, merged=False)
    assert len(found) == len(library), "a search finds what is not committed"
    report = library.add(media)
    found = segments(library, root)
    on_disk = lancedb.connect(path).open_table("segments").count_rows()
    return {
        "committed": committed,
        "lost": len(set(wanted) - set(found)) + abs(report.skipped - committed),
        "doubled": max(len(found), on_disk) - len(set(found)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="3 kills")
    arguments = parser.parse_args()
    num_kills, num_videos = (3, 16) if arguments.quick else (100, 48)
    moments = random.Random(0)
    outcomes, num_inside = [], 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = World(num=num_videos, num_val=0, num_test=0, seed=0, level="duet")
        render_world(root / "world", world)
        media = root / "world/media"
        write_model(root / "model")
        model = need_embedder(load(root / "model"))
        whole = Trial(root / "whole", media, root / "model", after_s=None)
        wanted = segments(Library(root / "whole", model=model), root)
        for kill in range(num_kills):
            library, after_s = root / f"killed-{kill}", moments.uniform(0, whole.seconds)
            num_inside += not Trial(library, media, root / "model", after_s=after_s).was_done
            outcomes.append(outcome(library, media, model, wanted, root))
    figures = {
        "num_lost": sum(one["lost"] for one in outcomes),
        "num_doubled": sum(one["doubled"] for one in outcomes),
        "num_kills": num_kills,
        "num_kills_during_ingest": num_inside,
        "num_files": len(wanted),
        "mean_files_committed": round(sum(one["committed"] for one in outcomes) / num_kills, 1),
        "undisturbed_s": round(whole.seconds, 2),
    }
    for key, value in figures.items():
        print(f"{key:28} {value}")
    if arguments.json:
        write_figures(arguments.json, figures)
    sys.exit(figures["num_lost"] + figures["num_doubled"] > 0)


if __name__ == "__main__":
    main()
