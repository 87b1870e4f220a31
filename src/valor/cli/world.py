"""`valor world render`: the rendered audible world as files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from valor.cli.arguments import Json, parse_kind
from valor.cli.progress import StageProgress


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Render mp4 files with manifest.jsonl and truth.jsonl."""

    out: Path
    """Folder to be made."""
    num: int = 4000
    """Training videos."""
    num_val: int = 64
    """Validation videos, of combinations that training has too."""
    num_test: int = 256
    """Test videos: held-out combinations, with near-duplicates."""
    seed: int = 0
    """Equal seeds give equal bytes."""
    level: Literal["duet", "full", "relay"] = "duet"
    """duet: one sounding actor and at most one other; full: up to three actors that sound in turn;
    relay: two actors that are seen and heard in turn."""
    workers: int | None = None
    """Processes; all processors by default."""
    json: Json = False
    """What was rendered, as a JSON object on stdout."""


KINDS = {"render": Arguments}


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse_kind(KINDS, argv, verb="world")
    from valor.data.world.render import World, render_world

    world = World(
        num=arguments.num,
        num_val=arguments.num_val,
        num_test=arguments.num_test,
        seed=arguments.seed,
        level=arguments.level,
    )
    with StageProgress() as progress:
        render_world(
            arguments.out,
            world,
            workers=arguments.workers,
            progress=lambda *done: progress("render", *done),
        )
    num = world.num + world.num_val + world.num_test
    row = {"out": str(arguments.out), "num_videos": num}
    print(json.dumps(row) if arguments.json else f"{num} videos in {arguments.out}")
    return 0
