"""Laws of the cache of frozen towers: training from it is training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import small_run, tiny_batch, tiny_bridge
from valor.config import evolve
from valor.data.executors import LocalExecutor
from valor.data.manifest import Record, read_manifest
from valor.data.reading import Draw, FileSource, read_shards
from valor.data.sharding import ShardConfig, shard
from valor.errors import ConfigError, ManifestError, ValorError
from valor.training import token_cache
from valor.training.monitor import read_metrics
from valor.training.run import run
from valor.training.start import begin
from valor.training.token_cache import load_tokens, pooled
from valor.types import EncoderOutput, Tokens

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


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "shards"
    config = ShardConfig(records_per_shard=5, short_side_px=64, fps=8.0)
    shard(read_manifest(world), folder, config, LocalExecutor(1))
    return str(folder)


def test_a_run_on_shards_keeps_one_view_whoever_reads_it(shards, tmp_path):
    records, source = read_shards(shards, split="train")
    config = evolve(small_run(), {**FROZEN, "cache_frozen": True})
    run(config, records, tmp_path / "alone", source=source)
    several = evolve(config, {"reading": {"workers": 1, "worker_kind": "process"}})
    run(several, records, tmp_path / "several", source=source)
    assert values(tmp_path / "several") == values(tmp_path / "alone")


def test_beside_a_kept_tower_one_that_learns_sees_other_frames_at_each_step(shards, tmp_path):
    records, source = read_shards(shards, split="train")
    config = evolve(small_run(), {"processor.frames.max_shift_px": 2})  # Of frames, which learn.
    model, processor = begin(config.model, config.processor, records)
    model.audio.requires_grad_(requires_grad=False)
    store = load_tokens(model, source, records, processor, tmp_path)
    seen = [store.load(0, processor, Draw(seed=0, step=step))[1] for step in (0, 1)]
    wanted = source.load(0, processor, Draw(seed=0, step=1))[1]
    assert np.array_equal(seen[1].pixels, wanted.pixels)
    assert not np.array_equal(seen[0].pixels, seen[1].pixels)
    assert np.array_equal(seen[0].spectrograms, seen[1].spectrograms)  # A stand-in.


def test_records_that_cannot_be_read_are_as_many_as_a_run_allows(world, tmp_path):
    records = read_manifest(world, split="train")

    class Odd(FileSource):
        """Media files, of which the first two do to a decoder what it did not foresee."""

        def load(self, index, processor, draw):
            if index < 2:
                raise ZeroDivisionError
            return super().load(index, processor, draw)

    config = evolve(small_run(), {**FROZEN, "cache_frozen": True, "num_steps": 1, "reading": {}})
    with pytest.raises(ValorError, match=rf"2 of 12 .*\(failed 2\).*0.01.*{records[1].id}: failed"):
        run(config, records, tmp_path, source=Odd(records))
    allowed = evolve(config, {"reading.max_bad_fraction": 0.02})
    folder = run(allowed, records, tmp_path, source=Odd(records))
    assert "2 unreadable" in (folder / "README.md").read_text()


def test_what_cannot_be_read_is_left_out(world, tmp_path):
    records = read_manifest(world, split="train")
    (tmp_path / "text.mp4").write_text("no video")
    bad = Record(id="bad", media=str(tmp_path / "text.mp4"), captions=records[0].captions)
    config = evolve(small_run(), {**FROZEN, "cache_frozen": True})
    run(config, [bad, *records], tmp_path / "store")
    folder = run(
        evolve(config, {"reading": {}}), [bad, *records], tmp_path / "files",
        source=FileSource([bad, *records]),
    )  # fmt: skip
    assert values(tmp_path / "files") == pytest.approx(values(tmp_path / "store"), rel=1e-3)
    assert "1 unreadable" in (folder / "README.md").read_text()
    with pytest.raises(ManifestError, match="none of 1"):
        run(evolve(config, {"reading": {}}), [bad], tmp_path / "none")


def test_a_fill_that_was_stopped_goes_on_with_the_next_shard(world, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "_SHARD_BYTES", 1)
    monkeypatch.setattr(token_cache, "_AT_ONCE", 5)
    config = evolve(small_run(), {**FROZEN, "cache_frozen": True})
    records = read_manifest(world, split="train")

    class Counting:
        """Media files, of which so many can be read before the run is killed."""

        def __init__(self, room: int) -> None:
            self.files, self.read, self.room = FileSource(records), [], room

        def __len__(self) -> int:
            return len(records)

        def load(self, index, processor, draw):
            if len(self.read) == self.room:
                raise KeyboardInterrupt
            self.read.append(index)
            return self.files.load(index, processor, draw)

    with pytest.raises(KeyboardInterrupt):
        run(config, records, tmp_path / "cut", source=Counting(8))
    rest = Counting(100)
    run(config, records, tmp_path / "cut", source=rest)
    assert rest.read == [*range(5, 12), *range(12)]  # The rest of one tower, and all of the other.
    assert len([*(tmp_path / "cut/cache").glob("*/*.npy")]) == 6
    run(config, records, tmp_path / "whole")
    assert values(tmp_path / "cut") == pytest.approx(values(tmp_path / "whole"), rel=1e-3)


def test_pooled_tokens_are_means_of_valid_neighbours_of_one_position():
    features = torch.arange(10.0).view(1, 10, 1)
    valid = torch.ones(1, 10, dtype=torch.bool)
    valid[0, 8:] = False
    summary = Tokens(features=torch.zeros(1, 2, 1), valid=torch.ones(1, 2, dtype=torch.bool))
    output = EncoderOutput(tokens=Tokens(features=features, valid=valid), summary=summary)
    found = pooled(output, 2)
    assert found.features[0, :, 0].tolist() == [0.5, 2.5, 4.0, 5.5, 7.0, 0.0]
    assert found.valid[0].tolist() == [True] * 5 + [False]


def test_pooling_keeps_fewer_tokens_and_trains(world, tmp_path):
    records = read_manifest(world, split="train")
    config = evolve(small_run(), {**FROZEN, "cache_frozen": True})
    sizes = []
    for pool in (1, 4):
        run(evolve(config, {"cache_pool": pool}), records, tmp_path / str(pool))
        (path,) = (tmp_path / str(pool)).glob("cache/vision-*/00000.npy")
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.4 * sizes[0]
    unpooled, pooled_run = (read_metrics(tmp_path / name / "metrics.jsonl") for name in "14")
    # Summaries are as they were, so that contrasts begin alike; the decoder sees other tokens.
    key = "align/audiovisual"
    assert pooled_run[0][key] == pytest.approx(unpooled[0][key], rel=1e-6)
    assert pooled_run[0]["caption/vision"] != unpooled[0]["caption/vision"]


def test_a_bridge_takes_what_was_kept():
    bridge, batch = tiny_bridge(), tiny_batch()
    media = ("pixels", "frame_valid", "spectrograms", "window_valid")
    kept = replace(batch, encoded=bridge.encode_media(batch), **dict.fromkeys(media))
    for modality, tokens in bridge(batch).memory.tokens.items():
        assert torch.equal(bridge(kept).memory.tokens[modality].features, tokens.features)


def test_a_frozen_tower_is_kept_while_another_learns_by_updates(world, tmp_path):
    changes = {"adapt.frozen": ["vision."], "adapt.lora_rank": 2, "adapt.lora": ["decoder."]}
    config = evolve(small_run(), {**changes, "optim.learning_rate": 1e-3})
    records = read_manifest(world, split="train")
    run(config, records, tmp_path / "loop")
    run(evolve(config, {"cache_frozen": True}), records, tmp_path / "cached")
    assert values(tmp_path / "cached") == pytest.approx(values(tmp_path / "loop"), rel=1e-3)
    assert [path.name[:7] for path in (tmp_path / "cached/cache").glob("*-*")] == ["vision-"]


def test_a_tower_that_learns_and_changing_samples_are_refused(world, tmp_path):
    config = evolve(small_run(), {"cache_frozen": True})
    records = read_manifest(world, split="train")
    with pytest.raises(ConfigError, match="neither"):
        run(config, records, tmp_path / "a")
    with pytest.raises(ConfigError, match="max_shift_px"):
        run(evolve(config, {**FROZEN, "processor.frames.max_shift_px": 2}), records, tmp_path / "b")
    with pytest.raises(ConfigError, match="augment"):
        evolve(config, {**FROZEN, "reading": {"augment": {}}})
    with pytest.raises(ConfigError, match="cache_pool"):
        evolve(small_run(), {"cache_pool": 2})
