"""`valor reproduce`: does a checkpoint give what was published for it?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, parse
from valor.cli.progress import StageProgress


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Convert a released checkpoint, evaluate it on a benchmark, compare with what was published.

    Exit code 1 if a figure differs by more than the tolerance. OUT/result.json tells all of it and
    can be handed on.
    """

    protocol: tyro.conf.Positional[str]
    """A benchmark such as msrvtt-1ka."""
    checkpoint: Path
    """A released folder as it is, or a model folder."""
    media: Path
    """Folder of the benchmark's media, at any depth."""
    out: Path
    """Folder for manifest, model, report.json, report.html and result.json."""
    annotations: tuple[Path, ...] = ()
    """The benchmark's annotation files, as for `valor data import`; not needed if the folder of the
    media holds manifest.jsonl."""
    tolerance: float = 0.005
    """How far a figure may be from the published one, as a fraction: 0.005 is half a percent."""
    json: Json = False
    """The result on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="reproduce")
    from valor.protocols import find_protocol
    from valor.recipes.benchmark import reproduce

    with StageProgress() as progress:
        result = reproduce(
            find_protocol(arguments.protocol),
            arguments.checkpoint,
            arguments.media,
            arguments.out,
            annotations=arguments.annotations,
            tolerance=arguments.tolerance,
            report=progress,
        )
    print(json.dumps(result) if arguments.json else _text(result))
    return 0 if result["reproduced"] else 1


def _text(result: dict) -> str:
    data = result["data"]
    lines = [f"{data['n']} of {data['num_asked']} recordings of {result['protocol']['name']}"]
    for row in result["differences"]:
        name = f"{row['system']} {row['group']} {row['metric']}"
        lines.append(
            f"{name:36}published {100 * row['published']:6.1f}  measured "
            f"{100 * row['measured']:6.1f}  difference {100 * row['difference']:+6.1f}"
        )
    verdict = "reproduced" if result["reproduced"] else "not reproduced"
    return "\n".join([*lines, f"{verdict} within {100 * result['tolerance']:g} percent points"])
