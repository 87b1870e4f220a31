"""The sound of a scene: one stem per sounding actor and one of the ambience."""

from collections.abc import Iterable
from functools import cache

import numpy as np
from jaxtyping import Float

from valor.data.world.scene import DURATION_S, SAMPLE_RATE_HZ, Scene, Voice, beats

_NUM_SAMPLES = int(DURATION_S * SAMPLE_RATE_HZ)
_NOTE_S = 0.22
_FREQUENCY_HZ = {"low": 196.0, "mid": 440.0, "high": 988.0}


def stems(scene: Scene) -> dict[str, Float[np.ndarray, " samples"]]:
    """Sound every source by itself.

    Args:
        scene: Who sounds, and when.

    Returns:
        float32 waveforms by `actor INDEX`, and `ambience`; their sum is the mixture.
    """
    sounds = {"ambience": _ambience(scene)}
    for index, actor in enumerate(scene.actors):
        if actor.voice is not None:
            sounds[f"actor {index}"] = _sing(actor.voice)
    return sounds


def mixture(scene: Scene) -> Float[np.ndarray, " samples"]:
    """What a microphone hears: float32 in [-1, 1] at `SAMPLE_RATE_HZ`."""
    return np.sum(list(stems(scene).values()), axis=0, dtype=np.float32).clip(-1, 1)


def _sing(voice: Voice) -> np.ndarray:
    note = _note(voice.timbre, _FREQUENCY_HZ[voice.pitch] * voice.tuning) * voice.loudness
    sound = np.zeros(_NUM_SAMPLES + len(note), np.float32)
    for beat in beats(voice):
        start = round(beat * SAMPLE_RATE_HZ)
        sound[start : start + len(note)] += note
    return sound[:_NUM_SAMPLES]


def _ambience(scene: Scene) -> np.ndarray:
    rng = np.random.default_rng((scene.background.seed, 1))
    noise = rng.standard_normal(_NUM_SAMPLES, dtype=np.float32)
    smooth = np.convolve(noise, np.full(8, 1 / np.sqrt(8), np.float32), mode="same")
    return (scene.background.ambience * smooth).astype(np.float32)


def _note(timbre: str, hz: float) -> np.ndarray:
    """One stroke of a timbre, peak amplitude 1."""
    t = np.arange(int(_NOTE_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    sound = {
        "bell": lambda: _partials(t, hz, (1, 2.76, 5.4, 8.93), decay_s=0.12),
        "horn": lambda: _partials(t, hz, range(1, 13), decay_s=9.0) * _swell(t, 0.05),
        "drum": lambda: np.sin(2 * np.pi * hz * 0.25 * (t + 0.03 * (1 - np.exp(-t / 0.02))))
        * np.exp(-t / 0.04) + 0.6 * _noise(len(t)) * np.exp(-t / 0.012),
        "whistle": lambda: np.sin(2 * np.pi * 2 * hz * t + 2 * np.sin(2 * np.pi * 7 * t)),
        "buzzer": lambda: np.sign(np.sin(2 * np.pi * hz * 0.5 * t))
        * (0.55 + 0.45 * np.sign(np.sin(2 * np.pi * 34 * t))),
        "chirp": lambda: np.sin(2 * np.pi * hz * (t + 5 * t**2)),
        "hiss": lambda: _band_noise(len(t), 3 * hz),
        "pluck": lambda: _partials(t, hz, range(1, 9), decay_s=0.05, damping=0.6),
        "siren": lambda: np.sin(2 * np.pi * hz * 1.2 * t + 22 * np.sin(2 * np.pi * 9 * t)),
    }[timbre]()  # fmt: skip
    sound = sound * np.minimum(1, np.minimum(t / 0.004, (_NOTE_S - t) / 0.02))
    return (sound / abs(sound).max()).astype(np.float32)


def _partials(
    t: np.ndarray, hz: float, multiples: Iterable[float], *, decay_s: float, damping: float = 0.0
) -> np.ndarray:
    """Sum of decaying sines; `damping` lets higher ones fade sooner."""
    sound = np.zeros_like(t)
    for multiple in multiples:
        if multiple * hz < 0.48 * SAMPLE_RATE_HZ:
            fade = np.exp(-t / decay_s * (1 + damping * (multiple - 1)))
            sound += np.sin(2 * np.pi * multiple * hz * t) * fade / multiple**0.8
    return sound


def _swell(t: np.ndarray, rise_s: float) -> np.ndarray:
    return 1 - np.exp(-t / rise_s)


@cache
def _noise(num: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(num)


def _band_noise(num: int, centre_hz: float) -> np.ndarray:
    """Noise of one octave's width."""
    spectrum = np.fft.rfft(_noise(num))
    hz = np.fft.rfftfreq(num, 1 / SAMPLE_RATE_HZ)
    spectrum[(hz < centre_hz / 1.4) | (hz > centre_hz * 1.4)] = 0
    return np.fft.irfft(spectrum, num)
