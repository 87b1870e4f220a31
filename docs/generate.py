"""Write the pages that repeat what the code says: `python docs/generate.py`, or `make pages`.

Errors, the command line, every configuration, examples, results and ablations are pages of their
own. Elsewhere the text between `<!-- NAME -->` and `<!-- end of NAME -->` is the part of that name
in `parts`. `tests/docs/test_generated.py` fails while a page differs from the code.
"""

import ast
import contextlib
import io
import json
import os
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from valor import errors
from valor.cli import main as command_line
from valor.evaluation.report import summary_table
from valor.recipes.ablations import STUDIES, markdown, verdict

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/valor"
ERRORS = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type) and issubclass(cls, errors.ValorError)
}
_NOTE = "<!-- Written by docs/generate.py; change the code and run `make pages`. -->\n\n"
_PART = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
_WITH_PARTS = ("README.md", "CONTRIBUTING.md", "docs/search.md", "docs/explanation.md")
RESULTS = ROOT / "benchmarks/results"
_NO_CONFIGURATION = ("Entry", "LibraryInfo", "Published", "ShardStats", "Stats")
"""Classes that are read as strictly, but that nobody writes by hand."""
_READ = ast.FunctionDef | ast.Assign | ast.Call


def main() -> None:
    """Write every page that has changed."""
    for name, text in pages().items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Content by path in the repository."""
    found = parts()
    return {
        "docs/errors.md": _NOTE + errors_page(),
        "docs/command-line.md": _NOTE + command_line_page(),
        "docs/configuration.md": _NOTE + configuration_page(),
        "docs/examples.md": _NOTE + examples_page(),
        "docs/results.md": _NOTE + results_page(),
        "docs/ablations.md": _NOTE + ablations_page(),
    } | {
        page: _PART.sub(
            lambda match: match[1] + found[match[2]] + match[3],
            (ROOT / page).read_text(encoding="utf-8"),
        )
        for page in _WITH_PARTS
    }


def parts() -> dict[str, str]:
    """What is written into pages that are otherwise written by hand, by name."""
    return {
        "picture": layers_picture(),
        "layers": layers(),
        "folders": folders_table(),
        "tree": tree(),
        "ingest": ingest_figures(),
        "limits": limits_table(),
    }


def errors_page() -> str:
    """Every error with its cause, its remedy and what it says, by package."""
    lines = [
        "# Errors\n",
        "A problem with the input is one line on stderr: what is wrong, with its value and limit,",
        "and after a semicolon what to do next. Exit code 1, or 2 for wrong usage. In Python it is",
        "a subclass of `valor.ValorError`; anything else is a bug, which we want to hear about.\n",
        "To find a message, search this page for some of its words: `{name}` and `...` stand for",
        "values. Where a message has no remedy of its own, that of the class is shown.",
    ]
    said = sorted(set(messages()))
    for name, cls in ERRORS.items():
        lines += [f"\n## {name}\n", f"* **Cause**: {(cls.__doc__ or '').splitlines()[0]}"]
        lines += [f"* **What to do**: {cls.next_step}."]
        if cls is errors.MediaError:
            lines += ["\n| reason | meaning |", "|--|--|"]
            lines += [f"| `{word}` | {meaning} |" for word, meaning in cls.REASONS.items()]
        own = (one for one in said if one.error == name)
        for package, some in groupby(own, lambda one: one.file.partition("/")[0]):
            lines += [f"\nIn `{package}`:\n", "| message | what to do | file |", "|--|--|--|"]
            lines += [f"| {_code(one.text)} | {_code(one.remedy)} | `{one.file}` |" for one in some]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Text as it stands, in a cell of a table."""
    return f"`` {text} ``".replace("|", "\\|") if text else ""


class Message(NamedTuple):
    """What an error says; values are names in braces, or dots."""

    error: str
    file: str
    text: str
    remedy: str


