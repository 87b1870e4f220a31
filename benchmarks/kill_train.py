"""Kill `valor train` with SIGKILL at random moments; restarted, it must learn exactly the same.

A state is written after every step, so that many kills come while one is, and held-out records are
looked at after every third. Limit: every trial gives the last and the best weights of an
undisturbed run to the last bit, and metrics.jsonl holds every step once with the same figures.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from valor.data.world.render import World, render_world
from valor.evaluation.provenance import finish
from valor.training.monitor import read_metrics

NUM_STEPS = 12


def command(world: Path, out: Path) -> list[str]:
    words = ["train", "tiny", "--data", str(world), "--out", str(out), "--precision", "float32"]
    words += ["--num-steps", str(NUM_STEPS), "--save-every", "1", "--batch-size", "4"]
    words += ["--probe.every", "3"]
    for part in ("vision", "audio", "text"):
        words += [f"--model.{part}.num-layers", "1"]
    words += ["--model.vision.temporal-layers", "1"]
    return [sys.executable, "-m", "valor.cli.main", *words]


def learned(out: Path) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Last and best weights, and what was logged of each step but for the time."""
    rows = read_metrics(out / "metrics.jsonl")
    timed = ("elapsed_s", "samples_per_s")
    kept = [{key: value for key, value in row.items() if key not in timed} for row in rows]
    return [(out / name / "model.safetensors").read_bytes() for name in ("model", "best")], kept


def kill(words: list[str], out: Path, delay_s: float) -> bool:
    """Start a run and kill it some time after its folder is there; returns whether in a save."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not out.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return (out / "state.partial").exists() or (out / "state.old").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    num_kills = 3 if arguments.quick else 30
    os.environ["OMP_NUM_THREADS"] = "1"  # Equal sums need equal threads.
    moments = random.Random(0)
    num_identical = num_once = num_saving = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        render_world(root / "world", World(num=12, num_val=4, num_test=0, seed=0, level="duet"))
        process = subprocess.Popen(
            command(root / "world", root / "whole"), stdout=subprocess.DEVNULL
        )
        while not (root / "whole").exists():
            time.sleep(0.01)
        start = time.perf_counter()
        if process.wait():
            raise SystemExit("the undisturbed run failed")
        undisturbed_s = time.perf_counter() - start
        weights, rows = learned(root / "whole")
        for number in range(num_kills):
            out = root / f"killed-{number}"
            words = command(root / "world", out)
            num_saving += kill(words, out, moments.uniform(0, undisturbed_s))
            subprocess.run(words, check=True, capture_output=True)
            found_weights, found_rows = learned(out)
            num_identical += found_weights == weights and found_rows == rows
            num_once += [row["step"] for row in found_rows] == list(range(NUM_STEPS))
    figures = {
        "identical_fraction": num_identical / num_kills,
        "each_step_once_fraction": num_once / num_kills,
        "num_kills": num_kills,
        "num_kills_inside_a_save": num_saving,
        "undisturbed_s": round(undisturbed_s, 2),
    }
    finish(figures, arguments.json)
    sys.exit(min(num_identical, num_once) < num_kills)


if __name__ == "__main__":
    main()
