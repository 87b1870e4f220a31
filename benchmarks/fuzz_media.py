"""Damaged media files: none crashes, hangs, opens another file or gives arrays of a wrong size.

Each case is a small rendered file, taken apart into its boxes, chunks, elements or packets, changed
at random and put together again. It is a pure function of `--seed` and its number. The cases run in
child processes, so that a crash or a hang is one failure among others. All are at about the same
number, which is told from time to time: `--first` goes on from there after a kill.
"""

import argparse
import ctypes
import multiprocessing
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from valor.errors import MediaError
from valor.evaluation.provenance import finish
from valor.media.probe import probe
from valor.media.segments import DecodePlan, decode_segment
from valor.processing.frames import FrameConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.processing.tokenizer import Tokenizer
from valor.types import Segment

TIME_LIMIT_S = 10.0
HANG_S = 600.0
"""Of no result; on a busy machine a process may not run for a minute."""
MAX_GIB = 2.0
OTHER_FILE = "other.mov"
IN_OPEN = 0x20
PROCESSOR = Processor(
    ProcessorConfig(
        frames=FrameConfig(num_bursts=3, image_px=16),
        spectrogram=SpectrogramConfig(hops_per_window=32),
    ),
    Tokenizer.train(["a film"]),
)
NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

MP4_PARENTS = set(b"moov trak mdia minf dinf stbl edts udta mvex moof traf dref".split())
EBML_PARENTS = {
    *(bytes.fromhex(name) for name in ("18538067", "1f43b675", "1654ae6b", "ae", "e0", "e1")),
    *(bytes.fromhex(name) for name in ("114d9b74", "4dbb", "1549a966", "1c53bb6b", "bb", "b7")),
}


@dataclass
class Node:
    """A box, chunk, element or packet; `form` says how its head is written."""

    form: str
    kind: bytes
    body: "bytes | list[Node]"
    false_size: int | None = None
    width: int = 8
    """Bytes of an element's size, where they suffice."""

    def content(self) -> bytes:
        """Without the head."""
        if isinstance(self.body, bytes):
            return self.body
        return b"".join(child.written() for child in self.body)

    def written(self) -> bytes:
        """With its head."""
        body = self.content()
        size = len(body) if self.false_size is None else self.false_size
        if self.form == "box":
            return struct.pack(">I", (size + 8) % 2**32) + self.kind + body
        if self.form == "chunk":
            return self.kind + struct.pack("<I", size % 2**32) + body + bytes(len(body) % 2)
        if self.form == "element":
            width = self.width if size < 2 ** (7 * self.width) - 1 else 8
            return self.kind + (2 ** (7 * width) + size % 2**56).to_bytes(width, "big") + body
        return self.kind + body

    def walk(self) -> "Iterator[Node]":
        """Itself and all below it."""
        yield self
        for child in self.body if isinstance(self.body, list) else ():
            yield from child.walk()


def inside(body: bytes, lead: int, parts: "Callable[[bytes], Iterator[Node]]") -> list[Node]:
    """The parts of a body that begins with some bytes of another kind."""
    return [Node("raw", body[:lead], b""), *parts(body[lead:])]


def boxes(content: bytes) -> Iterator[Node]:
    """Of MP4 and QuickTime."""
    at = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + size]
        lead = 8 if kind == b"dref" else 0
        yield Node("box", kind, inside(body, lead, boxes) if kind in MP4_PARENTS else body)
        at += max(size, 8)


