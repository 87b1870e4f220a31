"""`valor search`: find moments by text, sound, image or video."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from valor.cli.arguments import Json, TrustCode, parse
from valor.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Find the moments that fit a query best."""

    library: tyro.conf.Positional[Path]
    """Library folder."""
    query: tyro.conf.Positional[str]
    """Words, or the file to search by; FILE@SECONDS takes its segment at that second."""
    by: Literal["text", "audio", "image", "video"] = "text"
    """What the query is."""
    also: Path | None = None
    """A file whose sound belongs to a query in words."""
    using: str = "auto"
    """Compare with vision, audio, audiovisual, text (captions and subtitles), or whatever the query
    is about (auto)."""
    where: str | None = None
    """SQL that a segment must meet, such as "path LIKE '%street%' AND start_s < 60"."""
    limit: int = 10
    """Most results to show."""
    model: str | None = None
    """The model, if it is not where the library remembers it."""
    trust_code: TrustCode = False
    json: Json = False
    """A JSON list on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="search")
    from valor.data.sources.media import is_media
    from valor.search.library import Library

    if arguments.by == "text" and is_media(arguments.query) and Path(arguments.query).is_file():
        raise UsageError(f"{arguments.query} is a file; add --by audio, --by image or --by video")
    library = Library(
        arguments.library, model=arguments.model, create=False, trust_code=arguments.trust_code
    )
    hits = library.search(
        arguments.query,
        by=arguments.by,
        also=arguments.also,
        using=arguments.using,
        where=arguments.where,
        limit=arguments.limit,
    )
    if arguments.json:
        rows = [
            {
                "path": hit.path,
                "start_s": hit.start_s,
                "end_s": hit.end_s,
                "score": hit.score,
                "by_modality": hit.by_modality,
                "modalities_used": hit.modalities_used.label,
                "matched": hit.matched.label if hit.matched else None,
                "moment_s": hit.moment_s,
                "caption": hit.caption,
                "speech": hit.speech,
                "screen": hit.screen,
                "metadata": hit.metadata,
                "copies": hit.copies,
            }
            for hit in hits
        ]
        print(json.dumps(rows))
        return 0
    for rank, hit in enumerate(hits, start=1):
        parts = ", ".join(f"{name} {score:.2f}" for name, score in hit.by_modality.items())
        stretch = f"{hit.start_s:.1f}-{hit.end_s:.1f} s"
        stretch += f", at {hit.moment_s:.1f} s by {hit.matched.label}" if hit.matched else ""
        said = "".join(f"  {text}" for text in (hit.caption, hit.speech, hit.screen) if text)
        print(f"{rank:3}. {hit.score:.3f}  {hit.path}  {stretch}  ({parts}){said}")
    if not hits:
        print(f"nothing found: {len(library)} segments in {arguments.library}")
    return 0
