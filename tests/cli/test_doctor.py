"""Laws of `valor doctor`: what is wrong is named with its remedy, and makes the exit code 1."""

import json
import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError

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
    assert found["codecs"]["h264"] == found["codecs"]["aac"] == found["codecs"]["vorbis"] == "yes"
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


def without(*packages):
    """Looks up versions as if these were not installed."""

    def look(package):
        if package in packages:
            raise PackageNotFoundError(package)
        return "1.0"

    return look


def test_an_extra_lacks_any_of_its_packages_and_comes_with_its_command(monkeypatch):
    needs = [
        "lancedb>=0.36; extra == 'search'",
        "fastapi>=0.125; extra == 'serve'",
        "uvicorn>=0.35; extra == 'serve'",
        'ray[data]>=2.60; extra == "ray"',
        "pytest; extra == 'dev'",
        "torch>=2.11",
    ]
    monkeypatch.setattr(doctor, "requires", lambda _: needs)
    monkeypatch.setattr(doctor, "version", without("uvicorn", "ray", "pytest"))
    assert doctor._extras() == {
        "search": "yes",
        "serve": 'lacks uvicorn: pip install "valor-omni[serve]"',
        "ray": 'lacks ray: pip install "valor-omni[ray]"',
    }


def test_what_an_extra_needs_beside_its_packages_is_tried(monkeypatch):
    def load(name):
        raise RuntimeError("no libavutil\nmore")

    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor.importlib, "import_module", load)
    assert "no java" in doctor._use("eval")
    assert "cannot be loaded (no libavutil): install" in doctor._use("fast")
    assert doctor._use("search") == "yes"


def test_extras_are_those_of_the_distribution(capsys):
    extras = report(capsys)[1]["extras"]
    assert {"search", "serve", "eval", "fast"} <= extras.keys()
    assert not {"dev", "docs", "fuzz"} & extras.keys()


def test_what_is_known_is_shown_before_the_rest_is_looked_at(capsys, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(codecs, "try_codecs", stop)
    assert main(QUICK) == 130
    shown = capsys.readouterr().out
    assert "versions: python" in shown
    assert "codecs" not in shown


def test_a_required_package_that_is_absent_is_a_problem(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "version", without("av"))
    monkeypatch.setitem(sys.modules, "valor.media.codecs", None)  # It cannot be imported then.
    code, found = report(capsys)
    assert code == 1
    assert found["problems"] == [
        "av is missing: run `pip install .` in the folder of valor's source"
    ]
    assert found["versions"]["torch"] != "missing"


def test_a_full_disk_is_told_and_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1 << 40, 1 << 40, 0))
    code, found = report(capsys)
    assert code == 0
    assert any("disk, here: 0.0 GiB free" in hint for hint in found["hints"])