def messages() -> Iterator[Message]:
    """What the package's errors say, as far as the code that makes them has words for it."""
    for path, tree in trees():
        names: dict[str, str] = {}
        checks = [
            node
            for made in ast.walk(tree)
            if isinstance(made, ast.FunctionDef) and made.name == "__post_init__"
            for node in ast.walk(made)
        ]
        found = (node for node in ast.walk(tree) if isinstance(node, _READ))
        for node in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
            if isinstance(node, ast.FunctionDef):
                names.clear()
            elif isinstance(node, ast.Call):
                error, told = _told(node, names, is_check=node in checks)
                text, _, remedy = told.partition("; ")
                if re.search(r"\w", re.sub(r"\{\w+\}", "", text)):
                    yield Message(error, path.as_posix(), text, remedy)
            elif isinstance(target := node.targets[0], ast.Name):
                text = pattern(node.value, names)
                names[target.id] = f"{{{target.id}}}" if text == "..." else text


def _told(call: ast.Call, names: Mapping[str, str], *, is_check: bool) -> tuple[str, str]:
    """The error that a call makes, and its message or nothing."""
    args = [pattern(arg, names) for arg in call.args]
    match ast.unparse(call.func).rpartition(".")[2]:
        case "MediaError" if len(args) == 3:
            return "MediaError", "{path}: " + args[2]
        case "problem" if len(args) == 2:  # Of a field in a line of a manifest.
            return "ManifestError", f"{{where}}: {args[0]}: {args[1]}"
        case "ValueError" if is_check and args:  # Of a configuration, which the reader turns.
            return "ConfigError", "{where}: " + args[0]
        case name if name in ERRORS and args:
            return name, args[0]
    return "", ""


def pattern(node: ast.expr, names: Mapping[str, str]) -> str:
    """The text that an expression makes, with dots or a name in braces for what differs."""
    node = node.value if isinstance(node, ast.FormattedValue) else node
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(pattern(part, names) for part in parts)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return pattern(left, names) + pattern(right, names)
        case ast.Name(id=name):
            return names.get(name, f"{{{name}}}")
        case ast.Attribute(attr=name):
            return f"{{{name}}}"
    return "..."


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every file of the package, relative to it, and what it says."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE), ast.parse(path.read_text(encoding="utf-8"))


def command_line_page() -> str:
    """The help of every verb, as its parser prints it."""
    parts = ["# Command line\n\n```text\n" + help_of([]) + "```\n"]
    for verb in command_line.VERBS:
        kinds = getattr(import_module(f"valor.cli.{verb}"), "KINDS", ())
        verbs = [[verb, kind] for kind in kinds] or [[verb]]
        verbs += [[verb, "--plan"]] if verb == "index" else []
        parts += [f"## valor {' '.join(w)}\n\n```text\n{help_of(w)}```\n" for w in verbs]
    return "\n".join(parts)


