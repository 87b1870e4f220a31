"""Re-ranking by the matching head is what matching each pair by itself would give."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from valor.checkpoints.folder import save_model
from valor.cli.main import main
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.evaluation import matching
from valor.evaluation.options import Options
from valor.evaluation.retrieval import query_pool
from valor.evaluation.run import collect, evaluate
from valor.inference import load
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality


@pytest.fixture(scope="module")
def model(model_folder):
    model: Any = load(model_folder)
    torch.manual_seed(3)
    model.valor.match_head = nn.Linear(model.valor.config.text.dim, 1)
    return model


@pytest.fixture(scope="module")
def outputs(model, world):
    return collect(model, read_manifest(world, split="test"))


def reranked(model, outputs, candidates):
    options = Options(rerank=candidates)
    return evaluate(model, outputs.records, outputs, options=options)["retrieval"]


def test_with_all_candidates_it_is_a_ranking_by_the_head_alone(model, outputs):
    found = reranked(model, outputs, 100)
    assert found.keys() == {group.label for group in MEDIA_GROUPS}
    for label, row in found.items():
        group = Modality.parse(label)
        pool = query_pool(model, outputs, group)
        segments = [model.read(outputs.records[r].media) for r in pool.rows]
        everyone = range(len(segments))
        scores = np.array(
            [
                model.match(segments, [text] * len(segments), everyone, using=group)
                for text in pool.texts
            ]
        )
        ranks = (scores >= scores.diagonal()[:, None] - 1e-5).sum(axis=1)
        assert row["reranked"]["candidates"] == len(segments)
        assert row["reranked"]["after"]["mean_rank"] == ranks.mean()
        assert row["reranked"]["after"]["r1"] == (ranks == 1).mean()
        assert row["reranked"]["before"]["r1"] == row["text_to_media"]["r1"]
        assert row["reranked"]["after"] != row["reranked"]["before"]


def test_only_recordings_that_a_text_is_matched_with_are_read_again(model, outputs, monkeypatch):
    monkeypatch.setattr(matching, "_RECORDINGS_AT_ONCE", 2)
    pool = query_pool(model, outputs, AUDIOVISUAL)
    read, pairs = [], (np.array([3, 0, 2, 1]), np.array([1, 1, 4, 6]))
    monkeypatch.setattr(
        model, "read", lambda path, **_: read.append(path) or type(model).read(model, path)
    )
    found = matching._match_pairs(model, outputs.records, pool, AUDIOVISUAL, *pairs)
    media = [outputs.records[pool.rows[item]].media for item in (1, 4, 6)]
    assert sorted(read) == sorted(media)
    for score, text, item in zip(found, *pairs, strict=True):
        segment = model.read(outputs.records[pool.rows[item]].media)
        (alone,) = model.match([segment], [pool.texts[text]], [0], using=AUDIOVISUAL)
        assert score == pytest.approx(alone, abs=1e-5)


def test_recall_among_the_candidates_and_ranks_behind_them_stay(model, outputs):
    whole = reranked(model, outputs, 1)
    for row in whole.values():
        assert row["reranked"]["after"] == row["reranked"]["before"]
    five = reranked(model, outputs, 5)
    for row in five.values():
        before, after = (row["reranked"][when] for when in ("before", "after"))
        assert before["r5"] == after["r5"] and before["r10"] == after["r10"]


def test_the_command_states_both_and_needs_a_head(model, model_folder, world, tmp_path, capsys):
    words = ["--data", str(world), "--out", str(tmp_path / "out"), "--rerank", "3"]
    assert main(["evaluate", str(model_folder), *words, "--protocol", "retrieval"]) == 2
    assert "model.matches=true" in capsys.readouterr().err
    config = evolve(model.valor.config, {"matches": True})
    weights = load_file(model_folder / "model.safetensors")
    weights |= {f"match_head.{n}": x.detach() for n, x in model.valor.match_head.named_parameters()}
    save_model(tmp_path / "model", config, weights, model.processor, card="")
    command = ["evaluate", str(tmp_path / "model"), *words]
    assert main([*command, "--protocol", "retrieval"]) == 0
    assert "re-ranked   audiovisual" in capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["retrieval"][AUDIOVISUAL.label]["reranked"]["candidates"] == 3
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "before re-ranking" in table and "first 3 re-ranked" in table
