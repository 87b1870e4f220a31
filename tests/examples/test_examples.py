"""Every example runs: on a rendered world, with a model of a few steps."""

import csv
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.test_official import words_of
from tests.tiny import small_run
from valor.checkpoints.hub import ValorHubModel
from valor.data.manifest import read_manifest
from valor.recipes.demo import evaluate_into

EXAMPLES = Path(__file__).parents[2] / "examples"
RELEASED = Path(__file__).parents[1] / "golden/official/valor_base_like"
MOST_LINES = 60


def example(name: str):
    return importlib.import_module(f"examples.{name}").main


@pytest.fixture
def media(world: Path, tmp_path: Path) -> Path:
    """Six test videos with captions beside them, and a file that is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for record in read_manifest(world, split="test")[:6]:
        shutil.copy(record.media, folder)
        text = "\n".join(caption.text for caption in record.captions)
        (folder / f"{record.id}.txt").write_text(text)
    return folder


def test_each_is_short_and_has_a_test():
    programs = {path.stem: path.read_text() for path in EXAMPLES.iterdir() if path.is_file()}
    assert len(programs) == 9
    here = Path(__file__).read_text()
    assert [name for name in programs if name not in here] == []
    long = [n for n, text in programs.items() if n != "plots" and text.count("\n") > MOST_LINES]
    assert long == []


def test_search_by_sound_finds_the_recording_itself(media, model_folder, capsys):
    (media / "bad.mp4").write_bytes(b"no video")
    sound = media / "test-000003.mp4"
    moments = example("search_by_sound")(str(media), str(sound), str(model_folder))
    assert moments[0].startswith(str(sound))
    assert "left out" in capsys.readouterr().out


def test_caption_to_csv_has_a_row_for_every_file(media, model_folder, tmp_path):
    (media / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "captions.csv"
    example("caption_to_csv")(str(model_folder), str(media), str(out))
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 7
    assert [bool(row["problem"]) for row in rows] == ["bad" in row["path"] for row in rows]
    assert {row["from"] for row in rows if not row["problem"]} == {"audiovisual"}


def test_finetune_own_videos_evaluates_before_and_after(media, model_folder, tmp_path):
    out = tmp_path / "tuned"
    out.mkdir()
    figures = example("finetune_own_videos")(str(model_folder), str(media), str(out), "2")
    assert all(0 <= figure <= 1 for figure in figures)
    assert (out / "after/report.html").is_file()
    assert (out / "run/model/config.json").is_file()


def test_zero_shot_sounds_ranks_the_labels(media, model_folder):
    labels = ("a bell rings", "a dog barks", "nothing is heard")
    path = media / "test-000000.mp4"
    ranked = example("zero_shot_sounds")(str(model_folder), str(path), *labels)
    assert sorted(ranked) == sorted(labels)
    assert list(ranked.values()) == sorted(ranked.values(), reverse=True)


def test_own_vector_store_returns_the_nearest_segments(media, model_folder):
    paths = sorted(map(str, media.glob("*.mp4")))
    nearest = example("own_vector_store")(str(model_folder), "a red circle", *paths)
    assert len(nearest) == 3
    assert {str(payload["path"]) for _, payload in nearest} <= set(paths)


def test_train_from_scratch_says_something(tmp_path, monkeypatch):
    module = importlib.import_module("examples.train_from_scratch")
    monkeypatch.setattr(module, "tiny", small_run)
    assert isinstance(module.main(str(tmp_path), "8", "2"), str)
    assert (tmp_path / "run/model/config.json").is_file()


def test_push_released_checks_a_conversion_before_it_is_sent(media, tmp_path, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(
        ValorHubModel, "push_to_hub", lambda self, *to, **how: sent.append((to, how))
    )
    source = shutil.copytree(RELEASED, tmp_path / "released")
    (source / "vocab.txt").write_text("\n".join(words_of(256)) + "\n")
    out, video = tmp_path / "model", media / "test-000000.mp4"
    push = example("push_released")
    assert push(str(source), str(out), str(video)) < 1e-4
    assert sent == []
    push(str(source), str(out), str(video), "me/model")
    assert sent == [(("me/model",), {"private": True})]
    assert "agree" in capsys.readouterr().out
    monkeypatch.setattr("examples.push_released.pooled", lambda vectors: float("nan"))
    with pytest.raises(SystemExit, match="do not publish"):
        importlib.import_module("examples.push_released").self_check(str(out), str(video))


def test_score_predictions_gives_known_figures(tmp_path):
    said, right, scores = (tmp_path / name for name in ("said.json", "right.json", "scores.npy"))
    said.write_text(json.dumps({"a": "a dog barks at night", "b": "a bell rings far away"}))
    right.write_text(json.dumps({"a": ["a dog barks at night"], "b": ["a bell rings far away"]}))
    np.save(scores, np.eye(2))
    report = example("score_predictions")(str(said), str(right), str(scores))
    assert report["captions"]["bleu4"] == pytest.approx(1.0)
    assert report["retrieval"]["text_to_media"]["r1"] == 1.0
    right.write_text("{}")
    with pytest.raises(SystemExit, match="ids differ"):
        example("score_predictions")(str(said), str(right))


def test_plots_of_a_run_and_its_report(world, model_folder, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import valor

    run = shutil.copytree(model_folder.parent, tmp_path / "run")
    evaluate_into(run, valor.load(model_folder), world, split="test")
    monkeypatch.setenv("VALOR_RUN", str(run))
    cells = json.loads((EXAMPLES / "plots.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    plots = [names["plt"].figure(number) for number in names["plt"].get_fignums()]
    assert len(plots) == 3
    assert all(axis.has_data() for plot in plots for axis in plot.axes)
    names["plt"].close("all")
