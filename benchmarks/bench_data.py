"""From files to training samples: seconds per sample.

A sample is 8 frames of 224 pixels and one window of 5.12 s of sound, of a recording of 10 s: mp4,
640 by 360 pixels, H.264 with one keyframe in 250 frames, AAC. Limits: from mp4 at most 1.25 times a
bare decode (one thread, every packet of both tracks, no conversion); from shards at least 5 times
faster than from mp4, and at least 2 times faster than the way of VALOR's released code: a folder of
JPEG files of 640 by 360 pixels at 4 per second, read by PIL, beside a wav file of 22 050 Hz. Shards
hold 256 pixels (short side), their sound at the model's rate, or at 48 kHz. One thread unless
workers are named; the ways take turns, and the median of all turns is reported.
"""

import argparse
import statistics
import tempfile
import time
import wave
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

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
from valor.evaluation.provenance import finish
from valor.media.audio import decode_waveform
from valor.media.video import decode_frames
from valor.processing.frames import FrameConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig, spectrogram_windows

LENGTH_S, FPS, RATE_HZ = 10, 25, 44_100
SIZE = (640, 360)
FRAMES_PER_S = 4
WAV_HZ = 22_050
Kind = Literal["thread", "process"]
WORKERS: tuple[tuple[Kind, int], ...] = (
    ("thread", 0),
    ("thread", 1),
    ("thread", 2),
    ("process", 1),
    ("process", 2),
)
"""0 is the training process itself."""
SOUND = SpectrogramConfig(num_windows=1)
PROCESSOR = Processor(ProcessorConfig(frames=FrameConfig(num_bursts=8), spectrogram=SOUND), None)


def write_mp4(path: Path, seed: int) -> None:
    """A textured background that moves, a square on it, a grainy picture and two tones in noise."""
    rng = np.random.default_rng(seed)
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


def medians_s(repeats: int, num: int, **reads: Callable[[int, int], object]) -> dict[str, float]:
    """Of the seconds of each read of a file and a step, after one turn of each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    for step in range(repeats + 1):
        for index in range(num):
            for name, read in reads.items():
                begin = time.perf_counter()
                read(index, step)
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[num:]) for name, values in seconds.items()}


def measure(root: Path, *, quick: bool) -> dict[str, float]:
    num, repeats, num_steps = (2, 3, 1) if quick else (6, 8, 20)
    records = [Record(id=str(at), media=str(root / f"{at}.mp4")) for at in range(num)]
    for at, record in enumerate(records):
        write_mp4(Path(record.media), at)
        write_folder(Path(record.media), root / str(at))
    sources: dict[str, Source] = {"mp4": FileSource(records)}
    for name, rate_hz in (("shard", SOUND.sample_rate_hz), ("shard_48khz", 48_000)):
        config = ShardConfig(short_side_px=256, fps=FRAMES_PER_S, sample_rate_hz=rate_hz)
        shard(records, root / name, config, LocalExecutor(1))
        sources[name] = ShardSource(Shards(root / name))
    rng = np.random.default_rng(0)

    def reader(source: Source) -> Callable[[int, int], object]:
        return lambda index, step: source.load(index, PROCESSOR, Draw(seed=0, step=step))

    times_s = medians_s(
        repeats,
        num,
        bare_decode_s=lambda index, _: bare_decode(Path(records[index].media)),
        frame_folder_sample_s=lambda index, _: read_folder(root / str(index), rng),
        **{f"{name}_sample_s": reader(source) for name, source in sources.items()},
    )
    rates = {
        f"{name}_{kind}_{workers}_samples_per_s": per_s(sources[name], workers, kind, num_steps)
        for name in ("mp4", "shard")
        for kind, workers in WORKERS
    }
    ratios = {
        "mp4_over_bare": times_s["mp4_sample_s"] / times_s["bare_decode_s"],
        "shard_gain": times_s["mp4_sample_s"] / times_s["shard_sample_s"],
        "shard_48khz_gain": times_s["mp4_sample_s"] / times_s["shard_48khz_sample_s"],
        "gain_over_frame_folder": times_s["frame_folder_sample_s"] / times_s["shard_sample_s"],
    }
    return {**ratios, **times_s, **rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        measured = measure(Path(place), quick=arguments.quick)
    figures = {key: round(value, 5) for key, value in measured.items()}
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
