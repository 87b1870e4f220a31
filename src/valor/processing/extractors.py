"""The log-mel front ends of Whisper and CLAP: each window goes through transformers' own extractor.

An extractor is made from a configuration of ours, so that a model folder holds all of it.
"""

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from valor.config import configclass
from valor.processing.spectrogram import spread


@configclass
class WhisperConfig:
    """Whisper's front end; a last window that is shorter ends in silence."""

    kind: Literal["whisper"] = "whisper"
    sample_rate_hz: int = 16_000
    """Sound is resampled to this."""
    num_mels: int = 80
    """Mel bins of a spectrum."""
    fft_samples: int = 400
    """Samples that one spectrum covers."""
    hop_samples: int = 160
    """Samples from one spectrum to the next."""
    window_s: int = 30
    """Length of an audio window."""
    num_windows: int = 1
    """At most this many windows per segment, spread evenly over a longer one."""

    def __post_init__(self) -> None:
        """Reject impossible sizes."""
        _check(self)

    @property
    def hops_per_window(self) -> int:
        """Spectra per audio window."""
        return self.window_s * self.sample_rate_hz // self.hop_samples


@configclass
class ClapConfig:
    """CLAP's front end."""

    kind: Literal["clap"] = "clap"
    sample_rate_hz: int = 48_000
    """Sound is resampled to this."""
    num_mels: int = 64
    """Mel bins of a spectrum."""
    fft_samples: int = 1024
    """Samples that one spectrum covers."""
    hop_samples: int = 480
    """Samples from one spectrum to the next."""
    window_s: int = 10
    """Length of an audio window."""
    num_windows: int = 1
    """At most this many windows per segment, spread evenly over a longer one."""
    low_hz: float = 50.0
    """Where the lowest mel bin begins."""
    high_hz: float = 14_000.0
    """Where the highest mel bin ends."""
    filters: Literal["htk", "slaney"] = "slaney"
    """Mel filters; those of fused models are HTK's."""
    padding: Literal["repeatpad", "repeat", "pad"] = "repeatpad"
    """How a last window that is shorter is filled: with whole repetitions and then silence, with
    repetitions, or with silence."""

    def __post_init__(self) -> None:
        """Reject impossible sizes."""
        _check(self)

    @property
    def hops_per_window(self) -> int:
        """Spectra per audio window."""
        return self.window_s * self.sample_rate_hz // self.hop_samples + 1


@configclass
class WaveformConfig:
    """Sound as it is, for a tower that cuts it into steps by itself, such as PE-AV's."""

    kind: Literal["waveform"] = "waveform"
    sample_rate_hz: int = 48_000
    """Sound is resampled to this."""
    step_samples: int = 1920
    """Of one token; a window is whole steps."""
    steps_per_window: int = 250
    """Tokens of an audio window."""
    num_windows: int = 1
    """At most this many windows per segment, spread evenly over a longer one; a last window that is
    shorter ends in silence."""

    def __post_init__(self) -> None:
        """Reject impossible sizes."""
        sizes = (self.sample_rate_hz, self.step_samples, self.steps_per_window, self.num_windows)
        if min(sizes) < 1:
            raise ValueError("rate, steps and num_windows must be at least 1")

    @property
    def num_mels(self) -> int:
        """One row."""
        return 1

    @property
    def hops_per_window(self) -> int:
        """Samples of a window."""
        return self.step_samples * self.steps_per_window

    @property
    def window_s(self) -> float:
        """Length of a window."""
        return self.hops_per_window / self.sample_rate_hz


def waveform_windows(
    waveform: Float[Tensor, " samples"], config: WaveformConfig
) -> Float[Tensor, "windows 1 window"]:
    """Cut a segment into windows of sound.

    Args:
        waveform: The whole segment, mono, at the configured rate.
        config: Window sizes.

    Returns:
        At least one window.
    """
    size = config.hops_per_window
    num = max(1, math.ceil(len(waveform) / size))
    padded = F.pad(waveform, (0, num * size - len(waveform)))
    return padded.view(num, 1, size)[spread(num, config.num_windows)]


def extracted_windows(
    waveform: Float[Tensor, " samples"], config: WhisperConfig | ClapConfig
) -> Float[Tensor, "windows mels hops"]:
    """Cut a segment into windows of sound and extract the features of each.

    Args:
        waveform: The whole segment, mono, at the configured rate.
        config: Front end and window sizes.

    Returns:
        At least one window.
    """
    size = config.window_s * config.sample_rate_hz
    num = max(1, math.ceil(len(waveform) / size))
    extract = _extractor(config)
    windows = []
    for index in spread(num, config.num_windows).tolist():
        sound = waveform[index * size : (index + 1) * size].numpy()
        values = extract(sound, sampling_rate=config.sample_rate_hz, return_tensors="pt")
        features = values["input_features"][0]
        # CLAP's are [copies, hops, mels]; fused models stack four copies of a window.
        windows.append(features if config.kind == "whisper" else features[0].T)
    return torch.stack(windows).float()


@lru_cache(maxsize=4)
def _extractor(config: WhisperConfig | ClapConfig) -> Any:
    import transformers

    if isinstance(config, WhisperConfig):
        return transformers.WhisperFeatureExtractor(
            feature_size=config.num_mels,
            sampling_rate=config.sample_rate_hz,
            hop_length=config.hop_samples,
            chunk_length=config.window_s,
            n_fft=config.fft_samples,
        )
    return transformers.ClapFeatureExtractor(
        feature_size=config.num_mels,
        sampling_rate=config.sample_rate_hz,
        hop_length=config.hop_samples,
        max_length_s=config.window_s,
        fft_window_size=config.fft_samples,
        frequency_min=config.low_hz,
        frequency_max=config.high_hz,
        truncation="fusion" if config.filters == "htk" else "rand_trunc",
        padding=config.padding,
    )


def _check(config: WhisperConfig | ClapConfig) -> None:
    if min(config.num_mels, config.hop_samples, config.window_s, config.num_windows) < 1:
        raise ValueError("num_mels, hop_samples, window_s and num_windows must be at least 1")
    if config.hop_samples > config.fft_samples:
        raise ValueError(
            f"hop_samples={config.hop_samples} exceeds fft_samples={config.fft_samples}"
        )
