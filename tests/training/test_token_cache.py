"""Laws of the cache of frozen towers: training from it is training."""

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import small_run
from valor.config import evolve
from valor.data.manifest import Record, read_manifest
from valor.errors import ConfigError
from valor.training.monitor import read_metrics
from valor.training.run import run

FROZEN = {"adapt.frozen": ["vision.", "audio."]}


def values(folder):
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("frozen", [["vision.", "audio."], ["audio."]])
def test_training_from_the_cache_equals_training_in_the_loop(frozen, world, tmp_path):
    config = evolve(small_run(), {"adapt.frozen": frozen, "optim.learning_rate": 1e-4})
    records = read_manifest(world, split="train")
    sound = next(world.glob("media/*.mp4"))
    image = Record(id="still", media=str(sound), end_s=0.9, captions=records[0].captions)
    run(config, [*records, image], tmp_path / "loop")
    run(evolve(config, {"cache_frozen": True}), [*records, image], tmp_path / "cached")
    assert values(tmp_path / "cached") == pytest.approx(values(tmp_path / "loop"), rel=1e-3)
    ours = load_file(tmp_path / "cached/model/model.safetensors")
    theirs = load_file(tmp_path / "loop/model/model.safetensors")
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-3, rtol=0)


def test_towers_run_once(world, tmp_path, monkeypatch):
    config = evolve(small_run(), {**FROZEN, "cache_frozen": True})
    records = read_manifest(world, split="train")
    run(config, records, tmp_path)

    def fail(*args):
        raise AssertionError("a frozen tower ran again")

    monkeypatch.setattr("valor.encoders.vision.VisionTransformer.forward", fail)
    monkeypatch.setattr("valor.encoders.audio.AudioTransformer.forward", fail)
    (tmp_path / "config.json").unlink()
    run(evolve(config, {"num_steps": 5}), records, tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5
    monkeypatch.undo()
    monkeypatch.setattr("valor.encoders.vision.VisionTransformer.forward", fail)
    with pytest.raises(AssertionError, match="ran again"):  # Of other weights.
        (tmp_path / "config.json").unlink()
        run(evolve(config, {"seed": 1}), records, tmp_path)


def test_a_tower_that_learns_and_changing_samples_are_refused(world, tmp_path):
    config = evolve(small_run(), {"cache_frozen": True})
    records = read_manifest(world, split="train")
    with pytest.raises(ConfigError, match="neither"):
        run(config, records, tmp_path / "a")
    with pytest.raises(ConfigError, match="max_shift_px"):
        run(evolve(config, {**FROZEN, "processor.frames.max_shift_px": 2}), records, tmp_path / "b")
    with pytest.raises(ConfigError, match="reading"):
        run(evolve(config, {**FROZEN, "reading": {}}), records, tmp_path / "c")
