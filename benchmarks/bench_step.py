"""One training step at base size against the matrix-product rate.

ViT-B/16 at 224 px on 4 frames, AST on one window of 64 by 512, a 12-layer text encoder that is the
decoder too, all six losses (text with vision, audio and both; captions from each), batch 2, 30
tokens, dropout on, the optimizer's step included; 2 CPU threads, float32 and bfloat16. The limit is
the time that the 1.34 TFLOP that are necessary (encoders once, keys and values of cross-attention
once for the three groups) take at the rate of a matrix product, measured between the steps of the
same run. Goal: at least 0.74 of that rate in float32 and 0.63 in bfloat16. The peak memory is
that of a process of its own, without what it had before the model was made.

`--large` takes ViT-L/14 instead, and a GPU where there is one; goal there: 0.45 in bfloat16. The
operations are then those that `valor train --estimate` counts.
"""

import argparse
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from valor.config import evolve
from valor.data.collate import placed
from valor.encoders.vision import VitConfig
from valor.evaluation.provenance import finish
from valor.models.valor import Valor, ValorConfig
from valor.processes import device
from valor.training.estimate import estimate, matrix_rate
from valor.training.optim import OptimConfig, Optimizer
from valor.training.run import TrainConfig
from valor.training.step import ObjectivesConfig, backward, loss_terms
from valor.types import MEDIA_GROUPS, Batch, SpecialIds, TextBatch

BASE = ValorConfig()
LARGE = evolve(
    BASE,
    {"vision": VitConfig(patch_px=14, dim=1024, num_layers=24, num_heads=16, mlp_dim=4096)},
)
BASE_FLOP = 1.34e12 / 2
"""That are necessary for a sample."""
SPECIAL = SpecialIds(pad=0, start=101, end=102, mask=103)
NUM_TOKENS = 30
GOALS = {torch.float32: 0.74, torch.bfloat16: 0.63}


def sample_flop(config: ValorConfig) -> float:
    """Operations that are necessary for a sample."""
    if config == BASE:
        return BASE_FLOP
    sizes = {"processor.max_text_length": NUM_TOKENS, "processor.spectrogram.num_windows": 1}
    return estimate(evolve(TrainConfig(), {**sizes, "model": config, "batch_size": 1}), 0).step_flop


def texts(batch_size: int) -> TextBatch:
    ids = torch.randint(1000, 30_000, (batch_size, NUM_TOKENS))
    ids[:, 0], ids[:, -1] = SPECIAL.start, SPECIAL.end
    return TextBatch(token_ids=ids, valid=torch.ones_like(ids, dtype=torch.bool))


def build(config: ValorConfig, batch_size: int, dtype: torch.dtype) -> tuple[Valor, Batch]:
    torch.manual_seed(0)
    model = Valor(config).to(device(), dtype).train()
    batch = Batch(
        ids=[str(row) for row in range(batch_size)],
        pixels=torch.randn(batch_size, 4, 3, 224, 224),
        frame_valid=torch.ones(batch_size, 4, dtype=torch.bool),
        spectrograms=torch.randn(batch_size, 1, 64, 512),
        window_valid=torch.ones(batch_size, 1, dtype=torch.bool),
        aligned_texts={group: texts(batch_size) for group in MEDIA_GROUPS},
        caption_texts={group: texts(batch_size) for group in MEDIA_GROUPS},
    )
    return model, placed(batch, device(), dtype)


def peak_bytes() -> int:
    """Of the GPU if it is one that computes, else of this process."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    dtype: torch.dtype, config: ValorConfig, *, batch_size: int, num_steps: int
) -> dict[str, float]:
    torch.set_num_threads(2)
    before = peak_bytes()
    model, batch = build(config, batch_size, dtype)
    optimizer = Optimizer(model, OptimConfig(), num_steps=1000)
    objectives, seconds, rates, values = ObjectivesConfig(), [], [], {}
    for step in range(num_steps + 1):
        rates.append(matrix_rate(dtype, side=2048)[1])
        start = time.perf_counter()
        values = backward(loss_terms(model, batch, objectives, SPECIAL))
        optimizer.step(step)
        if device().type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if len(values) != 7:
        raise AssertionError(f"wanted six losses and their sum, got {sorted(values)}")
    step_s, rate = statistics.median(seconds[1:]), statistics.median(rates[1:])
    name = str(dtype).removeprefix("torch.")
    flop = sample_flop(config) * batch_size
    return {
        f"utilisation_{name}": flop / step_s / rate,
        f"step_s_{name}": step_s,
        f"matrix_rate_{name}": rate,
        f"peak_bytes_{name}": peak_bytes() - before,
        f"weight_bytes_{name}": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--batch-size", type=int, default=2)
    arguments = parser.parse_args()
    figures = {}
    for dtype in GOALS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            figures |= pool.submit(
                measure,
                dtype,
                LARGE if arguments.large else BASE,
                batch_size=arguments.batch_size,
                num_steps=1 if arguments.quick else 5,
            ).result()
    finish(figures, arguments.json)
    goals = {torch.bfloat16: 0.45} if arguments.large else GOALS
    print("goals:", ", ".join(f"{dtype} {goal}" for dtype, goal in goals.items()))


if __name__ == "__main__":
    main()
