"""The fine-grained similarity: rate against a matrix product, and memory of the contrastive loss.

Every text (32 words) is compared with every item (12 tokens) at 512 dimensions; the limit is the
time of the products alone, a share of 1 of the rate of a matrix product measured in the same run.
Memory: the contrastive loss of one group at batch 4096, 32 words and 9 media tokens, with inputs
and gradients, above what the process had after its imports; all products at once would be 18 GiB.
"""

import argparse
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from valor.evaluation.provenance import finish
from valor.models.fusion import similarity
from valor.objectives.alignment import contrastive_loss
from valor.types import Embeddings

WORDS, TOKENS, DIM = 32, 12, 512


def embeddings(num: int, tokens: int, *, trained: bool = False) -> Embeddings:
    vectors = torch.nn.functional.normalize(torch.randn(num, tokens, DIM), dim=-1)
    return Embeddings(
        vectors=vectors.requires_grad_(trained),
        weight_logits=torch.randn(num, tokens).requires_grad_(trained),
        valid=torch.ones(num, tokens, dtype=torch.bool),
    )


def matrix_rate() -> float:
    a, b, best = torch.randn(2048, 2048), torch.randn(2048, 2048), float("inf")
    for _ in range(9):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


@torch.inference_mode()
def measure_rate(num: int, repeats: int) -> dict[str, float]:
    torch.set_num_threads(2)
    text, media = embeddings(num, WORDS), embeddings(num, TOKENS)
    seconds, rates = [], []
    for _ in range(repeats + 1):
        rates.append(matrix_rate())
        start = time.perf_counter()
        similarity(text, media)
        seconds.append(time.perf_counter() - start)
    flop = 2 * WORDS * TOKENS * DIM * num**2
    taken, rate = statistics.median(seconds[1:]), statistics.median(rates[1:])
    return {"share_of_matrix_rate": flop / taken / rate, "pairs_per_s": num**2 / taken}


def measure_memory(batch: int) -> dict[str, float]:
    torch.set_num_threads(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text, media = embeddings(batch, WORDS, trained=True), embeddings(batch, 9, trained=True)
    start = time.perf_counter()
    positive = torch.eye(batch, dtype=torch.bool)
    contrastive_loss(similarity(text, media), positive, torch.tensor(2.0)).backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "contrastive_peak_gib": peak / 2**20,
        "contrastive_batch": batch,
        "contrastive_s": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    quick = arguments.quick
    figures: dict[str, float] = {}
    for task in (
        partial(measure_rate, *((500, 2) if quick else (1500, 5))),
        partial(measure_memory, 1024 if quick else 4096),
    ):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            figures |= pool.submit(task).result()
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
