"""Real sound: learn ten animals from a few hundred recordings, then name those of a held-out fifth.

A manifest is made of `labels.csv` (file, class, caption, seconds); every fifth recording of a class
is held out. A small model is trained from scratch on sound and the captions alone, such as "the
sound of a lion", for at most ten minutes on two cores. A recording counts as right if the caption
of its class is the most similar of the ten. Goal: at least 0.70. Chance is 0.10; logistic
regression on mel spectra that are averaged over time reaches 0.77, a small CNN 0.80.

The recordings are in the folder `animal_sounds` of what `VALOR_TEST_MEDIA` names, by default
`../shared/media`. The training alone is `valor train benchmarks.animal_sounds:recipe --data M`.
"""

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from valor.data.manifest import Record, TaggedText, read_manifest, write_manifest
from valor.encoders.audio import AstConfig
from valor.encoders.text import BertConfig
from valor.encoders.vision import VitConfig
from valor.evaluation.provenance import finish
from valor.inference import load
from valor.models.fusion import similarity
from valor.models.valor import ValorConfig
from valor.objectives.alignment import AlignmentConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.training.optim import OptimConfig
from valor.training.run import TrainConfig
from valor.training.step import ObjectivesConfig
from valor.types import Embedder, Modality

GOAL, CHANCE, HELD_OUT = 0.70, 0.10, 5


def recipe() -> TrainConfig:
    """Sound and text alone, small enough for a few hundred recordings.

    Cost: minutes on two cores. Expected: what this benchmark prints.
    """
    text = BertConfig(
        vocab_size=200, max_length=32, dim=64, num_layers=1, num_heads=4, mlp_dim=128, dropout=0.0
    )
    return TrainConfig(
        model=ValorConfig(
            vision=VitConfig(image_px=16, dim=32, num_layers=1, num_heads=2, mlp_dim=32),
            audio=AstConfig(
                hops_per_window=256,
                patch_mels=64,
                patch_hops=4,
                dim=128,
                num_layers=2,
                num_heads=4,
                mlp_dim=256,
            ),
            text=text,
            embed_dim=64,
        ),
        processor=ProcessorConfig(
            frames=FrameConfig(image_px=16),
            spectrogram=SpectrogramConfig(hops_per_window=256, num_windows=2),
            max_text_length=12,
        ),
        objectives=ObjectivesConfig(
            alignment=AlignmentConfig(groups=(Modality.AUDIO,)), captioning=None
        ),
        optim=OptimConfig(learning_rate=1e-3, weight_decay=0.1, average=0.99),
        batch_size=64,
        num_steps=500,
        precision="float32",
    )


def read_labels(folder: Path) -> list[Record]:
    """The recordings, every fifth of a class in split `test`."""
    seen: dict[str, int] = defaultdict(int)
    records: list[Record] = []
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            seen[row["class"]] += 1
            records.append(
                Record(
                    id=Path(row["file"]).stem,
                    media=str((folder / row["file"]).resolve()),
                    split="train" if seen[row["class"]] % HELD_OUT else "test",
                    captions=(TaggedText(text=row["caption"], about=Modality.AUDIO),),
                )
            )
    return records


def accuracies(folder: Path, test: list[Record]) -> dict[str, list[bool]]:
    """By class, which recordings are nearest to the caption of their own class."""
    model = load(folder)
    if not isinstance(model, Embedder):
        raise TypeError(f"{folder} does not embed")
    texts = sorted({record.captions[0].text for record in test})
    right: dict[str, list[bool]] = defaultdict(list)
    captions = model.embed_text(texts)
    for record in test:
        media = model.embed_media([model.read(record.media)])
        best = int(similarity(captions, media[Modality.AUDIO])[:, 0].argmax())
        right[record.captions[0].text].append(texts[best] == record.captions[0].text)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--media", type=Path)
    parser.add_argument("--steps", type=int, default=recipe().num_steps)
    arguments = parser.parse_args()
    shared = Path(os.environ.get("VALOR_TEST_MEDIA", "../shared/media"))
    steps = 10 if arguments.quick else arguments.steps
    with tempfile.TemporaryDirectory() as place:
        manifest = Path(place) / "manifest.jsonl"
        write_manifest(manifest, read_labels(arguments.media or shared / "animal_sounds"))
        train = read_manifest(manifest, split="train")
        test = read_manifest(manifest, split="test")
        start = time.perf_counter()
        config = replace(recipe(), num_steps=steps)
        folder = config.run(train, Path(place) / "run")
        seconds = time.perf_counter() - start
        right = accuracies(folder, test)
    every = [value for values in right.values() for value in values]
    figures = {
        "accuracy": statistics.mean(every),
        "accuracy_mean_of_classes": statistics.mean(statistics.mean(v) for v in right.values()),
        "chance": CHANCE,
        "num_train": len(train),
        "num_test": len(test),
        "steps": steps,
        "train_s": seconds,
    }
    finish(figures, arguments.json)
    for text, values in right.items():
        print(f"  {text:24} {statistics.mean(values):.2f} of {len(values)}")
    print(f"{'goal':26} {GOAL}")


if __name__ == "__main__":
    main()
