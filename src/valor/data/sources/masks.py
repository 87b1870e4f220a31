"""Videos of which single frames have a class for every pixel: Cityscapes sequences and CamVid.

Their texts are none, so they are no formats of manifests: a `LabelledFrame` names pictures.
Entry points: `cityscapes` and `camvid`, which list frames, and `read_moment`, which reads one.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from valor.data.masks import MaskedMoment
from valor.data.rows import opened
from valor.errors import ManifestError, MediaError
from valor.media.pictures import read_picture
from valor.metrics.masks import IGNORED

Colour = tuple[int, int, int]

CITYSCAPES = {
    **{"road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70)},
    **{"wall": (102, 102, 156), "fence": (190, 153, 153), "pole": (153, 153, 153)},
    **{"traffic light": (250, 170, 30), "traffic sign": (220, 220, 0)},
    **{"vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180)},
    **{"person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142)},
    **{"truck": (0, 0, 70), "bus": (0, 60, 100), "train": (0, 80, 100)},
    **{"motorcycle": (0, 0, 230), "bicycle": (119, 11, 32)},
}
"""The 19 classes that count, in the order of their training ids, with their colours."""
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Ids of those classes in `labelIds.png`."""

CAMVID = {
    **{"void": (0, 0, 0), "sky": (128, 128, 128), "building": (128, 0, 0)},
    **{"column pole": (192, 192, 128), "road": (128, 64, 128), "sidewalk": (0, 0, 192)},
    **{"tree": (128, 128, 0), "sign symbol": (192, 128, 128), "fence": (64, 64, 128)},
    **{"car": (64, 0, 128), "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192)},
}
"""The 11 classes of the usual grouping, behind the released model's class of void."""
_CAMVID_OTHERS: dict[str, tuple[Colour, ...]] = {
    "building": ((0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)),
    "column pole": ((0, 0, 64),),
    "road": ((128, 0, 192), (192, 0, 64)),
    "sidewalk": ((64, 192, 128), (128, 128, 192)),
    "tree": ((192, 192, 0),),
    "sign symbol": ((128, 128, 64), (0, 64, 64)),
    "car": ((64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    "pedestrian": ((192, 128, 64), (64, 0, 192), (64, 128, 64)),
    "bicyclist": ((192, 0, 192),),
}
"""Further colours of CamVid's 32 classes, by the class that they are grouped into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrame:
    """A frame with a mask, and the frames before it."""

    id: str
    past: tuple[Path, ...]
    """Pictures, the oldest first."""
    current: Path
    mask: Path
    read_labels: Callable[[Path], UInt8[np.ndarray, "height width"]]
    """Reads the mask as class of each pixel, `IGNORED` where none counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrames:
    """What a folder holds."""

    frames: list[LabelledFrame]
    missing: list[str]
    """Ids of labelled frames of which a picture is not there."""


def cityscapes(root: Path, split: str, *, num_past: int, step: int = 1) -> LabelledFrames:
    """List the labelled frames of Cityscapes with the frames before them.

    Args:
        root: Folder with `gtFine/` and `leftImg8bit_sequence/`.
        split: `train`, `val` or `test`.
        num_past: Past frames of each labelled one.
        step: Frames from one to the next.

    Returns:
        The frames in the order of their names.

    Raises:
        ManifestError: If the split has no mask.
    """
    end = "_gtFine_labelIds.png"
    masks = sorted((root / "gtFine" / split).rglob(f"*{end}"))
    pictures = root / "leftImg8bit_sequence" / split

    def listed() -> Iterator[tuple[str, list[Path], Path]]:
        for mask in masks:
            name = mask.name.removesuffix(end)
            places = [
                pictures / mask.parent.name / f"{before}_leftImg8bit.png"
                for before in names_before(name, num_past, step)
            ]
            yield name, places, mask

    return _existing(listed(), _cityscapes_labels, where=root / "gtFine" / split)


def camvid(root: Path, split: str, *, num_past: int, step: int = 1) -> LabelledFrames:
    """List the labelled frames of CamVid with the frames before them.

    Args:
        root: Folder with `annotations/SPLIT.txt`, a name per line; `labels/`, masks in colours as
            published or with class ids; and `images_sequence/`, all frames of the videos.
        split: `train`, `val` or `test`.
        num_past: Past frames of each labelled one.
        step: Frames from one to the next.

    Returns:
        The frames in the order of the list.

    Raises:
        ManifestError: If the list is missing or empty.
    """
    path = root / "annotations" / f"{split}.txt"
    with opened(path) as lines:
        names = [line.strip() for line in lines if line.strip()]

    def listed() -> Iterator[tuple[str, list[Path], Path]]:
        for name in names:
            earlier = names_before(name, num_past, step)
            places = [root / "images_sequence" / f"{before}.png" for before in earlier]
            yield name, places, root / "labels" / f"{name}_L.png"

    return _existing(listed(), _camvid_labels, where=path)


def names_before(name: str, num_past: int, step: int) -> list[str]:
    """Names of the frames before a frame, the oldest first, and its own behind them.

    Args:
        name: Ends with the frame's number, such as `aachen_000000_000019` or `0006R0_f00930`.
        num_past: How many before it.
        step: Frames from one to the next.

    Returns:
        The names; a number below 0 gives a name that no file has.

    Raises:
        ManifestError: If the name ends with no number.
    """
    found = re.fullmatch(r"(.*?)(\d+)", name)
    if found is None:
        raise ManifestError(f"{name!r}: expected the number of a frame at the end")
    digits = len(found[2])
    numbers = [int(found[2]) - step * back for back in range(num_past, -1, -1)]
    return [f"{found[1]}{number:0{digits}d}" for number in numbers]


def read_moment(frame: LabelledFrame) -> MaskedMoment:
    """Read the pictures and the mask of a labelled frame.

    Args:
        frame: From `cityscapes` or `camvid`.

    Returns:
        Frames and labels.

    Raises:
        MediaError: If a picture cannot be read, or their sizes differ.
    """
    pictures = [read_picture(path, "RGB") for path in (*frame.past, frame.current)]
    labels = frame.read_labels(frame.mask)
    sizes = {picture.shape[:2] for picture in pictures} | {labels.shape}
    if len(sizes) > 1:
        raise MediaError(str(frame.current), "size", f"pictures and mask of sizes {sorted(sizes)}")
    return MaskedMoment(frames=np.stack(pictures), labels=labels)


def _existing(
    listed: Iterable[tuple[str, list[Path], Path]],
    read_labels: Callable[[Path], np.ndarray],
    *,
    where: Path,
) -> LabelledFrames:
    frames: list[LabelledFrame] = []
    missing: list[str] = []
    for id, places, mask in listed:
        if not all(path.is_file() for path in (*places, mask)):
            missing.append(id)
            continue
        *past, current = places
        frames.append(
            LabelledFrame(
                id=id, past=tuple(past), current=current, mask=mask, read_labels=read_labels
            )
        )
    if not frames and not missing:
        raise ManifestError(f"{where}: no labelled frame")
    return LabelledFrames(frames=frames, missing=missing)


def _cityscapes_labels(path: Path) -> np.ndarray:
    table = np.full(256, IGNORED, np.uint8)
    table[list(_CITYSCAPES_IDS)] = np.arange(len(_CITYSCAPES_IDS))
    return table[read_picture(path)]


def _camvid_labels(path: Path) -> np.ndarray:
    """Void is not scored, though the released model has an output for it."""
    pixels = read_picture(path)
    if pixels.ndim == 2:
        return np.where((pixels == 0) | (pixels >= len(CAMVID)), IGNORED, pixels).astype(np.uint8)
    packed = pixels[..., :3].astype(np.int64) @ (1 << 16, 1 << 8, 1)
    labels = np.full(packed.shape, IGNORED, np.uint8)
    for label, (name, colour) in enumerate(CAMVID.items()):
        for red, green, blue in (colour, *_CAMVID_OTHERS.get(name, ())) if label else ():
            labels[packed == (red << 16) + (green << 8) + blue] = label
    return labels
