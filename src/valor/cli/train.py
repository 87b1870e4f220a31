"""`valor train`: run a recipe."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from valor.cli.arguments import Json, parse
from valor.cli.progress import StageProgress
from valor.config import evolve
from valor.errors import UsageError

if TYPE_CHECKING:
    from valor.data.manifest import Record
    from valor.data.reading import Source

_OWN_OPTIONS = ("data", "out", "protocol", "start", "self-critical", "estimate", "json", "help")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a model by a recipe; the same command again goes on where it stopped.

    Any key of the recipe is an option too: --num-steps 100 --model.audio.num-layers 2.
    """

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, such as tiny, small, valor_base, from_siglip2_clap or finetune (a wrong one
    lists all), or package.module:function of your own."""
    data: tuple[str, ...] = ()
    """Manifests, or one folder of shards, also s3:// or gs://; split `train` is used. Of several,
    NAME=MANIFEST or the file's own name stands before the ids, for `--mixture`."""
    out: Path | None = None
    """Run folder."""
    protocol: str | None = None
    """For finetune: a benchmark such as msvd-qa; or retrieval, captioning, answering."""
    estimate: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what the run would take on this machine, and run nothing; needs no --data or --out
    unless the recipe counts epochs."""
    start: str | None = None
    """For finetune: the model folder to go on from."""
    self_critical: tyro.conf.FlagCreatePairsOff[bool] = False
    """For finetune on captions: reward what the model writes by its CIDEr."""
    json: Json = False
    """A JSON object on stdout at the end."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    own, changes = split_changes(argv)
    arguments = parse(Arguments, own, verb="train")
    from valor.data.reading import FileSource
    from valor.data.shards import is_shards
    from valor.recipes import find_recipe
    from valor.training.run import TrainConfig

    options = {"protocol": arguments.protocol, "start": arguments.start}
    given: dict[str, str | bool] = {k: v for k, v in options.items() if v is not None}
    if arguments.self_critical:
        given["self_critical"] = True
    config = evolve(find_recipe(arguments.recipe, **given), changes)
    if arguments.out is None and not arguments.estimate:
        raise UsageError("--out is missing; give a run folder")
    if not arguments.data and (not arguments.estimate or getattr(config, "num_epochs", None)):
        raise UsageError("--data is missing; give a manifest or a folder of shards")
    shards = [path for path in arguments.data if is_shards(path)]
    if shards and len(arguments.data) > 1:
        raise UsageError(
            f"--data {shards[0]}: shards go alone; give one folder of them, or manifests"
        )
    read = partial(_read, arguments.data, is_sharded=bool(shards))
    records, source = read("train")
    if arguments.estimate:
        return _estimate(config, len(records), as_json=arguments.json)
    out = arguments.out or Path()
    more: dict[str, Any] = {}
    if isinstance(config, TrainConfig) and config.probe.every:
        held_out, shown = read(config.probe.split)
        if not held_out:
            raise UsageError(
                f"--probe.every {config.probe.every}: no record of split {config.probe.split!r} "
                "in --data; name another with --probe.split"
            )
        more["held_out"] = shown or FileSource(held_out)
    with StageProgress() as progress:
        folder = config.run(records, out, source=source, report=progress, **more)
    if os.environ.get("RANK", "0") != "0":  # One of several processes speaks for all.
        return 0
    print(json.dumps({"model": str(folder)}) if arguments.json else f"model in {folder}")
    return 0


def _read(
    data: Sequence[str], split: str, *, is_sharded: bool
) -> "tuple[list[Record], Source | None]":
    """Records of a split, and what holds their samples unless their media files do."""
    from valor.data.reading import read_shards

    if is_sharded:
        return read_shards(data[0], split=split)
    return read_parts(data, split), None


def read_parts(data: Sequence[str], split: str = "train") -> "list[Record]":
    """Read manifests; the name of each stands before its ids, unless there is but one, unnamed.

    Args:
        data: Manifests, or NAME=MANIFEST.
        split: Which records.

    Returns:
        The records.

    Raises:
        UsageError: If two have the same name.
    """
    from valor.data.manifest import read_manifest

    found: dict[str, str] = {}
    for word in data:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name, path = Path(word).stem if len(data) > 1 else "", word
        if name in found:
            raise UsageError(f"--data: two are called {name!r}; give NAME=MANIFEST for each")
        found[name] = path
    return [
        replace(record, id=f"{name}/{record.id}") if name else record
        for name, path in found.items()
        for record in read_manifest(path, split=split)
    ]


def _estimate(config: Any, num_records: int, *, as_json: bool) -> int:
    from valor.training.estimate import estimate
    from valor.training.run import TrainConfig

    if not isinstance(config, TrainConfig):
        raise UsageError(f"--estimate counts runs of TrainConfig, not of {type(config).__name__}")
    found = estimate(config, num_records)
    if as_json:
        print(json.dumps(asdict(found)))
        return 0
    print(
        f"parameters   {found.parameters / 1e6:.1f} M, {found.trained / 1e6:.1f} M trained\n"
        f"operations   {found.step_flop / 1e12:.3g} TFLOP a step, {found.num_steps} steps\n"
        f"memory       {found.memory_bytes / 2**30:.1f} GiB\n"
        f"time         {found.hours:.3g} hours at half of the {found.matrix_rate / 1e9:.0f} GFLOP/s"
        f" that {found.device} reaches, reading of media not included"
    )
    return 0


def split_changes(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate the verb's own words from changes to the recipe.

    Args:
        argv: Words after the verb.

    Returns:
        The verb's own words, and values by path; a value is JSON, or else a text.

    Raises:
        UsageError: If a change has no value.
    """
    own: list[str] = []
    changes: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name in _OWN_OPTIONS:
            own.append(word)
            continue
        value = value if equals else next(words, None)
        if value is None:
            raise UsageError(f"{word}: expected a value; write {word} VALUE")
        try:
            changes[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            changes[name.replace("-", "_")] = value
    return own, changes
