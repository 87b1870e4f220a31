"""`valor index`: make recordings searchable."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from valor.cli.arguments import Json, parse
from valor.cli.progress import StageProgress


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Add files and folders to a library; running it again adds what is new or has changed."""

    library: tyro.conf.Positional[Path]
    """Library folder; made if needed."""
    media: tyro.conf.Positional[tuple[Path, ...]]
    """Files, or folders to be searched for media."""
    model: str | None = None
    """Model folder, hub id or VISION+AUDIO; needed for a new library."""
    describer: str | None = None
    """Model folder or endpoint URL#MODEL that captions every new segment."""
    transcribe: str | None = None
    """Whisper model, such as openai/whisper-small, for files without subtitles beside them."""
    frames: Literal["all", "keyframes"] = "all"
    """Which frames of a video may be looked at; keyframes are many times faster to decode."""
    rebuild: bool = False
    """Forget what the library holds, as another model needs."""
    json: Json = False
    """What was done, as a JSON object on stdout."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say what indexing a folder will cost, after a minute of measuring; nothing is written."""

    plan: Path
    """Folder with media."""
    model: str
    """Model folder, hub id or VISION+AUDIO."""
    describer: str | None = None
    """Model folder or endpoint URL#MODEL that would caption every segment."""
    seconds: float = 60.0
    """How long to measure."""
    json: Json = False
    """The cost, as a JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; unreadable files are listed, and are an error only if there is nothing else."""
    if any(word.partition("=")[0] == "--plan" for word in argv):
        return _plan(parse(Plan, argv, verb="index"))
    arguments = parse(Arguments, argv, verb="index")
    from valor.inference import load
    from valor.models.verbs import need_describer
    from valor.search.library import Library

    describer = need_describer(load(arguments.describer)) if arguments.describer else None
    transcriber = None
    if arguments.transcribe:
        from valor.search.transcripts import Transcriber

        transcriber = Transcriber(arguments.transcribe)
    library = Library(arguments.library, model=arguments.model, rebuild=arguments.rebuild)
    with StageProgress() as progress:
        report = library.add(
            list(arguments.media),
            describer=describer,
            transcriber=transcriber,
            keyframes_only=arguments.frames == "keyframes",
            progress=lambda now: progress("index", round(now.done_fraction * 1000), 1000),
        )
    for bad in report.bad:
        print(f"left out {bad.path}: {bad.detail}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        print(
            f"{report.added} added, {report.skipped} unchanged, {len(report.bad)} left out; "
            f"{len(library)} segments in {arguments.library}"
        )
    return 1 if report.bad and not report.added + report.skipped else 0


def _plan(arguments: Plan) -> int:
    from valor.inference import load
    from valor.models.verbs import need_describer, need_embedder
    from valor.search.planning import estimate

    describer = need_describer(load(arguments.describer)) if arguments.describer else None
    embedder = need_embedder(load(arguments.model))
    cost = estimate([str(arguments.plan)], embedder, describer, seconds=arguments.seconds)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(cost)))
        return 0
    print(
        f"{cost.num_files} files, {cost.hours_of_media:.1f} hours, {cost.num_segments} segments, "
        f"{cost.gigabytes:.2f} GB\nembedding: {cost.embed_hours:.2f} hours, "
        f"{cost.embed_media_hours_per_hour:.0f} hours of media in one"
    )
    if cost.caption_hours is not None:
        print(
            f"captioning: {cost.caption_hours:.2f} hours more, "
            f"{cost.caption_media_hours_per_hour:.1f} hours of media in one"
        )
    return 0
