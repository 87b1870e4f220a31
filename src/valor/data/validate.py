"""Check a manifest: every field, that media are there, and what they hold.

Entry point: `validate`. Media are opened or read by other processes, so that a file that a decoder
cannot survive is one more line of the report.
"""

import faulthandler
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import av
from av.audio.frame import AudioFrame
from av.error import FFmpegError

from valor.data.executors import process_pool
from valor.data.manifest import Record, manifest_file, manifest_lines, parse_record
from valor.data.storage import check, is_remote
from valor.errors import ManifestError, MediaError, ValorError
from valor.media.audio import is_silent, samples_of
from valor.media.container import (
    TIME_LIMIT_S,
    open_container,
    packets,
    playable_streams,
    time_limit,
)
from valor.media.probe import MediaInfo, probe

Depth = Literal["presence", "probe", "decode"]
"""How closely media are looked at: that they are there, what they hold, or all of it."""

_CUT_OFF_S = 1.0
"""A recording that ends this much before it should is reported."""
_STATES_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flv", "wav", "flac")
"""Formats whose header says how long the file should be; of others FFmpeg guesses."""
_QUEUED_PER_WORKER = 4
_REMOTE_WORKERS = 32
"""Threads that ask for objects elsewhere; each waits most of the time."""
_LIMITS_S: dict[Depth, float] = {"probe": TIME_LIMIT_S, "decode": 1800.0}
_HANGING = 2
"""A process that works on a file for this many time limits hangs; it is ended."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What is wrong with a manifest, and what its media lack."""

    manifest: str
    num_records: int = 0
    """Lines that are records; those with an error in them do not count."""
    num_files: int = 0
    """Media files that the records name."""
    errors: list[str] = field(default_factory=list[str])
    """A line each, beginning with file and line."""
    findings: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Media files by what is to be known of them: the reason of a `MediaError`, such as `missing`
    or `unreadable`, each of them an error too; `remote`, of addresses such as s3://, of which
    no more is known than that they are there; `repeated`, of which two records have the same
    stretch; `image`; `no-audio`, of files with pictures that
    are no image; `silent`, only with decode; `no-picture`; `truncated`, of files that hold less
    than they say; `damaged`, of files with packets that cannot be decoded, only with decode; and
    `short`, of files that end before a record of them does."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What a media file was found to hold."""

    info: MediaInfo
    claimed_s: float | None
    """The length that its header claims, if there is such a claim."""
    is_silent: bool = False
    is_damaged: bool = False


