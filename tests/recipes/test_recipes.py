"""Laws of all recipes: how many there are, that they survive JSON, and that they run."""

from dataclasses import replace
from typing import Any

import pytest

from valor.config import evolve, from_dict, to_dict
from valor.data.manifest import read_manifest
from valor.encoders.video_swin import VideoSwinConfig
from valor.recipes import RECIPES, find_recipe
from valor.recipes.bridge import BridgeParts, assemble
from valor.recipes.template_language import train_language_model
from valor.training import estimate as estimating
from valor.training.monitor import read_metrics

SHRUNK = {"batch_size": 4, "num_steps": 2, "save_every": 2, "precision": "float32"}
PARTS = {"dim": 24, "num_layers": 1, "num_heads": 2, "mlp_dim": 32}
FRESH = ("tiny", "tiny_quick", "small", "bridge_encoders")
ON_TOWERS = ("valor_base", "valor_large", "from_siglip2_clap", "from_pe_av")
ON_FOLDERS = ("finetune", "bridge_captions", "bridge_instructions")
MASKS = ("tmanet_world", "tmanet_world_quick")
ALL = (*FRESH, *ON_TOWERS, *ON_FOLDERS, *MASKS)


@pytest.fixture(scope="module")
def bridge_folder(world, tmp_path_factory):
    """A bridge to a language model that knows a few words."""
    folder = tmp_path_factory.mktemp("bridge")
    records = read_manifest(world, split="train")
    language_model = train_language_model(records, folder / "hub", num_steps=1)
    sizes = {"num_vision_queries": 2, "num_audio_queries": 2, "num_layers": 1}
    parts = evolve(BridgeParts(), {f"qformer.{name}": size for name, size in sizes.items()})
    return assemble(language_model, folder / "start", parts=parts)


@pytest.fixture
def shrunk(towers, model_folder, bridge_folder):
    """A recipe of two steps with small parts, on small towers and folders."""

    def shrink(name: str) -> Any:
        config: Any = find_recipe(
            name, **({"start": str(model_folder)} if name == "finetune" else {})
        )
        if name in MASKS:
            return evolve(config, {"num_steps": 2, "batch_size": 2})
        changes: dict[str, Any] = dict(SHRUNK)
        if name in ON_FOLDERS:
            if name != "finetune":
                changes["model.path"] = str(bridge_folder)
            return evolve(config, {**changes, "num_epochs": None})
        own, parts = "model", ["vision", "audio", "text"]
        if name in ON_TOWERS:
            own, parts = "model.model", ["text"]
            given = {part: getattr(config.model, part) for part in ("vision", "audio", "text")}
            changes |= {f"model.{p}": str(towers / p) for p in given if given[p] is not None}
            changes["model.model.embed_dim"] = 12
            if given["vision"] is None:
                swin = VideoSwinConfig(
                    image_px=32, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window=(2, 4, 4)
                )
                changes |= {"model.model.vision": swin, "processor.frames.image_px": 32}
        for part in parts:
            changes |= {f"{own}.{part}.{key}": value for key, value in PARTS.items()}
        if name.startswith("tiny"):
            changes["model.vision.temporal_layers"] = 0
        if name == "small" or name in ON_TOWERS:
            changes |= {f"{own}.text.vocab_size": 400, "processor.segment_s": 4.0}
        return evolve(config, changes)

    return shrink


def test_every_recipe_is_swept_here():
    assert len(RECIPES) == 13
    assert {*ALL} == RECIPES.keys()


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_survives_json(name, model_folder):
    config = find_recipe(name, **({"start": str(model_folder)} if name == "finetune" else {}))
    assert from_dict(type(config), to_dict(config), trust_code=True) == config


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_of_two_steps_learns_from_the_world(name, shrunk, world, tmp_path):
    config = shrunk(name)
    records = read_manifest(world, split="train")
    if getattr(config, "mixture", ()):
        records = [replace(r, id=f"{part.name}/{r.id}") for part in config.mixture for r in records]
    folder = config.run(records, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["grad_norm"] > 0 for row in rows)
    assert (folder / "model.safetensors").is_file()
    if name == "valor_large":
        assert all(("mlm/vision" in row) != ("caption/audio" in row) for row in rows)
    if name.startswith("from_"):
        assert not {"grad_norm/vision", "grad_norm/audio"} & rows[0].keys()


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_is_estimated_before_it_runs(name, shrunk, monkeypatch):
    monkeypatch.setattr(estimating, "matrix_rate", lambda dtype: ("cpu", 1e12))
    config = shrunk(name)
    found = config.estimate(12) if name in MASKS else estimating.estimate(config, 12)
    figures = (found.parameters, found.trained, found.step_flop, found.memory_bytes, found.hours)
    assert all(0 < figure < float("inf") for figure in figures)
    assert found.num_steps == 2
    assert found.memory_bytes > 4 * found.parameters
    partly = name.startswith(("from_", "bridge_captions", "bridge_instructions"))
    assert (found.trained < found.parameters) is partly
