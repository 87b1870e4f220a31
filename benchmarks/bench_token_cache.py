"""Training on frozen towers: from the cache of their tokens against running them at every step.

Towers of base size (ViT-B/16 at 224 px on 4 frames, AST on a window of 64 by 512) are frozen; heads
and a text encoder of 6 layers learn retrieval, and in a second pair of runs a decoder learns
captions too, which attends to all 900 tokens of a recording. Both runs of a pair see the same
rendered recordings with the same seed, in float32 on 2 CPU threads. A step is the median of all but
the first; filling the cache, once before all steps, is told apart. The learning rate is the paper's
for fine-tuning: at 1e-4 the first steps of a fresh model blow rounding up. Limits, for retrieval:
at least 10 times faster, but with `--quick`, where every part has one layer; for both: every loss
equal to 1e-3.
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from valor.config import evolve
from valor.data.manifest import Record, read_manifest
from valor.data.world.render import World, render_world
from valor.encoders.text import BertConfig
from valor.evaluation.provenance import finish
from valor.models.valor import ValorConfig
from valor.objectives.captioning import CaptioningConfig
from valor.processing.processor import ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.training.adapt import AdaptConfig
from valor.training.monitor import read_metrics
from valor.training.optim import OptimConfig
from valor.training.run import TrainConfig, run
from valor.training.step import ObjectivesConfig

GOAL = 10.0
TOLERANCE = 1e-3
PARTS = ("vision", "audio", "text")


def config(*, batch_size: int, num_steps: int, captions: bool) -> TrainConfig:
    text = BertConfig(
        vocab_size=8000, max_length=128, dim=512, num_layers=6, num_heads=8, mlp_dim=2048
    )
    return TrainConfig(
        model=ValorConfig(text=text),
        processor=ProcessorConfig(spectrogram=SpectrogramConfig(num_windows=1)),
        objectives=ObjectivesConfig(captioning=CaptioningConfig() if captions else None),
        adapt=AdaptConfig(frozen=("vision.", "audio.")),
        optim=OptimConfig(learning_rate=2e-5),
        batch_size=batch_size,
        num_steps=num_steps,
        save_every=num_steps,
        precision="float32",
    )


def trained(
    settings: TrainConfig, records: list[Record], out: Path
) -> tuple[list[float], float, float]:
    """Losses of all steps, seconds of one, and seconds from decoded media to tokens."""
    ends_s: dict[str, float] = {}

    def note_end(stage: str, done: int, total: int, *, note: str = "") -> None:
        ends_s[stage] = time.perf_counter()

    run(settings, records, out, report=note_end)
    rows = read_metrics(out / "metrics.jsonl")
    ends = [row["elapsed_s"] for row in rows]
    seconds = [end - begin for begin, end in pairwise(ends)]
    filling_s = ends_s.get("encode", ends_s["prepare"]) - ends_s["prepare"]
    return [row["loss"] for row in rows], statistics.median(seconds), filling_s


def measure(
    name: str, settings: TrainConfig, records: list[Record], root: Path
) -> dict[str, float]:
    losses, loop_s, _ = trained(settings, records, root / name)
    cached = evolve(settings, {"cache_frozen": True})
    cached_losses, cached_s, filling_s = trained(cached, records, root / f"{name} cached")
    differences = [abs(a - b) / b for a, b in zip(cached_losses, losses, strict=True)]
    return {
        f"speedup_{name}": loop_s / cached_s,
        f"largest_relative_difference_{name}": max(differences),
        f"loop_step_s_{name}": loop_s,
        f"cached_step_s_{name}": cached_s,
        f"filling_s_{name}": filling_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    quick = arguments.quick
    batch_size, num_steps = (2, 3) if quick else (16, 8)
    torch.set_num_threads(2)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        render_world(
            root / "world",
            World(num=6 if quick else 16, num_val=0, num_test=0, seed=0, level="duet"),
        )
        records = read_manifest(root / "world", split="train")
        for name in ("retrieval",) if quick else ("retrieval", "with_captions"):
            settings = config(
                batch_size=batch_size, num_steps=num_steps, captions=name == "with_captions"
            )
            if quick:
                settings = evolve(settings, {f"model.{part}.num_layers": 1 for part in PARTS})
            figures |= measure(name, settings, records, root)
    finish(figures, arguments.json)
    if not quick and figures["speedup_retrieval"] < GOAL:
        raise SystemExit(f"speedup_retrieval={figures['speedup_retrieval']:.3g} is below {GOAL}")
    different = [v for k, v in figures.items() if k.startswith("largest") and v > TOLERANCE]
    if different:
        raise SystemExit(f"losses differ by {max(different):.2g}, more than {TOLERANCE}")


if __name__ == "__main__":
    main()
