"""Laws of `valor index`, with the model that comes with the package."""

import json
from pathlib import Path

import pytest

from valor.cli.main import main


@pytest.fixture
def library(world: Path, tmp_path: Path) -> str:
    folder = str(tmp_path / "library")
    assert main(["index", folder, one_video(world), "--model", "tiny-world"]) == 0
    return folder


def one_video(world: Path) -> str:
    return str(min((world / "media").glob("test-*.mp4")))


def test_a_folder_that_is_empty_today_is_nothing_wrong_of_a_library(library, tmp_path, capsys):
    (tmp_path / "inbox").mkdir()
    assert main(["index", library, str(tmp_path / "inbox")]) == 0
    assert capsys.readouterr().out.startswith("0 added")
    assert main(["index", str(tmp_path / "new"), str(tmp_path / "inbox")]) == 1
    assert not (tmp_path / "new").exists()


def test_a_file_is_searched_by_only_where_that_is_said(library, world, capsys):
    assert main(["search", library, one_video(world)]) == 2
    assert "add --by audio" in capsys.readouterr().err
    assert main(["search", library, one_video(world), "--by", "video"]) == 0
    assert main(["search", library, "a bell sounds " * 40]) == 0  # Longer than names of files are.


def test_a_forecast_takes_the_model_of_a_library(library, world, tmp_path, capsys):
    words = ["--plan", one_video(world), "--seconds", "0.01", "--json"]
    assert main(["index", library, *words]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_files"] == 1
    assert main(["index", str(tmp_path / "new"), *words, "--model", "tiny-world"]) == 0
    assert not (tmp_path / "new").exists()


def test_a_forecast_for_a_new_library_asks_for_the_model(world, tmp_path, capsys):
    assert main(["index", str(tmp_path / "new"), "--plan", one_video(world)]) == 2
    assert "give one with --model" in capsys.readouterr().err


def test_a_forecast_refuses_another_model_than_the_library_has(
    library, world, model_folder, capsys
):
    words = ["--plan", one_video(world), "--model", str(model_folder)]
    assert main(["index", library, *words]) == 1
    assert "but this is model" in capsys.readouterr().err
