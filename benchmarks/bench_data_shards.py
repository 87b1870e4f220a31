"""Seconds per training sample: from shards, from mp4 files, and from a folder of frames.

A sample is 8 frames of 224 pixels and one window of 5.12 s of sound, of a 10 s recording: 640x360
H.264 with a keyframe every 250 frames, AAC. One thread unless workers are named. Limits: shards at
least 5 times faster than mp4, and at least 2 times faster than the way of VALOR's released code: a
folder of 640x360 JPEG files at 4 per second, read by PIL, beside a wav file of 22 050 Hz.
"""

import argparse
import json
import statistics
import tempfile
import time
import wave
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from PIL import Image

from valor.data.executors import LocalExecutor
from valor.data.loader import Loader, ReadingConfig
from valor.data.manifest import Record
from valor.data.mixture import Mixture
from valor.data.reading import Draw, FileSource, ShardSource, Source
from valor.data.sharding import ShardConfig, shard
from valor.data.shards import Shards
from valor.media.audio import decode_waveform
from valor.media.video import decode_frames
from valor.processing.frames import FrameConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig, spectrogram_windows

FPS, LENGTH_S, SIZE = 25, 10, (640, 360)
FRAMES_PER_S = 4
WAV_HZ = 22_050
Kind = Literal["thread", "process"]
KINDS: tuple[tuple[Kind, int], ...] = (
    *(("thread", 0), ("thread", 1), ("thread", 2)),
    *(("process", 1), ("process", 2)),
)
"""Workers are threads or processes; 0 is the main process alone."""
SOUND = SpectrogramConfig(num_windows=1)
PROCESSOR = Processor(ProcessorConfig(frames=FrameConfig(num_bursts=8), spectrogram=SOUND), None)


def write_video(path: Path, seed: int) -> None:
    """Moving texture with grain, and noise that fades in and out."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    small = Image.fromarray(rng.integers(0, 255, (40, 80, 3), dtype=np.uint8))
    canvas = np.asarray(small.resize((2 * width, 2 * height), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": "250"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = output.add_stream("aac", rate=44_100)
        for number in range(FPS * LENGTH_S):
            at = 2 * number
            picture = canvas[at // 2 : at // 2 + height, at : at + width].astype(np.int16)
            picture = picture + rng.integers(-6, 7, (height, width, 1))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), "rgb24")
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        times_s = np.arange(LENGTH_S * 44_100) / 44_100
        sound = rng.standard_normal((2, len(times_s))) * (0.1 + 0.1 * np.sin(times_s))
        frame = av.AudioFrame.from_ndarray(sound.astype(np.float32), "fltp", "stereo")
        frame.sample_rate = 44_100
        output.mux(audio.encode(frame))
        output.mux(audio.encode(None))


def write_folder(video: Path, folder: Path) -> None:
    """What the released code's preparation writes: frames as JPEG, sound as wav."""
    folder.mkdir()
    times_s = np.arange(LENGTH_S * FRAMES_PER_S) / FRAMES_PER_S
    for number, frame in enumerate(decode_frames(video, times_s)[0]):
        Image.fromarray(frame).save(folder / f"frame_{number:04d}.jpg", quality=90)
    sound = decode_waveform(video, sample_rate_hz=WAV_HZ)
    assert sound is not None
    with wave.open(str(folder / "sound.wav"), "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(WAV_HZ)
        output.writeframes((sound * 32767).astype("<i2").tobytes())


def read_folder(folder: Path, rng: np.random.Generator) -> None:
    """A sample in the released code's way; its resizing and filter bank are ours."""
    frames = sorted(folder.glob("*.jpg"))
    parts = np.array_split(np.arange(len(frames)), 8)
    pixels = []
    for part in parts:
        with Image.open(frames[rng.choice(part)]) as picture:
            resized = picture.convert("RGB").resize((398, 224), Image.Resampling.BICUBIC)
        pixels.append(np.asarray(resized)[:, 87:311].transpose(2, 0, 1))
    np.stack(pixels)
    with wave.open(str(folder / "sound.wav"), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    sound = torch.from_numpy(samples.astype(np.float32) / 32768)
    config = SpectrogramConfig(sample_rate_hz=WAV_HZ, num_windows=2)
    spectrogram_windows(sound, config)[rng.integers(2)]


def per_sample_s(read: Callable[[int, int], object], num: int, repeats: int) -> float:
    """Median over all samples of all repeats, after one repeat to warm up."""
    times_s = []
    for repeat in range(repeats + 1):
        for index in range(num):
            start = time.perf_counter()
            read(index, repeat)
            times_s.append(time.perf_counter() - start)
    return statistics.median(times_s[num:])


def per_s(source: Source, workers: int, kind: Kind, num_steps: int) -> float:
    """Samples per second of a loader, after its first two steps."""
    loader = Loader(
        sources=[source],
        mixture=Mixture([len(source)], batch_size=4, seed=0),
        processor=PROCESSOR,
        config=ReadingConfig(workers=workers, worker_kind=kind, steps_ahead=3),
        seed=0,
    )
    with closing(loader):
        steps = loader.steps(0, num_steps + 2)
        for _ in range(2):
            next(steps)
        start = time.perf_counter()
        num = sum(len(step.samples) for step in steps)
        return num / (time.perf_counter() - start)


def measure_shards(*, quick: bool) -> dict[str, float]:
    """Measure all of it; the keys of the result say what and in which unit."""
    num, repeats, num_steps = (3, 2, 1) if quick else (8, 6, 20)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        records = [Record(id=str(at), media=str(root / f"{at}.mp4")) for at in range(num)]
        for at, record in enumerate(records):
            write_video(Path(record.media), at)
            write_folder(Path(record.media), root / str(at))
        sources: dict[str, Source] = {"mp4": FileSource(records)}
        for name, rate_hz in (("shard", SOUND.sample_rate_hz), ("shard_48khz", 48_000)):
            config = ShardConfig(short_side_px=256, fps=FRAMES_PER_S, sample_rate_hz=rate_hz)
            shard(records, root / name, config, LocalExecutor(1))
            sources[name] = ShardSource(Shards(root / name))
        rng = np.random.default_rng(0)
        times_s = {
            f"{name}_sample_s": per_sample_s(
                lambda index, step, source=source: source.load(
                    index, PROCESSOR, Draw(seed=0, step=step)
                ),
                num,
                repeats,
            )
            for name, source in sources.items()
        }
        times_s["frame_folder_sample_s"] = per_sample_s(
            lambda index, _: read_folder(root / str(index), rng), num, repeats
        )
        rates = {
            f"{name}_{kind}_{workers}_samples_per_s": per_s(sources[name], workers, kind, num_steps)
            for name in ("mp4", "shard")
            for kind, workers in KINDS
        }
    ratios = {
        "shard_gain": times_s["mp4_sample_s"] / times_s["shard_sample_s"],
        "gain_over_frame_folder": times_s["frame_folder_sample_s"] / times_s["shard_sample_s"],
    }
    return {**ratios, **times_s, **rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    figures = {key: round(value, 5) for key, value in measure_shards(quick=arguments.quick).items()}
    for key, value in figures.items():
        print(f"{key:36} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
