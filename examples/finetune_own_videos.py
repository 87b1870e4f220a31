"""Fine-tune a model on a folder of your own videos, and see on held-out ones what it brought.

    python examples/finetune_own_videos.py MODEL FOLDER OUT [STEPS]

Beside each `street.mp4` lies `street.txt` with a caption per line. Every fifth video is kept for
the test. Two hundred videos are few: start from a model that knows the world, and stop early.
"""

import sys
from dataclasses import replace
from pathlib import Path

import valor
from valor.data.manifest import write_manifest
from valor.data.sources.formats import import_records
from valor.recipes.demo import evaluate_into
from valor.training.optim import OptimConfig
from valor.training.run import TrainConfig
from valor.training.start import FolderConfig
from valor.types import AUDIOVISUAL


def main(model: str, folder: str, out: str, steps: str = "200") -> tuple[float, float]:
    """Train, and return how often the right video came first before and after."""
    found = import_records("folder", [Path(folder)], Path(folder)).records
    records = [
        replace(record, split="train" if row % 5 else "test") for row, record in enumerate(found)
    ]
    train = [record for record in records if record.split == "train"]
    write_manifest(Path(out) / "manifest.jsonl", records)
    config = TrainConfig(
        model=FolderConfig(path=model),
        processor=valor.Processor.load(Path(model)).config,
        optim=OptimConfig(learning_rate=1e-4),
        batch_size=min(16, len(train)),
        num_steps=int(steps),
    )
    tuned = config.run(train, Path(out) / "run")
    before, after = (recall(source, Path(out), stage) for source, stage in
                     ((model, "before"), (str(tuned), "after")))  # fmt: skip
    print(f"R@1 {before:.2f} before, {after:.2f} after; the model is in {tuned}")
    return before, after


def recall(model: str, out: Path, stage: str) -> float:
    """R@1 of the held-out captions, with a report page beside it."""
    report = evaluate_into(out / stage, valor.load(model), out / "manifest.jsonl", split="test")
    return report["retrieval"][AUDIOVISUAL.label]["text_to_media"]["r1"]


if __name__ == "__main__":
    main(*sys.argv[1:])
