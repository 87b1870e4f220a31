"""A run on several manifests: each step learns from one of them, what it is there for."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import small_run
from valor.cli.train import read_parts
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.errors import ConfigError, UsageError
from valor.training.monitor import read_metrics
from valor.training.run import run
from valor.types import MEDIA_GROUPS

PARTS = [
    {"name": "heard", "weight": 1.0},
    {"name": "seen", "weight": 2.0, "groups": ["vision"]},
]


@pytest.fixture(scope="module")
def config():
    return evolve(small_run(), {"mixture": PARTS, "num_steps": 6})


@pytest.fixture(scope="module")
def records(world):
    """The same ids in both parts."""
    own = read_manifest(world, split="train")
    return [replace(r, id=f"{name}/{r.id}") for name in ("heard", "seen") for r in own]


class StopError(Exception):
    """Stands for a kill."""


def test_a_part_without_sound_trains_vision_alone_and_a_stopped_run_goes_on(
    config, records, tmp_path
):
    def stop(stage, done, total, note=""):
        if stage == "train" and done == 3:
            raise StopError

    whole = run(config, records, tmp_path / "whole")
    rows = read_metrics(tmp_path / "whole/metrics.jsonl")
    groups = [{name.split("/")[1] for name in row if name.startswith("align/")} for row in rows]
    everything = {group.label for group in MEDIA_GROUPS}
    assert {frozenset(found) for found in groups} == {frozenset(everything), frozenset(["vision"])}
    with pytest.raises(StopError):
        run(config, records, tmp_path / "cut", report=stop)
    resumed = run(config, records, tmp_path / "cut")
    before, after = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["heard"], "of none of the parts"),
        (["heard", "seen", "told"], "no record of part 'told'"),
        (["heard", "seen", "seen"], "are equal"),
    ],
)
def test_parts_and_records_belong_together(config, records, tmp_path, names, problem):
    changed = evolve(config, {"mixture": [{"name": name} for name in names]})
    with pytest.raises(ConfigError, match=problem):
        run(changed, records, tmp_path)


def test_the_command_names_the_parts_of_several_manifests(world):
    plain = read_parts([str(world)])
    both = read_parts([str(world), f"mine={world}"])
    assert [r.id for r in both] == [f"{name}/{r.id}" for name in ("world", "mine") for r in plain]
    assert read_parts([f"mine={world}"])[0].id == f"mine/{plain[0].id}"
    with pytest.raises(UsageError, match="two are called 'world'"):
        read_parts([str(world), str(world)])
