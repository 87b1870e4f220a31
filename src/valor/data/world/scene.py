"""Scenes: who is seen where, who is heard how, and which combinations are held out.

Everything seen is independent of everything heard. A combination of the main actor's shape and
colour with the heard timbre is held out for testing if its indices add up to a multiple of three:
a third of all combinations, with every pair of attributes still uniform among the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

SHAPES = ("circle", "ring", "triangle", "cross", "bar", "pillar")
COLOURS = {
    "red": (224, 48, 48),
    "green": (56, 184, 72),
    "blue": (56, 96, 240),
    "yellow": (244, 216, 48),
    "purple": (176, 64, 216),
    "white": (240, 240, 240),
}
MOTIONS = ("left", "right", "up", "down", "circle", "still")
TIMBRES = ("bell", "horn", "drum", "whistle", "buzzer", "chirp", "hiss", "pluck", "siren")
RHYTHMS = ("slow", "steady", "fast", "galloping")
PITCHES = ("low", "mid", "high")
TEXTURES = ("plain", "gradient", "stripes", "grain")
LAYOUTS = {"solo": 0.40, "companion": 0.35, "offscreen": 0.25}
"""How often each layout of level `duet` is drawn."""

DURATION_S = 4.0
FPS = 8
SIZE_PX = 96
SAMPLE_RATE_HZ = 16_000
NUM_FRAMES = int(DURATION_S * FPS)
NUM_CLASSES = 3
"""Modulus of the rule for held-out combinations."""

Level = Literal["duet", "full", "relay"]
"""In `relay`, two actors are each seen and heard in a half of its own, the main one first."""
Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How an actor sounds."""

    timbre: str
    rhythm: str
    pitch: str
    tuning: float
    """Factor on the pitch's frequency, near 1."""
    loudness: float
    first_beat_s: float
    start_s: float = 0.0
    end_s: float = DURATION_S
    """The actor sounds in `[start_s, end_s)` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A shape on the screen, or off it."""

    shape: str
    colour: str
    motion: str
    radius_px: float
    centre_px: tuple[float, float]
    """Middle of the path, x to the right and y down."""
    reach_px: float
    """Half the length of a straight path, or the radius of a circle."""
    turns: float
    """Of a circular path; negative is anticlockwise."""
    on_screen: bool = True
    voice: Voice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What stands and hums behind the actors."""

    texture: str
    colour: tuple[float, float, float]
    ambience: float
    """Amplitude of the ambient noise."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Four seconds of the world; `actors[0]` is the main one and is always on the screen."""

    id: str
    split: Split
    level: Level
    layout: str
    family: str
    actors: tuple[Actor, ...]
    background: Background

    @property
    def sounding(self) -> list[Actor]:
        """Actors with a voice, in the order in which they begin."""
        voices = [actor for actor in self.actors if actor.voice]
        return sorted(voices, key=lambda actor: actor.voice.start_s if actor.voice else 0.0)

    @property
    def visible(self) -> list[Actor]:
        """Actors on the screen, the main one first."""
        return [actor for actor in self.actors if actor.on_screen]


def shown(scene: Scene, actor: Actor) -> Bool[np.ndarray, " frames"]:
    """True for the frames in which an actor can be seen."""
    if not actor.on_screen:
        return np.zeros(NUM_FRAMES, bool)
    if scene.level != "relay" or actor.voice is None:
        return np.ones(NUM_FRAMES, bool)
    times_s = np.arange(NUM_FRAMES) / FPS
    return (actor.voice.start_s <= times_s) & (times_s < actor.voice.end_s)


def beats(voice: Voice) -> Float[np.ndarray, " beats"]:
    """Times in seconds at which a voice sounds."""
    period, pattern = {
        "slow": (1.0, (0.0,)),
        "steady": (0.5, (0.0,)),
        "fast": (0.25, (0.0,)),
        "galloping": (0.8, (0.0, 0.16)),
    }[voice.rhythm]
    starts = np.arange(voice.start_s + voice.first_beat_s, voice.end_s, period)
    times = np.sort(np.concatenate([starts + offset for offset in pattern]))
    return times[times < voice.end_s - 0.1]


def is_held_out(shape: str, colour: str, timbre: str) -> bool:
    """True for combinations that training never sees."""
    return (visual_class(shape, colour) + TIMBRES.index(timbre)) % NUM_CLASSES == 0


def visual_class(shape: str, colour: str) -> int:
    """Decides, together with the timbre's class, whether a combination is held out."""
    return (SHAPES.index(shape) + list(COLOURS).index(colour)) % NUM_CLASSES


