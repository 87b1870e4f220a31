"""Pages that repeat what the code says are in step with it, and the errors say what to do."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from valor import errors
from valor.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/valor"
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


GENERATOR = generator()
PAGES = GENERATOR.pages()
REMEDY = re.compile(
    "`|(add|ask|build|check|choose|convert|copy|correct|cut|evaluate|finish|get|give|install|leave|"
    "load|look|make|merge|move|name|put|remove|rename|render|return|run|save|say|see|set|start|"
    "take|there is|train|upgrade|use|wait|write) "
)
"""How a remedy begins; `there is` begins a choice."""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_the_code_says(page: str):
    assert (ROOT / page).read_text(encoding="utf-8") == PAGES[page], "run `make pages`"


def test_every_error_has_a_remedy_of_its_own():
    assert len({cls.next_step for cls in ERRORS}) == len(ERRORS) >= 10
    assert all(f"## {cls.__name__}\n" in PAGES["docs/errors.md"] for cls in ERRORS)


def test_what_follows_a_semicolon_is_a_remedy():
    remedies = {one.remedy for one in GENERATOR.messages() if one.remedy}
    assert len(remedies) > 100
    assert {text for text in remedies if not REMEDY.match(text)} == set()
    assert {text for text in remedies if "; " in text} == set()


def test_the_reasons_that_are_given_are_those_that_are_explained():
    places = {"MediaError": 1, "BadFile": 1, "_DeadError": 0}
    given = {
        reason.value
        for _, tree in GENERATOR.trees()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and (place := places.get(ast.unparse(call.func))) is not None
        for reason in call.args[place : place + 1]
        if isinstance(reason, ast.Constant)
    }
    assert given == errors.MediaError.REASONS.keys()


def test_a_reason_that_is_not_explained_is_refused():
    with pytest.raises(ValueError, match="reason='odd', wanted one of missing, unreadable"):
        errors.MediaError("a.mp4", "odd", "is odd")


def test_a_message_is_found_by_its_words():
    page = PAGES["docs/errors.md"]
    for words in (
        "{path}: no such manifest `` | `` give a JSONL file",
        "{path}: no {label} to describe `` | `` use another modality",
        "{where}: temperature must not be negative",
        "{where}: needs: {needs}, expected one of",
    ):
        assert words in page


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["index"],
        ["index", "new.library", "silent.jsonl", "--modl", "x"],
        ["index", "new.library", "nowhere", "--model", "tiny-world"],
        ["index", "new.library", "empty", "--model", "tiny-world"],
        ["index", "--plan", "empty"],
        ["masks", "tiny-world", "silent.jsonl"],
        ["caption", "tiny-world", "silent.jsonl"],
        ["data", "annotate", "--store", "silent.jsonl"],
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
    Path("empty").mkdir()
    Path("silent.jsonl").write_text('{"id": "one", "media": "one.mp4", "split": "train"}\n')
    assert main(words) != 0
    assert not Path("out").exists()
    assert not Path("new.library").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("valor: ")
    problem, _, next_step = line.rpartition("; ")
    assert problem
    assert next_step


@pytest.mark.parametrize("verb", VERBS)
def test_every_kind_of_a_verb_is_named_and_explained(verb):
    for kind in getattr(importlib.import_module(f"valor.cli.{verb}"), "KINDS", ()):
        assert f"## valor {verb} {kind}\n" in PAGES["docs/command-line.md"]
        assert verb == "world" or kind in VERBS[verb]


def test_the_forecast_of_indexing_is_in_help_and_page():
    assert "[LIBRARY] --plan FOLDER" in GENERATOR.help_of(["index"])
    assert "--seconds FLOAT" in PAGES["docs/command-line.md"].partition("## valor index --plan")[2]


def parts_of_the_package() -> set[str]:
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    return folders | {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("name", ["layers", "folders", "tree"])
def test_every_part_of_the_package_is_on_the_map(name: str):
    words = set(re.findall(r"\w+", generator().parts()[name]))
    assert parts_of_the_package() - words == set()


def test_the_picture_has_every_folder_of_the_package():
    picture = generator().parts()["picture"]
    assert [path for path in SOURCE.glob("*/__init__.py") if path.parent.name not in picture] == []


def test_a_named_part_of_a_page_is_replaced_and_nothing_else():
    for page in ("README.md", "CONTRIBUTING.md", "docs/search.md", "docs/explanation.md"):
        begun = re.findall(r"^<!-- (\w+) -->$", PAGES[page], re.MULTILINE)
        ended = re.findall(r"^<!-- end of (\w+) -->$", PAGES[page], re.MULTILINE)
        assert begun == ended != []


def test_every_example_is_on_its_page():
    files = [path.name for path in (ROOT / "examples").iterdir() if path.is_file()]
    assert [name for name in files if f"../examples/{name}" not in PAGES["docs/examples.md"]] == []


def test_every_result_says_what_was_measured_and_by_which_program():
    _, *sections = re.split(r"^## ", PAGES["docs/results.md"], flags=re.MULTILINE)
    by_name = {section.partition("\n")[0]: section for section in sections}
    results = {path.stem for path in (ROOT / "benchmarks/results").glob("*.json")}
    assert by_name.keys() == {*results, "Not measured here"}
    for name in results:
        assert re.match(r"[\w-]+ .+", by_name[name].splitlines()[2])
        assert re.search(r"^\[\S+\.py\]\(\.\./\S+\.py\)\. ", by_name[name], re.MULTILINE)


def test_the_limits_of_the_table_are_those_that_the_programs_state():
    limits = re.findall(r"^(\w+) .*: ([\d.]+)", GENERATOR.LIMITS, flags=re.MULTILINE)
    assert len(limits) > 10
    programs = GENERATOR.measuring()
    for name, limit in limits:
        told = ast.get_docstring(ast.parse(programs[name].read_text(encoding="utf-8"))) or ""
        stated = " ".join(re.split("limit|goal", told, flags=re.IGNORECASE)[1:])
        assert re.search(rf"(?<![\d.]){re.escape(limit)}(?!\.?\d)", stated), (name, limit)


def test_what_has_no_result_is_named_as_not_measured():
    programs = {path.name for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert {name for name in programs if name not in PAGES["docs/results.md"]} == set()
