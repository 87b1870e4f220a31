"""Laws of runs of TMANet on the rendered world."""

import pytest

from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.errors import ConfigError
from valor.recipes.tmanet import mask_task, new_model, tmanet_world, world_clips


def test_every_step_tells_which_videos_it_is_made_of(world):
    config = evolve(tmanet_world(), {"batch_size": 2, "num_steps": 2})
    clips = world_clips(read_manifest(world)[:3], config.sequence)
    steps = list(mask_task(config, new_model(config), clips).losses(0))
    assert [len(step.ids) for step in steps] == [2, 2]
    assert {id for step in steps for id in step.ids} == {"0", "1", "2"}


def test_several_processes_are_refused_before_anything_is_written(world, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        tmanet_world().run(read_manifest(world)[:2], tmp_path / "run")
    assert not (tmp_path / "run").exists()
