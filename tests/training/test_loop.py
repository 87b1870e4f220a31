"""Laws of the training loop."""

import json
import shutil
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import small_run
from valor.checkpoints.folder import load_model
from valor.config import evolve
from valor.data.executors import LocalExecutor
from valor.data.manifest import Record, read_manifest
from valor.data.reading import FileSource, read_shards
from valor.data.samples import SampleStore
from valor.data.sharding import ShardConfig, shard
from valor.errors import ConfigError, ManifestError, TrainingError, ValorError
from valor.models.valor import ValorConfig
from valor.objectives.base import LossTerm
from valor.training.loop import StepLoss, Task, fit
from valor.training.monitor import read_metrics
from valor.training.optim import OptimConfig, Optimizer
from valor.training.run import run
from valor.training.start import begin
from valor.training.state import States, tidied


class StopError(Exception):
    """Stands for a kill."""


def stop_at(step):
    def report(stage, done, total, *, note=""):
        if stage == "train" and done == step:
            raise StopError

    return report


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_an_uninterrupted_one(world, tmp_path, precision):
    config = evolve(small_run(), {"precision": precision})
    records = read_manifest(world, split="train")
    whole = run(config, records, tmp_path / "whole")
    with pytest.raises(StopError):
        run(config, records, tmp_path / "cut", report=stop_at(3))
    resumed = run(config, records, tmp_path / "cut")
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name
    steps = [row["step"] for row in read_metrics(tmp_path / "cut/metrics.jsonl")]
    assert steps == [0, 1, 2, 3]
    assert weights(whole)["log_scale"].dtype == torch.float32


def test_a_kill_between_two_states_leaves_the_old_one(world, tmp_path):
    records = read_manifest(world, split="train")
    with pytest.raises(StopError):
        run(small_run(), records, tmp_path / "run", report=stop_at(3))
    (tmp_path / "run/state").rename(tmp_path / "run/state.old")
    shutil.copytree(tmp_path / "run/state.old", tmp_path / "run/state.partial")
    run(small_run(), records, tmp_path / "run")
    assert len(read_metrics(tmp_path / "run/metrics.jsonl")) == 4


def test_a_second_kill_between_two_states_leaves_the_old_one_too(tmp_path, monkeypatch):
    with pytest.raises(StopError):
        fit(spoilt_task(set()), tmp_path, report=stop_at(4))
    (tmp_path / "state").rename(tmp_path / "state.old")
    real = Path.rename

    def kill(path, target):
        if path.name == "state.partial":
            raise StopError
        return real(path, target)

    monkeypatch.setattr(Path, "rename", kill)
    with pytest.raises(StopError):
        fit(spoilt_task(set()), tmp_path)
    monkeypatch.undo()
    task = spoilt_task(set())
    with closing(States(tmp_path / "state", Optimizer(task.model, task.optim, 8))) as states:
        assert states.load() == 4


@pytest.mark.gpu
def test_a_state_from_before_the_first_step_goes_on_on_a_gpu(tmp_path):
    model = torch.nn.Linear(2, 1).cuda()
    optimizer = Optimizer(model, OptimConfig(), num_steps=8)
    with closing(States(tmp_path / "state", optimizer)) as states:
        states.save(next_step=1)
        states.wait()
        assert states.load() == 1
    model(torch.ones(1, 2, device="cuda")).sum().backward()
    optimizer.step(1)
    moments = optimizer.adamw.state[model.weight]
    assert all(value.is_cuda for value in moments.values()) and moments["step"] == 1


def test_training_in_bfloat16_begins_with_the_weights_as_they_were(world, tmp_path):
    config = evolve(small_run(), {"precision": "bfloat16", "optim.learning_rate": 1e-12})
    config = evolve(config, {"num_steps": 1})
    records = read_manifest(world, split="train")
    torch.manual_seed(config.seed)
    first, _ = begin(config.model, config.processor, records)
    found = weights(run(config, records, tmp_path))
    for name, weight in first.named_parameters():
        torch.testing.assert_close(found[name], weight.detach(), rtol=1e-6, atol=1e-9)


