"""Laws of fine-tuning: what a protocol says is what is run, from the model that is given."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from valor.cli.main import main
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.errors import ModelError, UsageError
from valor.protocols import PROTOCOLS, find_protocol
from valor.recipes.finetune import finetune, objectives_of
from valor.training import loop
from valor.training.monitor import read_metrics
from valor.training.run import run
from valor.types import Modality

QUICK = ["--batch-size", "6", "--precision", "float32"]
TERMS = {"retrieval": "align", "captioning": "caption", "answering": "answer"}


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("protocol", [*TERMS, "msvd-qa"])
def test_one_command_learns_one_task(protocol, model_folder, world, tmp_path, capsys):
    words = ["train", "finetune", "--protocol", protocol, "--start", str(model_folder)]
    words += ["--data", str(world), "--out", str(tmp_path), "--num-epochs", "1", *QUICK]
    assert main([*words, "--json"]) == 0
    folder = tmp_path / "model"
    assert json.loads(capsys.readouterr().out) == {"model": str(folder)}
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]  # 12 recordings in batches of 6.
    task = find_protocol(protocol).task
    logged = {name.partition("/")[0] for name in rows[0] if "/" in name} - {"token_weight"}
    assert logged == {TERMS[task], "grad_norm"}
    assert "| all | VALOR, run " in (folder / "README.md").read_text()
    before, after = weights(model_folder), weights(folder)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_steps_that_are_asked_for_count_instead_of_the_protocols_epochs(
    model_folder, world, tmp_path
):
    words = ["train", "finetune", "--protocol", "retrieval", "--start", str(model_folder)]
    words += ["--data", str(world), "--out", str(tmp_path), "--num-steps", "3", *QUICK]
    assert main(words) == 0
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3


def backward_until(stop):
    """Steps until it is interrupted."""
    steps = iter(range(stop))

    def backward(terms):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return own(terms)

    own = loop.backward
    return backward


def test_the_last_stage_is_rewarded_and_resumes_exactly(model_folder, world, tmp_path, monkeypatch):
    words = ["train", "finetune", "--protocol", "captioning", "--start", str(model_folder)]
    words += ["--data", str(world), *QUICK, "--self-critical", "--num-steps", "3"]
    words += ["--num-epochs", "null", "--save-every", "2", "--optim.learning-rate", "0.001"]
    words += ["--objectives.self-critical.max-tokens", "4"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert main([*words, "--out", str(once)]) == 0
    first, *_, last = read_metrics(once / "metrics.jsonl")
    assert {name.partition("/")[0] for name in first if "/" in name} == {
        "self_critical", "reward", "grad_norm",
    }  # fmt: skip
    assert first["grad_norm"] > 0
    assert last["reward/audiovisual"] >= 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "backward", backward_until(2))
        assert main([*words, "--out", str(twice)]) == 130
    assert main([*words, "--out", str(twice)]) == 0
    wanted, found = weights(once / "model"), weights(twice / "model")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_only_captions_are_rewarded(model_folder):
    config = finetune("vatex-captioning", str(model_folder), self_critical=True)
    assert config.optim.learning_rate == 2.5e-6
    with pytest.raises(UsageError, match="answering"):
        finetune("msvd-qa", str(model_folder), self_critical=True)


def test_a_protocol_without_sound_answers_from_vision_alone(model_folder, world, tmp_path):
    config = finetune("msvd-qa", str(model_folder))
    config = evolve(config, {"batch_size": 12, "num_epochs": 1})
    run(config, read_manifest(world, split="train"), tmp_path)
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert {name for name in row if name.startswith("answer/")} == {"answer/vision"}


def test_rates_lengths_and_epochs_are_the_protocols(model_folder):
    config = finetune("msrvtt-captioning", str(model_folder))
    assert config.optim.learning_rate == 9e-6
    assert (config.batch_size, config.num_epochs) == (64, 100)
    assert config.processor.max_text_length == 32
    assert config.processor.spectrogram.num_windows == 2


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_every_protocol_has_one_objective_on_its_groups(protocol):
    objectives = objectives_of(protocol)
    parts = (objectives.alignment, objectives.captioning, objectives.answering)
    only: Any
    (only,) = (part for part in parts if part is not None)
    if protocol.task == "answering":
        assert (Modality.AUDIO in only.using) == any(Modality.AUDIO in g for g in protocol.groups)
    else:
        assert only.groups == protocol.groups
    if protocol.task != "retrieval":
        assert (only.mask_fraction is None) == (protocol.name == "vqav2")


def test_a_start_is_needed_and_must_be_a_model(tmp_path):
    with pytest.raises(UsageError, match="--start"):
        finetune("retrieval")
    with pytest.raises(UsageError, match="unknown protocol"):
        finetune("nothing", str(tmp_path))
    with pytest.raises(ModelError, match="no model folder"):
        finetune("retrieval", str(tmp_path))


def test_other_recipes_take_no_protocol(tmp_path, capsys):
    words = ["train", "tiny", "--protocol", "msvd-qa", "--data", "x", "--out", str(tmp_path / "y")]
    assert main(words) == 2
    assert "unexpected keyword argument 'protocol'" in capsys.readouterr().err
