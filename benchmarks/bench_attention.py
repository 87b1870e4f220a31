"""Attention in bfloat16 on a CPU: plain products against torch's fused kernel, both directions.

`valor.encoders.layers.attend` takes plain products in this case; this shows by how much, against
the time that the bare matrix products of forward and backward take.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from valor.encoders.layers import KeyValue, attend

SHAPES = {
    "frames": (256, 4, 37, 37, 32),
    "windows": (64, 4, 51, 51, 32),
    "cross": (64, 4, 60, 199, 32),
}


def best_s(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(shape: tuple[int, int, int, int, int], repeats: int) -> dict[str, float]:
    batch, heads, length, tokens, dim = shape
    sizes = ((batch, heads, length, dim), *[(batch, heads, tokens, dim)] * 2)
    query, key, value = (torch.randn(s, dtype=torch.bfloat16, requires_grad=True) for s in sizes)
    scores = torch.randn(batch, heads, length, tokens, dtype=torch.bfloat16)

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
        f"{name}_{key}": round(value, 5)
        for name, shape in SHAPES.items()
        for key, value in measure(shape, 5 if arguments.quick else 20).items()
    }
    for key, value in figures.items():
        print(f"{key:28} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
