"""Laws of `valor doctor`: what is wrong is named with its remedy, and makes the exit code 1."""

import importlib.util
import json
from collections import namedtuple

from valor.cli import doctor
from valor.cli.main import main
from valor.errors import MediaError
from valor.media import codecs

QUICK = ["doctor", "--seconds", "0.01"]
Usage = namedtuple("Usage", "total used free")


def report(capsys, *words: str) -> tuple[int, dict]:
    code = main([*QUICK, "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_everything_is_looked_at(capsys):
    code, found = report(capsys)
    assert (code, found["problems"]) == (0, [])
    assert found["versions"]["torch"]
    assert found["codecs"]["h264"] == found["codecs"]["aac"] == "yes"
    assert found["room"]["disk_here_gib"] > 0
    assert all(rate > 0 for rate in found["speed"].values())
    assert len(found["speed"]) == 3


def test_speed_can_be_left_out(capsys):
    assert main(["doctor", "--seconds", "0"]) == 0
    shown = capsys.readouterr().out
    assert "all is well" in shown
    assert "flop" not in shown


def test_a_codec_that_is_not_decoded_is_a_problem(capsys, monkeypatch):
    def fail(path, *_, **__):
        raise MediaError(str(path), "undecodable", "no decoder")

    monkeypatch.setattr(codecs, "decode_waveform", fail)
    code, found = report(capsys)
    assert code == 1
    assert found["codecs"]["aac"] == "no: no decoder"
    assert "yes" in found["codecs"]["h264"]
    (problem,) = found["problems"]
    assert "aac (no decoder)" in problem
    assert "pip install" in problem


def test_a_codec_that_cannot_be_written_is_not_called_bad(monkeypatch):
    monkeypatch.setitem(codecs._SOUNDS, "flac", ("nothing", "flac"))
    assert codecs.try_codecs()["flac"].startswith("not tried: nothing")


def test_an_extra_that_is_absent_comes_with_its_command(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert report(capsys)[1]["extras"]["search"] == 'pip install "valor-omni[search]"'


def test_a_required_package_that_is_absent_is_a_problem(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "no-such-package"))
    code, found = report(capsys)
    assert code == 1
    assert found["problems"] == [
        "no-such-package is missing: pip install --force-reinstall valor-omni"
    ]


def test_a_full_disk_is_told_and_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1 << 40, 1 << 40, 0))
    code, found = report(capsys)
    assert code == 0
    assert any("disk, here: 0.0 GiB free" in hint for hint in found["hints"])
