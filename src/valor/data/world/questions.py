"""Questions about a scene by what they need, and what one modality alone could know.

A question that needs both modalities is drawn so that an exact oracle of one modality cannot answer
it; `prior` is that oracle's best accuracy, from the distribution that the questions are drawn from.
The oracle does not know which combinations of shape, colour and timbre are held out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from valor.data.world.language import facts
from valor.data.world.scene import (
    COLOURS,
    LAYOUTS,
    MOTIONS,
    PITCHES,
    RHYTHMS,
    SHAPES,
    TIMBRES,
    Scene,
)

NO_SOUND = "no sound"
_ASKS_SOUND = {"solo": 0.5, "companion": 0.5, "offscreen": 0.8}
"""How often a needs-both question is about an actor's sound; balances sources with silent ones."""
_MOTION_ANSWERS = {
    "left": "to the left",
    "right": "to the right",
    "up": "upwards",
    "down": "downwards",
    "circle": "in circles",
    "still": "not at all",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldQuestion:
    """A question with its answer and the oracle's accuracy from one modality."""

    text: str
    answer: str
    needs: str
    type: str
    prior: Mapping[str, float]
    """By `vision` and `audio`: how often the exact oracle of that modality is right."""


def questions(scene: Scene, rng: np.random.Generator) -> list[WorldQuestion]:
    """Draw one question that needs vision, one that needs audio, and one that needs both.

    Args:
        scene: What to ask about.
        rng: Draws types and wordings.

    Returns:
        The questions. Instead of one that needs both, level `full` has one on the number of actors
        and one on the order of sounds; level `relay` one on the order of each modality.
    """
    asked = [_vision(scene, rng), _audio(scene, rng)]
    if scene.level == "duet":
        asked.append(_both(scene, rng))
    elif scene.level == "full":
        asked += [_count(scene), *_order(scene)]
    else:
        asked += [_seen_first(scene), *_order(scene)]
    return list({question.text: question for question in asked}.values())


def _vision(scene: Scene, rng: np.random.Generator) -> WorldQuestion:
    main = scene.actors[0]
    kind = ("colour", "shape", "motion")[int(rng.integers(3))]
    text, answer, options = {
        "colour": (f"what colour is the {main.shape}", main.colour, len(COLOURS)),
        "shape": (f"what shape is {main.colour}", main.shape, len(SHAPES)),
        "motion": (
            f"how does the {main.colour} {main.shape} move",
            _MOTION_ANSWERS[main.motion],
            len(MOTIONS),
        ),
    }[kind]
    prior = {"vision": 1.0, "audio": 1 / options}
    return WorldQuestion(text=text, answer=answer, needs="vision", type=kind, prior=prior)


def _audio(scene: Scene, rng: np.random.Generator) -> WorldQuestion:
    slots = facts(scene)
    kind = ("timbre", "rhythm", "pitch")[int(rng.integers(3))]
    text = {
        "timbre": "what is heard",
        "rhythm": "what is the beat like",
        "pitch": "how high is the sound",
    }[kind]
    options = {"timbre": TIMBRES, "rhythm": RHYTHMS, "pitch": PITCHES}[kind]
    # The beats of a visible source can be seen as its pulses.
    seen = 1.0 if kind == "rhythm" and slots["source"] != "offscreen" else 1 / len(options)
    prior = {"vision": seen, "audio": 1.0}
    text += " at first" if scene.level == "relay" else ""
    return WorldQuestion(text=text, answer=slots[kind], needs="audio", type=kind, prior=prior)


def _both(scene: Scene, rng: np.random.Generator) -> WorldQuestion:
    if rng.random() < _ASKS_SOUND[scene.layout]:
        return _sound_of(scene, rng)
    return _who_sounds(scene)


def _sound_of(scene: Scene, rng: np.random.Generator) -> WorldQuestion:
    """Ask what a visible actor sounds like: half of those asked about are silent."""
    index = int(rng.integers(2)) if scene.layout == "companion" else 0
    actor = scene.actors[index]
    answer = actor.voice.timbre if actor.voice else NO_SOUND
    # Vision sees who pulses, and guesses the timbre; audio knows the timbre, not who makes it.
    vision = 1 / len(TIMBRES) if actor.voice else 1.0
    return WorldQuestion(
        text=f"what sound does the {actor.colour} {actor.shape} make",
        answer=answer,
        needs="both",
        type="sound of",
        prior={"vision": vision, "audio": 0.5},
    )


def _who_sounds(scene: Scene) -> WorldQuestion:
    """Ask for the source and its sound together: each modality knows one half of the answer."""
    timbre = facts(scene)["timbre"]
    hidden = scene.layout == "offscreen"
    who = "something hidden" if hidden else f"the {scene.actors[0].colour} one"
    # Vision guesses the timbre; audio guesses whether the source is hidden, or else its colour.
    audio = max(_share_hidden(), (1 - _share_hidden()) / len(COLOURS))
    return WorldQuestion(
        text="which shape makes which sound",
        answer=f"{who} like a {timbre}",
        needs="both",
        type="who sounds",
        prior={"vision": 1 / len(TIMBRES), "audio": audio},
    )


def _share_hidden() -> float:
    """Among questions on who sounds: how often the source is off screen."""
    asked = {layout: p * (1 - _ASKS_SOUND[layout]) for layout, p in LAYOUTS.items()}
    return asked["offscreen"] / sum(asked.values())


def _count(scene: Scene) -> WorldQuestion:
    return WorldQuestion(
        text="how many shapes are there",
        answer=str(len(scene.visible)),
        needs="vision",
        type="count",
        prior={"vision": 1.0, "audio": 1 / 3},
    )


def _seen_first(scene: Scene) -> WorldQuestion:
    first, second = (actor.colour for actor in scene.visible)
    return WorldQuestion(
        text=f"what is seen first the {min(first, second)} or the {max(first, second)} one",
        answer=first,
        needs="vision",
        type="order",
        prior={"vision": 1.0, "audio": 0.5},
    )


def _order(scene: Scene) -> list[WorldQuestion]:
    if len(scene.sounding) < 2:
        return []
    first, second = (a.voice.timbre for a in scene.sounding[:2] if a.voice)
    return [
        WorldQuestion(
            text=f"what is heard first the {min(first, second)} or the {max(first, second)}",
            answer=first,
            needs="audio",
            type="order",
            prior={"vision": 0.5, "audio": 1.0},
        )
    ]
