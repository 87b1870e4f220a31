"""`valor report`: a training run, or several side by side, on one page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Show last losses, settings and learning curves of runs, also of one that is going on."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, as `valor train` writes them."""
    out: Path | None = None
    """The page; by default `report.html` in the run folder (`run.html` if an evaluation's stands
    there), of several runs `runs.html` in the first one."""
    json: Json = False
    """A JSON object on stdout at the end."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="report")
    from valor.evaluation.comparison import write_run_comparison
    from valor.training.monitor import read_run, write_run_page

    first, *others = arguments.runs
    if others:
        out = arguments.out or first / "runs.html"
        write_run_comparison(out, {str(folder): read_run(folder) for folder in arguments.runs})
    else:
        out = write_run_page(first, arguments.out)
    print(json.dumps({"report": str(out)}) if arguments.json else f"report in {out}")
    return 0
