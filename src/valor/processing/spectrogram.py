"""Kaldi-compatible log-mel spectrograms in plain torch, batched.

Source: Kaldi's feature-fbank (`feature-window.cc`, `mel-computations.cc`); equal to
kaldi-native-fbank within 1e-3. VALOR takes a Hann window; Kaldi's default is Povey's.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from valor.config import configclass

_PREEMPHASIS = 0.97
_LOW_HZ = 20.0
SILENCE = math.log(torch.finfo(torch.float32).eps)
"""The log energy of digital silence: Kaldi's floor."""


@configclass
class SpectrogramConfig:
    """How sound becomes spectrogram windows."""

    kind: Literal["kaldi"] = "kaldi"
    sample_rate_hz: int = 16_000
    """Sound is resampled to this."""
    num_mels: int = 64
    """Mel bins of a spectrum."""
    frame_s: float = 0.025
    """Length of the stretch that one spectrum covers."""
    hop_s: float = 0.010
    """Time from one spectrum to the next."""
    window: Literal["povey", "hann"] = "hann"
    """Shape by which the samples of a frame are weighted."""
    hops_per_window: int = 512
    """Spectra per audio window; the last window is padded with silence."""
    num_windows: int = 2
    """At most this many windows per segment, spread evenly over a longer one."""
    mean: float = -4.2677393
    """Of AudioSet's log energies; upstream AST."""
    deviation: float = 4.5689974
    """Half of what the energies are divided by; upstream AST."""
    beyond: float = SILENCE
    """Log energy after the end of the sound; upstream AST takes 0."""

    def __post_init__(self) -> None:
        """Reject impossible sizes."""
        if min(self.num_mels, self.hops_per_window, self.num_windows) < 1:
            raise ValueError("num_mels, hops_per_window and num_windows must be at least 1")
        if self.hop_s > self.frame_s:
            raise ValueError(f"hop_s={self.hop_s} exceeds frame_s={self.frame_s}")


def log_mel(
    waveform: Float[Tensor, "*batch samples"], config: SpectrogramConfig
) -> Float[Tensor, "*batch hops mels"]:
    """Return log-mel energies, one row per hop that fits completely.

    Args:
        waveform: Mono, in [-1, 1], at the configured rate.
        config: Bins, frame, hop and window.

    Returns:
        Natural logs of the mel energies; no rows for a waveform shorter than one frame.
    """
    rate = config.sample_rate_hz
    frame, hop = round(config.frame_s * rate), round(config.hop_s * rate)
    if waveform.shape[-1] < frame:
        return waveform.new_zeros(*waveform.shape[:-1], 0, config.num_mels)
    frames = waveform.unfold(-1, frame, hop)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - _PREEMPHASIS * previous) * _window(frame, config.window)
    fft_size = 1 << (frame - 1).bit_length()
    power = torch.fft.rfft(F.pad(frames, (0, fft_size - frame))).abs().square()
    energies = power @ _mel_filters(config.num_mels, fft_size, rate)
    return energies.clamp(min=torch.finfo(torch.float32).eps).log()


def spectrogram_windows(
    waveform: Float[Tensor, " samples"], config: SpectrogramConfig
) -> Float[Tensor, "windows mels hops"]:
    """Cut a segment's normalised spectrogram into windows.

    Args:
        waveform: The whole segment.
        config: Front end and window sizes.

    Returns:
        At least one window. Upstream adds a whole empty window when the length is an exact
        multiple; we do not.
    """
    energies = log_mel(waveform, config)
    size = config.hops_per_window
    num = max(1, math.ceil(len(energies) / size))
    energies = F.pad(energies, (0, 0, 0, num * size - len(energies)), value=config.beyond)
    windows = energies.view(num, size, -1)[spread(num, config.num_windows)]
    return (windows.transpose(1, 2) - config.mean) / (2 * config.deviation)


def spread(num: int, limit: int) -> Int[Tensor, " windows"]:
    """Choose at most `limit` of `num` windows, evenly."""
    return torch.arange(num) if num <= limit else torch.linspace(0, num - 1, limit).round().long()


@lru_cache(maxsize=8)
def _window(length: int, kind: str) -> Tensor:
    hann = torch.hann_window(length, periodic=False)
    return hann**0.85 if kind == "povey" else hann


@lru_cache(maxsize=8)
def _mel_filters(num_mels: int, fft_size: int, rate_hz: int) -> Tensor:
    """Triangles on the mel scale, `[fft bins, mels]`."""

    def mel(hz: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
        return 1127.0 * torch.log1p(hz / 700.0)

    low, high = mel(torch.tensor([_LOW_HZ, rate_hz / 2]))
    edges = torch.linspace(float(low), float(high), num_mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(torch.arange(fft_size // 2 + 1) * (rate_hz / fft_size))[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[-1] = 0.0  # Kaldi leaves the Nyquist bin out.
    return filters