def help_of(words: list[str]) -> str:
    """What `valor WORDS --help` prints, without its frames."""
    shown = io.StringIO()
    os.environ["COLUMNS"] = "90"
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        command_line.main([*words, "--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    lines = (re.sub(r"[\u2500-\u257f]+|-{9,}", "", line).rstrip() for line in text.splitlines())
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip() + "\n"


def configuration_page() -> str:
    """Every configuration class: its keys, their types, defaults and meaning."""
    lines = [
        "# Configuration\n",
        "Keys of recipes, model folders and processors, by the class that reads them. Reading is",
        "strict: an unknown key is an error. `valor train RECIPE --model.audio.num-layers 2`",
        "changes the key `model.audio.num_layers`. Where there are several classes to choose from,",
        "the key `kind` says which one is meant.",
    ]
    for path, node in configurations():
        found = list(fields(node))
        kinds = [default.strip("'") for name, _, default, _ in found if name == "kind"]
        place = f"In `{path.as_posix()}`" + "".join(f"; `kind` is `{kind}`" for kind in kinds)
        lines += [f"\n## {node.name}\n", f"{ast.get_docstring(node)}\n", f"{place}.\n"]
        lines += ["| key | type | default | |", "|--|--|--|--|"]
        lines += [_row(*field) for field in found if field[0] != "kind"]
    return "\n".join(lines) + "\n"


def configurations() -> Iterator[tuple[Path, ast.ClassDef]]:
    """Every configuration class that a user meets, and the file that it is in."""
    for path, tree in trees():
        for node in tree.body:
            if not isinstance(node, ast.ClassDef) or node.name in _NO_CONFIGURATION:
                continue
            if "configclass" in map(ast.unparse, node.decorator_list):
                yield path, node


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each field of a class."""
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            default = "needed" if statement.value is None else ast.unparse(statement.value)
            told = following.value if isinstance(following, ast.Expr) else None
            meaning = told.value if isinstance(told, ast.Constant) else ""
            yield (
                ast.unparse(statement.target),
                ast.unparse(statement.annotation),
                default,
                str(meaning),
            )


def _row(name: str, kind: str, default: str, meaning: str) -> str:
    cells = (f"`{name}`", f"`{kind}`", f"`{default}`", " ".join(meaning.split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def examples_page() -> str:
    """Every program of `examples`, what it does and how it is started."""
    lines = [
        "# Examples\n",
        "Programs of at most 60 lines in the folder `examples`, to start from; a test runs each.",
        "MODEL is a model folder, `tiny-world`, or a [public model](public-models.md).",
    ]
    for path in sorted((ROOT / "examples").glob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines += [f"\n## {path.stem.replace('_', ' ')}\n", _with_commands(told)]
        lines += [f"\n[examples/{path.name}](../examples/{path.name})"]
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
        title, _, told = "".join(first).partition("\n")
        lines += [f"\n## {path.stem}: {title.strip('# ').lower()}\n", told.strip()]
        lines += [f"\n[examples/{path.name}](../examples/{path.name}), a notebook"]
    return "\n".join(lines) + "\n"


def _with_commands(docstring: str) -> str:
    """Indented commands of a docstring as code."""
    return re.sub(r"^    (.+)$", r"`\1`", docstring, flags=re.MULTILINE)


def results_page() -> str:
    """What every kept measurement is about, and its figures."""
    lines = [
        "# Results\n",
        "Written from `benchmarks/results/*.json`. Each begins with what its program says of",
        "itself: what is measured, on what, and against which limit or goal. [How it",
        "works](explanation.md#performance-against-the-limits) has the ratios in one table.",
    ]
    programs = measuring()
    for path in sorted(RESULTS.glob("*.json")):
        program = programs.pop(path.stem)
        values = json.loads(path.read_text(encoding="utf-8"))
        told, link = _about(program), _link(program)
        lines += [f"\n## {path.stem}\n", told, f"\n{link}. {noted(values)}\n"]
        lines += figures(values) if "protocol" not in values else _reported(values)
    lines += ["\n## Not measured here\n", "No result of these is kept; run them to see.\n"]
    lines += [f"* {_link(path)}: {_about(path).splitlines()[0]}" for path in programs.values()]
    return "\n".join(lines) + "\n"


def measuring() -> dict[str, Path]:
    """Every program that can write figures, by the name of its file of results."""
    found = {"demo": SOURCE / "recipes/demo.py"}
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        if '"--json"' in path.read_text(encoding="utf-8"):
            found[path.stem.removeprefix("bench_").removesuffix("_server")] = path
    return found


def _about(program: Path) -> str:
    told = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or ""
    return _with_commands(told)


def _link(program: Path) -> str:
    name = program.relative_to(ROOT).as_posix()
    return f"[{name}](../{name})"


def noted(values: dict[str, Any]) -> str:
    """Machine, commit and date of a result, or that they were not recorded."""
    notes = values | values.get("protocol", {})
    if "machine" not in notes:
        return "Machine, commit and date were not recorded."
    return f"Machine: {notes['machine']}. Commit: {notes['commit']}. Date: {notes['date']}."


def figures(values: dict[str, Any]) -> list[str]:
    """A table of figures by their names."""
    rows = [
        f"| `{key}` | {_figure(value)} |"
        for key, value in flat(values)
        if key not in ("machine", "commit", "date")
    ]
    return ["| figure | value |", "|--|--|", *rows]


def _reported(report: dict[str, Any]) -> list[str]:
    """The tables of an evaluation, as `valor evaluate` prints them."""
    seconds = report["protocol"].get("seconds", {})
    took = ", ".join(f"{stage} {round(taken)} s" for stage, taken in seconds.items())
    return [f"It took: {took}. [What else the file holds](report.md).\n"] * bool(took) + [
        "```text",
        summary_table(report),
        "```",
    ]


def ingest_figures() -> str:
    """What indexing recordings of some lengths took."""
    values = result("ingest")
    lines = ["| a recording of | times real time | most memory, GiB |", "|--|--|--|"]
    for minutes in re.findall(r"times_real_time_at_(\d+)_minutes", " ".join(values)):
        rate, memory = (
            values[f"{key}_at_{minutes}_minutes"] for key in ("times_real_time", "peak_gib")
        )
        lines += [f"| {minutes} minutes | {rate:.1f} | {memory:.2f} |"]
    lines += [
        f"\nThe shortest is indexed at {values['ingest_over_bare_decoding']:.2f} of the rate at",
        "which one thread decodes its pictures and drops them; `--plan` promised",
        f"{values['planned_times_real_time']:.1f} times real time. {noted(values)}\n",
    ]
    return "\n".join(lines)


LIMITS = """
step utilisation_float32: training in float32: share of a matrix product's rate: 0.74 or more
step utilisation_bfloat16: training in bfloat16: share of a matrix product's rate: 0.63 or more
similarity share_of_matrix_rate: fine-grained similarity: share of a matrix product's rate: 1
evaluate share_of_matrix_rate: large evaluation: share of a matrix product's rate: 0.7 or more
generate encode_over_ideal: encoding, base size: time over that of its matrix products: 1
generate decode_over_encode: writing 30 words by 3 beams: time over that of encoding:
generate transformers_over_ours_30: writing by a transformers model as large: time over ours:
attention patches_bfloat16_gain_over_fused: attention in bfloat16: gain over torch's fused:
token_cache speedup_retrieval: frozen towers from their kept tokens: times faster: 10 or more
data mp4_over_bare: a sample from mp4: time over a bare decode: 1.25 or less
data shard_gain: a sample from shards: times faster than from mp4: 5 or more
render share_of_time_encoding: rendering a world: share of the time that encoding takes: 1
validate over_parsing: checking a manifest: time over parsing its JSON:
ingest ingest_over_bare_decoding: indexing 10 minutes: rate over that of bare decoding:
ingest times_real_time: indexing: times real time, at the slowest: 20 or more
ingest peak_gib: indexing: most memory, GiB: 1.5 or less
search p50_ms: a search among 200 000 segments: median, ms: 50 or less
search recall_at_10: a search among 200 000 segments: share of the exact first ten: 0.95 or more
load memory_growth: 2 000 requests: growth of the server's memory: 0.1 or less
"""
"""Result and figure, what it is of, what it is, and its limit or goal, as the programs say."""


def limits_table() -> str:
    """Ratios to what the machine could do, and goals, with the machine."""
    lines = ["| what | figure | measured | limit or goal | on |", "|--|--|--|--|--|"]
    for line in LIMITS.split("\n")[1:-1]:
        place, what, figure, limit = (part.strip() for part in line.split(":"))
        name, key = place.split()
        measured = f"not kept: `{measuring()[name].relative_to(ROOT).as_posix()}`"
        machine = ""
        if (RESULTS / f"{name}.json").is_file():
            values = result(name)
            measured = f"[{_figure(values[key])}](results.md#{name})"
            machine = values.get("machine", "not recorded")
        lines += [f"| {what} | {figure} | {measured} | {limit} | {machine} |"]
    return "\n".join(lines) + "\n"


def result(name: str) -> dict[str, Any]:
    """A file of `benchmarks/results`."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def ablations_page() -> str:
    """What of the paper's patterns is seen on the rendered world, by the results that are kept."""
    lines = [
        "# The paper's ablations here\n",
        "The patterns of the paper's tables, on a small model and the rendered world: all variants",
        "of `valor ablate` have the same network, data and steps, once for each seed. A pattern",
        "agrees, or does not, only where the difference of the means exceeds both standard",
        "deviations over the seeds together; else it is not decided. Training is so short that",
        "what is not decided here may well be true of longer runs.",
    ]
    for name, study in STUDIES.items():
        lines += [f"\n## {name}\n"]
        path = ROOT / f"benchmarks/results/ablations/{name}.json"
        if not path.is_file():
            lines += [f"Not measured yet: `valor ablate {name}`."]
            continue
        results = json.loads(path.read_text(encoding="utf-8"))
        found = Counter(verdict(claim, results) for claim in study.claims)
        said = ", ".join(f"{word}: {num}" for word, num in sorted(found.items()))
        lines += [
            f"Patterns of the paper: {len(study.claims)}; {said}.\n",
            markdown(study, results).rstrip(),
        ]
    return "\n".join(lines) + "\n"


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested objects by their path; lists are left out."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flat(part, f"{prefix}.{key}" if prefix else str(key))
    elif not isinstance(value, list):
        yield prefix, value


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def layer_lines() -> list[str]:
    """The layers of the import contract in pyproject.toml, from the top."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    return [re.sub(r"[()]", "", line).replace(" : ", " ") for line in contract["layers"]]


def layers() -> str:
    """The layers as a block."""
    return "```text\n" + "\n".join(layer_lines()) + "\n```\n"


def described() -> Iterator[tuple[Path, str]]:
    """Every part of the package, from the lowest layer up, and the first line of what it says."""
    for part in (part for line in reversed(layer_lines()) for part in re.findall(r"\w+", line)):
        folder = SOURCE / part
        inner = sorted(path.parent for path in folder.glob("*/__init__.py"))
        for path in [folder, *inner]:
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            name = path if path.is_dir() else file
            yield name.relative_to(SOURCE), told.partition("\n")[0].rstrip(".")


def folders_table() -> str:
    """Every part of the package as a table."""
    rows = [f"| `{name.as_posix()}` | {told} |" for name, told in described()]
    return "\n".join(["| In `src/valor` | What it holds |", "|---|---|", *rows]) + "\n"


def tree() -> str:
    """Every part of the package as a block."""
    rows = [
        f"{'  ' * len(name.parts)}{name.name + '/' * (not name.suffix):14} {told}"
        for name, told in described()
    ]
    return "\n".join(["```text", "src/valor/", *rows, "```"]) + "\n"


def layers_picture() -> str:
    """The import graph between the parts of the package, without edges that follow from others."""
    imports: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees():
        part = path.parts[0].removesuffix(".py")
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            below = {name.split(".")[1] for name in names if name.startswith("valor.")}
            imports[part] |= below - {part, "config", "errors", "types"}
    imports.pop("__init__", None)
    edges = [
        f"  {part} --> {below}"
        for part in sorted(imports)
        for below in sorted(imports[part])
        if not any(below in reachable(imports, other) for other in imports[part] - {below})
    ]
    return "```mermaid\ngraph TD\n" + "\n".join(edges) + "\n```\n"


def reachable(imports: dict[str, set[str]], part: str) -> set[str]:
    """Everything that a part imports, directly or through others."""
    found: set[str] = set()
    todo = {part}
    while todo:
        new = set().union(*(imports.get(name, set()) for name in todo)) - found
        found |= new
        todo = new
    return found


if __name__ == "__main__":
    main()
