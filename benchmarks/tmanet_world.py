"""What the memory is worth: TMANet against networks of the same size, on the rendered world.

    python benchmarks/tmanet_world.py --seeds 3

Every arm has the same parameters, data and steps; only what stands in the memory, or how it is
read, differs. `single`: the current frame alone fills the memory. `shuffled`: the past of another
video. `mean`: the past values of a position, averaged. The camera looks elsewhere in every frame
(`--steady`: it does not, and things stay near their places). Test scenes have combinations of
shape and colour that training never sees. The limit: on spoilt frames TMANet is better in mean IoU
than each other arm by more than the spread (largest minus smallest of all seeds) of either.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from valor.config import evolve
from valor.data.masks import MaskedClip
from valor.data.world.masks import CLASSES, mask_scenes, masked_clip
from valor.evaluation.provenance import finish
from valor.recipes.tmanet import MaskTrainConfig, mask_task, new_model, score, tmanet_world
from valor.training.loop import fit


def as_it_is(frames: Tensor) -> Tensor:
    return frames


def single(frames: Tensor) -> Tensor:
    return frames[:, -1:].expand_as(frames)


def shuffled(frames: Tensor) -> Tensor:
    return torch.cat([frames[:, :-1].roll(1, dims=0), frames[:, -1:]], dim=1)


ARMS = {
    "tmanet": (as_it_is, "attention"),
    "single": (single, "attention"),
    "shuffled": (shuffled, "attention"),
    "mean": (as_it_is, "mean"),
}


def draw_clips(seed: int, num: int, *, held_out: bool, side_px: int) -> list[MaskedClip]:
    scenes = mask_scenes(seed, num, held_out=held_out)
    return [masked_clip(scene, side_px=side_px) for scene in scenes]


def train_and_score(
    arm: str, config: MaskTrainConfig, train: list[MaskedClip], test: list[MaskedClip]
) -> dict[str, float]:
    """Mean IoU on spoilt and on clean frames, size and seconds of one run."""
    arrange, read = ARMS[arm]
    config = evolve(config, {"model.head.read": read})
    model, start = new_model(config), time.perf_counter()
    with TemporaryDirectory() as out:
        fit(mask_task(config, model, train, arrange=arrange), Path(out))
    seconds = time.perf_counter() - start
    rates = {
        name: score(model, config, test, spoilt=spoilt, arrange=arrange).compute()["mean_iou"]
        for name, spoilt in (("spoilt", True), ("clean", False))
    }
    parameters = sum(p.numel() for p in model.parameters())
    return {**rates, "seconds": seconds, "parameters": parameters}


def summarise(runs: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for frames in ("spoilt", "clean"):
        values = {arm: [run[frames] for run in rows] for arm, rows in runs.items()}
        means = {arm: statistics.fmean(found) for arm, found in values.items()}
        spread = {arm: max(found) - min(found) for arm, found in values.items()}
        for arm in runs:
            figures[f"{frames}_{arm}_mean_iou"] = means[arm]
            figures[f"{frames}_{arm}_spread"] = spread[arm]
        for arm in [arm for arm in runs if arm != "tmanet"]:
            figures[f"{frames}_margin_over_{arm}"] = means["tmanet"] - means[arm]
            figures[f"{frames}_spread_against_{arm}"] = max(spread["tmanet"], spread[arm])
    return {key: round(value, 4) for key, value in figures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steady", action="store_true", help="the camera stands still")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="keeps every run, to go on after a stop")
    parser.add_argument(
        "--quick", action="store_true", help="10 steps and one seed: not to be good"
    )
    arguments = parser.parse_args()
    quick = arguments.quick
    config = tmanet_world()
    steps = arguments.steps or (10 if quick else config.num_steps)
    config = evolve(config, {"num_steps": steps, "save_every": steps, "pans": not arguments.steady})
    side_px, num = config.sequence.short_side_px, (40, 16) if quick else (1000, 200)
    train, test = (
        draw_clips(0, n, held_out=held, side_px=side_px)
        for n, held in zip(num, (False, True), strict=True)
    )
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in arguments.arms}
    for seed in range(1 if quick else arguments.seeds):
        for arm in arguments.arms:
            kept = arguments.out / f"{arm}-{seed}.json" if arguments.out else None
            if kept and kept.is_file():
                run = json.loads(kept.read_text(encoding="utf-8"))
            else:
                run = train_and_score(arm, evolve(config, {"seed": seed}), train, test)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(run), encoding="utf-8")
            runs[arm].append(run)
            row = "  ".join(f"{key} {value:.4g}" for key, value in run.items())
            print(f"seed {seed}  {arm:9} {row}", flush=True)
    figures = summarise(runs) | {"num_classes": len(CLASSES), "num_steps": steps}
    margins = [key.rpartition("_")[2] for key in figures if key.startswith("spoilt_margin")]
    good = all(
        figures[f"spoilt_margin_over_{arm}"] > figures[f"spoilt_spread_against_{arm}"]
        for arm in margins
    )
    finish(figures, arguments.json)
    print(f"{'ok' if good else 'OFF'}: on spoilt frames above every other arm by more than spread")
    return int(not good and not quick)


if __name__ == "__main__":
    sys.exit(main())
