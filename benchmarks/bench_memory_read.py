"""Memory of TMANet's read: fused attention against the plain product, same inputs, same result.

    python benchmarks/bench_memory_read.py

Each way runs in a process of its own, which tells the most memory that the read took beyond its
inputs. The limit: fused takes at most a quarter of plain at 4 past frames and 96x96 features.
"""

import argparse
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from valor.evaluation.provenance import finish
from valor.models.temporal_memory import read_memory

SLOTS, KEY_DIM, VALUE_DIM = 4, 64, 256
LIMIT = 0.25


def plain_read(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As released: all scores, their softmax, times the values."""
    known, stored = (x.transpose(1, 2).flatten(2) for x in (keys, values))
    weights = (query.flatten(2).mT @ known).softmax(dim=-1)
    return (weights @ stored.mT).mT.unflatten(2, query.shape[2:])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(way: str, side: int) -> tuple[Tensor, float, float]:
    """A sample of the result, the most memory in MiB beyond the inputs, and seconds."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    query = torch.randn(1, KEY_DIM, side, side) / KEY_DIM**0.25
    keys = torch.randn(1, SLOTS, KEY_DIM, side, side) / KEY_DIM**0.25
    values = torch.randn(1, SLOTS, VALUE_DIM, side, side)
    read = {"fused": read_memory, "plain": plain_read}[way]
    with torch.inference_mode():
        read(query[..., :2, :2], keys[..., :2, :2], values[..., :2, :2])
        before, start = resident_bytes(), time.perf_counter()
        found = read(query, keys, values)
        seconds = time.perf_counter() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found[..., ::7, ::7].clone(), (most - before) / 2**20, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="48x48 features")
    arguments = parser.parse_args()
    side = 48 if arguments.quick else 96
    results = {}
    for way in ("plain", "fused"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results[way] = pool.submit(measure, way, side).result()
    (plain, plain_mib, plain_s), (fused, fused_mib, fused_s) = results["plain"], results["fused"]
    figures = {
        "memory_fused_over_plain": round(fused_mib / plain_mib, 4),
        "largest_difference": (plain - fused).abs().max().item(),
        "fused_mib": round(fused_mib, 1),
        "plain_mib": round(plain_mib, 1),
        "fused_s": round(fused_s, 2),
        "plain_s": round(plain_s, 2),
        "side": side,
        "slots": SLOTS,
    }
    finish(figures, arguments.json)
    good = figures["memory_fused_over_plain"] <= LIMIT and figures["largest_difference"] < 1e-5
    print(f"{'ok' if good else 'OFF'}: limit {LIMIT} of the plain product's memory, equal to 1e-5")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
