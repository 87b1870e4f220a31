"""`valor index --frames keyframes` on a recording of 1920 by 1080 with one keyframe in 48 frames.

The recording is rendered: a landscape that moves, textured cards before it, grain, and now and then
a square of a strong colour for three seconds. It is read in segments of ten seconds, eight frames
each. The limit: ten times faster than decoding all frames (one thread, no conversion), and the same
squares are found, no further off than the distance of two keyframes. The ordinary way of reading
leaves out frames that are not shown, and is measured too.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from valor.evaluation.provenance import finish
from valor.media.probe import probe
from valor.media.segments import DecodePlan, cut, decode_segment

FPS, GOP = 25, 48
SIZE = (1920, 1080)
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)])
SHOWN_S = 3.0
PLAN = DecodePlan(num_frames=8, short_side_px=224, sample_rate_hz=16_000)


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Clouds: blocks of every size, the large ones strongest."""
    rng = np.random.default_rng(seed)
    clouds = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 8):
        shape = (2**octave * height // 1080 + 2, 2**octave * width // 1080 + 2, 3)
        blocks = Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8))
        grown = blocks.resize((width, height), Image.Resampling.BICUBIC)
        clouds += np.asarray(grown, np.float32) / 1.7**octave
    clouds -= clouds.min()
    return (clouds / clouds.max() * 200).astype(np.uint8)


def events(length_s: int) -> list[tuple[float, int]]:
    """When each square appears, and the number of its colour."""
    begins = np.arange(1.3, length_s - SHOWN_S, 5.37)
    return [(float(begin), index % len(COLOURS)) for index, begin in enumerate(begins)]


def write_recording(path: Path, length_s: int) -> None:
    rng = np.random.default_rng(0)
    width, height = SIZE
    far = texture(height + 400, width + 1600, 1)
    cards = [texture(300, 400, 10 + number) for number in range(6)]
    grain = rng.integers(0, 5, (8, height, width, 1), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0", "crf": "21"}
        video.options |= {"preset": "veryfast"}
        for index in range(length_s * FPS):
            left, top = int(700 + 650 * np.sin(index / 60)), int(200 + 180 * np.sin(index / 43))
            picture = far[top : top + height, left : left + width].copy()
            for number, card in enumerate(cards):
                left = int((width - 400) * (0.5 + 0.5 * np.sin(index / (20 + 7 * number) + number)))
                top = int((height - 300) * (0.5 + 0.5 * np.cos(index / (23 + 5 * number) + number)))
                picture[top : top + 300, left : left + 400] = card
            picture += grain[index % len(grain)]
            for begin_s, colour in events(length_s):
                if begin_s <= index / FPS < begin_s + SHOWN_S:
                    picture[340:740, 760:1160] = COLOURS[colour]
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


def all_frames(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            packet.decode()


def seen(path: Path, plan: DecodePlan) -> dict[tuple[int, int], float]:
    """When each colour is first seen in each of the segments."""
    first_s: dict[tuple[int, int], float] = {}
    for number, (start_s, end_s) in enumerate(cut(probe(path).duration_s, segment_s=10.0)):
        segment = decode_segment(path, plan, start_s=start_s, end_s=end_s)
        assert segment.frames is not None
        assert segment.frame_times_s is not None
        middles = segment.frames[:, 100:124, 187:211].mean(axis=(1, 2))
        for time_s, middle in zip(segment.frame_times_s.tolist(), middles, strict=True):
            (found,) = np.nonzero(np.abs(middle - COLOURS).max(axis=1) < 40)
            for colour in found.tolist():
                first_s.setdefault((number, colour), time_s)
    return first_s


def figures_of(path: Path, length_s: int, rounds: int) -> dict[str, float]:
    write_recording(path, length_s)
    seconds: dict[str, list[float]] = {"all_frames_s": [], "ordinary_s": [], "keyframes_s": []}
    ordinary: dict[tuple[int, int], float] = {}
    keyframes: dict[tuple[int, int], float] = {}
    for _ in range(rounds):
        begin = time.perf_counter()
        all_frames(path)
        seconds["all_frames_s"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        ordinary = seen(path, PLAN)
        seconds["ordinary_s"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        keyframes = seen(path, replace(PLAN, keyframes_only=True))
        seconds["keyframes_s"].append(time.perf_counter() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    shifts = [
        abs(ordinary[event] - keyframes[event]) for event in ordinary.keys() & keyframes.keys()
    ]
    return {
        "gain_over_all_frames": round(median["all_frames_s"] / median["keyframes_s"], 1),
        "gain_over_ordinary": round(median["ordinary_s"] / median["keyframes_s"], 1),
        "share_of_events_found": round(len(shifts) / len(ordinary.keys() | keyframes.keys()), 2),
        "largest_shift_s": round(max(shifts), 2),
        "gop_s": round(GOP / FPS, 2),
        "events": len(ordinary),
        **{name: round(value, 3) for name, value in median.items()},
        "recording_s": length_s,
        "megabits_per_s": round(path.stat().st_size * 8e-6 / length_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    length_s, rounds = (10, 2) if arguments.quick else (60, 3)
    with tempfile.TemporaryDirectory() as place:
        figures = figures_of(Path(place) / "recording.mp4", length_s, rounds)
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
