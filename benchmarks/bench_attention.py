"""Attention on a CPU: plain products against torch's fused kernel, both directions.

`valor.encoders.layers.attend` takes plain products in bfloat16, and in float32 training for fewer
than 64 tokens; this shows by how much that is faster, against the time that the bare matrix
products of forward and backward take. `patches` are those of a ViT-B/16, and `cross` a decoder's
media, for both of which float32 takes the fused kernel.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from valor.encoders.layers import KeyValue, attend
from valor.evaluation.provenance import finish

SHAPES = {
    "frames": (256, 4, 37, 37, 32),
    "windows": (64, 4, 51, 51, 32),
    "cross": (64, 4, 60, 199, 32),
    "patches": (8, 12, 197, 197, 64),
}


def best_s(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, repeats: int
) -> dict[str, float]:
    batch, heads, length, tokens, dim = shape
    sizes = ((batch, heads, length, dim), *[(batch, heads, tokens, dim)] * 2)
    query, key, value = (torch.randn(s, dtype=dtype, requires_grad=True) for s in sizes)
    scores = torch.randn(batch, heads, length, tokens, dtype=dtype)

    def backward(attended: Tensor) -> None:
        attended.backward(torch.ones_like(attended))

    @torch.no_grad()
    def products() -> list[Tensor]:
        """Forward once, backward twice."""
        return [x for _ in range(3) for x in (query @ key.transpose(-1, -2), scores @ value)]

    ours = best_s(lambda: backward(attend(query, KeyValue(key, value), None)), repeats)
    fused = best_s(lambda: backward(F.scaled_dot_product_attention(query, key, value)), repeats)
    bare = best_s(products, repeats)
    return {"gain_over_fused": fused / ours, "over_bare_products": ours / bare, "ours_s": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    figures = {
        f"{name}_{dtype}_{key}".replace("torch.", ""): round(value, 5)
        for dtype in (torch.float32, torch.bfloat16)
        for name, shape in SHAPES.items()
        for key, value in measure(shape, dtype, 5 if arguments.quick else 20).items()
    }
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