def draw_scene(seed: int, split: Literal["train", "val"], index: int, level: Level) -> Scene:
    """Draw one scene of a split; it depends on these values alone."""
    rng = np.random.default_rng((seed, ("train", "val").index(split), index))
    scene = _draw_visual(rng, level)
    main = scene.actors[0]
    allowed = [t for t in TIMBRES if not is_held_out(main.shape, main.colour, t)]
    scene = _give_voices(scene, rng, _pick(rng, allowed), _pick(rng, RHYTHMS), _pick(rng, PITCHES))
    name = f"{split}-{index:06d}"
    return replace(scene, id=name, split=split, family=name)


def draw_test_pool(seed: int, num: int, level: Level) -> list[Scene]:
    """Draw a test pool of near-duplicates with held-out combinations only.

    Scenes come in families of four: two sights, each with two sounds of different timbre and the
    same beats. Every scene so has a twin that looks the same and one that sounds the same. Families
    take sights and sounds in shuffled order without repetition as long as there are fresh ones.

    Args:
        seed: Of the world.
        num: Pool size; the last family is cut short if it is no multiple of four.
        level: Of the world.

    Returns:
        The scenes; a longer pool begins with a shorter one's.
    """
    rng = np.random.default_rng((seed, 2))
    sights = _Deck(rng, [(s, c, m) for s in SHAPES for c in COLOURS for m in MOTIONS])
    sounds = _Deck(rng, [(t, r, p) for t in TIMBRES for r in RHYTHMS for p in PITCHES])
    scenes: list[Scene] = []
    while len(scenes) < num:
        scenes += _draw_family(rng, sights, sounds, f"family-{len(scenes) // 4:05d}", level)
    return [replace(s, id=f"test-{i:06d}", split="test") for i, s in enumerate(scenes[:num])]


def _draw_family(
    rng: np.random.Generator, sights: "_Deck", sounds: "_Deck", family: str, level: Level
) -> list[Scene]:
    layout = _pick(rng, list(LAYOUTS), list(LAYOUTS.values()))
    first = sights.take(lambda _: True)
    kind = visual_class(first[0], first[1])
    second = sights.take(lambda s: s != first and visual_class(s[0], s[1]) == kind)
    one = sounds.take(lambda s: is_held_out(first[0], first[1], s[0]))
    two = sounds.take(
        lambda s: s[0] != one[0] and s[1] == one[1] and is_held_out(first[0], first[1], s[0])
    )
    scenes = []
    for shape, colour, motion in (first, second):
        scene = _draw_visual(rng, level, layout)
        main = replace(scene.actors[0], shape=shape, colour=colour, motion=motion)
        scene = replace(scene, actors=(main, *_others(rng, main, scene)))
        voice_seed = int(rng.integers(2**32))
        for timbre, rhythm, pitch in (one, two):
            voices = np.random.default_rng(voice_seed)
            voiced = _give_voices(scene, voices, timbre, rhythm, pitch)
            scenes.append(replace(voiced, family=family))
    return scenes


class _Deck:
    """Cards in random order, drawn without repetition until none fits, then shuffled anew."""

    def __init__(self, rng: np.random.Generator, cards: list[tuple[str, str, str]]) -> None:
        self._rng, self._cards = rng, cards
        self._left: list[tuple[str, str, str]] = []

    def take(self, fits: Callable[[tuple[str, str, str]], bool]) -> tuple[str, str, str]:
        """Draw the next card that fits."""
        for cards in (self._left, self._shuffled()):
            for card in cards:
                if fits(card):
                    cards.remove(card)
                    self._left = cards
                    return card
        raise AssertionError("no card fits")

    def _shuffled(self) -> list[tuple[str, str, str]]:
        return [self._cards[i] for i in self._rng.permutation(len(self._cards))]


def _draw_visual(rng: np.random.Generator, level: Level, layout: str | None = None) -> Scene:
    """Draw everything that is seen; nobody has a voice yet."""
    if level == "full":
        layout = f"{int(rng.integers(1, 4))} actors"
    elif level == "relay":
        layout = "relay"
    layout = layout or _pick(rng, list(LAYOUTS), list(LAYOUTS.values()))
    main = _draw_actor(rng, SHAPES, tuple(COLOURS), MOTIONS)
    background = Background(
        texture=_pick(rng, TEXTURES),
        colour=(rng.uniform(16, 60), rng.uniform(16, 60), rng.uniform(16, 60)),
        ambience=float(rng.uniform(0.002, 0.01)),
        seed=int(rng.integers(2**32)),
    )
    scene = Scene(
        id="", split="train", level=level, layout=layout, family="", actors=(main,),
        background=background,
    )  # fmt: skip
    return replace(scene, actors=(main, *_others(rng, main, scene)))


