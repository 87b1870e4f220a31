"""`valor library`: keep a library in order."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from valor.cli.arguments import Json, TrustCode, parse_kind
from valor.cli.progress import StageProgress

if TYPE_CHECKING:
    from valor.search.library import Library


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Forget files, and all files below folders; the media stay untouched."""

    library: tyro.conf.Positional[Path]
    """Library folder."""
    media: tyro.conf.Positional[tuple[Path, ...]]
    """Files or folders; they need not exist any more."""
    json: Json = False
    """What was done, as a JSON object on stdout."""


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """Index changed files again and forget those that are gone."""

    library: tyro.conf.Positional[Path]
    """Library folder."""
    model: str | None = None
    """The model, if it is not where the library remembers it."""
    trust_code: TrustCode = False
    json: Json = False
    """What was done, as a JSON object on stdout."""


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Give back the space of what was removed, and build the index again."""

    library: tyro.conf.Positional[Path]
    """Library folder."""
    json: Json = False
    """What was done, as a JSON object on stdout."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the list of segments, without vectors."""

    library: tyro.conf.Positional[Path]
    """Library folder."""
    out: tyro.conf.Positional[Path]
    """A file that ends in .json, .csv or .edl (with the timecode of the sources)."""
    where: str | None = None
    """Only segments that SQL over the exported fields keeps, such as "modalities = 'audio'"."""
    json: Json = False
    """What was done, as a JSON object on stdout."""


@dataclass(frozen=True, kw_only=True)
class Bad:
    """List the files that could not be read, with the reason."""

    library: tyro.conf.Positional[Path]
    """Library folder."""
    json: Json = False
    """A JSON list on stdout."""


KINDS = {"remove": Remove, "refresh": Refresh, "compact": Compact, "export": Export, "bad": Bad}


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse_kind(KINDS, argv, verb="library")
    from valor.search.library import Library

    own: dict[str, Any] = {}
    if isinstance(arguments, Refresh):
        own = {"model": arguments.model, "trust_code": arguments.trust_code}
    library = Library(arguments.library, create=False, **own)
    if isinstance(arguments, Bad):
        _list_bad(library, as_json=arguments.json)
        return 0
    done: dict[str, object]
    if isinstance(arguments, Remove):
        done = {"removed": library.remove(list(arguments.media))}
    elif isinstance(arguments, Refresh):
        with StageProgress() as progress:
            report = library.refresh(
                progress=lambda now: progress("refresh %", round(now.done_fraction * 100), 100)
            )
        done = dataclasses.asdict(report)
    elif isinstance(arguments, Compact):
        library.compact()
        done = {"segments": len(library)}
    else:
        done = {"segments": library.export(arguments.out, where=arguments.where)}
    print(json.dumps(done) if arguments.json else ", ".join(f"{k} {v}" for k, v in done.items()))
    return 0


def _list_bad(library: "Library", *, as_json: bool) -> None:
    rows = [(row.path, row.reason, row.detail) for row in library.files() if row.status == "bad"]
    if as_json:
        print(json.dumps([{"path": p, "reason": r, "detail": d} for p, r, d in rows]))
    for path, reason, detail in [] if as_json else rows:
        print(f"{path} ({reason}): {detail}")
