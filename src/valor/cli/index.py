"""`valor index`: make recordings searchable."""

import contextlib
import dataclasses
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from valor.cli.arguments import Json, TrustCode, parse
from valor.cli.problems import say
from valor.cli.progress import StageProgress
from valor.errors import MediaError, UsageError

if TYPE_CHECKING:
    from valor.search.ingest import AddReport, Progress
    from valor.search.library import Library


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Add files and folders to a library; running it again adds what is new or has changed.

    `valor index [LIBRARY] --plan FOLDER` says what it would cost instead, and writes nothing;
    `valor index --plan --help` explains it.
    """

    library: tyro.conf.Positional[Path]
    """Library folder; made if needed."""
    media: tyro.conf.Positional[tuple[Path, ...]]
    """Files, or folders to be searched for media."""
    model: str | None = None
    """Model folder, hub id or VISION+AUDIO; needed for a new library."""
    trust_code: TrustCode = False
    describer: str | None = None
    """Model folder or endpoint URL#MODEL that captions every new segment."""
    transcribe: str | None = None
    """Whisper model, such as openai/whisper-small, for files without subtitles beside them."""
    read_text: str | None = None
    """Image-to-text model, such as microsoft/trocr-base-printed, for what pictures say."""
    metadata: tuple[str, ...] = ()
    """NAME=VALUE to keep about every new file, for `--where "metadata LIKE '%NAME=VALUE;%'"`."""
    frames: Literal["all", "keyframes"] = "all"
    """Which frames of a video may be looked at; keyframes are many times faster to decode."""
    rebuild: bool = False
    """Forget what the library holds, as another model needs."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with whatever comes into the folders, until Ctrl-C."""
    ray: int = 0
    """Workers of a Ray cluster (extra `ray`) that read and embed; 0 does it here."""
    every: float = 5.0
    """With --watch, seconds from one look to the next; a file that still grows has to wait."""
    json: Json = False
    """What was done, as a JSON object on stdout."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say what indexing a folder will cost, after a minute of measuring; nothing is written."""

    library: tyro.conf.Positional[Path | None] = None
    """Library folder; if it is there, its model is used. What it holds already counts too."""
    plan: Path
    """Folder with media."""
    model: str | None = None
    """Model folder, hub id or VISION+AUDIO; needed unless the library is there."""
    trust_code: TrustCode = False
    describer: str | None = None
    """Model folder or endpoint URL#MODEL that would caption every segment."""
    seconds: float = 60.0
    """How long to measure."""
    json: Json = False
    """The cost, as a JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; unreadable files are listed, and are an error only if there is nothing else."""
    if any(word.partition("=")[0] == "--plan" for word in argv):
        asks_help = {"-h", "--help"} & set(argv)
        return _plan(parse(Plan, ["--help"] if asks_help else argv, verb="index"))
    arguments = parse(Arguments, argv, verb="index")
    from valor.search.library import Library

    _check_media(arguments)
    metadata, helpers = _metadata(arguments.metadata), _helpers(arguments)
    if arguments.ray and helpers:
        raise UsageError("--ray embeds only; leave out --describer, --transcribe, --read-text")
    library = Library(
        arguments.library,
        model=arguments.model,
        rebuild=arguments.rebuild,
        trust_code=arguments.trust_code,
    )
    how = {"metadata": metadata, "keyframes_only": arguments.frames == "keyframes"}
    add = functools.partial(library.add, **how, **helpers)
    if arguments.ray:
        add = functools.partial(library.add_with_ray, **how, num_workers=arguments.ray)
    if arguments.watch:
        return _watch(arguments, library, add)
    with StageProgress() as progress:
        report = add(list(arguments.media), progress=_shown_by(progress))
    _show(report, library, as_json=arguments.json)
    return 1 if report.bad and not report.added + report.skipped else 0


