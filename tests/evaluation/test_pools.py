"""Pools counted block by block are the whole matrix, and two stages say what they lose."""

import itertools

import numpy as np
import pytest
import torch

from valor.evaluation import pools
from valor.evaluation.pools import rank_pool, rerank, two_stage
from valor.metrics.ranking import PairRanking
from valor.metrics.retrieval import mean_average_precision, ndcg, pair_report, retrieval_report
from valor.models.fusion import similarity
from valor.types import Embeddings


def embeddings(num: int, tokens: int, *, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num, tokens, 8, generator=generator)
    valid = torch.rand(num, tokens, generator=generator) < 0.8
    valid[:, 0] = True
    return Embeddings(
        vectors=torch.nn.functional.normalize(vectors, dim=-1),
        weight_logits=torch.randn(num, tokens, generator=generator),
        valid=valid,
    )


@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("ties", ["pessimistic", "average", "optimistic"])
def test_blocks_count_what_the_whole_matrix_shows(monkeypatch, captions, ties):
    media = embeddings(40, 5, seed=1)
    media.vectors[7], media.valid[7], media.weight_logits[7] = (
        media.vectors[3], media.valid[3], media.weight_logits[3]
    )  # fmt: skip
    texts = embeddings(40 * captions, 6, seed=2)
    whole = similarity(texts, media).numpy().astype(np.float64)
    monkeypatch.setattr(pools, "_SIDE", 16)
    ranking = rank_pool(texts, media, np.arange(40 * captions) // captions)
    expected = retrieval_report(whole, captions_per_item=captions, ties=ties)
    for direction, figures in pair_report(ranking, ties=ties).items():
        assert figures == pytest.approx(expected[direction])


def test_several_matches_have_the_average_precision_and_gain_of_the_matrix():
    scores = np.random.default_rng(0).integers(0, 9, (30, 10)).astype(float)
    report = retrieval_report(scores, captions_per_item=3)["media_to_text"]
    relevant = (np.arange(30) // 3)[:, None] == np.arange(10)
    assert report["map"] == pytest.approx(mean_average_precision(scores.T, relevant.T))
    assert report["ndcg"] == pytest.approx(ndcg(scores.T, relevant.T))


def test_blocks_may_be_counted_apart_and_merged_in_any_order():
    scores = np.random.default_rng(1).integers(0, 5, (12, 6)).astype(float)
    owner = np.arange(12) // 2
    own = scores[np.arange(12), owner]
    parts = []
    for first_text, first_media in itertools.product((0, 4, 8), (0, 3)):
        part = PairRanking(owner, own)
        block = scores[first_text : first_text + 4, first_media : first_media + 3]
        part.count(block, first_text=first_text, first_media=first_media)
        parts.append(part)
    expected = retrieval_report(scores, captions_per_item=2)
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 4, 1, 3]):
        merged = PairRanking(owner, own)
        for index in order:
            merged = merged.merge(parts[index])
        assert pair_report(merged) == expected


def test_two_stages_over_all_candidates_are_the_exact_ranks():
    texts, media = embeddings(20, 6, seed=3), embeddings(20, 4, seed=4)
    exact = pair_report(rank_pool(texts, media))["text_to_media"]
    both = two_stage(texts, media, num_candidates=20)
    assert both["candidate_recall"] == 1
    assert all(both[key] == pytest.approx(exact[key]) for key in ("r1", "r5", "mean_rank"))


def test_a_match_outside_the_candidates_is_not_found_but_counted():
    texts, media = embeddings(30, 6, seed=3), embeddings(30, 4, seed=4)
    one = two_stage(texts, media, num_candidates=1)
    assert one["r1"] == one["candidate_recall"] < 1
    assert one["num"] == 30


@pytest.mark.parametrize("candidates", [1, 5, 12, 50])
def test_only_the_best_items_of_a_text_are_scored_again(candidates):
    texts, media = embeddings(9, 4, seed=1), embeddings(12, 5, seed=2)
    closer = np.random.default_rng(0).random((9, 12))
    asked = []

    def match(text, item):
        asked.extend(zip(text.tolist(), item.tolist(), strict=True))
        assert (np.diff(item) >= 0).all()
        return closer[text, item]

    places, scores = rerank(texts, media, match, num_candidates=candidates)
    whole = similarity(texts, media).numpy()
    for row in range(9):
        best = np.argsort(-whole[row], kind="stable")[:candidates]
        assert places[row].tolist() == best.tolist()
        assert scores[row].tolist() == closer[row, best].tolist()
    assert sorted(asked) == sorted((row, item) for row in range(9) for item in places[row].tolist())
