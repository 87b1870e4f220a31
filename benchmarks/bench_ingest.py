"""Indexing of long recordings: seconds of recording per second, and memory.

Recordings of 10 minutes, 1 hour and 3 hours (640 by 360, 25 frames a second, a keyframe every ten
seconds, 2 Mbit/s, textured) are indexed by a process of their own with the model of the recipe
`tiny`, whose weights do not matter here; the shortest one also with captions. Beside it stands how
fast one thread of PyAV decodes every picture and drops it, and how the forecast of `valor index
--plan` fits. Limits: 20 times real time without captions, and 1.5 GiB of resident memory whatever
the length (two cores).
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import av
import torch
from long_recording import CLIP_S, FPS, repeat, textured_clip

from valor.checkpoints.folder import save_model
from valor.config import evolve
from valor.evaluation.provenance import finish
from valor.inference import load
from valor.models.valor import ValorConfig
from valor.models.verbs import need_describer, need_embedder
from valor.processing.processor import Processor
from valor.processing.tokenizer import Tokenizer
from valor.recipes.tiny import tiny
from valor.search.library import Library
from valor.search.planning import estimate

MINUTES = (10, 60, 180)


def write_model(folder: Path, *, segment_s: float = 4.0) -> None:
    """The demo's model with random weights."""
    torch.manual_seed(0)
    config = evolve(tiny(), {"processor.segment_s": segment_s})
    assert isinstance(config.model, ValorConfig)
    processor = Processor(config.processor, Tokenizer.train(["a red circle moves up"]))
    model = config.model.with_vocabulary(processor.tokenizer.vocab_size).build()
    save_model(folder, model.config, model.state_dict(), processor, card="Random weights.")


def index(library: str, media: str, model: str, with_captions: bool) -> dict[str, float]:
    """Run in a process of its own: seconds of recording per second, and peak memory."""
    describer = need_describer(load(model)) if with_captions else None
    target = Library(library, model=model)
    start, busy_s = time.perf_counter(), time.process_time()
    report = target.add(media, describer=describer)
    seconds, processor_s = time.perf_counter() - start, time.process_time() - busy_s
    assert not report.bad, report.bad
    return {
        "processor_s_per_minute": 60 * processor_s / report.seconds_of_media,
        "times_real_time": report.seconds_of_media / seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def forecast(media: str, model: str, with_captions: bool, seconds: float) -> float:
    """Seconds of recording per second, as `valor index --plan` says."""
    loaded = load(model)
    describer = need_describer(loaded) if with_captions else None
    cost = estimate([media], need_embedder(loaded), describer, seconds=seconds)
    return cost.hours_of_media / (cost.embed_hours + (cost.caption_hours or 0.0))


def bare_decoding(media: Path) -> float:
    """Seconds of recording per second of one thread that decodes the pictures alone."""
    with av.open(str(media)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        start = time.perf_counter()
        num = sum(1 for _ in container.decode(stream))
        return num / FPS / (time.perf_counter() - start)


def measure(root: Path, minutes: int, *, with_captions: bool) -> dict[str, float]:
    media = root / f"{minutes}.mp4"
    if not media.exists():
        repeat([root / "clip.mp4"], [0] * (minutes * 60 // CLIP_S), media)
    library = root / f"library-{minutes}-{with_captions}"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(index, (str(library), str(media), str(root / "model"), with_captions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two minutes of video")
    arguments = parser.parse_args()
    lengths = (2,) if arguments.quick else MINUTES
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        textured_clip(root / "clip.mp4")
        write_model(root / "model")
        found = {minutes: measure(root, minutes, with_captions=False) for minutes in lengths}
        captioned = measure(root, lengths[0], with_captions=True)
        media, seconds = root / f"{lengths[0]}.mp4", 5.0 if arguments.quick else 60.0
        bare = bare_decoding(media)
        planned = forecast(str(media), str(root / "model"), False, seconds)
        planned_captions = forecast(str(media), str(root / "model"), True, 2 * seconds)
        megabits = (root / "clip.mp4").stat().st_size * 8 / 1e6 / CLIP_S
    figures = {
        "times_real_time": min(one["times_real_time"] for one in found.values()),
        "peak_gib": max(one["peak_gib"] for one in found.values()),
        "times_real_time_with_captions": captioned["times_real_time"],
        "peak_gib_with_captions": captioned["peak_gib"],
        "megabits_per_s": megabits,
        "times_real_time_of_bare_decoding": bare,
        "ingest_over_bare_decoding": found[lengths[0]]["times_real_time"] / bare,
        "planned_times_real_time": planned,
        "planned_times_real_time_with_captions": planned_captions,
    }
    for minutes, one in found.items():
        figures |= {f"{key}_at_{minutes}_minutes": value for key, value in one.items()}
    figures = {key: round(value, 2) for key, value in figures.items()}
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
