"""What can be said about a scene: facts, captions, questions, and reading captions back.

Slots are the facts that captions state. Of the seen: `colour`, `shape` and `motion` of the main
actor, `companion_colour` and `companion_shape`. Of the heard: `timbre`, `rhythm` and `pitch` of the
first voice. `source` says whether the sound comes from the main actor or from off screen.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from valor.data.world.scene import COLOURS, PITCHES, RHYTHMS, SHAPES, TIMBRES, Scene

VISION_SLOTS = ("colour", "shape", "motion", "companion_colour", "companion_shape")
AUDIO_SLOTS = ("timbre", "rhythm", "pitch")
Slots = dict[str, str]

_MOTION_PHRASES = {
    "left": ("moves left", "drifts to the left"),
    "right": ("moves right", "drifts to the right"),
    "up": ("rises", "moves up"),
    "down": ("falls", "moves down"),
    "circle": ("circles", "goes in circles"),
    "still": ("stays still", "rests"),
}
_RHYTHM_PHRASES = {
    "slow": ("slowly", "at a slow beat"),
    "steady": ("steadily", "at a steady beat"),
    "fast": ("fast", "at a fast beat"),
    "galloping": ("in pairs", "at a galloping beat"),
}
_KEYWORDS: dict[str, dict[str, str]] = {
    "motion": {
        **{word: word for word in ("left", "right", "up", "down")},
        **{"rises": "up", "falls": "down", "circles": "circle", "still": "still", "rests": "still"},
    },
    "rhythm": {
        **{"slow": "slow", "slowly": "slow", "steady": "steady", "steadily": "steady"},
        **{"fast": "fast", "pairs": "galloping", "galloping": "galloping"},
    },
    "timbre": {timbre: timbre for timbre in TIMBRES},
    "pitch": {pitch: pitch for pitch in PITCHES},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldCaption:
    """A caption with the facts that it states."""

    text: str
    about: str
    """`vision`, `audio` or `audiovisual`."""
    style: str
    slots: Slots


def facts(scene: Scene) -> Slots:
    """Everything that captions of a scene can state; a missing companion has no slots."""
    main = scene.actors[0]
    slots = {"colour": main.colour, "shape": main.shape, "motion": main.motion}
    if len(scene.visible) > 1:
        companion = scene.visible[1]
        slots |= {"companion_colour": companion.colour, "companion_shape": companion.shape}
    first = scene.sounding[0]
    if first.voice is None:
        raise ValueError(f"scene {scene.id} has no voice")
    slots |= {"timbre": first.voice.timbre, "rhythm": first.voice.rhythm}
    slots |= {"pitch": first.voice.pitch}
    return slots | {"source": _source(scene)}


def _source(scene: Scene) -> str:
    """Where the first sound comes from."""
    first = scene.sounding[0]
    if first is scene.actors[0]:
        return "main"
    return "companion" if first.on_screen else "offscreen"


def caption_fits(slots: Mapping[str, str], truth: Mapping[str, str]) -> bool:
    """True if everything that a caption states is true of a scene.

    A caption that states no companion also fits a scene that has one.
    """
    return all(truth.get(name) == value for name, value in slots.items())


def parse_caption(text: str) -> Slots:
    """Read the stated facts from any caption, also from one that a model wrote.

    Args:
        text: Only its first sentence is read.

    Returns:
        The slots that are stated; the first mention of a slot counts.
    """
    words = re.findall(r"[a-z]+", text.lower().split(".")[0])
    slots: Slots = {}
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        if word in SHAPES:
            earlier = words[max(0, place - 5) : place]
            prefix = "companion_" if {"beside", "near", "then"} & set(earlier) else ""
            if f"{prefix}shape" not in slots:
                slots[f"{prefix}shape"] = word
                if before in COLOURS:
                    slots[f"{prefix}colour"] = before
        for slot, keywords in _KEYWORDS.items():
            if word in keywords:
                slots.setdefault(slot, keywords[word])
    if "timbre" in slots and "shape" in slots:
        slots["source"] = "offscreen" if "off" in words or "view" in words else "main"
    return slots


def captions(scene: Scene, rng: np.random.Generator, *, per_kind: int) -> list[WorldCaption]:
    """Draw captions of all three kinds; those of one kind differ where the grammar allows.

    Args:
        scene: What to speak about.
        rng: Draws templates and phrases.
        per_kind: Number of vision, of audio and of audiovisual captions.

    Returns:
        The captions, vision first; level `full` adds one paragraph.
    """
    truth = facts(scene)
    result = []
    for about, names in (
        ("vision", VISION_SLOTS),
        ("audio", AUDIO_SLOTS),
        ("audiovisual", (*VISION_SLOTS, *AUDIO_SLOTS, "source")),
    ):
        slots = {name: truth[name] for name in names if name in truth}
        if scene.level == "full" and slots.get("source") == "companion":
            del slots["source"]
        template = {"vision": _seen, "audio": _heard, "audiovisual": _both}[about]
        texts: list[str] = []
        for _ in range(4 * per_kind):
            text = (
                _in_turn(scene, about, slots, rng)
                if scene.level == "relay"
                else template(slots, rng)
            )
            if text not in texts and len(texts) < per_kind:
                texts.append(text)
        result += [WorldCaption(text=t, about=about, style="plain", slots=slots) for t in texts]
    if scene.level == "full":
        text = ". ".join([_both(slots, rng), *_remainder(scene, rng)])
        result.append(WorldCaption(text=text, about="audiovisual", style="paragraph", slots=slots))
    return result


def _seen(slots: Slots, rng: np.random.Generator) -> str:
    main = f"a {slots['colour']} {slots['shape']} {_say(rng, _MOTION_PHRASES[slots['motion']])}"
    companion = _companion(slots, rng, "")
    if companion and rng.random() < 0.5:
        return f"{companion} {main}"
    return f"{main} {companion}".strip()


def _in_turn(scene: Scene, about: str, slots: Slots, rng: np.random.Generator) -> str:
    """What is seen, heard or both of two actors, one after the other."""
    seen = heard = ("", "")
    if about != "audio":
        motion = _say(rng, _MOTION_PHRASES[slots["motion"]])
        seen = (
            f"{slots['colour']} {slots['shape']} {motion}",
            f"{slots['companion_colour']} {slots['companion_shape']}",
        )
    if about != "vision":
        rhythm = _say(rng, _RHYTHM_PHRASES[slots["rhythm"]])
        second = scene.sounding[1].voice
        heard = (f"{slots['pitch']} {slots['timbre']} {rhythm}", second.timbre if second else "")
    first, then = (" like a ".join(filter(None, turn)) for turn in zip(seen, heard, strict=True))
    return f"first a {first} then a {then}"


def _companion(slots: Slots, rng: np.random.Generator, adjective: str) -> str:
    if "companion_shape" not in slots:
        return ""
    beside = _say(rng, ("beside", "near"))
    return f"{beside} a {adjective}{slots['companion_colour']} {slots['companion_shape']}"


def _heard(slots: Slots, rng: np.random.Generator) -> str:
    rhythm = _say(rng, _RHYTHM_PHRASES[slots["rhythm"]])
    sound = f"{slots['pitch']} {slots['timbre']}"
    return _say(
        rng,
        (f"a {sound} sounds {rhythm}", f"the sound of a {sound} {rhythm}", f"a {sound} {rhythm}"),
    )


def _both(slots: Slots, rng: np.random.Generator) -> str:
    main = f"{slots['colour']} {slots['shape']}"
    motion = _say(rng, _MOTION_PHRASES[slots["motion"]])
    rhythm = _say(rng, _RHYTHM_PHRASES[slots["rhythm"]])
    sound = f"{slots['pitch']} {slots['timbre']}"
    source = slots.get("source")
    companion = _companion(slots, rng, "silent " if source == "main" else "")
    if source == "main":
        text = _say(
            rng,
            (
                f"a {main} {motion} {companion} and sounds like a {sound} {rhythm}",
                f"a {sound} sounds {rhythm} from a {main} that {motion} {companion}",
            ),
        )
    elif source == "offscreen":
        hidden = _say(rng, ("off screen", "out of view"))
        text = _say(
            rng,
            (
                f"a silent {main} {motion} {companion} while a {sound} sounds {rhythm} {hidden}",
                f"a {sound} sounds {rhythm} {hidden} while a silent {main} {motion} {companion}",
            ),
        )
    else:
        text = f"a {main} {motion} {companion} while a {sound} sounds {rhythm}"
    return " ".join(text.split())


def _remainder(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Sentences on what the first one leaves out, for paragraphs."""
    sentences = []
    for actor in scene.sounding[1:]:
        if actor.voice is not None:
            rhythm = _say(rng, _RHYTHM_PHRASES[actor.voice.rhythm])
            sentences.append(f"then a {actor.voice.pitch} {actor.voice.timbre} sounds {rhythm}")
    for actor in scene.visible[2:]:
        motion = _say(rng, _MOTION_PHRASES[actor.motion])
        sentences.append(f"a {actor.colour} {actor.shape} {motion} too")
    return sentences


def _say(rng: np.random.Generator, phrases: tuple[str, ...]) -> str:
    return phrases[int(rng.integers(len(phrases)))]


__all__ = [
    "AUDIO_SLOTS",
    "RHYTHMS",
    "VISION_SLOTS",
    "WorldCaption",
    "caption_fits",
    "captions",
    "facts",
    "parse_caption",
]
