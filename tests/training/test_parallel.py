"""Two processes learn what one does."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import run_two_ranks
from tests.tiny import SPECIAL, small_run, tiny_config
from tests.training.two_ranks import (
    CASES,
    LEARNED,
    OBJECTIVES,
    joined_batch,
    main,
    model_for,
    nothing_drawn,
    reward,
    seen,
    sparse_records,
    sparse_run,
)
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.encoders.video_swin import VideoSwinConfig, VideoSwinTransformer
from valor.models.fusion import token_weights
from valor.models.valor import Valor
from valor.training import step
from valor.training.monitor import read_metrics
from valor.training.optim import OptimConfig, Optimizer
from valor.training.parallel import layers_of
from valor.training.run import run
from valor.training.state import States
from valor.training.step import (
    ComputeConfig,
    Losses,
    ObjectivesConfig,
    backward,
    found_terms,
    last_figures,
    shared_losses,
)


class StopError(Exception):
    """Stands for a kill."""


def stop(stage, done, total, *, note=""):
    if stage == "train" and done == 3:
        raise StopError


def config():
    return evolve(small_run(), {"model.text.dropout": 0.0})


@pytest.fixture(scope="module")
def two_ranks(world, tmp_path_factory) -> Path:
    """What two processes have written; the second half of a run that one process began too."""
    out = tmp_path_factory.mktemp("ranks")
    with pytest.raises(StopError):
        run(config(), read_manifest(world, split="train"), out / "run", report=stop)
    run_two_ranks(main, out, world)
    return out


def assert_equal_gradients(found, wanted):
    """To 1e-5, or a millionth of the largest: float32 keeps sums to the size of their terms."""
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for key, gradient in wanted.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=max(1e-5, 1e-6 * largest))


def one_process(learned="softmax", num_rows=5, micro_batch=None):
    model = model_for(learned)
    losses = Losses(model, LEARNED[learned], SPECIAL, micro_batch, reward)
    with nothing_drawn():
        values = backward(found_terms(losses(joined_batch(num_rows))))
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return model, values, found


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_learn_what_one_does(two_ranks, name):
    case = CASES[name]
    at_hand = case.num_first if case.learned == "matching" else None
    model, values, wanted = one_process(case.learned, case.num_rows, at_hand)
    norms = Optimizer(model, OptimConfig(), num_steps=10).step(0)
    ranks = [torch.load(two_ranks / f"{name} {rank}.pt") for rank in range(2)]
    assert ranks[0]["values"].keys() == ranks[1]["values"].keys() == values.keys()
    for key, value in values.items():
        mean = sum(rank["values"][key] for rank in ranks) / 2
        assert mean == pytest.approx(value, abs=1e-5), key
    for found in ranks:
        assert_equal_gradients(found["gradients"], wanted)
        assert found["norms"] == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("name", [*CASES][:4])
def test_one_process_reads_the_state_of_two(two_ranks, name):
    model = model_for(seed=1)
    optimizer = Optimizer(model, OptimConfig(), num_steps=10)
    states = States(two_ranks / f"state of {name}", optimizer)
    assert states.load() == 1
    states.close()
    found = torch.load(two_ranks / f"{name} 0.pt")
    for key, weight in found["weights"].items():
        assert torch.equal(optimizer.masters[key], weight), key
    for key in found["gradients"]:
        assert optimizer.adamw.state[optimizer.masters[key]]["step"] == 1


def test_two_ranks_go_on_with_what_one_began(two_ranks, world, tmp_path):
    with seen() as ids:
        run(config(), read_manifest(world, split="train"), tmp_path)
    parts = [torch.load(two_ranks / f"ids {rank}.pt") for rank in range(2)]
    assert parts[0].keys() == parts[1].keys() == {2, 3}
    for number in (2, 3):
        pairs = zip(parts[0][number], parts[1][number], strict=True)
        assert [id for pair in pairs for id in pair] == ids[number]
    whole = read_metrics(tmp_path / "metrics.jsonl")
    resumed = read_metrics(two_ranks / "run/metrics.jsonl")
    assert [row["step"] for row in resumed] == [0, 1, 2, 3]
    for one, two in zip(whole, resumed, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert two["align/audiovisual"] == pytest.approx(one["align/audiovisual"], abs=1e-4)
    assert (two_ranks / "run/model/model.safetensors").is_file()


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_steps_that_teach_nothing_are_left_out_by_all_ranks_alike(two_ranks, world, tmp_path, how):
    one = load_file(run(sparse_run(), sparse_records(world), tmp_path) / "model.safetensors")
    rows = read_metrics(two_ranks / f"sparse {how}/metrics.jsonl")
    assert [(row["step"], row.get("empty", 0)) for row in rows] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    for row, wanted in zip(rows, read_metrics(tmp_path / "metrics.jsonl"), strict=True):
        assert row.get("loss") == pytest.approx(wanted.get("loss"), abs=1e-5)
    found = load_file(two_ranks / f"sparse {how}/model/model.safetensors")
    again = run(sparse_run(), sparse_records(world), two_ranks / f"sparse {how}")
    for name, weight in load_file(again / "model.safetensors").items():  # The state is as whole.
        assert torch.equal(found[name], weight), name
    for name, weight in one.items():
        if weight.dim() > 1:  # A key's bias changes nothing, so its gradient is noise.
            torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=5e-5)


def test_token_weights_are_told_of_the_rows_that_have_tokens():
    model, batch = model_for(), joined_batch()
    shared = shared_losses(model, OBJECTIVES, SPECIAL, ComputeConfig())
    shared(batch)
    figures = last_figures(shared)
    for modality, embeddings in model(batch).media.items():
        rows = token_weights(embeddings)[embeddings.present]
        wanted = sum(max(row.tolist()) for row in rows) / len(rows)
        assert figures[f"token_weight/{modality.label}"] == pytest.approx(wanted, rel=1e-5)
    assert figures["token_weight/text"] < 1


@pytest.mark.parametrize(
    ("left_out", "unread"), [("alignment", "encode_text"), ("captioning", "remember")]
)
def test_what_nothing_learns_from_is_not_read(left_out, unread, monkeypatch):
    monkeypatch.setattr(Valor, unread, lambda *given: pytest.fail(f"{unread} was called"))
    only = replace(ObjectivesConfig(), **{left_out: None})
    model = Valor(tiny_config())
    terms = shared_losses(model, only, SPECIAL, ComputeConfig())(joined_batch())
    assert len(terms) == 3


@pytest.mark.parametrize("micro_batch", [2, 4])
@pytest.mark.parametrize("learned", [name for name in LEARNED if name != "matching"])
def test_rows_at_a_time_are_one_large_batch(learned, micro_batch):
    _, values, wanted = one_process(learned)
    _, found_values, found = one_process(learned, micro_batch=micro_batch)
    assert found_values == pytest.approx(values, abs=1e-5)
    assert_equal_gradients(found, wanted)


def test_rows_computed_again_meet_the_same_random_numbers(monkeypatch):
    found = []
    for kept in (True, False):
        model = model_for().train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        if kept:
            monkeypatch.setattr(
                step, "checkpoint", lambda part, *given, use_reentrant: part(*given)
            )
        torch.manual_seed(0)
        backward(found_terms(Losses(model, OBJECTIVES, SPECIAL, 2)(joined_batch())))
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        monkeypatch.undo()
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient)


@pytest.mark.parametrize("learned", ["softmax", "bridge"])
def test_layers_computed_again_learn_the_same(learned):
    _, values, wanted = one_process(learned)
    model, again = model_for(learned), ComputeConfig(recompute_layers=True)
    shared = shared_losses(model, LEARNED[learned], SPECIAL, again)
    assert backward(found_terms(shared(joined_batch()))) == pytest.approx(values)
    for key, gradient in wanted.items():
        torch.testing.assert_close(model.get_parameter(key).grad, gradient)


def test_layers_are_those_of_encoders_decoder_and_language_model():
    model: Any = model_for()
    bridge: Any = model_for("bridge")
    found = layers_of(model)
    for layers in (model.vision.blocks, model.audio.blocks, model.decoder.text.layers):
        assert all(layer in found for layer in layers)
    assert all(layer in layers_of(bridge) for layer in bridge.decoder.language_model.model.layers)
    swin: Any = VideoSwinTransformer(VideoSwinConfig(embed_dim=8, depths=(1, 1), num_heads=(1, 2)))
    held = layers_of(swin)
    assert held.index(swin.stages[0].blocks[0]) < held.index(swin.stages[0])


def compare_compiled() -> None:
    """Compiled layers give the losses and gradients of others."""
    _, values, wanted = one_process()
    model = model_for()
    shared = shared_losses(model, OBJECTIVES, SPECIAL, ComputeConfig(compile=True))
    assert backward(found_terms(shared(joined_batch()))) == pytest.approx(values, abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for key, gradient in wanted.items():
        found = model.get_parameter(key).grad
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_layers_learn_the_same(tmp_path):
    """In a process of its own, where no checks of shapes are in the way of the compiler."""
    code = "from tests.training.test_parallel import compare_compiled; compare_compiled()"
    fresh = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=fresh, check=False)
    assert done.returncode == 0, done.stderr