def chunks(content: bytes) -> Iterator[Node]:
    """Of RIFF: WAV, AVI, WebP."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + size]
        yield Node("chunk", kind, inside(body, 4, chunks) if kind in (b"RIFF", b"LIST") else body)
        at += 8 + size + size % 2


def elements(content: bytes) -> Iterator[Node]:
    """Of Matroska and WebM."""
    at = 0
    while at < len(content):
        kind = content[at : at + 9 - content[at].bit_length()]
        at += len(kind)
        width = 9 - content[at].bit_length()
        size = int.from_bytes(content[at : at + width], "big") - (1 << 7 * width)
        body = content[at + width : at + width + size]
        yield Node(
            "element", kind, list(elements(body)) if kind in EBML_PARENTS else body, width=width
        )
        at += width + size


def pieces(content: bytes, size: int) -> Iterator[Node]:
    """Of formats without nesting."""
    for at in range(0, len(content), size):
        yield Node("raw", b"", content[at : at + size])


def parsed(name: str, content: bytes) -> Node:
    """The tree of a seed file; writing it gives the file."""
    suffix = Path(name).suffix
    if suffix in (".mp4", ".mov", ".m4a"):
        nodes = boxes(content)
    elif suffix in (".mkv", ".webm"):
        nodes = elements(content)
    elif content[:4] == b"RIFF":
        nodes = chunks(content)
    else:
        nodes = pieces(content, 188 if suffix == ".ts" else 64)
    return Node("raw", b"", list(nodes))


def mutated(rng: random.Random, tree: Node, other: Node) -> bytes:
    """Change the tree in place in one to six ways; what it is written as then."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        nodes = list(tree.walk())
        families = [node.body for node in nodes if isinstance(node.body, list) and node.body]
        leaves = [node for node in nodes if isinstance(node.body, bytes) and node.body]
        if not families or not leaves:
            break
        if rng.random() < 0.5:
            _move(rng, rng.choice(families), rng.choice(list(other.walk())))
        else:
            _spoil(rng, rng.choice(leaves), rng.choice(list(other.walk())))
    content = bytearray(tree.written())
    if content and rng.random() < 0.15:
        del content[rng.randrange(len(content)) :]
    if content and rng.random() < 0.15:
        for _ in range(rng.choice((1, 4, 32))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _move(rng: random.Random, family: list[Node], other: Node) -> None:
    """Change which nodes there are, and in which order."""
    one, two = rng.randrange(len(family)), rng.randrange(len(family))
    match rng.randrange(5):
        case 0:
            family[one], family[two] = family[two], family[one]
        case 1:
            del family[one]
        case 2:
            family[two:two] = [deepcopy(family[one]) for _ in range(rng.choice((1, 1, 50)))]
        case 3:
            family[one] = deepcopy(other)
        case 4:
            size = len(family[one].content())
            family[one].false_size = rng.choice((*NUMBERS, size + 1, 2 * size, size // 2))


def _spoil(rng: random.Random, leaf: Node, other: Node) -> None:
    """Change what a node says."""
    body = bytearray(leaf.content())
    at = rng.choice((rng.randrange(len(body)), 4 * rng.randrange(len(body) // 4 + 1)))
    match rng.randrange(6):
        case 0 | 1:
            width, order = rng.choice((1, 2, 4, 4, 8)), rng.choice(("big", "little"))
            value = rng.choice((*NUMBERS, rng.randrange(2**16))) % 2 ** (8 * width)
            body[at : at + width] = value.to_bytes(width, order)
        case 2 | 3:
            for _ in range(rng.choice((1, 1, 8))):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        case 4:
            del body[at:]
        case 5:
            leaf.kind = other.kind
    leaf.body = bytes(body)


def write_media(
    path: Path,
    video: str | None,
    audio: str | None,
    *,
    options: dict[str, str] | None = None,
    turned_deg: int = 0,
) -> None:
    """Half a second of a moving picture and of a tone."""
    with av.open(str(path), "w", options=options or {}) as container:
        streams: list[Any] = []
        if video:
            stream: Any = container.add_stream(video, rate=24)
            stream.width = stream.height = 64  # x265 damages its memory at 48 by 32
            stream.pix_fmt = {"gif": "rgb8"}.get(video, "yuv420p")
            stream.options = {"g": "6", "bf": "1", "x265-params": "log-level=none"}
            if turned_deg:
                stream.set_display_rotation(turned_deg)
            streams.append((stream, _pictures()))
        if audio:
            sound: Any = container.add_stream(audio, rate=48_000, layout="mono")
            streams.append((sound, _sounds(sound.format.name)))
        for stream, frames in streams:
            for frame in frames:
                container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode(None))


def _pictures() -> Iterator[av.VideoFrame]:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for index in range(12):
        frame = av.VideoFrame.from_ndarray(np.roll(noise, 4 * index, axis=1))
        frame.pts, frame.time_base = index, Fraction(1, 24)
        yield frame


def _sounds(sample_format: str) -> Iterator[av.AudioFrame]:
    tone = (9000 * np.sin(np.arange(24_000) * 0.06)).astype(np.int16)
    resampler = av.AudioResampler(format=sample_format)
    for begin in range(0, 24_000 - 960, 960):
        part = np.ascontiguousarray(tone[None, begin : begin + 960])
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, begin
        yield from resampler.resample(frame)


def write_seeds(folder: Path) -> None:
    """The undamaged files that every case starts from."""
    write_media(folder / "plain.mp4", "libx264", "aac")
    write_media(folder / "turned.mp4", "libx265", "aac", turned_deg=90)
    write_media(folder / "first.mp4", "mpeg4", None, options={"movflags": "faststart"})
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    write_media(folder / "fragments.mp4", "libx264", "aac", options=fragments)
    write_media(folder / "sound.m4a", None, "aac")
    write_media(folder / "plain.mkv", "libx264", "aac")
    write_media(folder / "plain.webm", "libvpx-vp9", "libopus")
    write_media(folder / "plain.ts", "libx264", "aac")
    write_media(folder / "plain.avi", "mpeg4", "libmp3lame")
    write_media(folder / "plain.gif", "gif", None)
    sounds = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus"}
    for name, codec in sounds.items():
        write_media(folder / f"sound.{name}", None, codec)
    picture = Image.fromarray(next(_pictures()).to_ndarray(format="rgb24"))
    for name in ("png", "jpg", "webp", "bmp", "tiff"):
        picture.save(folder / f"still.{name}")
    (folder / "reference.mov").write_bytes(reference_movie((folder / "plain.mp4").read_bytes()))


def read_seeds(folder: Path) -> dict[str, bytes]:
    """Their content by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def reference_movie(content: bytes) -> bytes:
    """The same film as a QuickTime movie whose samples are said to be in `OTHER_FILE`."""
    name = OTHER_FILE.encode()
    path = b":" + name
    alias = bytes(4) + bytes(10) + bytes([1]) + bytes(27) + bytes(12)
    alias += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16)
    alias += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2)
    alias += struct.pack(">hH", -1, 0)
    tree = parsed("a.mp4", content)
    for node in tree.walk():
        if node.kind == b"url ":
            node.kind, node.body = b"alis", alias
    return tree.written()


def case(seeds: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """The name of the seed file and the damaged content of one case."""
    rng = random.Random(f"{seed}/{number}")
    name, other = rng.choice(sorted(seeds)), rng.choice(sorted(seeds))
    return name, mutated(rng, parsed(name, seeds[name]), parsed(other, seeds[other]))


def outcome(path: Path, number: int) -> str:
    """What became of the file: `ok`, or the reason of the error; asserts what must hold."""
    plan = replace(PROCESSOR.plan, time_limit_s=TIME_LIMIT_S, keyframes_only=number % 3 == 0)
    begin_s = time.thread_time()
    try:
        info = probe(path, time_limit_s=TIME_LIMIT_S)
        start_s = info.duration_s / 2 if number % 4 == 0 else 0.0
        check(decode_segment(path, plan, start_s=start_s, end_s=start_s + 2.0), plan)
        reason = "ok"
    except MediaError as error:
        assert error.reason, "an error without a reason"
        assert error.detail, "an error without words"
        assert "\n" not in str(error), "an error of several lines"
        reason = error.reason
    took_s = time.thread_time() - begin_s
    assert took_s < 2 * TIME_LIMIT_S, f"took {took_s:.0f} s of computing"
    return reason


def check(segment: Segment, plan: DecodePlan) -> None:
    """Assert the sizes of a segment, and those of the model's inputs made from it."""
    assert segment.frames is not None or segment.waveform is not None, "an empty segment"
    if segment.frames is not None and segment.frame_times_s is not None:
        num_frames = len(segment.frames)
        assert segment.frames.dtype == np.uint8
        assert num_frames == len(segment.frame_times_s), "frames without times"
        is_still = segment.end_s == segment.start_s
        wanted = plan.frames_per_burst * (1 if is_still else plan.num_frames)
        assert num_frames == wanted, f"{num_frames} frames, not {wanted}"
        assert min(segment.frames.shape[1:3]) == plan.short_side_px, str(segment.frames.shape)
        assert np.isfinite(segment.frame_times_s).all(), "a frame at no time"
    if segment.waveform is not None:
        most = round((segment.end_s - segment.start_s) * plan.sample_rate_hz)
        assert 0 < len(segment.waveform) <= most, f"{len(segment.waveform)} samples of {most}"
        assert np.abs(segment.waveform).max() <= 1, "samples out of range"
    sample = PROCESSOR.prepare(segment)
    assert sample.pixels is None or sample.pixels.shape[1:] == (3, 16, 16)
    if sample.spectrograms is not None:
        assert sample.spectrograms.shape[1:] == (64, 32)
        assert np.isfinite(sample.spectrograms).all(), "a spectrogram that is not finite"


class OpenedFiles:
    """Tells which files of a folder any part of this machine's programs opens (Linux)."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(self._handle, os.fsencode(folder), IN_OPEN) >= 0

    def names(self) -> set[str]:
        """Of files that were opened since the last call."""
        names, content = set(), b""
        with suppress(BlockingIOError):
            while part := os.read(self._handle, 2**16):
                content += part
        at = 0
        while at < len(content):
            (length,) = struct.unpack_from("I", content, at + 12)
            names.add(os.fsdecode(content[at + 16 : at + 16 + length].rstrip(b"\0")))
            at += 16 + length
        return names - {""}


class Folder:
    """Where cases are tried, one after the other, beside a file that none of them may open.

    Args:
        folder: Empty.
        seeds: Content of the undamaged files by name.
    """

    def __init__(self, folder: Path, seeds: dict[str, bytes]) -> None:
        self._folder = folder
        self._seeds = seeds
        (folder / OTHER_FILE).write_bytes(seeds["plain.mp4"])
        self._opened = OpenedFiles(folder)

    def tried(self, seed: int, number: int) -> str:
        """Try one case; returns its outcome, or what is wrong in capitals."""
        name, content = case(self._seeds, seed, number)
        path = self._folder / f"case{Path(name).suffix}"
        path.unlink(missing_ok=True)  # Some file systems wait for the disk to write over a file.
        path.write_bytes(content)
        self._opened.names()
        try:
            result = outcome(path, number)
        except Exception as error:
            return f"WRONG {name}: {type(error).__name__} {error}"
        if others := self._opened.names() - {path.name}:
            return f"WRONG {name}: opened {', '.join(sorted(others))}"
        return result


def work(folder: Path, seed: int, numbers: range, results: Connection) -> None:
    """Try the numbers in this process and send what became of each."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as place:
        cases = Folder(Path(place), read_seeds(folder))
        for number in numbers:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            result = cases.tried(seed, number)
            status = Path("/proc/self/status").read_text(encoding="ascii")
            peak_gib = int(status.split("VmHWM:")[1].split()[0]) / 2**20
            results.send(f"WRONG: {peak_gib:.1f} GiB" if peak_gib > MAX_GIB else result)


def outcomes(folder: Path, seed: int, numbers: range) -> Iterator[tuple[int, str]]:
    """What became of each case; a worker that it kills or hangs is followed by another one."""
    context, number = multiprocessing.get_context("spawn"), numbers.start
    while number < numbers.stop:
        ours, theirs = context.Pipe(duplex=False)
        rest = range(number, numbers.stop, numbers.step)
        worker = context.Process(target=work, args=(folder, seed, rest, theirs))
        worker.start()
        theirs.close()
        for number in rest:
            try:
                result = ours.recv() if ours.poll(HANG_S) else "WRONG: hangs"
            except EOFError:
                worker.join()
                result = f"WRONG: kills the process ({worker.exitcode})"
            yield number, result
            if not worker.is_alive():
                break
            if result == "WRONG: hangs":
                worker.kill()
                break
        worker.join()
        number += numbers.step


def tally(folder: Path, seed: int, numbers: range) -> tuple[Counter[str], list[str]]:
    """How often each outcome came about, and what went wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    for number, result in outcomes(folder, seed, numbers):
        if result.startswith("WRONG"):
            wrong.append(f"--seed {seed} --first {number} --num 1: {result}")
            print(wrong[-1], file=sys.stderr, flush=True)
        counts[result.split(":")[0]] += 1
        if number % 10_000 == 0:
            print(f"case {number}", file=sys.stderr, flush=True)
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="2000 cases")
    arguments = parser.parse_args()
    num = min(arguments.num, 2000) if arguments.quick else arguments.num
    numbers, begin = range(arguments.first, arguments.first + num), time.monotonic()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(arguments.workers) as pool:
        write_seeds(Path(place))
        shares = [numbers[worker :: arguments.workers] for worker in range(arguments.workers)]
        parts = list(pool.map(partial(tally, Path(place), arguments.seed), shares))
    counts = sum((part for part, _ in parts), Counter())
    wrong = [line for _, lines in parts for line in lines]
    took_s = time.monotonic() - begin
    figures: dict[str, float] = {
        "wrong": len(wrong),
        "cases_per_s": round(num / took_s, 1),
        "hours_for_200000": round(200_000 * took_s / num / 3600, 2),
        "share_read": round(counts["ok"] / num, 3),
        "cases": num,
        "seed": arguments.seed,
        "took_s": round(took_s, 1),
        **{f"cases_{name.lower()}": count for name, count in counts.most_common()},
    }
    finish(figures, arguments.json)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
