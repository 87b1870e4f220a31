"""Laws of `valor data`."""

import json

import pytest

from valor.cli.main import main
from valor.data.manifest import read_manifest


@pytest.fixture
def annotations(tmp_path):
    """A list of three videos, of which two are there."""
    path = tmp_path / "desc_test.json"
    path.write_text(json.dumps([{"video_id": id, "desc": "a bell rings"} for id in "abc"]))
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.mp4").touch()
    (tmp_path / "media/c.webm").touch()
    return path


def import_words(annotations, out):
    media = str(annotations.parent / "media")
    return ["data", "import", "valor", str(annotations), "--media", media, "--out", str(out)]


def test_import_states_coverage_and_writes_the_missing_ids(annotations, tmp_path, capsys):
    out = tmp_path / "set"
    assert main(import_words(annotations, out)) == 0
    missing = out / "manifest.missing.txt"
    assert capsys.readouterr().out == f"found 2 of 3 listed; missing ids in {missing}\n"
    assert missing.read_text() == "b\n"
    assert [record.id for record in read_manifest(out)] == ["a", "c"]
    (tmp_path / "media/b.mp4").touch()
    assert main([*import_words(annotations, out), "--about", "audio", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {
        "manifest": str(out / "manifest.jsonl"),
        "num_listed": 3,
        "num_found": 3,
        "num_without_texts": 0,
        "missing_ids": None,
    }
    assert not missing.exists()
    assert {c.about.label for r in read_manifest(out) for c in r.captions} == {"audio"}


def test_an_import_that_finds_nothing_is_an_error_and_writes_nothing(annotations, tmp_path, capsys):
    words = import_words(annotations, tmp_path / "set")
    words[words.index("--media") + 1] = str(tmp_path / "nowhere")
    assert main(words) == 1
    assert "found 0 of 3 listed: of the files in" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["import", "valor"],
        ["import", "valor", "x.json", "--out", "set"],
        ["import", "msr-vtt", "x.json", "--out", "set", "--media", "m"],
        ["import", "valor", "x.json", "--out", "set", "--media", "m", "--about", "smell"],
        ["validate"],
        ["stats", "x", "--concept"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["import", "validate", "stats"])
def test_every_kind_explains_itself(kind, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", kind, "--help"])
    assert not stop.value.code
    assert f"usage: valor data {kind}" in capsys.readouterr().out


def test_a_recording_that_is_left_out_and_a_set_of_none_say_what_to_do(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.mp4").write_text("no video")
    assert main(["data", "segment", "bad.mp4", "--out", "cut.jsonl", "--workers", "1"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("valor: ")]
    assert lines == [
        "valor: bad.mp4: unreadable; see cut.rows.jsonl for why, --retry tries it again",
        "valor: cut.jsonl: nothing was kept; see cut.rows.jsonl for the reasons",
    ]


def test_validate_prints_errors_with_their_lines_and_counts(annotations, tmp_path, capsys):
    main(import_words(annotations, tmp_path))
    assert main(["data", "validate", str(tmp_path)]) == 0
    capsys.readouterr()
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text() + '{"id": 1}\n' * 30)
    assert main(["data", "validate", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == f"{manifest}:3: id: 1, expected a text"
    assert captured.err.splitlines()[20:] == ["and 10 more errors; --json lists all"]
    assert [line.split()[-1] for line in captured.out.splitlines()] == ["2", "2", "30"]
    assert main(["data", "validate", str(tmp_path), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["errors"]) == 30
    assert main(["data", "validate", str(tmp_path / "none.jsonl")]) == 1


@pytest.mark.media
def test_validate_decodes_and_stats_probe_a_world(world, tmp_path, capsys):
    assert main(["data", "validate", str(world), "--decode", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["num_records"] == report["num_files"] == 22
    assert "decode: 22 of 22" in captured.err
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("bell\ndrum\n")
    words = ["data", "stats", str(world), "--probe", "--concepts", str(concepts)]
    assert main([*words, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["splits"] == {"train": 12, "val": 2, "test": 8}
    assert numbers["num_unknown_lengths"] == 0
    assert 0 < numbers["audio_concept_density"] < 1
    assert main(words[:3]) == 0
    assert "train 12, val 2, test 8" in capsys.readouterr().out
