"""Evaluation of large pools: seconds, memory, and the rate against a matrix product.

`report`: 10 000 captions (32 words) against 10 000 items (12 tokens) at 512 dimensions, every pair
by the fine-grained similarity, all metrics in both directions, and their confidence intervals; the
limits are 6 minutes, 3 GiB in all, and 0.7 of the rate of a matrix product measured in the same
run (which alone needs 39 TFLOP). `cider`: CIDEr-D of 50 000 captions, with one reference each and
with five, words already cut; the limit is 20 s.
"""

import argparse
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from valor.evaluation.items import TIES, Items, add_ranks, intervals
from valor.evaluation.pools import rank_pool, two_stage
from valor.evaluation.provenance import finish
from valor.metrics.cider import cider_d
from valor.metrics.retrieval import pair_report
from valor.types import Embeddings

WORDS, TOKENS, DIM, SIDE = 32, 12, 512, 2048


def embeddings(num: int, tokens: int) -> Embeddings:
    vectors = torch.randn(num, tokens, DIM)
    return Embeddings(
        vectors=vectors.div_(vectors.norm(dim=-1, keepdim=True)),
        weight_logits=torch.randn(num, tokens),
        valid=torch.ones(num, tokens, dtype=torch.bool),
    )


def matrix_rate() -> float:
    a, b, best = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), float("inf")
    for _ in range(9):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best


@torch.inference_mode()
def measure_report(num: int) -> dict[str, float]:
    torch.set_num_threads(2)
    texts, media = embeddings(num, WORDS), embeddings(num, TOKENS)
    before = matrix_rate()
    start = time.perf_counter()
    ranking = rank_pool(texts, media)
    ranked = time.perf_counter() - start
    pair_report(ranking)
    items: Items = {}
    add_ranks(items, "text_to_media", list(map(str, range(num))), ranking.text_positions(TIES))
    intervals(items)
    whole = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = statistics.mean((before, matrix_rate()))
    start = time.perf_counter()
    coarse = two_stage(_first(texts, 200), media, num_candidates=100)
    return {
        "share_of_matrix_rate": 2 * WORDS * TOKENS * DIM * num**2 / ranked / rate,
        "report_s": whole,
        "report_peak_gib": peak / 2**20,
        "pairs_per_s": num**2 / ranked,
        "pool": num,
        "two_stage_s_per_query": (time.perf_counter() - start) / 200,
        "two_stage_candidate_recall_of_random_vectors": coarse["candidate_recall"],
    }


def _first(embedded: Embeddings, num: int) -> Embeddings:
    return embedded.select(torch.arange(num))


def measure_cider(num: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    # Words as rare as in language: rank r is drawn with probability 1 / r.
    share = 1 / np.arange(1, 8001)
    names = np.array([f"w{rank}" for rank in range(8000)])
    drawn = names[rng.choice(8000, (num * 6, 11), p=share / share.sum())].tolist()
    candidates, texts = drawn[:num], drawn[num:]
    figures = {}
    for per_item in (1, 5):
        references = [texts[5 * i : 5 * i + per_item] for i in range(num)]
        start = time.perf_counter()
        cider_d(candidates, references)
        figures[f"cider_{per_item}_references_s"] = time.perf_counter() - start
    return {**figures, "cider_captions": num}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for task, num in (
        (measure_report, 1500 if arguments.quick else 10_000),
        (measure_cider, 5000 if arguments.quick else 50_000),
    ):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            figures |= pool.submit(task, num).result()
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
