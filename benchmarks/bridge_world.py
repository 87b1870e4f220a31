"""The bridge on the rendered world: order and sound, against the same without the mechanism.

A small causal language model is trained on the world's texts alone and frozen; encoders of vision
and audio are trained by contrast with text. The bridge between them is then trained in two stages,
as are two variants of the same size and length: without frame positions, and with the mean of all
frames. `text only` is the frozen language model by itself; `reads captions` is
the same with true captions in the places of media, which is about the ceiling. Accuracies are on
held-out combinations: `order` of questions on what is seen first, `sound` of those that need audio.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from valor.checkpoints.folder import load_model
from valor.config import evolve
from valor.data.manifest import Question, Record, read_manifest
from valor.data.world.render import World, render_world
from valor.encoders.text import Memory
from valor.evaluation.provenance import finish
from valor.inference import DescribingModel
from valor.metrics.answering import exact_match
from valor.models.bridge import FrameOrder
from valor.models.generation import GenerationConfig
from valor.recipes.bridge import BridgeParts, assemble, bridge_encoders, train_bridge
from valor.recipes.template_language import as_media, captions_about, train_language_model
from valor.training.run import run
from valor.types import AUDIOVISUAL, Modality

VARIANTS: dict[str, FrameOrder] = {"bridge": "positions", "no_positions": "none", "mean": "mean"}
Asked = list[tuple[Record, Question]]


def kind_of(question: Question) -> str:
    if question.needs == "audio":
        return "sound"
    return "order" if question.type == "order" else "sight"


def accuracy(asked: Asked, answers: Sequence[str]) -> dict[str, float]:
    right: dict[str, list[bool]] = {"order": [], "sound": [], "sight": []}
    for (_, question), answer in zip(asked, answers, strict=True):
        right[kind_of(question)].append(exact_match(answer, question.answers))
    return {kind: statistics.mean(values) for kind, values in right.items()}


def describer(folder: Path) -> DescribingModel:
    return DescribingModel(*load_model(folder))


def by_media(model: DescribingModel, records: Sequence[Record], asked: Asked) -> list[str]:
    segments = {record.id: model.read(record.media) for record in records}
    answers: list[str] = []
    for first in range(0, len(asked), 64):
        part = asked[first : first + 64]
        shown = [segments[record.id] for record, _ in part]
        answers += [a.text for a in model.answer(shown, [q.text for _, q in part])]
    return answers


def by_text(model: DescribingModel, asked: Asked, *, reads: bool) -> list[str]:
    decoder, tokenizer = model.system.decoder, model.processor.tokenizer
    questions = model.processor.encode_texts([question.text for _, question in asked])
    memory = Memory(tokens={}, layers=[], sources={})
    if reads:
        said = {m: [captions_about(record, m)[0] for record, _ in asked] for m in AUDIOVISUAL}
        memory = as_media(decoder, tokenizer, said)
    with torch.no_grad():
        found = decoder.write(
            decoder.question_prompt(questions),
            memory,
            AUDIOVISUAL if reads else Modality(0),
            special=tokenizer.special,
            config=GenerationConfig(),
        )
    return tokenizer.decode(found.token_ids)


def share_cache(folder: Path, run_folder: Path) -> None:
    """All runs see the same media, decoded once."""
    run_folder.mkdir(parents=True, exist_ok=True)
    if not (run_folder / "cache").is_symlink():
        (run_folder / "cache").symlink_to((folder / "cache").absolute())


def measure(
    folder: Path, *, num_seeds: int, quick: bool, tell: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:
    num, num_test, language, contrast, steps = (
        (64, 16, 30, 6, (6, 6)) if quick else (3000, 200, 1500, 400, (500, 300))
    )
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    world = World(num=num, num_val=0, num_test=num_test, seed=0, level="relay")
    render_world(folder / "world", world)
    train = read_manifest(folder / "world", split="train")
    test = read_manifest(folder / "world", split="test")
    asked = [(record, question) for record in test for question in record.questions]
    if not (folder / "language").exists():
        train_language_model(train, folder / "language", num_steps=language)
    share_cache(folder, folder / "contrast")
    pretraining = evolve(bridge_encoders(), {"num_steps": contrast})
    encoders = run(pretraining, train, folder / "contrast")
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(num_seeds):
        for name, order in VARIANTS.items():
            torch.manual_seed(seed)
            out = folder / f"{name}-{seed}"
            for stage in ("captions", "answers"):
                share_cache(folder, out / stage)
            parts = BridgeParts(frame_order=order)
            start = out / "start"
            if not start.exists():
                assemble(folder / "language", start, encoders=encoders, parts=parts)
            model = describer(train_bridge(start, train, out, num_steps=steps, seed=seed))
            found.setdefault(name, []).append(accuracy(asked, by_media(model, test, asked)))
            tell(f"seed {seed} {name:12} {found[name][-1]}")
    alone = describer(folder / "bridge-0" / "start")
    for name, reads in (("text_only", False), ("reads_captions", True)):
        found[name] = [accuracy(asked, by_text(alone, asked, reads=reads))]
        tell(f"{name:19} {found[name][-1]}")
    return found


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    mean = {
        f"{name}_{kind}": statistics.mean(row[kind] for row in rows)
        for name, rows in found.items()
        for kind in rows[0]
    }
    spread = {
        f"{name}_{kind}_spread": max(r[kind] for r in rows) - min(r[kind] for r in rows)
        for name, rows in found.items()
        for kind in rows[0]
        if len(rows) > 1
    }
    gains = {
        "order_gain_over_mean": mean["bridge_order"] - mean["mean_order"],
        "order_gain_of_positions": mean["bridge_order"] - mean["no_positions_order"],
        "sound_gain_over_text_only": mean["bridge_sound"] - mean["text_only_sound"],
    }
    return {key: round(value, 4) for key, value in {**gains, **mean, **spread}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="keeps everything, to go on after a stop")
    parser.add_argument(
        "--quick", action="store_true", help="a minute: to see it run, not to learn"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        seeds = 1 if arguments.quick else arguments.seeds
        tell = partial(print, flush=True)
        found = measure(folder, num_seeds=seeds, quick=arguments.quick, tell=tell)
    figures = summary(found)
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
