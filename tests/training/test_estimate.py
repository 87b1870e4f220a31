"""Laws of estimates: what is counted is what is computed."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import small_run, tiny_bridge
from valor.cli.main import main
from valor.config import evolve
from valor.data.collate import collate_training
from valor.data.manifest import read_manifest
from valor.data.samples import load_sample
from valor.objectives.answering import AnsweringConfig
from valor.objectives.base import total
from valor.objectives.captioning import CaptioningConfig
from valor.recipes import find_recipe
from valor.training import estimate as estimating
from valor.training.estimate import estimate
from valor.training.run import TrainConfig
from valor.training.start import begin
from valor.training.step import ObjectivesConfig, loss_terms


@pytest.fixture(autouse=True)
def known_rate(monkeypatch):
    monkeypatch.setattr(estimating, "matrix_rate", lambda dtype: ("cpu", 1e12))


def test_the_paper_sized_step_is_within_15_percent_of_the_benchmarks():
    sizes = {"processor.max_text_length": 30, "processor.spectrogram.num_windows": 1}
    found = estimate(evolve(TrainConfig(), {**sizes, "batch_size": 2}), 0)
    assert found.step_flop == pytest.approx(1.34e12, rel=0.15)
    assert found.hours == pytest.approx(1000 * found.step_flop / 0.5e12 / 3600)


def test_operations_are_those_of_a_real_step(world, monkeypatch):
    # The counter sees plain matrix products, not those that oneDNN makes.
    monkeypatch.setattr("valor.encoders.layers.linear", _linear)
    monkeypatch.setattr("valor.models.fusion.linear", _linear)
    monkeypatch.setattr("valor.models.decoder.linear", _linear)
    config = evolve(small_run(), {"model.vision.num_layers": 3, "model.text.num_layers": 2})
    records = read_manifest(world, split="train")[: config.batch_size]
    model, processor = begin(config.model, config.processor, records)
    samples = [load_sample(record, processor) for record in records]
    batch = collate_training(samples, records, processor, seed=0, step=0)
    with FlopCounterMode(display=False) as counter:
        terms = loss_terms(model, batch, config.objectives, processor.tokenizer.special)
        total(terms).backward()
    found = estimate(evolve(config, {"model.text.vocab_size": processor.tokenizer.vocab_size}), 12)
    # Texts of the world are shorter than the longest that the estimate takes them to be.
    assert counter.get_total_flops() <= found.step_flop <= 1.8 * counter.get_total_flops()
    assert found.parameters == sum(p.numel() for p in model.parameters())


def _linear(x, weight, bias=None, *, gelu=False):
    y = torch.nn.functional.linear(x, weight, bias)
    return torch.nn.functional.gelu(y) if gelu else y


def test_memory_follows_how_a_step_is_computed(monkeypatch):
    config = evolve(find_recipe("small"), {"precision": "float32"})
    ways = {"rows": {"compute.micro_batch": 4}, "layers": {"compute.recompute_layers": True}}
    ways["both"] = ways["rows"] | ways["layers"]
    whole = estimate(config, 0)
    found = {name: estimate(evolve(config, changes), 0) for name, changes in ways.items()}
    weights = 16 * whole.parameters
    kept = {name: one.memory_bytes - weights for name, one in found.items()}
    assert kept["rows"] == pytest.approx((whole.memory_bytes - weights) / 16)
    assert kept["layers"] < 0.7 * (whole.memory_bytes - weights)
    assert kept["both"] == pytest.approx(kept["layers"] / 16)
    # What is not kept is computed again.
    assert found["rows"].step_flop == pytest.approx(4 / 3 * whole.step_flop)
    assert whole.step_flop < found["layers"].step_flop < found["rows"].step_flop
    assert estimate(evolve(config, {"optim.average": 0.9}), 0).memory_bytes == pytest.approx(
        whole.memory_bytes + 4 * whole.parameters
    )
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    ddp = estimate(config, 0)
    fsdp = estimate(evolve(config, {"compute.parallel": "fsdp"}), 0)
    assert ddp.memory_bytes - weights == pytest.approx((whole.memory_bytes - weights) / 8)
    assert ddp.memory_bytes - weights * 7 / 8 < fsdp.memory_bytes < ddp.memory_bytes
    assert ddp.step_flop == whole.step_flop
    assert ddp.hours == pytest.approx(whole.hours / 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # Of one CPU.
    assert estimate(config, 0).hours == pytest.approx(whole.hours)


def test_a_tower_whose_tokens_are_kept_runs_once_for_each_recording():
    config = evolve(small_run(), {"adapt.frozen": ["vision.", "audio."], "num_steps": 100})
    loop, kept = estimate(config, 12), estimate(evolve(config, {"cache_frozen": True}), 12)
    assert loop.fill_flop == 0
    towers = loop.step_flop - kept.step_flop  # Of 6 samples at every step.
    assert towers > 0
    assert kept.fill_flop == pytest.approx(12 * towers / 6)
    whole = kept.fill_flop + 100 * kept.step_flop
    assert kept.hours == pytest.approx(whole / 0.5e12 / 3600)
    pooled = estimate(evolve(config, {"cache_frozen": True, "cache_pool": 4}), 12)
    assert pooled.step_flop < kept.step_flop
    assert pooled.memory_bytes < kept.memory_bytes


def test_updates_of_low_rank_cost_no_gradients_of_what_they_are_added_to():
    config = small_run()
    whole, updates = (estimate(evolve(config, {"adapt.lora_rank": rank}), 12) for rank in (0, 4))
    assert updates.trained < 0.5 * whole.trained
    assert 0.6 * whole.step_flop < updates.step_flop < 0.8 * whole.step_flop


def test_a_language_model_scores_the_words_of_texts_alone():
    """Neither media nor the prompt, which are most of what it reads."""
    run: Any = small_run()
    model = replace(tiny_bridge().config, vision=run.model.vision, audio=run.model.audio)
    learned = ObjectivesConfig(alignment=None, answering=AnsweringConfig())
    config = replace(run, objectives=learned)
    small, large = (
        estimate(
            replace(config, model=evolve(model, {"language_model.architecture.vocab_size": size})),
            12,
        ).step_flop
        for size in (100, 300)
    )
    num_texts = len(CaptioningConfig().groups) + 2
    num_words = config.batch_size * num_texts * config.processor.max_text_length
    forward_and_back = 2  # It is frozen.
    assert large - small == forward_and_back * num_words * 2 * model.language_model.dim * 200


def test_frozen_weights_cost_no_gradient():
    config = small_run()
    frozen = evolve(config, {"adapt.frozen": ["vision.", "audio."]})
    whole, part = estimate(config, 12), estimate(frozen, 12)
    assert part.trained < whole.trained == whole.parameters == part.parameters
    assert part.step_flop < whole.step_flop
    assert part.memory_bytes < whole.memory_bytes
    epochs = estimate(evolve(config, {"num_epochs": 5}), 12)
    assert epochs.num_steps == 10


def test_the_command_line_estimates_and_runs_nothing(
    world, model_folder, tmp_path, capsys, monkeypatch
):
    words = ["train", "finetune", "--start", str(model_folder), "--data", str(world)]
    words += ["--out", str(tmp_path / "run"), "--estimate"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_steps"] == 2  # 10 epochs of 12 recordings in batches of 64.
    assert main(words) == 0
    assert "hours at half of the 1000 GFLOP/s that cpu reaches" in capsys.readouterr().out
    kept = ["--adapt.frozen", '["vision.", "audio."]', "--cache-frozen", "true"]
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert main([*words, *kept]) == 0
    shown = capsys.readouterr().out
    assert "2 steps, and 0.00" in shown
    assert "TFLOP once" in shown
    assert "GiB in each of 8 processes" in shown
    monkeypatch.setenv("RANK", "1")
    assert main(words) == 0
    assert not capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_an_estimate_needs_data_only_where_it_counts_epochs(model_folder, capsys):
    assert main(["train", "tiny", "--estimate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_steps"] == 1150
    assert main(["train", "finetune", "--start", str(model_folder), "--estimate"]) == 2
    assert "--data is missing" in capsys.readouterr().err


def test_the_small_recipe_is_as_large_as_it_says():
    found = estimate(find_recipe("small"), 0)
    assert found.parameters == pytest.approx(41e6, rel=0.02)
    assert found.step_flop == pytest.approx(3.7e12, rel=0.02)
