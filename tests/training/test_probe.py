"""Laws of looks at held-out records: what is measured is what is kept, and when a run ends."""

import json
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import small_run
from tests.training.test_loop import StopError, spoilt_task, stop_at
from valor.checkpoints.folder import load_model
from valor.cli.main import main
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.data.reading import FileSource
from valor.errors import ConfigError, ManifestError, TrainingError
from valor.evaluation.run import evaluate
from valor.inference import load
from valor.training.loop import fit
from valor.training.monitor import read_metrics
from valor.training.probe import HeldOut, Probe, ProbeConfig, measured_task
from valor.training.run import run
from valor.training.step import ObjectivesConfig
from valor.types import AUDIOVISUAL, Modality

FIGURES = (0.1, 0.3, 0.2, 0.3, 0.25, 0.9, 0.9, 0.9)
"""After each step; with a patience of 3 the fifth look is the last."""


def probed_task(kept, *, first=0):
    torch.manual_seed(0)
    steps = count(first)
    probe = Probe(
        ProbeConfig(every=1, patience=3),
        lambda weights: {"probe": FIGURES[next(steps)]},
        lambda weights: kept.append(weights["weight"].clone()),
    )
    return replace(spoilt_task(set()), probe=probe)


def test_a_run_ends_when_patience_is_over_and_the_best_weights_are_kept(tmp_path):
    kept = []
    last = fit(probed_task(kept), tmp_path)
    found = [row["probe"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert found == list(FIGURES[:5])
    assert len(kept) == 2 and not torch.equal(kept[1], last["weight"])
    fit(probed_task(kept, first=5), tmp_path)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5  # It is over.


def test_a_resumed_run_decides_as_an_uninterrupted_one(tmp_path):
    whole, parts = [], []
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    last = fit(probed_task(whole), tmp_path / "whole")
    with pytest.raises(StopError):
        fit(probed_task(parts), tmp_path / "cut", report=stop_at(4))
    resumed = fit(probed_task(parts, first=4), tmp_path / "cut")
    assert torch.equal(resumed["weight"], last["weight"])
    assert len(parts) == len(whole) == 2 and torch.equal(parts[1], whole[1])
    assert len(read_metrics(tmp_path / "cut/metrics.jsonl")) == 5


@pytest.mark.parametrize("name", ["best", "model"])
def test_a_model_that_cannot_be_written_is_one_line(world, tmp_path, monkeypatch, name):
    def full(folder, *rest, card):
        if folder.name == name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("valor.training.run.save_model", full)
    config = evolve(small_run(), {"probe.every": 1, "num_steps": 1})
    held_out = FileSource(read_manifest(world, split="test"))
    with pytest.raises(TrainingError, match=rf"{name} could not be written .*No space.* make room"):
        run(config, read_manifest(world, split="train"), tmp_path, held_out=held_out)


def test_the_last_look_is_taken_and_kept_even_if_the_last_step_is_spoilt(tmp_path):
    kept = []
    probe = Probe(ProbeConfig(every=8), lambda weights: {"probe": 0.5}, kept.append)
    last = fit(replace(spoilt_task({7}), probe=probe), tmp_path)
    assert len(kept) == 1 and torch.equal(kept[0]["weight"], last["weight"])
    assert json.loads((tmp_path / "state/position.json").read_text())["next_step"] == 8
    fit(replace(spoilt_task({7}), probe=probe), tmp_path)
    assert len(kept) == 1  # It is over.


def test_a_run_is_not_changed_by_looks_and_its_best_folder_gives_their_figures(
    world, model_folder, tmp_path
):
    config = evolve(small_run(), {"probe.every": 3, "optim.average": 0.5})
    held_out = read_manifest(world, split="test")
    folder = run(
        config, read_manifest(world, split="train"), tmp_path, held_out=FileSource(held_out)
    )
    assert folder == tmp_path / "best"
    rows = {row["step"]: row for row in read_metrics(tmp_path / "metrics.jsonl")}
    looks = {step: row["probe"] for step, row in rows.items() if "probe" in row}
    assert looks.keys() == {2, 3}
    best = max(looks, key=lambda step: (looks[step], -step))
    figures = evaluate(load(folder), held_out)["retrieval"]
    for group in ("vision", "audio", "audiovisual"):
        wanted = figures[group]["text_to_media"]
        assert rows[best][f"probe/mrr/{group}"] == pytest.approx(wanted["mrr"])
        assert rows[best][f"probe/r1/{group}"] == pytest.approx(wanted["r1"])
    without = fit_steps(model_folder)
    assert [rows[step]["loss"] for step in rows] == without


def fit_steps(model_folder):
    """Losses of the same run without looks, which `model_folder` comes from."""
    return [row["loss"] for row in read_metrics(model_folder.parent / "metrics.jsonl")]


@pytest.mark.parametrize(("task", "figure"), [("captioning", "cider"), ("answering", "accuracy")])
def test_writing_is_measured_as_evaluation_does(task, figure, world, model_folder):
    records = read_manifest(world, split="test")
    fresh, processor, _ = load_model(model_folder)
    weights = load_file(model_folder / "model.safetensors")
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    objectives = [small_run().objectives]
    look = HeldOut(
        fresh, processor, FileSource(records), objectives, ProbeConfig(every=1, task=task)
    )
    found = look(weights)
    model: Any = load(model_folder)
    model.caption_beams = 1
    wanted = evaluate(model, records)[task][AUDIOVISUAL.label][figure]
    assert found[f"probe/{figure}/audiovisual"] == pytest.approx(wanted)


def test_what_cannot_be_measured_is_refused_before_training(world, model_folder, tmp_path):
    records = read_manifest(world, split="train")
    with pytest.raises(ConfigError, match="no held-out records"):
        run(evolve(small_run(), {"probe.every": 1}), records, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model, processor, _ = load_model(model_folder)
    objectives = [small_run().objectives]
    nothing = ObjectivesConfig(alignment=None, captioning=None)
    with pytest.raises(ConfigError, match="nothing that can be measured"):
        HeldOut(model, processor, FileSource(records), [nothing], ProbeConfig(every=1))
    silent = [replace(record, captions=()) for record in records]
    with pytest.raises(ManifestError, match="have captions"):
        HeldOut(model, processor, FileSource(silent), objectives, ProbeConfig(every=1))


def test_what_a_part_of_the_data_learns_can_be_measured_and_nothing_else():
    learns = {"alignment": None, "captioning": {"groups": ["vision"]}}
    parts = [{"name": "a", "objectives": learns}, {"name": "b", "objectives": {**learns,
             "captioning": {"groups": ["audio", "vision"]}}}]  # fmt: skip
    config = evolve(small_run(), {"mixture": parts})
    groups = [Modality.VISION, Modality.AUDIO]
    assert measured_task(config.objectives_by_part, None) == ("captioning", groups)
    with pytest.raises(ConfigError, match="the run learns captioning, not retrieval"):
        measured_task(config.objectives_by_part, "retrieval")
    own = evolve(config, {"objectives.captioning": None, "mixture": [{"name": "c"}, *parts]})
    assert measured_task(own.objectives_by_part, None)[0] == "retrieval"
    assert measured_task(own.objectives_by_part, "captioning") == ("captioning", groups)


def test_the_command_line_looks_at_another_split_of_the_same_data(world, tmp_path, capsys):
    words = ["train", "tests.tiny:small_run", "--data", str(world), "--num-steps", "1"]
    words += ["--out", str(tmp_path / "run"), "--probe.every", "1"]
    assert main([*words, "--probe.split", "nowhere"]) == 2
    assert "no record of split 'nowhere'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*words, "--probe.split", "test"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"model in {tmp_path / 'run/best'}\n"
    assert "samples/s" in captured.err and "probe 0." in captured.err
    assert (tmp_path / "run/model/config.json").is_file()
