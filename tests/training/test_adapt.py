"""Laws of training a part of a model."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tests.encoders.test_towers import MODELS, inputs_of, saved, tower_of
from tests.tiny import (
    SPECIAL,
    small_run,
    texts,
    tiny_batch,
    tiny_bridge,
    tiny_config,
    tiny_model,
)
from valor.checkpoints.folder import load_model
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.encoders.text import TextTransformer
from valor.encoders.video_swin import VideoSwinConfig, VideoSwinTransformer
from valor.errors import ConfigError
from valor.objectives.captioning import CaptioningConfig
from valor.training.adapt import AdaptConfig, LowRank, adapt, merged
from valor.training.optim import OptimConfig, Optimizer
from valor.training.run import run
from valor.training.start import FolderConfig
from valor.training.step import ObjectivesConfig, backward, loss_terms
from valor.types import AUDIOVISUAL

LORA = AdaptConfig(lora_rank=2, lora=("decoder.",))
OBJECTIVES = ObjectivesConfig(alignment=None, captioning=CaptioningConfig())


def logits(bridge):
    batch = tiny_batch()
    text, prompt = batch.caption_texts[AUDIOVISUAL], bridge.decoder.caption_prompt(4)
    with torch.no_grad():
        return bridge.decoder.read(prompt, text, bridge(batch).memory, AUDIOVISUAL)


def trained(bridge, steps=2):
    optimizer = Optimizer(bridge.train(), OptimConfig(learning_rate=0.05), num_steps=steps)
    for step in range(steps):
        backward(loss_terms(bridge, tiny_batch(), OBJECTIVES, SPECIAL))
        optimizer.step(step)
    bridge.eval()
    return optimizer


def test_updates_change_nothing_at_first_and_the_sum_of_both_is_what_is_saved():
    bridge = tiny_bridge()
    before = logits(bridge)
    adapt(bridge, LORA)
    assert torch.equal(logits(bridge), before)
    optimizer = trained(bridge)
    after = logits(bridge)
    assert not torch.allclose(after, before, atol=1e-3)
    plain = tiny_bridge()
    plain.load_state_dict(merged(bridge, optimizer.masters), strict=False)
    assert merged(bridge, optimizer.masters).keys() == dict(plain.named_parameters()).keys()
    torch.testing.assert_close(logits(plain), after, rtol=1e-4, atol=1e-4)


def test_only_the_updates_of_the_language_model_are_trained():
    bridge = tiny_bridge()
    adapt(bridge, LORA)
    before = {name: p.clone() for name, p in bridge.decoder.named_parameters()}
    optimizer = trained(bridge)
    changed = {n for n, p in bridge.decoder.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(name.endswith((".up", ".down")) for name in changed)
    assert sum(isinstance(m, LowRank) for m in bridge.modules()) == 4
    assert {n for n in optimizer.masters if n.startswith("decoder.")} == {
        f"decoder.{name}" for name in before if name.endswith((".up", ".down"))
    }


def test_frozen_parts_stay_and_are_saved():
    bridge = tiny_bridge()
    adapt(bridge, AdaptConfig(frozen=("vision.",)))
    before = {name: p.clone() for name, p in bridge.vision.named_parameters()}
    weights = merged(bridge, trained(bridge).masters)
    for name, parameter in before.items():
        assert torch.equal(weights[f"vision.{name}"], parameter)


@pytest.mark.parametrize("name", MODELS)
def test_updates_fit_the_towers_of_the_hub(name):
    cls, settings = MODELS[name]
    model = getattr(transformers, cls)
    model = nn.ModuleDict({"vision": model(model.config_class(**settings))})
    adapt(model, AdaptConfig(lora_rank=2))
    assert sum(isinstance(module, LowRank) for module in model.modules()) >= 2


def test_updates_fit_video_swin():
    config = VideoSwinConfig(image_px=32, embed_dim=8, depths=(1, 1), num_heads=(1, 2))
    model = nn.ModuleDict({"vision": VideoSwinTransformer(config)})
    adapt(model, AdaptConfig(lora_rank=2))
    assert sum(isinstance(module, LowRank) for module in model.modules()) == 2


PARTS = ("vision", "audio", "decoder")
MIXES = {
    "all by updates": ((), (), ("updates",) * 3),
    "updates but where frozen": (("vision.",), (), ("nothing", "updates", "updates")),
    "updates of one tower": ((), ("vision.",), ("updates", "all", "all")),
    "all three": (("audio.",), ("vision.",), ("updates", "nothing", "all")),
    "frozen wins": (("vision.",), ("vision.", "decoder."), ("nothing", "all", "updates")),
}


@pytest.mark.parametrize("mix", [name for name in MIXES if name != "frozen wins"])
def test_each_tower_is_frozen_learns_by_updates_or_in_full(mix):
    frozen, lora, expected = MIXES[mix]
    model = tiny_model()
    adapt(model, AdaptConfig(frozen=frozen, lora=lora, lora_rank=2))
    before = {name: p.detach().clone() for name, p in merged(model, {}).items()}
    rates = {
        f"{part}.": 0.05 for part, how in zip(PARTS, expected, strict=True) if how != "nothing"
    }
    optimizer = Optimizer(model.train(), OptimConfig(rates=rates), num_steps=2)
    for step in range(2):
        backward(loss_terms(model, tiny_batch(), ObjectivesConfig(), SPECIAL))
        optimizer.step(step)
    after = merged(model, optimizer.masters)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"log_scale", "heads.text.projection.weight"} <= changed
    for part, how in zip(PARTS, expected, strict=True):
        own = {name for name in changed if name.startswith(f"{part}.")}
        adapted = {name for name in own if name.endswith(("query.weight", "key_value.weight"))}
        assert bool(own) is (how != "nothing"), part
        assert bool(own - adapted) is (how == "all"), part
        assert bool(adapted) is (how != "nothing"), part


def test_what_is_frozen_has_no_updates():
    with pytest.raises(ConfigError, match=r"'vision\.' that is not frozen"):
        frozen, lora, _ = MIXES["frozen wins"]
        adapt(tiny_model(), AdaptConfig(frozen=frozen, lora=lora, lora_rank=2))


def test_a_run_with_updates_resumes_and_leaves_an_ordinary_folder(model_folder, world, tmp_path):
    config = evolve(
        small_run(),
        {
            "model": FolderConfig(path=str(model_folder)),
            "adapt.lora_rank": 2,
            "optim.learning_rate": 0.01,
        },
    )
    records = read_manifest(world, split="train")
    whole = run(config, records, tmp_path / "whole")

    def stop(stage, done, total, *, note=""):
        if stage == "train" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, records, tmp_path / "cut", report=stop)
    resumed = run(config, records, tmp_path / "cut")
    before = load_file(model_folder / "model.safetensors")
    wanted, found = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())
    model, _, _ = load_model(resumed)
    for name, weight in model.named_parameters():
        same = torch.equal(weight, before[name])
        adapted = name.endswith(("query.weight", "key_value.weight"))
        assert same is (name.startswith(("vision.", "audio.", "decoder.")) and not adapted), name


def test_the_sum_is_made_where_and_as_exact_as_what_it_is_added_to():
    bridge = tiny_bridge()
    adapt(bridge, LORA)
    updates = {
        name: p.detach().bfloat16()
        for name, p in bridge.named_parameters()
        if name.endswith((".up", ".down"))
    }
    bases = {
        name: p.detach().to("meta")  # Stands for another device.
        for name, p in bridge.named_parameters()
        if name.endswith(".base.weight")
    }
    found = merged(bridge, bases | updates)
    summed = [name.replace(".base.", ".") for name in bases]
    assert {(found[name].device.type, found[name].dtype) for name in summed} == {
        ("meta", torch.float32)
    }


@pytest.mark.parametrize("name", ["clap", "bert"])
def test_what_is_frozen_gives_the_same_in_training(name, tmp_path):
    saved(name, tmp_path)
    model = nn.ModuleDict({"tower": tower_of(name, tmp_path), "head": nn.Dropout()})
    model["text"] = TextTransformer(replace(tiny_config().text, dropout=0.5))
    model["rest"] = nn.Linear(2, 2)
    adapt(model, AdaptConfig(frozen=("tower.", "text.")))
    inputs, words = inputs_of(name), texts(2, 6)
    found = []
    for mode in (False, True):
        model.train(mode)
        output = model["tower"](*inputs)
        features = output if name == "bert" else output.tokens.features
        found.append((features, model["text"](words.token_ids, words.valid)))
        assert model["head"].training is model["rest"].training is mode
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["clap", "whisper", "clip"])
def test_a_tower_that_came_frozen_can_learn(name, tmp_path):
    saved(name, tmp_path)
    frozen, free = (tower_of(name, tmp_path, frozen=came) for came in (True, False))
    model = nn.ModuleDict({"tower": frozen})
    adapt(model, AdaptConfig(trained=("tower.",)))
    learns = {n for n, p in frozen.named_parameters() if p.requires_grad}
    assert learns == {n for n, p in free.named_parameters() if p.requires_grad}
    tower: Any = model.train()["tower"]
    assert tower.tower.training


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (AdaptConfig(frozen=("visoin.",)), "visoin"),
        (AdaptConfig(trained=("visoin.",)), "visoin"),
        (AdaptConfig(lora_rank=2, lora_layers=("nothing",)), "nothing; there is .*key_value"),
        (AdaptConfig(lora_rank=2, lora=("decoder.", "visoin.")), "'visoin.'.*there is none"),
        (AdaptConfig(frozen=("",)), "left to train"),
    ],
)
def test_what_fits_nothing_is_refused(config, problem):
    with pytest.raises(ConfigError, match=problem):
        adapt(tiny_bridge(), config)