def test_a_finished_run_is_left_as_it_is(world, tmp_path):
    records = read_manifest(world, split="train")
    first = weights(run(small_run(), records, tmp_path))
    second = weights(run(small_run(), records, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4


@pytest.mark.parametrize("name", ["position.json", "__0_0.distcp", ".metadata"])
def test_a_damaged_state_is_one_line_that_says_how_to_begin_anew(world, tmp_path, name):
    records = read_manifest(world, split="train")
    run(small_run(), records, tmp_path)
    (tmp_path / "state" / name).write_bytes(b"")
    with pytest.raises(TrainingError, match=r"state is damaged .*remove it and metrics\.jsonl"):
        run(small_run(), records, tmp_path)
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "metrics.jsonl").unlink()
    run(small_run(), records, tmp_path)


def test_another_configuration_is_refused(world, tmp_path):
    records = read_manifest(world, split="train")
    run(small_run(), records, tmp_path)
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1.*choose another --out"):
        run(evolve(small_run(), {"seed": 1}), records, tmp_path)


def test_a_folder_of_recordings_is_no_place_for_a_run(world, tmp_path):
    records = read_manifest(world, split="train")
    (tmp_path / "own.mp4").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'own\.mp4'; choose another --out"):
        run(small_run(), records, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own.mp4"]


def test_bad_files_are_counted_and_left_out(world, tmp_path):
    records = read_manifest(world, split="train")
    (tmp_path / "text.mp4").write_text("no video")
    bad = Record(id="bad", media=str(tmp_path / "text.mp4"), captions=records[0].captions)
    told = []
    folder = run(
        small_run(),
        [*records, bad],
        tmp_path / "run",
        report=lambda *stage, note="": told.append((*stage, note)),
    )
    assert ("left out", 1, 13, "unreadable 1") in told
    assert "1 unreadable" in (folder / "README.md").read_text()
    with pytest.raises(ManifestError, match="none of 1 records"):
        run(small_run(), [bad], tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["cache"]
    more = replace(bad, id="worse")
    with pytest.raises(
        ValorError, match=r"2 of 14 .*\(unreadable 2\).*0.01.*worse.*leave them out"
    ):
        run(small_run(), [*records, bad, more], tmp_path / "many")
    assert [path.name for path in (tmp_path / "many").iterdir()] == ["cache"]
    run(small_run(), [*records, bad], tmp_path / "many")


def test_an_id_that_stands_twice_is_refused_before_anything_is_written(world, tmp_path):
    records = read_manifest(world, split="train")
    with pytest.raises(ManifestError, match="stands 2 times"):
        run(small_run(), [*records, records[0]], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_before_its_first_step_leaves_nothing_behind(world, tmp_path):
    records = read_manifest(world, split="train")
    wrong = evolve(small_run(), {"adapt.frozen": ["nose."]})
    with pytest.raises(ConfigError, match=r"nose\."):
        run(wrong, records, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"nose\."):
        run(wrong, records, tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["notes.txt"]
    assert (tmp_path / "old/notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"probe.every": 1, "probe.task": "answering", "objectives.answering": None}, "probe.task"),
        ({"mixture": [{"name": "elsewhere"}]}, "none of the parts elsewhere"),
        ({"batch_size": 5}, "batch_size=5, 2 ranks"),
        ({"compute.parallel": "none"}, "compute.parallel=none, 2 ranks"),
        ({"reading": {"augment": {}}}, "reading.augment"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_anything_is_read(
    world, tmp_path, monkeypatch, changes, named
):
    records = read_manifest(world, split="train")
    monkeypatch.setattr("valor.training.run.num_ranks", lambda: 2)
    nothing = np.zeros((0, 1))
    store = SampleStore(
        records=[], bad={}, pixels=nothing, spectrograms=nothing, num_frames=[], num_windows=[]
    )
    source, held_out = store if "reading" in changes else None, FileSource(records)
    with pytest.raises(ConfigError, match=named):
        run(
            evolve(small_run(), changes),
            records,
            tmp_path / "run",
            source=source,
            held_out=held_out,
        )
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_alone_may_share_nothing(world, tmp_path):
    config = evolve(small_run(), {"compute.parallel": "none", "num_steps": 1})
    run(config, read_manifest(world, split="train"), tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_a_run_ends_after_as_many_skipped_steps_as_it_says(world, tmp_path, monkeypatch):
    def spoilt(terms):
        (next(iter(terms.values())).value * float("nan")).backward()
        return {"loss": float("nan")}

    monkeypatch.setattr("valor.training.loop.backward", spoilt)
    config = evolve(small_run(), {"max_skipped": 2})
    with pytest.raises(TrainingError, match="2 steps in a row"):
        run(config, read_manifest(world, split="train"), tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_metrics_name_every_term(world, tmp_path):
    run(small_run(), read_manifest(world, split="train"), tmp_path)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    groups = ("vision", "audio", "audiovisual")
    expected = {f"{objective}/{group}" for objective in ("align", "caption") for group in groups}
    assert expected | {"answer/audiovisual", "loss", "grad_norm", "learning_rate"} <= row.keys()
    parts = [value for name, value in row.items() if name.startswith("grad_norm/")]
    assert {"grad_norm/vision", "grad_norm/audio", "grad_norm/decoder"} <= row.keys()
    assert sum(part**2 for part in parts) == pytest.approx(row["grad_norm"] ** 2, rel=1e-4)
    assert row["temperature"] == pytest.approx(ValorConfig().temperature)
    assert all(0 < row[f"token_weight/{name}"] <= 1 for name in ("vision", "audio", "text"))
    assert row["samples_per_s"] > 0


def test_tensorboard_sees_what_metrics_hold(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(spoilt_task(set()), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    wanted = [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(wanted)


def test_a_folder_without_a_bias_gets_one_where_the_loss_learns_it(world, model_folder, tmp_path):
    assert "align_bias" not in weights(model_folder)
    start = {"model": {"kind": "folder", "path": str(model_folder)}}
    changes = {**start, "objectives.alignment.loss": "sigmoid", "objectives.captioning": None}
    folder = run(evolve(small_run(), changes), read_manifest(world, split="train"), tmp_path)
    model, _, _ = load_model(folder)
    assert -10 < model.align_bias.item() < -9.9
    again = evolve(small_run(), {"model": {"kind": "folder", "path": str(folder)}, "num_steps": 1})
    plain = run(again, read_manifest(world, split="train"), tmp_path / "again")
    assert torch.equal(weights(plain)["align_bias"], model.align_bias)


def test_a_run_on_shards_resumes_with_the_same_views(world, tmp_path):
    config = ShardConfig(records_per_shard=5, short_side_px=64, fps=8.0)
    shard(read_manifest(world), tmp_path / "shards", config, LocalExecutor(1))
    records, source = read_shards(str(tmp_path / "shards"), split="train")
    reading = {"workers": 2, "augment": {}}
    run_config = evolve(small_run(), {"reading": reading})
    whole = run(
        evolve(small_run(), {"reading": {"augment": {}}}),
        records,
        tmp_path / "whole",
        source=source,
    )
    with pytest.raises(StopError):
        run(run_config, records, tmp_path / "cut", source=source, report=stop_at(3))
    resumed = run(run_config, records, tmp_path / "cut", source=source)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def test_what_cannot_be_read_at_a_step_is_left_out_of_it(world, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    records = read_manifest(world, split="train")
    records.append(Record(id="broken", media=str(broken), captions=records[0].captions))
    config = evolve(small_run(), {"reading": {"max_bad_fraction": 0.5}})
    run(config, records, tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert 1 <= sum(row.get("left_out", 0) for row in rows) <= 2
    with pytest.raises(ValorError, match="max_bad_fraction"):
        run(evolve(config, {"reading.max_bad_fraction": 0.0}), records, tmp_path / "strict")


def test_a_signal_ends_a_run_with_a_state_to_go_on_from(world, tmp_path):
    records = read_manifest(world, split="train")
    whole = run(small_run(), records, tmp_path / "whole")

    def interrupt(stage, done, total, *, note=""):
        if stage == "train" and done == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run(small_run(), records, tmp_path / "cut", report=interrupt)
    assert ended.value.code == 143
    position = json.loads((tmp_path / "cut/state/position.json").read_text())
    assert position["next_step"] == 3
    resumed = run(small_run(), records, tmp_path / "cut")
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def spoilt_task(spoilt, *, empty=frozenset(), max_skipped=3):
    """A run of eight steps, of which some have no finite loss, and others none at all."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)

    def losses(first):
        for step in range(first, 8):
            x = torch.full((1, 2), float("nan") if step in spoilt else 1.0)
            term = LossTerm(value=model(x).square().mean(), weight=1.0, num_rows=1)
            terms = {} if step in empty else {"square": term}
            yield StepLoss(terms=terms, ids=[f"sample {step}"])

    optim = OptimConfig(learning_rate=0.1)
    return Task(
        model=model,
        optim=optim,
        num_steps=8,
        save_every=1,
        seed=0,
        losses=losses,
        max_skipped=max_skipped,
    )


def test_an_interrupt_ends_a_run_with_a_state_to_go_on_from(tmp_path):
    def interrupt(stage, done, total, *, note=""):
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(spoilt_task(set()), tmp_path, report=interrupt)
    assert json.loads((tmp_path / "state/position.json").read_text())["next_step"] == 4
    fit(spoilt_task(set()), tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(8))


def test_a_step_that_would_spoil_the_weights_is_left_out_and_counted(tmp_path):
    found = fit(spoilt_task({2, 3, 5}), tmp_path)
    assert all(tensor.isfinite().all() for tensor in found.values())
    skipped = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "skipped" in row]
    assert skipped == [2, 3, 5]


def test_a_step_without_any_loss_is_no_step_of_the_optimizer_and_stands_once(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    empty = {0, 3, 4, 7}
    whole = fit(spoilt_task(set(), empty=empty), tmp_path / "whole")
    with pytest.raises(StopError):
        fit(spoilt_task(set(), empty=empty), tmp_path / "cut", report=stop_at(4))
    resumed = fit(spoilt_task(set(), empty=empty), tmp_path / "cut")
    assert torch.equal(resumed["weight"], whole["weight"])
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        rows = read_metrics(folder / "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(8))
        assert {row["step"] for row in rows if row.get("empty")} == empty
        assert all(("loss" in row) == (row["step"] not in empty) for row in rows)


def test_a_signal_in_a_step_that_is_left_out_ends_a_run_with_a_state_too(tmp_path):
    def interrupt(stage, done, total, *, note=""):
        if done == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        fit(spoilt_task({2, 3, 4, 5}), tmp_path, report=interrupt)
    assert json.loads((tmp_path / "state/position.json").read_text())["next_step"] == 4
    with pytest.raises(TrainingError, match="3 steps in a row"):  # The first two still count.
        fit(spoilt_task({2, 3, 4, 5}), tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(5))


def test_a_row_that_cannot_be_written_ends_a_run_with_a_state_that_holds_it(tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = fit(spoilt_task(set()), tmp_path / "whole")
    real = Path.open

    def full(path, mode="r", **options):
        return real(Path("/dev/full") if mode == "a" else path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    wanted = r"metrics.jsonl .*could not .*No space left.*Make room"
    with pytest.raises(TrainingError, match=wanted), tidied(tmp_path / "cut"):
        fit(spoilt_task(set()), tmp_path / "cut")
    monkeypatch.undo()
    assert json.loads((tmp_path / "cut/state/position.json").read_text())["next_step"] == 1
    assert torch.equal(fit(spoilt_task(set()), tmp_path / "cut")["weight"], whole["weight"])
    rows = read_metrics(tmp_path / "cut/metrics.jsonl")
    wanted = read_metrics(tmp_path / "whole/metrics.jsonl")
    assert [row["loss"] for row in rows] == [row["loss"] for row in wanted]


@pytest.mark.parametrize("fails_at", ["add_scalar", "close"])
def test_curves_that_cannot_be_written_end_a_run_with_a_state(tmp_path, monkeypatch, fails_at):
    def fail(*values):
        raise OSError(28, "No space left on device")

    board = SimpleNamespace(
        **{"add_scalar": lambda *x: None, "close": lambda: None, fails_at: fail}
    )
    monkeypatch.setattr("valor.training.monitor._board", lambda folder, first_step: board)
    with pytest.raises(TrainingError, match="No space left"):
        fit(spoilt_task(set()), tmp_path)
    done = json.loads((tmp_path / "state/position.json").read_text())["next_step"]
    assert done == (1 if fails_at == "add_scalar" else 8)


def test_steps_that_go_on_being_spoilt_end_the_run_and_name_their_samples(tmp_path):
    with pytest.raises(TrainingError, match="3 steps in a row"):
        fit(spoilt_task({4, 5, 6, 7}), tmp_path)
    named = json.loads((tmp_path / "skipped.json").read_text())
    assert [row["ids"] for row in named] == [[f"sample {step}"] for step in (4, 5, 6)]
    assert json.loads((tmp_path / "state/position.json").read_text())["next_step"] == 4


def test_a_full_disk_ends_the_run_with_the_older_state_whole(tmp_path, monkeypatch):
    task = spoilt_task(set())
    num_saves = 0

    def fail(descriptor):
        nonlocal num_saves
        num_saves += 1
        if num_saves > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(TrainingError, match=r"No space left on device.*the one before it is whole"):
        fit(task, tmp_path)
    monkeypatch.undo()
    done = json.loads((tmp_path / "state/position.json").read_text())["next_step"]
    assert 1 <= done < 8
    found = fit(spoilt_task(set()), tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(8))
    assert all(weight.isfinite().all() for weight in found.values())


def test_how_a_run_computes_may_change_when_it_goes_on(world, tmp_path):
    records = read_manifest(world, split="train")
    with pytest.raises(StopError):
        run(small_run(), records, tmp_path, report=stop_at(3))
    run(evolve(small_run(), {"compute.micro_batch": 4}), records, tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
