"""Laws of runs of TMANet on the rendered world."""

import pytest

from valor.config import evolve
from valor.data.manifest import Record, read_manifest
from valor.errors import ConfigError, ManifestError
from valor.recipes.tmanet import (
    mask_task,
    new_model,
    tmanet_world,
    tmanet_world_quick,
    world_clips,
)


def test_every_step_tells_which_videos_it_is_made_of(world):
    config = evolve(tmanet_world(), {"batch_size": 2, "num_steps": 2})
    records = read_manifest(world)[:3]
    clips = world_clips(records, config.sequence)
    steps = list(mask_task(config, new_model(config), clips).losses(0))
    assert [len(step.ids) for step in steps] == [2, 2]
    assert {id for step in steps for id in step.ids} == {record.id for record in records}


def test_a_start_that_fails_leaves_no_run_behind(world, tmp_path):
    other = [Record(id="other", media=str(tmp_path / "media/other.mp4"))]
    out, config = tmp_path / "run", evolve(tmanet_world_quick(), {"num_steps": 1})
    with pytest.raises(ManifestError, match="use a rendered world"):
        config.run(other, out)
    assert not out.exists()
    assert config.run(read_manifest(world)[:2], out) == out / "model"


def test_several_processes_are_refused_before_anything_is_written(world, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        tmanet_world().run(read_manifest(world)[:2], tmp_path / "run")
    assert not (tmp_path / "run").exists()
