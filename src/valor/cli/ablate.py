"""`valor ablate`: the paper's ablations on the rendered world."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from valor.cli.arguments import Json, parse
from valor.cli.progress import StageProgress
from valor.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train variants of one run and compare them; the same command again goes on."""

    study: tyro.conf.Positional[Literal["grouping", "fusion", "audio"]]
    """What is varied: groups of modalities, how they are fused, or whether there is sound."""
    out: Path = Path("runs/ablations")
    """Folder for the world, each run, STUDY.md and STUDY.json; studies may share it."""
    seeds: int = 3
    """How many runs of each variant."""
    steps: int | None = None
    """Steps of a run; by default what one core does in a minute."""
    json: Json = False
    """The table as a JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="ablate")
    if arguments.seeds < 1:
        raise UsageError(f"seeds={arguments.seeds}, expected 1 or more")
    from valor.config import evolve
    from valor.recipes.ablations import Ablation, small

    base = small()
    if arguments.steps is not None:
        base = evolve(base, {"num_steps": arguments.steps})
    with StageProgress() as progress:
        table = Ablation(
            out=arguments.out,
            study=arguments.study,
            base=base,
            seeds=range(arguments.seeds),
            report=progress,
        ).run()
    print(json.dumps({"study": arguments.study, "table": table}) if arguments.json else table)
    return 0
