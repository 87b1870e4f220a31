"""`valor compare`: several models on the same data, from what `valor evaluate` wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, parse
from valor.errors import UsageError, ValorError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare models item by item: differences with intervals, and paired significance."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that `valor evaluate` wrote; the others are compared with the first."""
    out: Path | None = None
    """Folder for compare.json and compare.html."""
    seed: int = 0
    """Of the samples that intervals and tests are made of."""
    json: Json = False
    """The comparisons on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="compare")
    if len(arguments.folders) < 2:
        raise UsageError(
            "valor compare: expected two folders or more; give what `valor evaluate --out` wrote"
        )
    from valor.evaluation.comparison import comparison_table, write_model_comparison
    from valor.evaluation.items import compare
    from valor.evaluation.predictions import write_json

    first, *others = arguments.folders
    baseline = _items(first)
    comparisons = {
        str(other): compare(baseline, _items(other), seed=arguments.seed) for other in others
    }
    for name, metrics in comparisons.items():
        if not metrics:
            raise ValorError(f"{name} and {first} share no item; evaluate both on the same data")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / "compare.json", {"first": str(first), "others": comparisons})
        write_model_comparison(arguments.out / "compare.html", comparisons, str(first))
    print(json.dumps(comparisons) if arguments.json else comparison_table(comparisons))
    return 0


def _items(folder: Path) -> dict[str, dict[str, float]]:
    path = folder / "items.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValorError(
            f"{path}: no such file; `valor evaluate ... --out {folder}` writes it"
        ) from None
    except ValueError as error:
        raise ValorError(f"{path}: not JSON ({error})") from None
