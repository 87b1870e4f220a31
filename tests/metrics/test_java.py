import shutil

import pytest

from valor.metrics import java


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
