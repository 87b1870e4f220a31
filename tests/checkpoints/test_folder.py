"""Laws of the model folder."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from valor.checkpoints.folder import load_model, save_model, weights_of
from valor.config import configclass
from valor.errors import ConfigError, ModelError
from valor.training.adapt import merged
from valor.training.optim import OptimConfig, Optimizer


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def test_a_round_trip_is_bit_equal(folder, tmp_path):
    model, processor, fingerprint = load_model(folder)
    save_model(
        tmp_path / "again", model.config, dict(model.named_parameters()), processor, card="x"
    )
    again, _, same = load_model(tmp_path / "again")
    for (name, one), (_, two) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    assert fingerprint == same


def test_a_foreign_encoders_running_means_are_part_of_a_folder(folder, tmp_path):
    model, processor, _ = load_model(folder)
    config = replace(model.config, vision=NormedConfig(**sizes_of(model.config.vision)))
    normed = config.build()
    normed.vision.norm.running_mean += 1.0
    optimizer = Optimizer(normed, OptimConfig(), num_steps=1)
    named = (merged(normed, optimizer.weights), merged(normed, {}), weights_of(normed))
    for number, weights in enumerate(named):
        save_model(tmp_path / f"{number}", config, weights, processor, card="x")
        again = load_model(tmp_path / f"{number}", trust_code=True)[0]
        assert torch.equal(again.vision.norm.running_mean, normed.vision.norm.running_mean)


@configclass
class NormedConfig:
    """An encoder from outside the package, with statistics beside its parameters."""

    kind: str = "tests.checkpoints.test_folder:NormedConfig"
    dim: int
    image_px: int
    frames_per_patch: int

    def build(self):
        """With fresh weights."""
        module = nn.Module()
        module.norm = nn.BatchNorm2d(self.dim)
        return module


def sizes_of(config):
    return {name: getattr(config, name) for name in ("dim", "image_px", "frames_per_patch")}


def test_weights_that_are_missing_or_left_over_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["surplus"] = weights.pop("log_scale")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing \['log_scale'\], left over \['surplus'\]"):
        load_model(folder)


def test_an_unknown_key_is_named_with_its_path(folder):
    values = json.loads((folder / "config.json").read_text())
    values["valor"]["audio"]["num_mel"] = 80
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"audio\.num_mel: unknown key"):
        load_model(folder)


def test_other_keys_beside_ours_are_the_hubs(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "transformers_version": "5"}))
    load_model(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
)
def test_a_missing_or_damaged_file_is_named(folder, name):
    (folder / name).write_bytes(b"{")
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_model(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_model(folder)


def test_any_change_of_the_weights_changes_the_fingerprint(folder):
    _, _, before = load_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["log_scale"] += 1
    save_file(weights, folder / "model.safetensors")
    assert load_model(folder)[2] != before
