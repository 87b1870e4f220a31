"""The demo and the README, as a newcomer runs them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import RUN, blocks, run_command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MADE = ("model/model.safetensors", "world/manifest.jsonl")
BLOCKS = [block for block in blocks("README.md") if not block.reason]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which `valor demo --quick` has run, and the environment for more commands."""
    folder = tmp_path_factory.mktemp("newcomer")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "2"}
    result = run("valor demo --quick", folder, environment)
    return folder, environment, result


def run(command, folder, environment):
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )


def test_the_quick_demo_leaves_model_report_and_library(demo):
    folder, _, result = demo
    out = folder / "runs/quick"
    report = json.loads((out / "report.json").read_text())
    assert report["data"] == {"n": 64, "coverage": 1.0, "missing": {}}
    assert report["retrieval"]["audiovisual"]["text_to_media"]["r1"] > 3 / 64
    assert report["protocol"]["seed"] == 0
    page = (out / "report.html").read_text()
    assert "<video" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert result.stdout.count("  valor ") == 4
    *others, serve = re.findall(r"^  (valor .*)$", result.stdout, flags=re.MULTILINE)
    assert serve == "valor serve runs/quick/library"
    for command in others:
        assert run(command, folder, demo[1]).stdout.strip()


def test_running_it_again_goes_on_from_what_is_there(demo):
    folder, environment, _ = demo
    model, rendered = (folder / "runs/quick" / name for name in MADE)
    before = model.read_bytes(), rendered.stat().st_mtime_ns
    run("valor demo --quick", folder, environment)
    assert (model.read_bytes(), rendered.stat().st_mtime_ns) == before


def test_every_block_of_the_readme_runs(demo, record_property):
    folder, environment, _ = demo
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        if block.language == "python":
            (folder / "block.py").write_text(block.code)
            assert run(f"{sys.executable} block.py", folder, environment).stdout.strip()
            continue
        for command in block.code.strip().splitlines():
            if command.startswith(("make ", "pip ")):
                run_command(shlex.split(command), endpoint="")
            else:
                run(command, folder, environment)
    record_property(RUN, len(BLOCKS))


def test_every_file_that_the_readme_names_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
