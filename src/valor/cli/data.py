"""`valor data`: sets of media with their texts, as manifests.

A subcommand is a dataclass of its arguments with a method `run` that returns the exit code.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from valor.cli.arguments import Group, Json, parse_kind
from valor.cli.data_annotate import Annotate
from valor.cli.data_building import CaptionRecords, SegmentRecordings
from valor.cli.problems import say
from valor.cli.progress import StageProgress
from valor.cli.tables import table
from valor.data.manifest import read_manifest, write_manifest
from valor.data.sharding import ShardConfig, shard
from valor.data.sources.formats import FORMATS, Imported, import_records
from valor.errors import ManifestError, UsageError

_SHOWN_ERRORS = 20


@dataclass(frozen=True, kw_only=True)
class Validate:
    """Check every field of a manifest, and its media.

    Exit code 1 if a line is wrong, an id stands twice, or a file is missing or cannot be read.
    """

    manifest: tyro.conf.Positional[Path]
    """A JSONL file, or the folder that holds manifest.jsonl."""
    probe: bool = False
    """Open every media file: what it holds, how long it is, whether it is cut off."""
    decode: bool = False
    """Read every media file to its end: silence and damage too."""
    workers: int | None = None
    """Processes that read media; all processors by default."""
    time_limit_s: float | None = None
    """A file that takes longer is an error; by default 120 to be probed and 1800 to be decoded."""
    json: Json = False
    """The report with all errors and files, as a JSON object on stdout."""

    def run(self) -> int:
        """Print the report; errors go to stderr, a line each."""
        from valor.data.validate import validate

        depth = "decode" if self.decode else "probe" if self.probe else "presence"
        with StageProgress() as progress:
            report = validate(
                self.manifest,
                depth=depth,
                workers=self.workers,
                time_limit_s=self.time_limit_s,
                progress=progress,
            )
        if self.json:
            print(json.dumps(dataclasses.asdict(report)))
            return 1 if report.errors else 0
        for error in report.errors[:_SHOWN_ERRORS]:
            print(error, file=sys.stderr)
        if (num_more := len(report.errors) - _SHOWN_ERRORS) > 0:
            print(f"and {num_more} more errors; --json lists all", file=sys.stderr)
        counts = {
            "records": report.num_records,
            "media files": report.num_files,
            **{f"  {name}": len(files) for name, files in report.findings.items()},
            "errors": len(report.errors),
        }
        print(table(counts))
        return 1 if report.errors else 0


_FORMAT_HELP = "One of: " + "; ".join(f"{name} ({kind.help})" for name, kind in FORMATS.items())


@dataclass(frozen=True, kw_only=True)
class Import:
    """Write a manifest for annotations in a public format.

    Exit code 1 if none of the media that the annotations list are there.
    """

    format: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_FORMAT_HELP)]
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Annotation files, or the folder for formats that come with their media."""
    out: Path
    """Manifest to be written: a JSONL file, or a folder for manifest.jsonl."""
    media: Path | None = None
    """Folder of the media, at any depth; media inside of archives and tables are written there."""
    split: str | None = None
    """Put all records into this split; by default the files or their names tell."""
    about: Group | None = None
    """What all captions speak about, other than is usual for the format."""
    json: Json = False
    """Coverage as a JSON object on stdout."""

    def run(self) -> int:
        """Write manifest and missing ids, and say how many of how many are there."""
        out = self.out if self.out.suffix == ".jsonl" else self.out / "manifest.jsonl"
        if self.format in FORMATS and not FORMATS[self.format].has_media and self.media is None:
            raise UsageError(
                f"{self.format}: its annotations come without media; give their folder with --media"
            )
        media = self.media or out.parent / "media"
        with StageProgress() as progress:
            imported = import_records(
                self.format,
                self.files,
                media,
                split=self.split,
                about=self.about,
                progress=lambda done, total: progress("import", done, total),
            )
        missing = _save(imported, out, media)
        row = {
            "manifest": str(out),
            "num_listed": imported.num_listed,
            "num_found": len(imported.records),
            "num_without_texts": imported.num_without_texts,
            "missing_ids": str(missing) if imported.missing else None,
        }
        text = f"found {row['num_found']} of {row['num_listed']} listed"
        if imported.num_without_texts:
            text += f", {imported.num_without_texts} of them without texts"
        if imported.missing:
            text += f"; missing ids in {missing}"
        print(json.dumps(row) if self.json else text)
        return 0


