"""Kill `valor data shard` with SIGKILL while it writes; restarted, it must write the same bytes.

Limit: every trial gives files that are byte for byte those of an undisturbed run.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from valor.data.world.render import World, render_world
from valor.evaluation.provenance import finish


def command(world: Path, out: Path) -> list[str]:
    words = ["data", "shard", str(world), "--out", str(out), "--workers", "2"]
    words += ["--records-per-shard", "12", "--short-side-px", "64", "--fps", "8"]
    return [sys.executable, "-m", "valor.cli.main", *words]


def start(world: Path, out: Path) -> subprocess.Popen[bytes]:
    """Begin to write, and come back when the first file is there."""
    process = subprocess.Popen(
        command(world, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (out.is_dir() and any(out.iterdir())):
        time.sleep(0.01)
    return process


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    num_kills, num_videos = (3, 24) if arguments.quick else (20, 96)
    moments = random.Random(0)
    num_identical = num_interrupted = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = World(num=num_videos, num_val=0, num_test=0, seed=0, level="duet")
        render_world(root / "world", world)
        undisturbed = start(root / "world", root / "whole")
        begin_s = time.perf_counter()
        undisturbed.wait()
        writing_s = time.perf_counter() - begin_s
        wanted = contents(root / "whole")
        for kill in range(num_kills):
            out = root / f"killed-{kill}"
            process = start(root / "world", out)
            time.sleep(moments.uniform(0, writing_s))
            process.send_signal(signal.SIGKILL)
            process.wait()
            num_interrupted += any(out.glob("*.partial"))
            subprocess.run(command(root / "world", out), check=True, capture_output=True)
            num_identical += contents(out) == wanted
    figures = {
        "identical_fraction": num_identical / num_kills,
        "num_kills": num_kills,
        "num_kills_inside_a_shard": num_interrupted,
        "writing_s": round(writing_s, 2),
    }
    finish(figures, arguments.json)
    sys.exit(num_identical < num_kills)


if __name__ == "__main__":
    main()
