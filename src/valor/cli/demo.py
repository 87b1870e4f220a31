"""`valor demo`: the whole story in one command."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from valor.cli.arguments import Json, parse
from valor.cli.progress import StageProgress


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Render an audible world, train a model on it, then evaluate, search, caption and ask."""

    out: Path | None = None
    """Folder for everything, by default runs/demo, or runs/quick; training there is resumed."""
    quick: bool = False
    """Fewer videos, and no training: a minute with the model that comes with the package."""
    seed: int = 0
    """Of the world and of the examples shown."""
    json: Json = False
    """The report on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="demo")
    from valor.evaluation.report import summary_table
    from valor.recipes.demo import demo

    out = arguments.out or Path("runs/quick" if arguments.quick else "runs/demo")
    with StageProgress() as progress:
        report = demo(out, quick=arguments.quick, seed=arguments.seed, report=progress)
    if arguments.json:
        print(json.dumps(report))
        return 0
    example = out / "world" / "media" / "test-000000.mp4"
    print(summary_table(report))
    print(f"\nThe page with curves and examples: {out / 'report.html'}\nTry next:")
    print(f'  valor search {out / "library"} "a red circle moves left and a bell sounds"')
    print(f"  valor caption {out / 'model'} {example}")
    print(f'  valor ask {out / "model"} {example} "what is heard"')
    print(f"  valor serve {out / 'library'}")
    return 0