def _others(rng: np.random.Generator, main: Actor, scene: Scene) -> list[Actor]:
    """Actors beside the main one: of another shape and colour, smaller, and off its path."""
    if scene.layout == "offscreen":
        return [replace(_draw_actor(rng, SHAPES, tuple(COLOURS), MOTIONS), on_screen=False)]
    num = (
        1
        if scene.layout in ("companion", "relay")
        else int(scene.layout[0]) - 1
        if "actors" in scene.layout
        else 0
    )
    others: list[Actor] = []
    for _ in range(num):
        taken = [main, *others]
        shapes = tuple(s for s in SHAPES if all(a.shape != s for a in taken))
        colours = tuple(c for c in COLOURS if all(a.colour != c for a in taken))
        motions = ("still",) if scene.level == "duet" else MOTIONS
        actor = _draw_actor(rng, shapes, colours, motions)
        if scene.level == "relay":  # Never seen together: nothing but time tells them apart.
            others.append(actor)
            continue
        places = rng.uniform(16, SIZE_PX - 16, size=(12, 2))
        paths = np.concatenate([path(a) for a in taken])
        clearance = np.linalg.norm(places[:, None] - paths[None], axis=2).min(axis=1)
        x, y = places[int(clearance.argmax())]
        others.append(
            replace(
                actor,
                radius_px=float(rng.uniform(12, 14)),
                centre_px=(float(x), float(y)),
                reach_px=10.0,
                on_screen=scene.level != "full" or bool(rng.random() < 0.8),
            )
        )
    return others


def _draw_actor(
    rng: np.random.Generator,
    shapes: tuple[str, ...],
    colours: tuple[str, ...],
    motions: tuple[str, ...],
) -> Actor:
    reach = float(rng.uniform(18, 24))
    free = SIZE_PX / 2 - 24 - reach
    x, y = SIZE_PX / 2 + rng.uniform(-1, 1, size=2) * max(free, 0.0)
    return Actor(
        shape=_pick(rng, shapes),
        colour=_pick(rng, colours),
        motion=_pick(rng, motions),
        radius_px=float(rng.uniform(16, 19)),
        centre_px=(float(x), float(y)),
        reach_px=reach,
        turns=float(rng.choice([-1, 1]) * rng.uniform(1.5, 2.0)),
    )


def path(actor: Actor) -> Float[np.ndarray, "frames 2"]:
    """Centre of an actor in every frame, in pixels."""
    progress = np.arange(NUM_FRAMES) / NUM_FRAMES
    along = actor.reach_px * (2 * progress - 1)
    angle = 2 * np.pi * actor.turns * progress
    x, y = {
        "left": (-along, 0 * along),
        "right": (along, 0 * along),
        "up": (0 * along, -along),
        "down": (0 * along, along),
        "circle": (actor.reach_px * np.cos(angle), actor.reach_px * np.sin(angle)),
        "still": (0 * along, 0 * along),
    }[actor.motion]
    return np.stack([x + actor.centre_px[0], y + actor.centre_px[1]], axis=1)


def _give_voices(
    scene: Scene, rng: np.random.Generator, timbre: str, rhythm: str, pitch: str
) -> Scene:
    """Let the scene sound; the given attributes are those of the first voice."""
    voice = Voice(
        timbre=timbre,
        rhythm=rhythm,
        pitch=pitch,
        tuning=float(np.exp(rng.uniform(-0.06, 0.06))),
        loudness=float(rng.uniform(0.3, 0.6)),
        first_beat_s=float(rng.uniform(0.0, 0.2)),
    )
    if scene.level == "duet":
        source = 1 if scene.layout == "offscreen" else 0
        actors = [
            replace(a, voice=voice if i == source else None) for i, a in enumerate(scene.actors)
        ]
        return replace(scene, actors=tuple(actors))
    order, num = np.arange(2), 2
    if scene.level == "full":
        order = rng.permutation(len(scene.actors))
        num = int(rng.integers(1, len(order) + 1))
    others = [t for t in TIMBRES if t != timbre]
    voices = [voice, *(_other_voice(rng, t) for t in rng.permutation(others)[: num - 1])]
    slot_s = DURATION_S / num
    actors = list(scene.actors)
    for turn, index in enumerate(order[:num]):
        stretch = {"start_s": turn * slot_s, "end_s": (turn + 1) * slot_s}
        actors[index] = replace(actors[index], voice=replace(voices[turn], **stretch))
    return replace(scene, actors=tuple(actors))


def _other_voice(rng: np.random.Generator, timbre: str) -> Voice:
    return Voice(
        timbre=str(timbre),
        rhythm=_pick(rng, RHYTHMS),
        pitch=_pick(rng, PITCHES),
        tuning=1.0,
        loudness=float(rng.uniform(0.3, 0.6)),
        first_beat_s=float(rng.uniform(0.0, 0.2)),
    )


def _pick(
    rng: np.random.Generator, options: Sequence[str], weights: Sequence[float] | None = None
) -> str:
    return str(options[int(rng.choice(len(options), p=weights))])
