"""`valor train`: run a recipe."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from valor.cli.arguments import Json, parse
from valor.cli.progress import StageProgress
from valor.config import evolve
from valor.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a model by a recipe; the same command again goes on where it stopped."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, or package.module:function of your own."""
    data: tuple[Path, ...]
    """Manifests; records of split `train` are used."""
    out: Path
    """Run folder."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, such as num_steps=100 or model.audio.num_layers=2."""
    json: Json = False
    """A JSON object on stdout at the end."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="train")
    from valor.data.manifest import read_manifest
    from valor.recipes import find_recipe
    from valor.training.loop import run

    config = evolve(find_recipe(arguments.recipe), _changes(arguments.set))
    records = [r for path in arguments.data for r in read_manifest(path, split="train")]
    with StageProgress() as progress:
        folder = run(config, records, arguments.out, report=progress)
    print(json.dumps({"model": str(folder)}) if arguments.json else f"model in {folder}")
    return 0


def _changes(words: Sequence[str]) -> dict[str, Any]:
    """Read `path=value` words; a value is JSON, or else a text."""
    changes = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word!r}: expected path=value, such as num_steps=100")
        try:
            changes[path] = json.loads(value)
        except json.JSONDecodeError:
            changes[path] = value
    return changes
