"""Blocks of code in Markdown, and how each of their commands is run."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from unittest.mock import patch

import pytest

from valor.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
"""Pages outside of `docs`."""
LANGUAGES = ("sh", "python", "json")
RUN = "blocks_run"
"""The property of a test's report that says how many blocks it ran."""
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEREDOC = re.compile(r"<<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s+)# .*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code, and why it is not run, if it is not."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page that may hold commands, relative to the repository."""
    docs = sorted((ROOT / "docs").rglob("*.md"))
    return [*PAGES, *(path.relative_to(ROOT).as_posix() for path in docs)]


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are in one of `LANGUAGES`, from its top to its end."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("code")),
            language=match["language"],
            code=match["code"],
            reason=match["reason"],
        )
        for match in _BLOCK.finditer(text)
        if match["language"] in LANGUAGES
    ]


def count_run(reports: list[pytest.TestReport]) -> str:
    """How many blocks were run, as the reports of their tests tell, and how many are marked."""
    told = [value for report in reports for name, value in report.user_properties if name == RUN]
    marked = sum(block.reason is not None for page in pages() for block in blocks(page))
    return f"{sum(told)} blocks of README and docs run, {marked} marked as not run"


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; a program in it is the last word of its own."""
    programs = _HEREDOC.findall(code)
    code = _COMMENT.sub("", _HEREDOC.sub("PROGRAM", code)).replace("\\\n", " ")
    for line in filter(str.strip, code.splitlines()):
        words = [
            str(Path(word).expanduser()) if word[0] == "~" else word for word in shlex.split(line)
        ]
        yield [programs.pop(0) if word == "PROGRAM" else word for word in words]


def run_command(words: list[str], endpoint: str) -> None:
    """Run one command in the working folder; worlds are small, and servers are asked and stopped.

    Targets of make and extras of pip are looked up, not run.

    Args:
        words: Of the command, after `NAME=value` of its environment.
        endpoint: Address of a model's server, in place of the one that pages name.
    """
    variables = list(itertools.takewhile(re.compile(r"[A-Z_]+=").match, words))
    if variables:
        with patch.dict(os.environ, (variable.split("=", 1) for variable in variables)):
            return run_command(words[len(variables) :], endpoint)
    words = [word.replace("http://localhost:8000", endpoint) for word in words]
    words = [name for word in words for name in (sorted(glob(word)) if "/*" in word else [word])]  # noqa: PTH207
    match words:
        case ["valor", "serve", *_] | ["valor", "data", "annotate", _, "--store", _]:
            ask_server(words[1:])
        case ["curl", *options]:
            post(options)
        case ["valor", "world", "render", *_]:
            assert main([*words[1:], "--num", "8", "--num-val", "2", "--num-test", "4"]) == 0
        case ["valor", *rest] | ["python", "-m", "valor", *rest]:
            assert main(rest) == 0, shlex.join(words)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", wanted]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            name, _, extras = wanted.strip("]").partition("[")
            assert name in (project["name"], ".")
            assert set(filter(None, extras.split(","))) <= project["optional-dependencies"].keys()
        case ["python", "-", program]:
            exec(compile(program, "program", "exec"), {"__name__": "__main__"})
        case ["python" | ".venv/bin/python", program, *options]:
            options += ["--quick"] if "bench_" in program and "--quick" not in options else []
            environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
            subprocess.run([sys.executable, program, *options], env=environment, check=True)
        case _:
            raise AssertionError(f"no way to run {shlex.join(words)}; mark the block as not run")


def ask_server(words: list[str]) -> None:
    """Start a verb that serves a page, and look at the page."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with serving(words) as address:
        if token := os.environ.get("VALOR_TOKEN"):
            opener.addheaders.append(("Authorization", f"Bearer {token}"))
        with opener.open(address, timeout=20) as page:
            assert b"<title>" in page.read()


def post(options: list[str]) -> None:
    """Send what curl would send to a server over the page's library; it must find something."""
    *given, url = options
    values = list(zip(given[::2], given[1::2], strict=True))
    headers = dict(value.split(": ") for name, value in values if name == "-H")
    (body,) = (value.encode() for name, value in values if name == "-d")
    token = headers["Authorization"].removeprefix("Bearer ")
    with serving(["serve", "videos.library", "--token", token, "--no-open"]) as address:
        path = urllib.parse.urlsplit(url).path
        there = urllib.parse.urljoin(address, path)
        request = urllib.request.Request(there, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["hits"]


@contextmanager
def serving(words: list[str]) -> Iterator[str]:
    """The address of a verb that serves a page on a free port; it is interrupted at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "valor.cli.main", *words, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": "true", "PYTHONPATH": str(ROOT / "src")},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        try:
            assert process.stdout is not None
            yield next(re.finditer(r"http://\S+", process.stdout.readline()))[0]
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode in (0, 130)
