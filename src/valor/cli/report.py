"""`valor report`: training runs side by side on one page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, parse
from valor.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Show last losses, settings and learning curves of runs, also of one that is going on."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, as `valor train` writes them."""
    out: Path | None = None
    """The page; `runs.html` in the first run folder by default."""
    json: Json = False
    """A JSON object on stdout at the end."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="report")
    from valor.config import parse_json
    from valor.evaluation.comparison import TrainedRun, write_run_comparison
    from valor.training.monitor import read_metrics

    if not arguments.runs:
        raise UsageError("valor report: give one run folder or several")
    runs: dict[str, TrainedRun] = {}
    for folder in arguments.runs:
        config, metrics = folder / "config.json", folder / "metrics.jsonl"
        if not config.is_file() or not metrics.is_file():
            raise UsageError(
                f"{folder}: no run folder (config.json or metrics.jsonl is missing); "
                "give what `valor train` was given as --out"
            )
        settings = parse_json(config.read_bytes(), str(config))
        runs[str(folder)] = TrainedRun(curves=read_metrics(metrics), config=settings)
    out = arguments.out or arguments.runs[0] / "runs.html"
    write_run_comparison(out, runs)
    print(json.dumps({"report": str(out)}) if arguments.json else f"report in {out}")
    return 0