def _save(imported: Imported, out: Path, media: Path) -> Path:
    """Write the manifest, and beside it the ids that are missing; return the path of the list."""
    if not imported.records:
        first = f", none is named {imported.missing[0]!r}" if imported.missing else ""
        raise ManifestError(
            f"found 0 of {imported.num_listed} listed: of the files in {media}{first}; "
            "give the folder of these media with --media"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    missing = out.with_suffix(".missing.txt")
    missing.unlink(missing_ok=True)
    if imported.missing:
        missing.write_text("".join(f"{id}\n" for id in imported.missing), encoding="utf-8")
    write_manifest(out, imported.records)
    return missing


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Count records, texts, hours and words; with a list of concepts, how much can be heard."""

    manifest: tyro.conf.Positional[Path]
    """A JSONL file, or the folder that holds manifest.jsonl."""
    concepts: Path | None = None
    """Audio concepts, one per line, to be counted per word of the captions."""
    probe: bool = False
    """Open every media file: lengths of whole files, and how many have sound."""
    workers: int | None = None
    """Processes that open media; all processors by default."""
    json: Json = False
    """The numbers as a JSON object on stdout."""

    def run(self) -> int:
        """Print the numbers."""
        from valor.data.stats import read_concepts, statistics

        concepts = None if self.concepts is None else read_concepts(self.concepts)
        with StageProgress() as progress:
            numbers = statistics(
                read_manifest(self.manifest),
                concepts=concepts,
                open_media=self.probe,
                workers=self.workers,
                progress=progress,
            )
        row = dataclasses.asdict(numbers)
        print(json.dumps(row) if self.json else table(row))
        return 0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Decode a manifest's media once, into tar files that training reads fast.

    The same command again goes on where it was stopped. Exit code 1 if nothing could be stored.
    """

    manifest: tyro.conf.Positional[Path]
    """A JSONL file, or the folder that holds manifest.jsonl; its media may be s3:// or gs://."""
    out: Path
    """Folder of the shards."""
    store: tyro.conf.OmitArgPrefixes[ShardConfig] = field(default_factory=ShardConfig)
    """What is stored of a record."""
    part: Annotated[str, tyro.conf.arg(name="shard", metavar="I/N")] = "0/1"
    """Write only part I of N, counted from 0, as a job of an array does."""
    executor: Literal["local", "ray"] = "local"
    """Processes on this machine, or a Ray cluster (extra `ray`)."""
    workers: int | None = None
    """Tasks at a time; as many as there are processors by default."""
    retry: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make shards anew of which records were left out."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Read all shards again at the end and compare their checksums."""
    json: Json = False
    """The statistics as a JSON object on stdout."""

    def run(self) -> int:
        """Write shards, and say how much is in them."""
        from valor.data.executors import make_executor
        from valor.data.shards import STATS_FILE, damaged

        with StageProgress() as progress:
            complete = shard(
                read_manifest(self.manifest),
                self.out,
                self.store,
                make_executor(self.executor, self.workers),
                part=_part(self.part),
                retry=self.retry,
                progress=progress,
            )
        if not complete:
            print(json.dumps({}) if self.json else "part written; others are missing")
            return 0
        problems = list(damaged(self.out)) if self.check else []
        for problem in problems:
            print(problem, file=sys.stderr)
        row = json.loads((self.out / STATS_FILE).read_text(encoding="utf-8"))
        print(json.dumps(row) if self.json else table({**row, "shards": len(row["shards"])}))
        wrong = ""
        if problems:
            wrong = "damaged; copy the shards named above again, or make them in another --out"
        elif not row["num_samples"]:
            wrong = f"nothing was stored; `valor data validate {self.manifest} --decode` says why"
        if wrong:
            say(ManifestError(f"{self.out}: {wrong}"))
        return 1 if wrong else 0


def _part(text: str) -> tuple[int, int]:
    index, slash, number = text.partition("/")
    if not slash or not (index.isdecimal() and number.isdecimal()):
        raise UsageError(f"--shard {text}: expected I/N such as 0/8")
    return int(index), int(number)


KINDS = {
    "import": Import,
    "validate": Validate,
    "stats": Stats,
    "segment": SegmentRecordings,
    "caption": CaptionRecords,
    "shard": Shard,
    "annotate": Annotate,
}


def main(argv: Sequence[str]) -> int:
    """Run `valor data SUBCOMMAND`."""
    return parse_kind(KINDS, argv, verb="data").run()
