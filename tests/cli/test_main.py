"""Laws of the command line, run in this process but for the start-up itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from valor.cli.main import VERBS, main


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


def test_help_lists_every_verb_and_takes_no_torch():
    code = "import sys, valor.cli.main as m; m.main(['--help']); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(verb in run.stdout for verb in VERBS)
    assert run.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert not stop.value.code
    assert "usage: valor " in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["dance"],
        ["train", "huge", "--data", "x", "--out", "y"],
        ["train", "nowhere:recipe", "--data", "x", "--out", "y"],
        ["train", "tiny", "--data", "x", "--out", "y", "--num-stepz", "3"],
        ["train", "tiny", "--data", "x", "--out", "y", "--num-steps"],
        [
            "train",
            "tiny",
            "--data",
            "x",
            "--out",
            "y",
            "--objectives.alignment.groups",
            '["smell"]',
        ],
        ["train", "tiny", "--data", "x", "--out", "y", "--mixture", '[{"name": "x",}]'],
        ["train", "tiny", "--data", "x"],
        ["train", "tiny", "--out", "y"],
        ["caption", "model", "file.mp4", "--using", "smell"],
        ["caption", "model", "file.mp4", "--using", "text"],
        ["caption", "model", "file.mp4", "--usage", "vision"],
        ["caption", "model"],
        ["index", "library"],
        ["index", "--plan", "media"],
        ["index", "library", "media", "--frames", "some"],
        ["ask", "model"],
        ["search", "library", "words", "--by", "smell"],
        ["world", "paint"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert len(lines(captured.err)) == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["caption", "nowhere", "file.mp4"],
        ["search", "nowhere", "words"],
        ["train", "tiny", "--data", "nowhere.jsonl", "--out", "run"],
        ["evaluate", "nowhere", "--data", "x", "--out", "y"],
    ],
)
def test_a_missing_input_is_one_line_and_exit_code_1(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    captured = capsys.readouterr()
    assert len(lines(captured.err)) == 1
    assert "nowhere" in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--seed", "-1"], ["--num", "-1"], ["--workers", "0"]])
def test_a_world_that_cannot_be_rendered_is_refused(words, capsys, tmp_path):
    assert main(["world", "render", "--out", str(tmp_path / "world"), *words]) == 1
    assert len(lines(capsys.readouterr().err)) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "", "just some text\nin two lines\n"])
def test_files_that_are_no_media_are_reported_and_the_others_described(
    content, model_folder, world, capsys, tmp_path
):
    bad = tmp_path / "bad.mp4"
    if content is not None:
        bad.write_text(content)
    good = world / "media/test-000000.mp4"
    assert main(["caption", str(model_folder), str(bad), str(good), "--json"]) == 1
    captured = capsys.readouterr()
    assert len(lines(captured.err)) == 1
    assert "bad.mp4" in captured.err
    row = json.loads(captured.out)
    assert row["path"] == str(good)
    assert row["modalities_used"] == "audiovisual"


def test_a_wrong_field_of_a_manifest_names_file_line_and_field(capsys, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"id": "a", "media": "a.mp4"}\n{"id": "b", "media": 3}\n')
    assert main(["train", "tiny", "--data", str(manifest), "--out", str(tmp_path / "run")]) == 1
    assert f"{manifest}:2: media: 3, expected a text" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_index_then_search_by_every_kind_of_query(model_folder, world, capsys, tmp_path):
    library, media = tmp_path / "videos.library", world / "media"
    (tmp_path / "bad.mp4").write_text("no video")
    words = ["index", str(library), str(media), str(tmp_path / "bad.mp4")]
    assert main([*words, "--model", str(model_folder), "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["added"] == 22
    assert "bad.mp4" in captured.err
    video = str(media / "test-000003.mp4")
    for query, by in (("a red circle", "text"), (video, "audio"), (video, "video")):
        assert main(["search", str(library), query, "--by", by, "--limit", "3", "--json"]) == 0
        hits = json.loads(capsys.readouterr().out)
        assert len(hits) == 3
        assert hits[0].keys() >= {"path", "start_s", "end_s", "score", "by_modality"}
        if by == "video":
            assert Path(hits[0]["path"]).parent == media
    assert main(["search", str(library), "a bell", "--using", "smell"]) == 2


def test_index_by_keyframes(model_folder, world, capsys, tmp_path):
    words = ["index", str(tmp_path / "library"), str(world / "media/test-000000.mp4"), "--json"]
    assert main([*words, "--model", str(model_folder), "--frames", "keyframes"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 1


def test_embed_writes_vectors_with_the_models_fingerprint(model_folder, world, capsys, tmp_path):
    out = tmp_path / "vectors.parquet"
    media = str(world / "media/test-000000.mp4")
    assert main(["embed", str(model_folder), media, "--out", str(out)]) == 0
    table = parquet.read_table(out)
    assert table.column("group").to_pylist() == ["vision", "audio", "audiovisual"]
    assert table.schema.metadata[b"model"]


def test_ask_prints_answer_and_modalities(model_folder, world, capsys):
    media = str(world / "media/test-000000.mp4")
    assert main(["ask", str(model_folder), media, "what is heard", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["modalities_used"] == "audiovisual"
    assert 0 <= row["confidence"] <= 1


def test_evaluate_writes_a_report_beside_its_page(model_folder, world, capsys, tmp_path):
    out = tmp_path / "evaluation"
    words = ["evaluate", str(model_folder), "--data", str(world), "--out", str(out), "--json"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "report.json").read_text())
    assert {"retrieval", "by_caption", "captioning", "answering", "protocol"} <= report.keys()
    for group in ("vision", "audio", "audiovisual"):
        figures = report["retrieval"][group]
        assert 0 <= figures["text_to_media"]["r1"] <= figures["oracle_r1"] <= 1
        assert figures["text_to_media"]["num"] == 8
    assert (out / "report.html").stat().st_size > 10_000
