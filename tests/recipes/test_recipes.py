"""Laws of all recipes: how many there are, that they survive JSON, and that they run."""

from dataclasses import replace
from typing import Any

import pytest

from valor.config import evolve, from_dict, to_dict
from valor.data.manifest import read_manifest
from valor.recipes import RECIPES, find_recipe
from valor.training.monitor import read_metrics
from valor.training.run import run
from valor.training.start import TowersConfig

SHRUNK = {"batch_size": 4, "num_steps": 2, "save_every": 2, "precision": "float32"}
PARTS = {"dim": 24, "num_layers": 1, "num_heads": 2, "mlp_dim": 32}
FRESH = ("tiny", "tiny_quick", "small")
ON_TOWERS = ("valor_base", "valor_large", "from_siglip2_clap", "from_pe_av")
OTHERS = (
    "finetune",
    "bridge_encoders",
    "bridge_captions",
    "bridge_instructions",
    "tmanet_world",
    "tmanet_world_quick",
)


def test_every_recipe_is_swept_here_or_in_its_own_tests():
    assert len(RECIPES) == 13
    assert {*FRESH, *ON_TOWERS, *OTHERS} == RECIPES.keys()


@pytest.mark.parametrize("name", [*FRESH, *ON_TOWERS, "tmanet_world"])
def test_a_recipe_survives_json(name):
    config = find_recipe(name)
    assert from_dict(type(config), to_dict(config), trust_code=True) == config


@pytest.mark.parametrize("name", [*FRESH, *ON_TOWERS])
def test_a_recipe_of_two_steps_learns_from_the_world(name, world, tmp_path):
    config: Any = find_recipe(name)
    changes: dict[str, Any] = dict(SHRUNK)
    if isinstance(config.model, TowersConfig):  # Towers of the hub give way to small fresh ones.
        own = evolve(config.model.model, {"embed_dim": 12})
        changes |= {"model": to_dict(own), "processor.frames.image_px": 32}
        changes |= {"processor.spectrogram.hops_per_window": 64}
        changes |= {"model.audio.hops_per_window": 64, "model.vision.image_px": 32}
        if own.vision.kind == "video_swin":
            changes |= {"model.vision.embed_dim": 8, "model.vision.depths": [1, 1]}
            changes |= {"model.vision.num_heads": [1, 2]}
    for part in ("vision", "audio", "text"):
        if changes.get("model.vision.depths") and part == "vision":
            continue
        changes |= {f"model.{part}.{key}": value for key, value in PARTS.items()}
    if name.startswith("tiny"):
        changes["model.vision.temporal_layers"] = 0
    if name == "small" or name not in FRESH:
        changes |= {"model.text.vocab_size": 400, "processor.segment_s": 4.0}
    records = read_manifest(world, split="train")
    if config.mixture:
        records = [replace(r, id=f"{part.name}/{r.id}") for part in config.mixture for r in records]
    run(evolve(config, changes), records, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["grad_norm"] > 0 for row in rows)
    if name == "valor_large":
        assert all(("mlm/vision" in row) != ("caption/audio" in row) for row in rows)
