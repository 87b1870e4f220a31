"""Laws of cutting recordings: all of it is accounted for, and cut where the truth has its cuts."""

import itertools
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from valor.cli.main import main
from valor.data.building.rows import Work, rows_file
from valor.data.building.segment import SegmentConfig, Segmented, recordings, segment
from valor.data.executors import LocalExecutor
from valor.data.manifest import Record, read_manifest, write_manifest
from valor.data.world.drawing import draw
from valor.data.world.render import write_mp4
from valor.data.world.scene import DURATION_S, SAMPLE_RATE_HZ, Scene, draw_scene
from valor.data.world.sound import mixture
from valor.errors import ConfigError, ManifestError, ValorError
from valor.media.activity import measure

pytestmark = pytest.mark.media


class Here:
    """Runs tasks in this process; dies after some of them, as a kill does."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.left = dies_after

    def run(self, stage: Callable, tasks: Iterable) -> Iterator[tuple]:
        for task in tasks:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            yield task, stage(task)


def moving(index: int) -> Scene:
    """A scene whose main actor is heard and moves, on a background of its own."""
    scene = draw_scene(5, "train", index, "duet")
    main = replace(scene.actors[0], motion="left")
    shades = ((20.0, 20.0, 60.0), (60.0, 20.0, 20.0))
    background = replace(scene.background, colour=shades[index % 2], texture="plain")
    return replace(scene, actors=(main, *scene.actors[1:]), background=background)


def parts(*kinds: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and sound of stretches of `DURATION_S` each, one after the other."""
    frames, sounds = [], []
    for index, kind in enumerate(kinds):
        seen, heard = draw(moving(index)).frames, mixture(moving(index))
        tone = 0.3 * np.sin(np.arange(len(heard)) / 5).astype(np.float32)
        frames.append(np.repeat(seen[:1], len(seen), axis=0) if kind == "still" else seen)
        gains = {"silent": 0 * heard, "quiet": 3e-3 * tone, "tone": tone}
        sounds.append(gains.get(kind, heard))
    return np.concatenate(frames), np.concatenate(sounds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of everything, one without sound, and two that are none."""
    folder = tmp_path_factory.mktemp("raw")
    write_mp4(folder / "all.mp4", *parts("good", "silent", "good", "still", "quiet", "good"))
    write_mp4(folder / "gaps.mp4", *parts("tone", "silent", "tone"))
    (folder / "sub").mkdir()
    frames, _ = parts("good")
    write_mp4(folder / "sub" / "mute.mp4", frames, np.zeros(0, np.float32))
    (folder / "broken.mp4").write_text("no video")
    (folder / "nothing.mp4").touch()
    return folder


def cut(folder: Path, out: Path, by: str = "fixed", executor=None, **options) -> Segmented:
    config = SegmentConfig(by=by, length_s=options.pop("length_s", 4.0), **options)
    return segment(recordings([folder]), config, Work(out=out, executor=executor or Here()))


def rows(out: Path) -> dict[str, dict]:
    return {row["id"]: row for row in map(json.loads, rows_file(out).read_text().splitlines())}


@pytest.mark.parametrize("by", ["fixed", "scene", "silence"])
@pytest.mark.parametrize("length_s", [4.0, 3.3, 100.0])
def test_kept_and_rejected_stretches_cover_every_recording(folder, tmp_path, by, length_s):
    done = cut(folder, tmp_path / "m.jsonl", by, length_s=length_s)
    total_s = 0.0
    for id, row in rows(tmp_path / "m.jsonl").items():
        if row["status"] != "ok":
            continue
        stretches = row["stretches"]
        bounds = [(s["start_s"], s["end_s"]) for s in stretches]
        path = folder / f"{id}.mp4"
        assert bounds[0][0] == 0
        assert bounds[-1][1] == pytest.approx(measure(path).end_s, abs=1e-3)
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(bounds))
        assert all(start < end < start + length_s + 1.001 for start, end in bounds)
        total_s += bounds[-1][1]
    assert done.total_s == pytest.approx(total_s)
    assert done.kept_s + sum(done.rejected_s.values()) == pytest.approx(total_s, abs=1e-2)


def test_what_is_silent_or_still_is_rejected_with_its_reason(folder, tmp_path):
    done = cut(folder, tmp_path / "m.jsonl")
    found = rows(tmp_path / "m.jsonl")
    kinds = [stretch["status"] for stretch in found["all"]["stretches"]]
    assert kinds == ["kept", "silent", "kept", "still", "quiet", "kept"]
    assert {s["status"] for s in found["sub/mute"]["stretches"]} == {"no-audio"}
    records = read_manifest(tmp_path / "m.jsonl")
    assert [r.id for r in records if r.id.startswith("all")] == ["all#0000", "all#0002", "all#0005"]
    assert records[1].start_s == 2 * DURATION_S
    assert records[1].end_s == 3 * DURATION_S
    assert done.num_kept == len(records)


def test_bad_files_are_listed_and_take_nothing_with_them(folder, tmp_path):
    done = cut(folder, tmp_path / "m.jsonl")
    assert done.num_recordings == 5
    reasons = {Path(media).name: reason for media, reason in done.bad.items()}
    assert reasons == {"broken.mp4": "unreadable", "nothing.mp4": "empty"}
    assert done.num_kept > 0


def test_thresholds_decide(folder, tmp_path):
    lax = cut(folder, tmp_path / "lax.jsonl", min_motion=0.0, min_level_db=-120.0)
    assert lax.rejected == {"no-audio": 1}
    strict = cut(folder, tmp_path / "strict.jsonl", min_level_db=-3.0)
    assert strict.num_kept == 0


def test_scenes_are_cut_at_their_true_changes(tmp_path):
    write_mp4(tmp_path / "film.mp4", *parts(*["good"] * 6))
    cut(tmp_path, tmp_path / "m.jsonl", "scene", length_s=60.0)
    starts = [s["start_s"] for s in rows(tmp_path / "m.jsonl")["film"]["stretches"]]
    assert starts == [DURATION_S * index for index in range(6)]


def test_silence_is_cut_at_the_true_gaps(folder, tmp_path):
    cut(folder, tmp_path / "m.jsonl", "silence", length_s=60.0)
    stretches = rows(tmp_path / "m.jsonl")["gaps"]["stretches"]
    assert [s["status"] for s in stretches] == ["kept", "silent", "kept"]
    assert stretches[0]["end_s"] == pytest.approx(DURATION_S, abs=0.1)
    assert stretches[2]["start_s"] == pytest.approx(2 * DURATION_S, abs=0.1)


def test_a_short_pause_is_no_silence(tmp_path):
    frames, sound = parts("tone", "tone")
    middle = len(sound) // 2
    sound[middle : middle + SAMPLE_RATE_HZ // 2] = 0
    write_mp4(tmp_path / "pause.mp4", frames, sound)
    assert cut(tmp_path, tmp_path / "a.jsonl", "silence", length_s=60.0).num_kept == 1
    done = cut(tmp_path, tmp_path / "b.jsonl", "silence", length_s=60.0, silence_s=0.3)
    assert (done.num_kept, done.rejected) == (2, {"short": 1})


def test_a_stretch_of_a_recording_is_measured_as_if_alone(folder, tmp_path):
    """Also one late in the recording, which is read from near it on."""
    whole = measure(folder / "all.mp4")
    for start_s, end_s in ((8.0, 12.0), (20.0, 24.0)):
        part = measure(folder / "all.mp4", start_s=start_s, end_s=end_s)
        loud = whole.level_db(start_s, end_s)
        assert part.level_db(start_s, end_s) == pytest.approx(loud, abs=0.1)
        assert part.motion(start_s, end_s) == pytest.approx(whole.motion(start_s, end_s), rel=0.1)
        within = (whole.frame_times_s >= start_s) & (whole.frame_times_s < end_s)
        np.testing.assert_allclose(part.frame_times_s, whole.frame_times_s[within])
    record = Record(id="part", media=str(folder / "all.mp4"), start_s=8.0, end_s=13.5)
    write_manifest(tmp_path / "in.jsonl", [record])
    cut(tmp_path / "in.jsonl", tmp_path / "m.jsonl", length_s=2.0)
    found = [(s["start_s"], s["end_s"]) for s in rows(tmp_path / "m.jsonl")["part"]["stretches"]]
    assert found == [(8.0, 10.0), (10.0, 12.0), (12.0, 13.5)]


@pytest.mark.parametrize("done", [0, 1, 3])
@pytest.mark.parametrize("tail", [b"", b'{"key": "cut of'])
def test_a_killed_run_goes_on_to_the_same_bytes(folder, tmp_path, done, tail):
    whole, out = tmp_path / "whole/m.jsonl", tmp_path / "again/m.jsonl"
    cut(folder, whole)
    with pytest.raises(KeyboardInterrupt):
        cut(folder, out, executor=Here(dies_after=done))
    assert not out.exists()
    with rows_file(out).open("ab") as file:
        file.write(tail)
    cut(folder, out)
    assert out.read_bytes() == whole.read_bytes()
    assert rows_file(out).read_bytes() == rows_file(whole).read_bytes()
    cut(folder, out, executor=Here(dies_after=0))
    assert out.read_bytes() == whole.read_bytes()


def kill(task):
    """A stage whose process dies with one of the recordings."""
    if task.records[0].id == "gaps":
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"status": "ok", "stretches": []}]


class Deadly:
    """An executor whose workers are killed by a recording."""

    def run(self, stage: Callable, tasks: Iterable) -> Iterator[tuple]:
        return LocalExecutor(1).run(kill, tasks)


def test_a_recording_that_kills_workers_is_listed_and_may_be_tried_again(folder, tmp_path):
    out = tmp_path / "m.jsonl"
    done = cut(folder, out, executor=Deadly())
    assert list(done.bad.values()) == ["crashed"]
    config = SegmentConfig(length_s=4.0)
    again = segment(recordings([folder]), config, Work(out=out, executor=Here(), retry=True))
    assert "crashed" not in again.bad.values()
    assert again.num_kept == 2


def test_new_recordings_are_added_and_another_configuration_is_refused(folder, tmp_path):
    out = tmp_path / "m.jsonl"
    some = [record for record in recordings([folder]) if record.id != "all"]
    config = SegmentConfig(length_s=4.0)
    assert segment(some, config, Work(out=out, executor=Here())).num_kept == 2
    grown = segment(recordings([folder]), config, Work(out=out, executor=Here(dies_after=1)))
    assert grown.num_kept == 5
    before = out.read_bytes()
    with pytest.raises(ConfigError, match="another configuration"):
        cut(folder, out, length_s=5.0)
    assert out.read_bytes() == before


def test_recordings_are_named_so_that_none_is_lost(folder, tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.wav").touch()
    (tmp_path / "b.mp4").touch()
    assert [record.id for record in recordings([tmp_path])] == ["a.mp4", "a.wav", "b"]
    assert next(iter(recordings([tmp_path / "b.mp4", folder]))).id == "b"
    with pytest.raises(ManifestError, match="2 recordings are named 'b'"):
        recordings([tmp_path / "b.mp4", tmp_path])
    (tmp_path / "none").mkdir()
    with pytest.raises(ManifestError, match="no recording"):
        recordings([tmp_path / "none"])


def test_two_runs_do_not_write_the_same_rows(folder, tmp_path):
    class Nested(Here):
        def run(self, stage: Callable, tasks: Iterable) -> Iterator[tuple]:
            with pytest.raises(ValorError, match="another process writes it"):
                cut(folder, tmp_path / "m.jsonl")
            return super().run(stage, tasks)

    cut(folder, tmp_path / "m.jsonl", executor=Nested())


def test_the_command_line_cuts_and_accounts(folder, tmp_path, capsys):
    out = tmp_path / "m.jsonl"
    words = ["data", "segment", str(folder), "--out", str(out), "--length-s", "4"]
    assert main([*words, "--workers", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["num_kept"], row["num_recordings"]) == (5, 5)
    assert row["rejected"] == {"no-audio": 1, "quiet": 1, "silent": 2, "still": 1}
    assert main([*words, "--workers", "1"]) == 0
    assert "kept 5 segments, 20 of 40 s; rejected 5 stretches" in capsys.readouterr().out
    assert main([*words, "--by", "taste"]) == 2
    assert main(["data", "segment", str(folder), "--out", str(tmp_path)]) == 2
    assert main(["data", "segment", str(folder / "broken.mp4"), "--out", str(out) + "l"]) == 2
