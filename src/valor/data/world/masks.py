"""Masks of the rendered world, and frames spoilt so that only the past tells what they show.

The class of a pixel is the shape of the actor that is seen there. Shapes are independent of
colours and motions, so a spoilt frame tells where something is and which colour it has, but not
what it is.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8

from valor.data.masks import MaskedClip, MaskedMoment
from valor.data.world.drawing import draw
from valor.data.world.scene import (
    COLOURS,
    SHAPES,
    SIZE_PX,
    Level,
    Scene,
    draw_scene,
    visual_class,
)

CLASSES = ("background", *SHAPES)
"""What a pixel can show, by label."""
CLASS_COLOURS = ((0, 0, 0), *COLOURS.values())
"""Of each class in pictures of masks."""

_PAN = 0.35
"""Largest way of the camera in each direction, in parts of the side."""
_MAX_OCCLUDERS = 7
_NOISE = (50.0, 110.0)
"""Least and largest deviation of noise, of 255."""
_BLUR = (0.15, 0.3)
"""Least and largest way of a motion blur, in parts of the side."""


def masked_clip(scene: Scene, *, side_px: int = SIZE_PX) -> MaskedClip:
    """Draw a scene with the class of every pixel.

    Args:
        scene: What happens.
        side_px: Side of the pictures; a whole part of the world's own.

    Returns:
        Its frames and labels.

    Raises:
        ValueError: If the side is no whole part of the world's.
    """
    if side_px < 1 or SIZE_PX % side_px:
        raise ValueError(f"side_px={side_px}, wanted a whole part of {SIZE_PX}")
    picture, factor = draw(scene), SIZE_PX // side_px
    table = [0, *(1 + SHAPES.index(actor.shape) for actor in scene.actors)]
    labels = np.array(table, np.uint8)[picture.instances]
    blocks = picture.frames.reshape(-1, side_px, factor, side_px, factor, 3)
    return MaskedClip(
        id=scene.id,
        frames=blocks.mean(axis=(2, 4)).round().astype(np.uint8),
        labels=labels[:, factor // 2 :: factor, factor // 2 :: factor],
    )


def mask_scenes(seed: int, num: int, *, held_out: bool, level: Level = "full") -> Iterator[Scene]:
    """Scenes of which all visible actors have held-out combinations of shape and colour, or none.

    Args:
        seed: Of the world.
        num: How many.
        held_out: Whether the combinations are those that training never sees.
        level: Of the world.

    Yields:
        The scenes; more begin with fewer.
    """
    index, split = 0, "val" if held_out else "train"
    while num:
        scene = draw_scene(seed, split, index, level)
        index += 1
        if all((visual_class(a.shape, a.colour) == 0) == held_out for a in scene.visible):
            num -= 1
            yield scene


def pan(moment: MaskedMoment, rng: np.random.Generator) -> MaskedMoment:
    """Let the camera look a little elsewhere in every frame.

    What is at one place of the current frame was at others before, as when the camera moves with
    a car: a memory must find things by what they look like, not by where they are.

    Args:
        moment: Not changed.
        rng: Draws a way for each frame.

    Returns:
        The frames shifted, and the mask as its frame; what comes into view repeats the border.
    """
    side = len(moment.labels)
    margin = round(_PAN * side)
    ways = rng.integers(0, 2 * margin + 1, (len(moment.frames), 2))

    def shifted(
        picture: UInt8[np.ndarray, "side side *channels"], way: Int[np.ndarray, "2"]
    ) -> UInt8[np.ndarray, "side side *channels"]:
        edges = [(margin, margin)] * 2 + [(0, 0)] * (picture.ndim - 2)
        top, left = way
        return np.pad(picture, edges, mode="edge")[top : top + side, left : left + side]

    frames = [shifted(frame, way) for frame, way in zip(moment.frames, ways, strict=True)]
    return MaskedMoment(frames=np.stack(frames), labels=shifted(moment.labels, ways[-1]))


def spoil(
    frame: UInt8[np.ndarray, "side side 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "side side 3"]:
    """Blur a frame by motion, put occluders in front of it, add noise: at least one of these.

    Args:
        frame: Not changed.
        rng: Draws what happens.

    Returns:
        The spoilt frame.
    """
    kinds = 0
    while not kinds:
        kinds = int(rng.integers(8))
    spoilt = frame.astype(np.float32)
    if kinds & 1:
        spoilt = _blurred(spoilt, rng)
    if kinds & 2:
        _occlude(spoilt, rng)
    if kinds & 4:
        spoilt += rng.normal(0, rng.uniform(*_NOISE), spoilt.shape)
    return spoilt.clip(0, 255).round().astype(np.uint8)


def _blurred(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of the frame along a straight way."""
    side, angle = len(frame), rng.uniform(0, np.pi)
    way = rng.uniform(*_BLUR) * side
    margin = int(np.ceil(way / 2))
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    places = np.arange(-way / 2, way / 2 + 1e-6)
    total = np.zeros_like(frame)
    for down, right in zip(places * np.sin(angle), places * np.cos(angle), strict=True):
        top, left = margin + round(float(down)), margin + round(float(right))
        total += padded[top : top + side, left : left + side]
    return total / len(places)


def _occlude(frame: np.ndarray, rng: np.random.Generator) -> None:
    """Put bars of random greys across the frame."""
    side = len(frame)
    for _ in range(int(rng.integers(3, _MAX_OCCLUDERS + 1))):
        thick = round(side * rng.uniform(0.06, 0.12))
        start = int(rng.integers(0, side - thick))
        shade = rng.uniform(0, 200)
        if rng.random() < 0.5:
            frame[start : start + thick] = shade
        else:
            frame[:, start : start + thick] = shade
