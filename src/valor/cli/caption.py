"""`valor caption`: describe files by what is seen and heard."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from valor.cli.arguments import AUDIOVISUAL, Group, Json, TrustCode, parse
from valor.cli.problems import say
from valor.errors import MediaError, UsageError
from valor.types import Modality

if TYPE_CHECKING:
    from valor.inference import Model


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Describe files by what is seen and heard."""

    model: tyro.conf.Positional[str]
    """Model folder, or an endpoint as URL#MODEL."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Videos, sounds or pictures."""
    using: Group = AUDIOVISUAL
    """Look at vision, audio or audiovisual, as far as a file has them."""
    format: Literal["text", "vtt", "csv"] = "text"
    """A line per file; or per segment a chapter with what is seen and a caption in brackets of what
    is heard: WebVTT of one file, or a table of all."""
    trust_code: TrustCode = False
    json: Json = False
    """One JSON object per file on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; a file that cannot be described is reported and makes the exit code 1."""
    arguments = parse(Arguments, argv, verb="caption")
    from valor.inference import load

    model = load(arguments.model, trust_code=arguments.trust_code)
    if arguments.format != "text":
        return _chapters(model, arguments)
    failed = 0
    for path in arguments.files:
        try:
            caption = model.caption(path, using=arguments.using)
        except MediaError as error:
            say(error)
            failed = 1
            continue
        row = {
            "path": str(path),
            "caption": caption.text,
            "modalities_used": caption.modalities_used.label,
            "segments": caption.segments,
        }
        used = row["modalities_used"]
        print(json.dumps(row) if arguments.json else f"{path} ({used}): {caption.text}")
    return failed


def _chapters(model: "Model", arguments: Arguments) -> int:
    """Write what is seen and what is heard in every segment, as far as it has both."""
    if arguments.format == "vtt" and len(arguments.files) > 1:
        raise UsageError(f"WebVTT is of one file, not of {len(arguments.files)}; use csv")
    from valor.media.probe import probe
    from valor.media.reading import read_in_order
    from valor.media.segments import cut
    from valor.models.verbs import need_describer

    describer = need_describer(model)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if arguments.format == "csv":
        writer.writerow(["path", "start_s", "end_s", "vision", "audio"])
    else:
        print("WEBVTT")
    failed = 0
    for path in map(str, arguments.files):
        try:
            stretches = cut(probe(path).duration_s, segment_s=model.segment_s)
            segments = read_in_order(describer, path, stretches)
            for segment, (start_s, end_s) in zip(segments, stretches, strict=True):
                seen, heard = (
                    describer.describe([segment], using=single)[0].text
                    if single in arguments.using
                    else ""
                    for single in (Modality.VISION, Modality.AUDIO)
                )
                if arguments.format == "csv":
                    writer.writerow([path, f"{start_s:.3f}", f"{end_s:.3f}", seen, heard])
                elif seen or heard:
                    lines = [seen, f"[{heard}]" if heard else ""]
                    print(f"\n{_clock(start_s)} --> {_clock(end_s)}")
                    print("\n".join(line.replace("-->", "->") for line in lines if line))
        except MediaError as error:
            say(error)
            failed = 1
    return failed


def _clock(seconds: float) -> str:
    millis = round(seconds * 1000)
    minutes, within = divmod(millis, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{within // 1000:02}.{within % 1000:03}"
