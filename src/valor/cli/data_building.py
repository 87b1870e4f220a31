"""`valor data segment` and `valor data caption`: a set from raw recordings."""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tyro

from valor.cli.arguments import Json
from valor.cli.problems import say
from valor.cli.progress import StageProgress
from valor.data.building.captioning import CaptionConfig, CaptionStage, Keep, caption
from valor.data.building.rows import Work, rows_file
from valor.data.building.segment import SegmentConfig, recordings, segment
from valor.data.manifest import manifest_file, read_manifest
from valor.errors import ManifestError, MediaError, ModelError, UsageError

_RULES = CaptionConfig().merge


@dataclass(frozen=True, kw_only=True)
class SegmentRecordings:
    """Cut recordings into segments that can be heard and that move.

    Every stretch that is left out stands in OUT.rows.jsonl with its reason. The same command again
    goes on where it was stopped. Exit code 1 if nothing was kept.
    """

    media: tyro.conf.Positional[tuple[Path, ...]]
    """Media files, folders of them, and manifests."""
    out: Path
    """Manifest to be written, a JSONL file."""
    cut: tyro.conf.OmitArgPrefixes[SegmentConfig] = field(default_factory=SegmentConfig)
    """How to cut, and what to keep."""
    executor: Literal["local", "ray"] = "local"
    """Processes on this machine, or a Ray cluster (extra `ray`)."""
    workers: int | None = None
    """Recordings at a time; as many as there are processors by default."""
    retry: tyro.conf.FlagCreatePairsOff[bool] = False
    """Try recordings again that could not be read."""
    json: Json = False
    """What was kept and what not, as a JSON object on stdout."""

    def run(self) -> int:
        """Write the manifest, and say how much was kept."""
        from valor.data.executors import make_executor

        with StageProgress() as progress:
            work = Work(
                out=_jsonl(self.out),
                executor=make_executor(self.executor, self.workers),
                retry=self.retry,
                progress=lambda num, total: progress("segment", num, total),
            )
            done = segment(recordings(self.media), self.cut, work)
        for media, reason in done.bad.items():
            say(
                MediaError(
                    media,
                    reason,
                    f"{reason}; see {rows_file(self.out)} for why, --retry tries it again",
                )
            )
        why = ", ".join(f"{reason} {num}" for reason, num in done.rejected.items())
        text = (
            f"kept {done.num_kept} segments, {done.kept_s:.0f} of {done.total_s:.0f} s; rejected "
            f"{sum(done.rejected.values())} stretches{f' ({why})' if why else ''}, "
            f"{len(done.bad)} of {done.num_recordings} recordings"
        )
        row = {"manifest": str(self.out), **dataclasses.asdict(done)}
        print(json.dumps(row) if self.json else text)
        return _end(done.num_kept, self.out)


@dataclass(frozen=True, kw_only=True)
class CaptionRecords:
    """Write captions of what is seen, heard and said, without people.

    Speech comes from subtitles beside the media (.vtt, .srt). What became of every record stands in
    OUT.rows.jsonl, with drafts and similarities. The same command again goes on where it was
    stopped; with another threshold it only chooses anew. Exit code 1 if nothing was kept.
    """

    manifest: tyro.conf.Positional[Path]
    """A JSONL file, or the folder that holds manifest.jsonl, as `valor data segment` writes it."""
    out: Path
    """Manifest to be written, another JSONL file."""
    models: tyro.conf.OmitArgPrefixes[CaptionConfig] = field(default_factory=CaptionConfig)
    """Model folders, hub ids or endpoints URL#MODEL."""
    keep: tyro.conf.OmitArgPrefixes[Keep] = field(default_factory=Keep)
    """Which captions are kept."""
    executor: Literal["local", "ray"] = "local"
    """Processes on this machine, or a Ray cluster (extra `ray`)."""
    workers: int = 1
    """Processes, each of which loads the models."""
    retry: tyro.conf.FlagCreatePairsOff[bool] = False
    """Try records again of which nothing became."""
    json: Json = False
    """What was kept and what not, as a JSON object on stdout."""

    def run(self) -> int:
        """Write the manifest, and say how much was kept."""
        from valor.data.executors import make_executor
        from valor.models.verbs import fit

        out, models = _jsonl(self.out), self.models
        if out.resolve() == manifest_file(self.manifest).resolve():
            raise UsageError(f"--out {out}: would replace what it is made from; name another file")
        stage = CaptionStage(
            vision=_Load.of(models.vision, "describer"),
            audio=_Load.of(models.audio, "describer"),
            writer=None if models.merge == _RULES else _Load.of(models.merge, "writer"),
            embedder=_Load.of(models.embedder, "embedder"),
            fit=fit,
        )
        with StageProgress() as progress:
            work = Work(
                out=out,
                executor=make_executor(self.executor, self.workers),
                retry=self.retry,
                progress=lambda num, total: progress("caption", num, total),
            )
            done = caption(read_manifest(self.manifest), models, stage, self.keep, work)
        why = "".join(f", {reason} {num}" for reason, num in done.rejected.items())
        row = {"manifest": str(self.out), **dataclasses.asdict(done)}
        text = f"kept {done.num_kept} of {done.num_records} records{why}"
        print(json.dumps(row) if self.json else text)
        return _end(done.num_kept, self.out)


def _end(num_kept: int, out: Path) -> int:
    """The exit code; where nothing is kept, say where to look."""
    if not num_kept:
        say(ManifestError(f"{out}: nothing was kept; see {rows_file(out)} for the reasons"))
    return 0 if num_kept else 1


def _jsonl(out: Path) -> Path:
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: expected the name of a JSONL file, such as set/cut.jsonl")
    return out


@dataclass(frozen=True)
class _Load:
    """Loads a model in the process that uses it, once for all that it does there."""

    source: str
    use: Literal["describer", "embedder", "writer"]

    @classmethod
    def of(cls, source: str | None, use: Literal["describer", "embedder", "writer"]) -> Any:
        """One that loads this model, or None where there is none."""
        return None if source is None else cls(source, use)

    def __call__(self) -> Any:
        """The model, or for a writer what it replies to a prompt with."""
        from valor.models.verbs import need_describer, need_embedder

        model = _model(self.source)
        if self.use == "writer":
            if not hasattr(model, "complete"):
                raise ModelError(f"{self.source}: no endpoint; merge by rules or by URL#MODEL")
            return model.complete
        return need_embedder(model) if self.use == "embedder" else need_describer(model)


@cache
def _model(source: str) -> Any:
    from valor.inference import load

    return load(source)
