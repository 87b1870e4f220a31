"""A run on several manifests: each step learns from one of them, what it is there for."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import small_run
from valor.cli.train import read_parts
from valor.config import evolve
from valor.data.executors import LocalExecutor
from valor.data.manifest import read_manifest
from valor.data.sharding import ShardConfig, shard
from valor.errors import ConfigError, UsageError
from valor.processing.processor import Processor
from valor.training.monitor import read_metrics
from valor.training.run import run
from valor.types import MEDIA_GROUPS

PARTS = [
    {"name": "heard", "weight": 1.0},
    {"name": "seen", "weight": 2.0, "groups": ["vision"]},
]

LEARNED = ("align", "caption", "answer", "mlm")


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


def stop(stage, done, total, note=""):
    if stage == "train" and done == 3:
        raise StopError


def test_a_part_without_sound_trains_vision_alone_and_a_stopped_run_goes_on(
    config, records, tmp_path
):
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


def test_each_part_has_its_own_objectives(config, records, tmp_path):
    own = {"captioning": None, "masked_language": {"groups": ["vision"]}}
    parts = [PARTS[0], {**PARTS[1], "objectives": {**own, "alignment": {"groups": ["vision"]}}}]
    run(evolve(config, {"mixture": parts}), records, tmp_path)
    steps = read_metrics(tmp_path / "metrics.jsonl")
    learned = {frozenset(n for n in row if n.split("/")[0] in LEARNED) for row in steps}
    of_heard = {f"{name}/{g.label}" for name in ("align", "caption") for g in MEDIA_GROUPS}
    of_heard |= {"answer/audiovisual", "answer/vision", "answer/audio"}
    seen = frozenset(["align/vision", "mlm/vision"])
    assert seen in learned
    assert all(names == seen or "mlm/vision" not in names for names in learned)
    assert {*of_heard} >= {*next(iter(learned - {seen}))} >= {"caption/audio", "align/audio"}


def test_a_step_that_compares_nothing_shows_no_figure_of_another(config, records, tmp_path):
    parts = [PARTS[0], {**PARTS[1], "objectives": {"alignment": None}}]
    run(evolve(config, {"mixture": parts}), records, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    compares, weighs = (
        [any(key.startswith(name) for key in row) for row in rows]
        for name in ("align/", "token_weight/")
    )
    assert (True, False) in pairwise(compares)
    assert weighs == compares


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
    plain, source = read_parts([str(world)])
    both, _ = read_parts([str(world), f"mine={world}"])
    assert source is None
    assert [r.id for r in both] == [f"{name}/{r.id}" for name in ("world", "mine") for r in plain]
    assert read_parts([f"mine={world}"])[0][0].id == f"mine/{plain[0].id}"
    with pytest.raises(UsageError, match="two are called 'world'"):
        read_parts([str(world), str(world)])


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "shards"
    config = ShardConfig(records_per_shard=5, short_side_px=64, fps=8.0)
    shard(read_manifest(world), folder, config, LocalExecutor(1))
    return folder


def test_shards_and_manifests_are_parts_alike(world, shards):
    processor = Processor(small_run().processor, None)
    records, source = read_parts([f"heard={shards}", f"seen={world}", str(shards)], "val")
    plain = [record.id for record in read_manifest(world, split="val")]
    ids = [f"{name}/{id}" for name in ("heard", "seen", "shards") for id in plain]
    assert [record.id for record in records] == ids
    assert len(source) == len(ids)
    for row, id in enumerate(ids):
        record, sample = source.load(row, processor, None)
        assert (record.id, sample.id) == (id, id)
    alone, _ = read_parts([str(shards)], "val")
    assert [record.id for record in alone] == plain


def test_a_run_on_shards_of_several_parts_goes_on_with_the_same_steps(config, shards, tmp_path):
    records, source = read_parts([f"heard={shards}", f"seen={shards}"])
    whole = run(config, records, tmp_path / "whole", source=source)
    with pytest.raises(StopError):
        run(config, records, tmp_path / "cut", source=source, report=stop)
    records, source = read_parts([f"heard={shards}", f"seen={shards}"])
    resumed = run(config, records, tmp_path / "cut", source=source)
    before, after = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(before[name], after[name]) for name in before)
