"""Laws of `valor data annotate`."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from functools import partial

import pytest

from valor.cli.main import main
from valor.data.building.annotations import Action, AnnotationStore
from valor.data.manifest import read_manifest


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"id": "a", "media": "a.mp4"}\n{"id": "b", "media": "b.mp4"}\n')
    return path


@pytest.fixture
def annotated(manifest, tmp_path):
    """A store with one accepted caption."""
    store = AnnotationStore(tmp_path / "store.sqlite")
    store.add(manifest)
    number = store.take("ann", "write").slot.number
    store.act("ann", Action.WRITE, number, "a dog barks")
    store.take("ben", "check")
    store.act("ben", Action.ACCEPT, number)
    store.close()
    return tmp_path / "store.sqlite"


def test_numbers_and_exports_come_from_the_store_alone(annotated, manifest, tmp_path, capsys):
    manifest.unlink()
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("dog\nbell\n")
    words = ["data", "annotate", "--store", str(annotated), "--concepts", str(concepts)]
    assert main([*words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["captions"]["accepted"] == 1
    assert row["audio_concepts_per_word"] == pytest.approx(1 / 3)
    assert row["files"] == []
    assert main([*words, "--export", str(tmp_path / "out.jsonl")]) == 0
    out = capsys.readouterr().out
    assert f"wrote {tmp_path / 'out.jsonl'}\n" in out
    assert "first_check_accepted_fraction  1.0000\n" in out
    assert [record.id for record in read_manifest(tmp_path / "out.jsonl")] == ["a"]
    assert main([*words, "--json", "--export", str(tmp_path / "desc_train.json")]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(tmp_path / "desc_train.json")]
    rows = json.loads((tmp_path / "desc_train.json").read_text())
    assert rows == [{"video_id": "a", "desc": "a dog barks"}]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--store", "none.sqlite"], 2, "no such file"),
        (["{manifest}"], 2, "store"),
        (["--store", "{store}", "--export", "out.txt"], 2, r"expected a name with .jsonl or .json"),
        (["{manifest}", "--store", "{store}", "--export", "out.json"], 2, "without a manifest"),
        (["{manifest}", "--store", "{store}", "--captions-per-item", "0"], 2, "at least 1"),
        (["{manifest}", "--store", "{store}", "--host", "0.0.0.0"], 2, "give a --token"),
        (["none.jsonl", "--store", "{store}"], 1, "no such manifest"),
        (["{manifest}", "--store", "{manifest}"], 1, "no annotation store"),
        (["{manifest}", "--store", "{store}", "--port", "1", "--host", "127.0.0.256"], 2, "token"),
    ],
)
def test_what_cannot_be_is_one_line(
    words, code, message, annotated, manifest, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    filled = [word.format(manifest=manifest, store=annotated) for word in words]
    assert main(["data", "annotate", *filled]) == code
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err
    assert captured.out == ""


def test_the_page_is_served_until_it_is_interrupted(manifest, tmp_path):
    words = ["data", "annotate", str(manifest), "--store", str(tmp_path / "s.sqlite"), "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "valor.cli.main", *words, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        try:
            assert process.stdout is not None
            row = json.loads(process.stdout.readline())
            assert (row["num_new"], row["open"]) == (2, 2)
            with urllib.request.urlopen(row["address"], timeout=20) as page:
                assert b"<title>Captions</title>" in page.read()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
