"""`valor masks`: decide what every pixel of a video shows."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from valor.cli.arguments import Json, parse
from valor.cli.progress import StageProgress
from valor.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from valor.checkpoints.masks import MaskModel


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a mask of every frame, and the video with its classes over it."""

    model: tyro.conf.Positional[Path]
    """Model folder of a TMANet."""
    file: tyro.conf.Positional[Path]
    """A video."""
    out: Path | None = None
    """Folder for masks/, overlay.mp4 and masks.json; FILE.masks by default."""
    fps: float = 8.0
    """Frames per second that are decided."""
    json: Json = False
    """A JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(Arguments, argv, verb="masks")
    if not arguments.fps > 0:
        raise UsageError(f"--fps {arguments.fps}, wanted above 0")
    from valor.checkpoints.masks import load_mask_model

    out = arguments.out or arguments.file.with_name(f"{arguments.file.name}.masks")
    if out.exists() and not (out / "masks.json").is_file():
        raise UsageError(f"{out}: exists and holds no masks; choose another --out")
    model = load_mask_model(arguments.model)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "masks").mkdir(parents=True)
    try:
        row = _write(model, arguments.file, partial, arguments.fps)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    row = {"out": str(out), **row}
    seen = ", ".join(row["seen"])
    print(json.dumps(row) if arguments.json else f"{out}: {row['frames']} masks; seen: {seen}")
    return 0


def _write(model: "MaskModel", file: Path, folder: Path, fps: float) -> dict:
    from valor.media.masks import overlay, save_mask, write_overlay

    classes = model.model.config.classes
    colours = [known.colour for known in classes]
    total, seen = model.num_frames(file, fps), set[int]()

    def pictures(progress: StageProgress) -> "Iterator[UInt8[np.ndarray, 'height width 3']]":
        for number, found in enumerate(model.masks(file, fps=fps)):
            save_mask(folder / "masks" / f"{number:06d}.png", found.labels, colours)
            seen.update(found.labels.ravel().tolist())
            progress("masks", number + 1, total)
            yield overlay(found.frame, found.labels, colours)

    with StageProgress() as progress:
        legend = [(known.name, known.colour) for known in classes]
        write_overlay(folder / "overlay.mp4", pictures(progress), fps=fps, legend=legend)
    row = {
        "file": str(file),
        "frames": total,
        "fps": fps,
        "classes": [known.name for known in classes],
        "seen": [classes[label].name for label in sorted(seen)],
    }
    (folder / "masks.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    return row