@dataclass(slots=True)
class _Use:
    """How the records use a file."""

    where: str
    """The first line that names it."""
    last_s: float = 0.0
    """Where the stretch ends that ends last."""
    starts: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Lines that begin later than the file."""


def validate(
    path: str | Path,
    *,
    depth: Depth = "presence",
    workers: int | None = None,
    time_limit_s: float | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Report:
    """Check a manifest and its media.

    Media elsewhere are not fetched: beyond presence they are asked for, and that is all.

    Args:
        path: A JSONL file, or the folder that holds `manifest.jsonl`.
        depth: How closely to look at the media.
        workers: Processes that read media; all processors by default.
        time_limit_s: A file that takes longer is `too_slow`; by default two minutes for a probe,
            and half an hour to be decoded.
        progress: Told the stage and how many of how many media files are done.

    Returns:
        The report; a manifest without errors can be trained on.

    Raises:
        ManifestError: If there is no manifest.
        DependencyError: If the package for an address is not installed.
    """
    file = manifest_file(path)
    report = Report(manifest=str(file))
    findings: defaultdict[str, list[str]] = defaultdict(list)
    uses = _read(file, report, findings)
    report.num_files = len(uses)
    present = []
    for media, use in uses.items():
        if is_remote(media):
            findings["remote"].append(media)
        elif Path(media).is_file():
            present.append(media)
        else:
            findings["missing"].append(media)
            report.errors.append(f"{use.where}: media: missing: {media}: no such file")
    if depth != "presence":
        limit_s = time_limit_s or _LIMITS_S[depth]
        look = partial(examine, decode=depth == "decode", time_limit_s=limit_s)
        results = chain(
            _asked_for(findings["remote"]),
            examine_files(present, look, workers=workers, time_limit_s=limit_s),
        )
        total = len(present) + len(findings["remote"])
        for done, (media, result) in enumerate(results, start=1):
            for finding in _judge(uses[media], result, report.errors):
                findings[finding].append(media)
            progress(depth, done, total)
    report.errors.sort(key=lambda error: int(error[len(f"{file}:") :].partition(":")[0]))
    report.findings = {reason: sorted(found) for reason, found in sorted(findings.items()) if found}
    return report


def _read(file: Path, report: Report, findings: dict[str, list[str]]) -> dict[str, _Use]:
    """Check all lines; return how they use which media."""
    folder = file.parent.resolve()
    ids: dict[str, int] = {}
    stretches: set[tuple[str, float, float | None]] = set()
    uses: dict[str, _Use] = {}
    for number, line in manifest_lines(file):
        where = f"{file}:{number}"
        try:
            record = parse_record(line, folder=folder, where=where)
        except ManifestError as error:
            report.errors.append(str(error))
            continue
        report.num_records += 1
        if ids.setdefault(record.id, number) != number:
            stands = f"{record.id!r} stands in line {ids[record.id]} already"
            report.errors.append(f"{where}: id: {stands}")
        stretch = (record.media, record.start_s, record.end_s)
        if stretch in stretches:
            findings["repeated"].append(record.media)
        stretches.add(stretch)
        _note(uses.setdefault(record.media, _Use(where)), record, where)
    return uses


def _note(use: _Use, record: Record, where: str) -> None:
    use.last_s = max(use.last_s, record.end_s or 0.0)
    if record.start_s:
        use.starts.append((where, record.start_s))


def _asked_for(addresses: Sequence[str]) -> Iterator[tuple[str, MediaError | None]]:
    """What is wrong with each address, if anything is."""

    def ask(address: str) -> MediaError | None:
        try:
            check(address)
        except MediaError as error:
            return error
        return None

    with ThreadPoolExecutor(_REMOTE_WORKERS) as pool:
        yield from zip(addresses, pool.map(ask, addresses), strict=True)


def _judge(use: _Use, result: Examined | MediaError | None, errors: list[str]) -> Iterator[str]:
    """What is to be reported of a file; errors go to the list."""
    if result is None:
        return
    if isinstance(result, MediaError):
        errors.append(f"{use.where}: media: {result.reason}: {result}")
        yield result.reason
        return
    info = result.info
    for where, start_s in use.starts:
        if start_s >= info.duration_s:
            length = f"the recording has {info.duration_s:.3f} s"
            errors.append(f"{where}: start_s: {start_s:g}, but {length}: {info.path}")
    is_short = not info.is_image and use.last_s > info.duration_s + _CUT_OFF_S
    claims_more = (result.claimed_s or 0.0) > info.duration_s + _CUT_OFF_S
    findings = {
        "image": info.is_image,
        "no-audio": info.has_video and not info.has_audio and not info.is_image,
        "silent": result.is_silent,
        "no-picture": not info.has_video,
        "truncated": claims_more,
        "damaged": result.is_damaged,
        "short": is_short,
    }
    yield from (name for name, is_so in findings.items() if is_so)


def examine(
    path: str, *, decode: bool = False, time_limit_s: float = TIME_LIMIT_S
) -> Examined | MediaError:
    """Open a media file, or read all of it; whatever is wrong with it is returned."""
    try:
        with time_limit(time_limit_s):
            info = probe(path)
            with open_container(path) as container:
                states = container.format.name in _STATES_LENGTH
                length = container.duration if states else None
            claimed_s = length / av.time_base if length else None
            examined = Examined(info, claimed_s)
            return _read_through(examined) if decode else examined
    except MediaError as error:
        return error
    except Exception as error:  # Whatever a file does to a decoder is that file's line.
        return MediaError(path, "failed", f"{type(error).__name__}: {error}")


def _read_through(examined: Examined) -> Examined:
    """Decode every packet of a file, in memory that does not depend on its length."""
    is_damaged, is_heard = False, False
    with open_container(examined.info.path) as container:
        streams = playable_streams(container)
        for stream in streams:
            stream.codec_context.thread_count = 1
        for packet in packets(container, streams):
            try:
                frames = packet.decode()
            except FFmpegError:
                is_damaged = True
                continue
            is_damaged = is_damaged or any(frame.is_corrupt for frame in frames)
            sounds = (frame for frame in frames if isinstance(frame, AudioFrame))
            is_heard = is_heard or any(not is_silent(samples_of(sound)) for sound in sounds)
    silence = examined.info.has_audio and not is_heard
    return replace(examined, is_silent=silence, is_damaged=is_damaged)


def examine_files(
    paths: Iterable[str],
    look: Callable[[str], Examined | MediaError] = examine,
    *,
    workers: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> Iterator[tuple[str, Examined | MediaError]]:
    """Examine files in other processes.

    Args:
        paths: Media files.
        look: What is done with each, `examine` or a part of it.
        workers: Processes; all processors by default.
        time_limit_s: How long `look` takes at most.

    Yields:
        Path and result, as they are finished. A file that kills its process is `crashed`; one that
        holds it for much longer than the limit, as within a single packet, is `too_slow`.

    Raises:
        ValorError: If there are no workers.
    """
    if workers is not None and workers < 1:
        raise ValorError(f"workers={workers}, wanted at least 1")
    waiting, workers = deque(paths), workers or os.cpu_count() or 1
    look = partial(_watched, look, _HANGING * time_limit_s)
    while waiting:
        running: dict[Future[Examined | MediaError], str] = {}
        with process_pool(min(workers, len(waiting))) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < _QUEUED_PER_WORKER * workers:
                        running[pool.submit(look, waiting[0])] = waiting[0]
                        waiting.popleft()
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                pass
        for path in running.values():
            yield path, _alone(path, look, _HANGING * time_limit_s)


def _watched(
    look: Callable[[str], Examined | MediaError], limit_s: float, path: str
) -> Examined | MediaError:
    """Look at a file; ends this process if that takes too long, wherever it is held."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(limit_s, exit=True, file=nowhere)
        try:
            return look(path)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _alone(
    path: str, look: Callable[[str], Examined | MediaError], limit_s: float
) -> Examined | MediaError:
    begin_s = time.monotonic()
    with process_pool(1) as pool:
        try:
            return pool.submit(look, path).result()
        except BrokenProcessPool:
            if time.monotonic() - begin_s >= limit_s:
                detail = f"holds its decoder for more than {limit_s:g} s; remove the file"
                return MediaError(path, "too_slow", detail)
            return MediaError(path, "crashed", "the process that reads it dies; remove the file")
