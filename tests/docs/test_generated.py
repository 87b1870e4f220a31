"""Pages that repeat what the code says are in step with it, and the errors say what to do."""

import importlib.util
from pathlib import Path

import pytest

from valor import errors
from valor.cli.main import main

ROOT = Path(__file__).parents[2]
ERRORS = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, errors.ValorError)
]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = generator().pages()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_the_code_says(page: str):
    assert (ROOT / page).read_text(encoding="utf-8") == PAGES[page], "run `make pages`"


def test_every_error_has_a_remedy_of_its_own():
    assert len({cls.next_step for cls in ERRORS}) == len(ERRORS) >= 10
    assert all(f"## {cls.__name__}\n" in PAGES["docs/errors.md"] for cls in ERRORS)


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["search", "nowhere.library", "a bell"],
        ["train", "tiny", "--data", "nowhere.jsonl", "--out", "run"],
        ["score", "retrieval", "--scores", "nowhere.npy"],
        ["convert", "nowhere", "out"],
        ["caption", "nowhere", "file.mp4"],
        ["index", "new.library", "."],
        ["serve", "nowhere.library"],
        ["evaluate", "nowhere", "--data", "nowhere.jsonl", "--out", "out"],
        ["evaluate", "tiny-world", "--data", "silent.jsonl", "--out", "out"],
        ["train", "finetune", "--start", "tiny-world", "--data", "silent.jsonl", "--out", "out"],
        ["train", "mine:run", "--data", "nowhere.jsonl", "--out", "out"],
        ["data", "validate", "nowhere.jsonl"],
        ["data", "import", "msrvtt", "nowhere.json", "--media", ".", "--out", "out"],
    ],
)
def test_an_error_on_the_command_line_ends_with_what_to_do(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("silent.jsonl").write_text('{"id": "one", "media": "one.mp4", "split": "train"}\n')
    assert main(words) != 0
    assert not Path("out").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("valor: ")
    problem, _, next_step = line.rpartition("; ")
    assert problem
    assert next_step


def test_the_picture_has_every_part_of_the_package():
    picture = generator().layers_picture()
    parts = {
        path.name for path in (ROOT / "src/valor").iterdir() if (path / "__init__.py").exists()
    }
    assert {part for part in parts if part not in picture} == set()
