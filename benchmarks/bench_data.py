"""From files to model inputs: seconds per sample.

An mp4 (640 by 360, H.264 with one keyframe in 250 frames, AAC, 10 s) becomes 8 frames of 224 pixels
and a spectrogram, the way training and serving read it. The limit is 1.25 times a bare decode: one
thread, every packet of both tracks, no conversion.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from valor.media.segments import decode_segment
from valor.processing.frames import FrameConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.tokenizer import Tokenizer
from valor.types import Sample

LENGTH_S = 10
FPS = 25
RATE_HZ = 44_100
SIZE = (640, 360)


def write_mp4(path: Path) -> None:
    """A textured background that moves, a square on it, a grainy picture and two tones in noise."""
    rng = np.random.default_rng(0)
    width, height = SIZE
    blocks = Image.fromarray(rng.integers(0, 255, (height // 8, width // 4, 3), dtype=np.uint8))
    background = np.asarray(blocks.resize((2 * width, height), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"g": "250", "keyint_min": "250", "sc_threshold": "0", "crf": "23"}
        audio: Any = container.add_stream("aac", rate=RATE_HZ, layout="stereo")
        for index in range(LENGTH_S * FPS):
            picture = background[:, 2 * index : 2 * index + width].astype(np.int16)
            picture += rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
            left = 5 * index % (width - 60)
            picture[100:160, left : left + 60] = (250, 20, 20)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8))
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        times_s = np.arange(LENGTH_S * RATE_HZ) / RATE_HZ
        tones = np.sin(2 * np.pi * np.array([[440], [660]]) * times_s)
        sound = (0.3 * tones + 0.1 * rng.standard_normal(tones.shape)).astype(np.float32)
        for begin in range(0, sound.shape[1], 1024):
            part = np.ascontiguousarray(sound[:, begin : begin + 1024])
            heard = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            heard.sample_rate, heard.pts = RATE_HZ, begin
            container.mux(audio.encode(heard))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def bare_decode(path: Path) -> None:
    with av.open(str(path)) as container:
        for stream in container.streams:
            stream.codec_context.thread_count = 1
        for packet in container.demux():
            packet.decode()


def sample(path: Path, processor: Processor) -> Sample:
    segment = decode_segment(path, processor.plan, end_s=float(LENGTH_S))
    prepared = processor.prepare(segment)
    assert prepared.pixels is not None
    assert prepared.pixels.shape == (8, 3, 224, 224)
    assert prepared.spectrograms is not None
    return prepared


def medians_s(rounds: int, **actions: Callable[[], object]) -> dict[str, float]:
    """Of the seconds that each takes; in turns, so that all have the same neighbours."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds + 1):
        for name, action in actions.items():
            begin = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def mp4_figures(folder: Path, rounds: int) -> dict[str, float]:
    path = folder / "film.mp4"
    write_mp4(path)
    config = ProcessorConfig(frames=FrameConfig(num_bursts=8))
    processor = Processor(config, Tokenizer.train(["a film"]))
    seconds = medians_s(
        rounds,
        bare_decode_s=lambda: bare_decode(path),
        mp4_sample_s=lambda: sample(path, processor),
    )
    ratio = seconds["mp4_sample_s"] / seconds["bare_decode_s"]
    return {"mp4_over_bare": round(ratio, 2), **{key: round(s, 4) for key, s in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        figures = mp4_figures(Path(place), rounds=5 if arguments.quick else 25)
    for key, value in figures.items():
        print(f"{key:28} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
