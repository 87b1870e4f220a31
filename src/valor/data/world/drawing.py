"""Frames, instance masks and boxes of a scene.

A sounding actor pulses: at each of its beats it swells and brightens for a moment, so that a sound
can be bound to the actor that makes it by timing alone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from valor.data.world.scene import (
    COLOURS,
    FPS,
    NUM_FRAMES,
    SIZE_PX,
    Actor,
    Background,
    Scene,
    beats,
    path,
    shown,
)

_SWELL = 0.25
_BRIGHTEN = 0.45
_FADE_S = 0.18


@dataclass(slots=True, kw_only=True)
class Picture:
    """A scene as it is seen."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    instances: UInt8[np.ndarray, "frames height width"]
    """0 is background, else 1 + the actor's index."""
    boxes: dict[int, Float[np.ndarray, "frames 4"]]
    """By actor index: left, top, right, bottom in pixels; zeros in frames that do not show it."""


def draw(scene: Scene) -> Picture:
    """Draw all frames; later actors stand behind earlier ones."""
    canvas = np.broadcast_to(_background(scene.background), (NUM_FRAMES, SIZE_PX, SIZE_PX, 3))
    canvas = canvas.astype(np.float32)
    instances = np.zeros((NUM_FRAMES, SIZE_PX, SIZE_PX), np.uint8)
    boxes = {}
    for index in reversed(range(len(scene.actors))):
        actor = scene.actors[index]
        if actor.on_screen:
            seen = shown(scene, actor)
            boxes[index] = _draw_actor(canvas, instances, actor, 1 + index, seen)
    return Picture(frames=canvas.round().astype(np.uint8), instances=instances, boxes=boxes)


def pulse(actor: Actor) -> Float[np.ndarray, " frames"]:
    """Strength of an actor's pulse in every frame, in [0, 1]."""
    if actor.voice is None:
        return np.zeros(NUM_FRAMES)
    since = np.arange(NUM_FRAMES)[:, None] / FPS - beats(actor.voice)[None]
    # Half a frame early counts: a frame stands for the time around it.
    fading = np.where(since >= -0.5 / FPS, np.exp(-np.maximum(since, 0) / _FADE_S), 0.0)
    return fading.max(axis=1, initial=0.0)


def _draw_actor(
    canvas: np.ndarray, instances: np.ndarray, actor: Actor, label: int, seen: np.ndarray
) -> np.ndarray:
    beat = pulse(actor)
    centre = path(actor)
    radius = actor.radius_px * (1 + _SWELL * beat)
    reach = int(np.ceil(radius.max() * 1.2)) + 1
    corner = np.floor(centre).astype(int) - reach
    grid = np.arange(2 * reach + 1, dtype=np.float32) + 0.5
    x = (corner[:, :1] + grid - centre[:, :1])[:, None, :].astype(np.float32)
    y = (corner[:, 1:] + grid - centre[:, 1:])[:, :, None].astype(np.float32)
    distance = _distance(actor.shape, x, y, radius[:, None, None].astype(np.float32))
    cover = np.clip(0.5 - distance, 0, 1)
    colour = np.array(COLOURS[actor.colour], np.float32)
    bright = colour + (255 - colour) * (_BRIGHTEN * beat[:, None]).astype(np.float32)
    for frame in seen.nonzero()[0]:
        left, top = corner[frame]
        rows = slice(max(top, 0), min(top + len(grid), SIZE_PX))
        columns = slice(max(left, 0), min(left + len(grid), SIZE_PX))
        part = cover[
            frame, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        target = canvas[frame, rows, columns]
        target += part[..., None] * (bright[frame] - target)
        instances[frame, rows, columns][part >= 0.5] = label
    extent = np.concatenate([centre - radius[:, None], centre + radius[:, None]], axis=1)
    return np.where(seen[:, None], np.clip(extent, 0, SIZE_PX), 0.0).astype(np.float32)


def _distance(shape: str, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in pixels, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95 * r
    if shape == "triangle":
        return np.maximum(y, abs(x) * 0.866 - y * 0.5) - 0.55 * r
    if shape == "cross":
        long, thin = 1.0 * r, 0.32 * r
        across = np.maximum(abs(x) - long, abs(y) - thin)
        return np.minimum(across, np.maximum(abs(x) - thin, abs(y) - long))
    if shape == "ring":
        return abs(np.hypot(x, y) - 0.74 * r) - 0.24 * r
    wide, high = (1.0, 0.42) if shape == "bar" else (0.42, 1.0)  # The other one is a pillar.
    return np.maximum(abs(x) - wide * r, abs(y) - high * r)


def _background(background: Background) -> np.ndarray:
    rng = np.random.default_rng(background.seed)
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32) / SIZE_PX
    slope = rng.normal(size=2)
    along = (x - 0.5) * slope[0] + (y - 0.5) * slope[1]
    shade = {
        "plain": np.zeros_like(x),
        "gradient": 14 * along,
        "stripes": 9 * np.sign(np.sin(18 * along)),
        "grain": 6 * rng.normal(size=x.shape),
    }[background.texture]
    return np.clip(np.array(background.colour) + shade[..., None], 0, 110).astype(np.float32)
