"""Kill an ingest with SIGKILL in the midst of its work; what was committed stays, and is completed.

Every trial adds rendered videos of three segments each to a new library in a process of its own,
which writes after every batch of two segments, builds an index at the end, and says what it does.
It is killed at a random moment of a random step: reading, encoding, writing, indexing in turn. Then
the library is opened, must search, and the same videos are added again. Limit: every trial ends
with the segments of an undisturbed run, none of them twice on disk, and no committed file is read
again.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lancedb
from bench_ingest import write_model

from valor.data.world.render import World, render_world
from valor.evaluation.provenance import finish
from valor.inference import VideoModel, load
from valor.models.verbs import need_embedder
from valor.search import ingest, tables
from valor.search.library import Library
from valor.types import Embedder

# Every process starts as a copy of one that has imported all of this: a second instead of six.
os.environ["PYTHONWARNINGS"] = "ignore::RuntimeWarning"
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["torch", "valor.inference", "valor.search.library"])

STEPS = ("read", "encode", "write", "index")
_MIN_INDEXED = 8
"""Segments from which an index is built, so that there is one to be killed in."""


def add(library: str, media: str, model: str, said: Connection) -> None:
    """Run in a process of its own; says what it does, and when it is done."""
    ingest.BATCH_SEGMENTS, ingest.COMMIT_S, tables._MIN_INDEXED = 2, 0.0, _MIN_INDEXED

    def tell(step: str) -> None:
        said.send((step, time.monotonic()))

    def telling(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            tell(step)
            result = function(*args, **kwargs)
            tell("read")
            return result

        return run

    VideoModel.embed_media = telling("encode", VideoModel.embed_media)
    tables.Tables.commit = telling("write", tables.Tables.commit)
    tables.Tables.index = telling("index", tables.Tables.index)
    target = Library(library, model=need_embedder(load(model)))
    tell("read")
    target.add(media)
    tell("done")


class Trial:
    """One ingest in a process."""

    def __init__(self, library: Path, media: Path, model: Path) -> None:
        self._said, theirs = _PROCESSES.Pipe(duplex=False)
        words = (str(library), str(media), str(model), theirs)
        self._process = _PROCESSES.Process(target=add, args=words)
        self._process.start()
        theirs.close()
        self.steps: list[tuple[str, float]] = [("start", time.monotonic())]
        """What it does, and since when."""

    def wait_for(self, step: str, num: int) -> None:
        """Wait until a step begins for the n-th time, or everything is done."""
        while num and self.steps[-1][0] != "done":
            self.steps.append(self._said.recv())
            num -= self.steps[-1][0] == step

    def kill(self) -> str:
        """Kill it, and return the step that it was in."""
        self._process.kill()
        self._process.join()
        try:
            while True:
                self.steps.append(self._said.recv())
        except EOFError:
            return self.steps[-1][0]


class Course:
    """How an undisturbed ingest goes."""

    def __init__(self, trial: Trial) -> None:
        trial.wait_for("done", 1)
        trial.kill()
        names, starts_s = zip(*trial.steps, strict=True)
        lengths_s = [after - before for before, after in itertools.pairwise(starts_s)]
        self.counts = Counter(names)
        self.mean_s = {
            step: sum(s for name, s in zip(names, lengths_s, strict=False) if name == step)
            / self.counts[step]
            for step in STEPS
        }
        self.seconds = starts_s[-1] - starts_s[1]


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
        "lost": len(set(wanted) - set(found)),
        "read_again": committed - report.skipped,
        "doubled": max(len(found), on_disk) - len(set(found)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="4 kills")
    arguments = parser.parse_args()
    num_kills = 4 if arguments.quick else 100
    moments = random.Random(0)
    outcomes, killed_in = [], Counter[str]()
    tables._MIN_INDEXED = _MIN_INDEXED
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        render_world(root / "world", World(num=16, num_val=0, num_test=0, seed=0, level="duet"))
        media = root / "world/media"
        write_model(root / "model", segment_s=1.4)
        model = need_embedder(load(root / "model"))
        course = Course(Trial(root / "whole", media, root / "model"))
        wanted = segments(Library(root / "whole", model=model), root)
        begin_s = time.monotonic()
        for kill in range(num_kills):
            library, step = root / f"killed-{kill}", STEPS[kill % len(STEPS)]
            trial = Trial(library, media, root / "model")
            trial.wait_for(step, moments.randint(1, course.counts[step]))
            time.sleep(moments.uniform(0, course.mean_s[step]))
            killed_in[trial.kill()] += 1
            outcomes.append(outcome(library, media, model, wanted, root))
            shutil.rmtree(library)
        seconds = time.monotonic() - begin_s
    figures = {
        **{
            f"num_{what}": sum(one[what] for one in outcomes)
            for what in ("lost", "doubled", "read_again")
        },
        "num_kills": num_kills,
        "num_kills_during_ingest": num_kills - killed_in["done"],
        **{f"num_kills_in_{step}": killed_in[step] for step in STEPS},
        "num_segments": len(wanted),
        "mean_files_committed": round(sum(one["committed"] for one in outcomes) / num_kills, 1),
        "undisturbed_s": round(course.seconds, 2),
        "seconds_per_kill": round(seconds / num_kills, 2),
    }
    finish(figures, arguments.json)
    sys.exit(any(one[what] for one in outcomes for what in ("lost", "doubled", "read_again")))


if __name__ == "__main__":
    main()
