"""Laws of writing shards: the same bytes however often it was killed, and nothing lost."""

import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pytest
from webdataset.compat import WebDataset

from valor.cli.main import main
from valor.data import sharding
from valor.data.executors import Executor, LocalExecutor, RayExecutor
from valor.data.manifest import Record, read_manifest, write_manifest
from valor.data.sharding import ShardConfig, ShardTask, _journal, encode_audio, shard, write_shard
from valor.data.shards import Shards, damaged
from valor.errors import ConfigError, ManifestError, ValorError
from valor.media.audio import decode_waveform
from valor.media.segments import DecodePlan, decode_segment

CONFIG = ShardConfig(records_per_shard=4, short_side_px=48, fps=2.0)


class Here:
    """Runs tasks in this process; says at first of each that its worker died, as often as told."""

    def __init__(self, deaths: int = 0) -> None:
        self.deaths = deaths

    def run(self, stage: Callable, tasks: list) -> Iterator[tuple]:
        for task in tasks:
            if self.deaths and task.number == 0:
                self.deaths -= 1
                yield task, None
            else:
                yield task, stage(task)


@pytest.fixture(scope="module")
def records(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Six good recordings, a stretch of one, and one that is none."""
    folder = tmp_path_factory.mktemp("records")
    broken = folder / "broken.mp4"
    broken.write_text("no video")
    good = read_manifest(world)[:6]
    stretch = Record(id="a.b/c", media=good[0].media, start_s=1.0, end_s=2.5)
    return [*good[:3], Record(id="broken", media=str(broken)), *good[3:], stretch]


@pytest.fixture(scope="module")
def made(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "shards"
    assert shard(records, out, CONFIG, LocalExecutor(2))
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_record_is_a_sample_or_in_quarantine_with_its_reason(records, made):
    stats = json.loads((made / "_stats.json").read_text())
    assert (stats["num_records"], stats["num_samples"]) == (8, 7)
    assert stats["left_out"] == {"unreadable": 1}
    (row,) = map(json.loads, (made / "quarantine.jsonl").read_text().splitlines())
    assert (row["id"], row["reason"]) == ("broken", "unreadable")
    shards = Shards(made)
    stored = [shards.record(index)[0] for index in range(len(shards))]
    assert stored == [record for record in records if record.id != "broken"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_what_was_decoded(records, made):
    tars = sorted(str(path) for path in made.glob("*.tar"))
    samples = list(WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert [sample["json"]["id"] for sample in samples] == [
        record.id for record in records if record.id != "broken"
    ]
    extra = samples[-1]["json"]["extra"]
    plan = DecodePlan(num_frames=3, short_side_px=48, sample_rate_hz=extra["sample_rate_hz"])
    segment = decode_segment(records[-1].media, plan, start_s=1.0, end_s=2.5)
    frames = np.stack([samples[-1][f"{number:04d}.jpg"] for number in range(3)])
    assert "0003.jpg" not in samples[-1]
    assert np.abs(frames.astype(int) - segment.frames).mean() < 4
    np.testing.assert_allclose(extra["frame_times_s"], segment.frame_times_s, atol=1e-6)
    gc.collect()  # webdataset leaves files open.


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_sound_keeps_its_time_and_its_bytes(codec, tmp_path):
    rng = np.random.default_rng(0)
    sound = np.convolve(rng.standard_normal(48_000), np.ones(32) / 32, "same").astype(np.float32)
    path = tmp_path / f"sound.{codec}"
    path.write_bytes(encode_audio(sound, 48_000, codec))
    assert path.read_bytes() == encode_audio(sound, 48_000, codec)
    heard = decode_waveform(path, sample_rate_hz=48_000)
    assert len(heard) == len(sound)
    if codec == "flac":
        assert np.abs(heard - sound).max() < 0.6 / 32_768
    assert np.corrcoef(heard, sound)[0, 1] > 0.98


def test_a_killed_run_goes_on_to_the_same_bytes(records, made):
    """Cut at every state that a kill can leave: in a record, between files, between renames."""
    task_files = sorted(made.glob("shard-000000.*"))
    tar, lines = (made / "shard-000000.tar").read_bytes(), _journal(made / "shard-000000.jsonl")
    index = (made / "shard-000000.jsonl").read_text()
    for done in range(len(lines)):
        kept = "".join(index.splitlines(keepends=True)[:done]) + index.splitlines()[done][:20]
        for tail in (0, 100):
            out = made.with_name(f"{done}-{tail}")
            shutil.copytree(made, out)
            for path in task_files:
                (out / path.name).unlink()
            (out / "shard-000000.tar.partial").write_bytes(tar[: lines[done].offset + tail])
            (out / "shard-000000.jsonl.partial").write_text(kept)
            assert shard(records, out, CONFIG, Here())
            assert contents(out) == contents(made)


def test_parts_of_a_job_array_give_the_whole(records, made):
    out = made.with_name("parts")
    assert not shard(records, out, CONFIG, Here(), part=(1, 2))
    assert not (out / "shard-000000.tar").exists()
    assert shard(records, out, CONFIG, Here(), part=(0, 2))
    assert contents(out) == contents(made)
    with pytest.raises(ValorError, match="part 2 of 2"):
        shard(records, out, CONFIG, Here(), part=(2, 2))


def test_a_record_that_kills_workers_is_left_out_and_no_other(records, made):
    out = made.with_name("deaths")
    assert shard(records, out, CONFIG, Here(deaths=1))
    assert contents(out) == contents(made), "a worker may die once, for whatever reason"
    out = made.with_name("crashed")
    assert shard(records, out, CONFIG, Here(deaths=2))
    left_out = json.loads((out / "_stats.json").read_text())["left_out"]
    assert left_out == {"crashed": 1, "unreadable": 1}
    assert [entry.id for entry in Shards(out).entries(0)] == [r.id for r in records[1:3]]


def dies_once(task: ShardTask) -> int:
    """A stage whose worker is killed in the midst of the first shard, the first time."""
    flag = task.folder.with_name(f"{task.folder.name}.killed")
    if task.number == 0 and not flag.exists():
        flag.touch()
        pack = sharding._pack

        def fatal(task: ShardTask, place: int, offset: int) -> tuple:
            if place == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return pack(task, place, offset)

        sharding._pack = fatal
    return write_shard(task)


@dataclass
class Dying:
    """An executor of which a worker is killed."""

    executor: Executor

    def run(self, stage: Callable, tasks: list) -> Iterator[tuple]:
        return self.executor.run(dies_once, tasks)


@pytest.fixture
def ray(monkeypatch) -> Iterator[None]:
    """A Ray instance of two workers on this machine."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def killed_and_whole(executor: Executor, records: list[Record], made: Path, name: str) -> None:
    out = made.with_name(name)
    assert shard(records, out, CONFIG, Dying(executor))
    assert out.with_name(f"{name}.killed").exists()
    assert contents(out) == contents(made)


def test_a_local_worker_is_killed_and_nothing_is_lost_or_doubled(records, made):
    killed_and_whole(LocalExecutor(2), records, made, "local")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_ray_worker_is_killed_and_nothing_is_lost_or_doubled(records, made, ray):
    killed_and_whole(RayExecutor(2), records, made, "ray")


def test_what_was_left_out_can_be_tried_again(records, made):
    out = made.with_name("again")
    assert shard(records, out, CONFIG, Here(deaths=2))
    assert shard(records, out, CONFIG, Here())
    assert contents(out) != contents(made)
    assert shard(records, out, CONFIG, Here(), retry=True)
    assert contents(out) == contents(made)


def test_a_folder_holds_one_configuration_of_one_manifest(records, made):
    before = contents(made)
    with pytest.raises(ConfigError, match="another configuration"):
        shard(records, made, ShardConfig(records_per_shard=5), Here())
    with pytest.raises(ConfigError, match="other records"):
        shard(records[1:], made, CONFIG, Here())
    assert contents(made) == before


def test_damage_is_found_by_checksums(made):
    out = made.with_name("damage")
    shutil.copytree(made, out)
    assert list(damaged(out)) == []
    entry = Shards(out).entries(0)[1]
    with (out / "shard-000000.tar").open("r+b") as tar:
        tar.seek(entry.offset + entry.size // 2)
        tar.write(b"x" * 8)
    assert [line.rpartition(": ")[0].rpartition(": ")[2] for line in damaged(out)][1:] == [entry.id]


def test_addresses_are_read_as_files_are(records, made):
    memory = fsspec.filesystem("memory")
    memory.pipe("/media/one.mp4", Path(records[0].media).read_bytes())
    rows = [Record(id="one", media="memory://media/one.mp4")]
    rows.append(Record(id="two", media="memory://media/two.mp4"))
    out = made.with_name("remote")
    assert shard(rows, out, CONFIG, Here())
    (row,) = map(json.loads, (out / "quarantine.jsonl").read_text().splitlines())
    assert (row["media"], row["reason"]) == ("memory://media/two.mp4", "missing")
    memory.put(str(out), "/shards", recursive=True)
    there, here, local = Shards("memory://shards"), Shards(out), Shards(made)
    assert there.record(0) == here.record(0)
    names = ["0001.jpg", "flac", "none"]
    assert there.members(0, names) == local.members(0, names)
    assert list(damaged("memory://shards")) == []
    write_manifest(out / "manifest.jsonl", rows)
    assert read_manifest(out) == rows


def test_the_original_is_stored_byte_for_byte(records, made):
    out = made.with_name("original")
    config = ShardConfig(content="original", longest_s=2.0)
    assert shard(records, out, config, Here())
    shards = Shards(out)
    assert len(shards) == 1, "all but the stretch are too long"
    assert shards.members(0, ["mp4"])["mp4"] == Path(records[-1].media).read_bytes()


def test_shards_that_are_not_finished_are_no_shards(tmp_path):
    with pytest.raises(ManifestError, match="finish the shards"):
        Shards(tmp_path)


def test_the_command_line_writes_and_checks(world, tmp_path, capsys):
    words = ["data", "shard", str(world), "--out", str(tmp_path / "shards"), "--workers", "2"]
    small = ["--short-side-px", "32", "--fps", "1", "--records-per-shard", "8"]
    assert main([*words, *small, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 22
    assert main([*words, *small, "--shard", "first"]) == 2
