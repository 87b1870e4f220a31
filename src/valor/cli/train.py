"""`valor train`: run a recipe."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from valor.cli.arguments import Json, TrustCode, parse
from valor.cli.progress import StageProgress
from valor.config import evolve
from valor.errors import UsageError

if TYPE_CHECKING:
    from valor.data.manifest import Record
    from valor.data.reading import Source


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a model by a recipe; the same command again goes on where it stopped.

    Any key of the recipe is an option too: --num-steps 100 --model.audio.num-layers 2.
    """

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, such as tiny, small, valor_base, from_siglip2_clap or finetune (a wrong one
    lists all), or package.module:function of your own."""
    data: tuple[str, ...] = ()
    """Manifests or folders of shards, also s3:// or gs://; split `train` is used. Of several, NAME
    of NAME=MANIFEST or NAME=SHARDS, or its own name, stands before the ids, for `--mixture`."""
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
    trust_code: TrustCode = False
    json: Json = False
    """A JSON object on stdout at the end."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    own, changes = split_changes(argv)
    arguments = parse(Arguments, own, verb="train")
    from valor.data.reading import FileSource
    from valor.recipes import find_recipe
    from valor.training.run import TrainConfig

    options = {"protocol": arguments.protocol, "start": arguments.start}
    given: dict[str, str | bool] = {k: v for k, v in options.items() if v is not None}
    flags = {"self_critical": arguments.self_critical, "trust_code": arguments.trust_code}
    given |= {name: True for name, is_set in flags.items() if is_set}
    config = find_recipe(arguments.recipe, **given)
    if "num_steps" in changes and getattr(config, "num_epochs", None):
        changes.setdefault("num_epochs", None)
    config = evolve(config, changes)
    if arguments.out is None and not arguments.estimate:
        raise UsageError("--out is missing; give a run folder")
    if not arguments.data and (not arguments.estimate or getattr(config, "num_epochs", None)):
        raise UsageError("--data is missing; give a manifest or a folder of shards")
    read = partial(read_parts, arguments.data)
    records, source = read()
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


def read_parts(data: Sequence[str], split: str = "train") -> "tuple[list[Record], Source | None]":
    """Read manifests and shards; the name of each stands before its ids.

    Args:
        data: Manifests or folders of shards, or NAME= and one of them. Of a single one without a
            name, ids stay as they are.
        split: Which records.

    Returns:
        The records, and what holds their samples unless their media files do.

    Raises:
        UsageError: If two have the same name.
    """
    from valor.data.manifest import read_manifest
    from valor.data.reading import FileSource, JoinedSource, read_shards
    from valor.data.shards import is_shards

    paths: dict[str, str] = {}
    for word in data:
        name, equals, path = word.partition("=")
        if not equals or "/" in name or Path(word).exists():
            name, path = Path(word).stem if len(data) > 1 else "", word
        if name in paths:
            raise UsageError(f"--data: two are called {name!r}; write NAME= before each")
        paths[name] = path
    records: list[Record] = []
    sources: dict[str, Source] = {}
    for name, path in paths.items():
        if is_shards(path):
            own, sources[name] = read_shards(path, split=split)
        else:
            own = read_manifest(path, split=split)
            sources[name] = FileSource(own)
        records += [replace(record, id=f"{name}/{record.id}") if name else record for record in own]
    return records, JoinedSource(sources) if any(map(is_shards, paths.values())) else None


def _estimate(config: Any, num_records: int, *, as_json: bool) -> int:
    from valor.training.estimate import estimate
    from valor.training.run import TrainConfig

    if isinstance(config, TrainConfig):
        found = estimate(config, num_records)
    elif hasattr(config, "estimate"):
        found = config.estimate(num_records)
    else:
        name = type(config).__name__
        raise UsageError(
            f"--estimate cannot count {name}; leave it out, or give that class an `estimate`"
        )
    if os.environ.get("RANK", "0") != "0":
        return 0
    if as_json:
        print(json.dumps(asdict(found)))
        return 0
    once = f", and {found.fill_flop / 1e12:.3g} TFLOP once" if found.fill_flop else ""
    each = f" in each of {found.num_processes} processes" if found.num_processes > 1 else ""
    print(
        f"parameters   {found.parameters / 1e6:.1f} M, {found.trained / 1e6:.1f} M trained\n"
        f"operations   {found.step_flop / 1e12:.3g} TFLOP a step, {found.num_steps} steps{once}\n"
        f"memory       {found.memory_bytes / 2**30:.1f} GiB{each}\n"
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
        UsageError: If a change has no value, or a list or an object that is no JSON.
    """
    own: list[str] = []
    changes: dict[str, Any] = {}
    options = {field.name.replace("_", "-") for field in fields(Arguments)} | {"help"}
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name in options:
            own.append(word)
            continue
        value = value if equals else next(words, None)
        if value is None:
            raise UsageError(f"{word}: expected a value; write {word} VALUE")
        try:
            changes[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError as error:
            if value.startswith(("[", "{")):
                raise UsageError(f"{word}: not JSON ({error}); correct it") from None
            changes[name.replace("-", "_")] = value
    return own, changes
