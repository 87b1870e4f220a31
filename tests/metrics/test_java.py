import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from valor.metrics import java

STAND_IN = Path(__file__).with_name("java_stand_in.py")


def test_without_java_both_metrics_are_absent_with_a_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = java.java_scores(["a dog"], [["a dog"]])
    assert found.corpus == found.by_item == {}
    assert found.absent == dict.fromkeys(("meteor", "spice"), "no Java on the path")


def test_a_program_that_fails_is_absent_and_not_zero(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str, *_: object) -> None:
        raise OSError("no models")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(java, "_run", fail)
    found = java.java_scores(["a dog"], [["a dog"]])
    assert found.corpus == found.by_item == {}
    assert found.absent["meteor"] == "its program failed: no models"


@pytest.fixture
def put_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts a program on the path in the place of Java."""
    spice = pytest.importorskip("pycocoevalcap.spice.spice")
    monkeypatch.setattr(spice, "get_stanford_models", lambda: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(script: str) -> None:
        (tmp_path / "java").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "java").chmod(0o755)

    return put


def test_the_programs_of_both_metrics_are_asked_and_their_numbers_kept(put_java, capsys):
    put_java(f'exec {sys.executable} {STAND_IN} "$@"')
    captions = ["A dog, running.", "a red bus", "rain"]
    references = [["a dog running"], ["a bus", "a red car"], ["thunder"]]
    found = java.java_scores(captions, references)
    assert found.absent == {}
    assert found.by_item["meteor"].tolist() == [1.0, pytest.approx(2 / 3), 0.0]
    assert found.by_item["spice"].tolist() == [1.0, pytest.approx(2 / 3), 0.0]
    assert found.corpus == {"meteor": 1.0, "spice": pytest.approx(5 / 9)}
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_programs_that_end_at_once_leave_both_metrics_absent(put_java):
    put_java("exit 1")
    found = java.java_scores(["a dog"], [["a dog"]])
    assert found.corpus == {}
    assert found.absent.keys() == {"meteor", "spice"}
    assert all(reason.startswith("its program failed") for reason in found.absent.values())
