"""An encoder, an objective, a metric and a recipe from outside, without an edit to the library."""

import json
from pathlib import Path

import pytest

from tests.thirdparty.recipe import together
from valor.cli.main import main
from valor.config import evolve, from_dict, to_dict
from valor.errors import ConfigError
from valor.inference import load
from valor.recipes.finetune import finetune
from valor.training.estimate import estimate
from valor.training.monitor import read_metrics
from valor.training.run import TrainConfig
from valor.training.start import begin
from valor.types import AUDIOVISUAL


@pytest.fixture(scope="module")
def run_folder(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "together"
    words = ["tests.thirdparty.recipe:together", "--data", str(world), "--out", str(out)]
    assert main(["train", *words, "--model.audio.dim", "24"]) == 0
    return out


def test_a_strangers_encoder_and_objective_are_trained_by_name(run_folder):
    rows = read_metrics(run_folder / "metrics.jsonl")
    assert all("together" in row and "align/audiovisual" in row for row in rows)
    assert rows[0]["together"] != rows[-1]["together"]
    recorded = json.loads((run_folder / "config.json").read_text())
    assert recorded["model"]["audio"]["dim"] == 24


def test_a_finished_run_of_a_strangers_recipe_is_found_again(run_folder, world):
    words = ["tests.thirdparty.recipe:together", "--data", str(world), "--out", str(run_folder)]
    assert main(["train", *words, "--model.audio.dim", "24"]) == 0
    assert main(["train", *words]) == 1


def test_code_of_a_model_folder_is_imported_only_if_trusted(run_folder, world):
    with pytest.raises(ConfigError, match="trust_code=True"):
        load(run_folder / "model")
    model = load(run_folder / "model", trust_code=True)
    video = next((world / "media").glob("test-*.mp4"))
    assert model.caption(video).modalities_used == AUDIOVISUAL


def test_a_library_of_a_strangers_model_is_made_and_searched_if_trusted(
    run_folder, world, tmp_path, capsys
):
    library = str(tmp_path / "library")
    words = ["index", library, str(min((world / "media").glob("test-*.mp4")))]
    words += ["--model", str(run_folder / "model")]
    assert main(words) == 1
    assert not Path(library).exists()
    assert main([*words, "--trust-code"]) == 0
    search = ["search", library, "a red circle", "--json"]
    assert main(search) == 1
    capsys.readouterr()
    assert main([*search, "--trust-code"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_run_goes_on_from_such_a_folder_only_if_it_is_trusted(
    run_folder, world, tmp_path, capsys
):
    model = str(run_folder / "model")
    words = ["train", "finetune", "--protocol", "retrieval", "--start", model]
    words += ["--num-epochs", "1", "--batch-size", "6", "--precision", "float32"]
    words += ["--data", str(world), "--out", str(tmp_path / "run")]
    assert main(words) == 1
    assert "trust it with --trust-code" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    config = evolve(finetune(start=model, trust_code=True), {"model.trust_code": False})
    with pytest.raises(ConfigError, match="trust_code=True"):
        begin(config.model, config.processor, [])
    with pytest.raises(ConfigError, match="trust_code=True"):
        estimate(config, 12)
    assert main([*words, "--trust-code"]) == 0
    assert main([*words, "--trust-code", "--estimate"]) == 0
    with pytest.raises(ConfigError, match="trust_code=True"):
        load(tmp_path / "run/model")


def test_a_strangers_metric_stands_in_the_report(run_folder, world, tmp_path):
    words = ["--data", str(world), "--out", str(tmp_path), "--trust-code"]
    metric = "tests.thirdparty.metric:richness"
    assert main(["evaluate", str(run_folder / "model"), *words, "--metric", metric]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["metrics"][metric].keys() == {"vision", "audio", "audiovisual"}
    assert main(["evaluate", str(run_folder / "model"), *words, "--metric", "os:nothing"]) == 2


def test_a_strangers_configuration_is_read_as_strictly_as_ours():
    values = to_dict(together())
    assert from_dict(TrainConfig, values, trust_code=True) == together()
    with pytest.raises(ConfigError, match="trust_code=True"):
        from_dict(TrainConfig, values)
    with pytest.raises(ConfigError, match=r"model\.audio.*num_mel: unknown key"):
        audio = {**values["model"]["audio"], "num_mel": 3}
        from_dict(TrainConfig, {**values, "model": {**values["model"], "audio": audio}},
                  trust_code=True)  # fmt: skip
    with pytest.raises(ConfigError, match="cannot be imported"):
        evolve(together(), {"model.audio": {"kind": "nowhere:Config"}})
    with pytest.raises(ConfigError, match="80 x 400"):
        evolve(together(), {"model.audio.num_mels": 80})