def _check_media(arguments: Arguments) -> None:
    """Refuse what has nothing to index, before a library is made of it."""
    from valor.search.ingest import find_files

    gone = [path for path in arguments.media if not path.exists()]
    if len(gone) == len(arguments.media):
        raise MediaError(str(gone[0]), "missing", "no such file or folder; correct the path")
    if not (arguments.watch or arguments.library.is_dir() or find_files(arguments.media)):
        empty = ", ".join(map(str, arguments.media))
        raise MediaError(empty, "empty", "no media below it; name files, or a folder that has some")


def _watch(arguments: Arguments, library: "Library", add: "Callable[..., AddReport]") -> int:
    from valor.search.watching import watch

    def added(paths: list[str]) -> "AddReport":
        with StageProgress() as progress:
            return add(paths, progress=_shown_by(progress))

    looks = watch(list(arguments.media), added, every_s=arguments.every, stop=threading.Event())
    print("watching; Ctrl-C ends it, and nothing that is written is lost", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        for report in looks:
            _show(report, library, as_json=arguments.json)
    return 0


def _helpers(arguments: Arguments) -> dict[str, Any]:
    """The models beside the embedding one."""
    from valor.inference import load
    from valor.models.verbs import need_describer

    helpers: dict[str, Any] = {}
    if arguments.describer:
        helpers["describer"] = need_describer(load(arguments.describer))
    if arguments.transcribe:
        from valor.search.transcripts import Transcriber

        helpers["transcriber"] = Transcriber(arguments.transcribe)
    if arguments.read_text:
        from valor.search.screens import ScreenReader

        helpers["screen_reader"] = ScreenReader(arguments.read_text)
    return helpers


def _metadata(pairs: Sequence[str]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    if wrong := [name for name, equals, value in split if not (name and equals and value)]:
        raise UsageError(f"metadata {wrong[0]!r}; write NAME=VALUE, such as camera=2")
    return {name: value for name, _, value in split}


def _shown_by(progress: StageProgress) -> "Callable[[Progress], None]":
    start_s = time.monotonic()

    def show(now: "Progress") -> None:
        rate = now.seconds_of_media / max(time.monotonic() - start_s, 1e-3)
        note = f"{rate:.0f}x real time"
        progress("index %", round(now.done_fraction * 100), 100, note=note)

    return show


def _show(report: "AddReport", library: "Library", *, as_json: bool) -> None:
    for bad in report.bad:
        say(MediaError(*bad))
    if as_json:
        print(json.dumps(dataclasses.asdict(report)), flush=True)
        return
    print(
        f"{report.added} added, {report.skipped} unchanged, {len(report.bad)} left out; "
        f"{len(library)} segments in {library.path}",
        flush=True,
    )


def _plan(arguments: Plan) -> int:
    from valor.inference import load
    from valor.models.verbs import need_describer, need_embedder
    from valor.search.planning import estimate

    describer = need_describer(load(arguments.describer)) if arguments.describer else None
    if arguments.library and arguments.library.is_dir():
        from valor.search.library import Library

        given = {"model": arguments.model, "trust_code": arguments.trust_code}
        embedder = Library(arguments.library, create=False, **given).embedder
    elif arguments.model:
        embedder = need_embedder(load(arguments.model, trust_code=arguments.trust_code))
    else:
        raise UsageError("--plan needs a model; give one with --model, or a library that has one")
    cost = estimate([str(arguments.plan)], embedder, describer, seconds=arguments.seconds)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(cost)))
        return 0
    print(
        f"{cost.num_files} files, {_span(cost.hours_of_media)}, {cost.num_segments} segments, "
        f"{_size(cost.gigabytes)}; {cost.num_measured} segments were measured, not written\n"
        f"embedding: {_span(cost.embed_hours)}, "
        f"{cost.embed_media_hours_per_hour:.0f} hours of media in one"
    )
    if cost.caption_hours is not None:
        print(
            f"captioning: {_span(cost.caption_hours)} more, "
            f"{cost.caption_media_hours_per_hour:.1f} hours of media in one"
        )
    return 0


def _span(hours: float) -> str:
    """A length of time in the unit that suits it."""
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if 60 * hours >= 1 else f"{3600 * hours:.1f} seconds"


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.2f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.2f} MB"
