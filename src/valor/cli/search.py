"""`valor search`: find moments by text, sound, image or video."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from valor.cli.arguments import Json, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Find the moments that fit a query best."""

    library: tyro.conf.Positional[Path]
    """Library folder."""
    query: tyro.conf.Positional[str]
    """Words, or the file to search by."""
    by: Literal["text", "audio", "image", "video"] = "text"
    """What the query is."""
    using: str = "auto"
    """Compare with vision, audio, audiovisual, or whatever fits best (auto)."""
    limit: int = 10
    """Most results to show."""
    model: str | None = None
    """The model, if it is not where the library remembers it."""
    json: Json = False
    """A JSON list on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="search")
    from valor.search.library import Library

    library = Library(arguments.library, model=arguments.model, create=False)
    hits = library.search(
        arguments.query, by=arguments.by, using=arguments.using, limit=arguments.limit
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
                "caption": hit.caption,
            }
            for hit in hits
        ]
        print(json.dumps(rows))
        return 0
    for rank, hit in enumerate(hits, start=1):
        parts = ", ".join(f"{name} {score:.2f}" for name, score in hit.by_modality.items())
        stretch = f"{hit.start_s:.1f}-{hit.end_s:.1f} s"
        said = f"  {hit.caption}" if hit.caption else ""
        print(f"{rank:3}. {hit.score:.3f}  {hit.path}  {stretch}  ({parts}){said}")
    if not hits:
        print(f"nothing found: {len(library)} segments in {arguments.library}")
    return 0
