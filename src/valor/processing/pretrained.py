"""The preprocessing that pretrained towers of the transformers library were trained with.

Entry point: `processor_for`. What a tower's own processor does is read from its settings once and
kept in our configuration; none of its files is needed afterwards.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

from valor.config import evolve
from valor.errors import ModelError
from valor.processing.extractors import ClapConfig, WaveformConfig, WhisperConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.processing.tokenizer import TextTokenizer, Tokenizer

_BILINEAR = 2
"""Pillow's number of the kernel; every other one is answered by the bicubic."""
_PE_FRAMES = 16
"""What PE-AV's variants of fixed length take; those for any length get as many."""
_SETTINGS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")


def processor_for(
    tokenizer: Tokenizer,
    *,
    vision: str | Path | None = None,
    audio: str | Path | None = None,
    text: str | Path | None = None,
    segment_s: float = 10.0,
) -> Processor:
    """Make the processor of a model with pretrained towers.

    Args:
        tokenizer: For what the decoder reads and writes.
        vision: Hub id or folder of the tower; None takes our own defaults. So for the others.
        audio: Of the audio tower.
        text: Of the text tower, which has a tokenizer of its own.
        segment_s: The stretch of a recording that the model is made for.

    Returns:
        The processor. A video tower sees one clip that is spread over the segment.

    Raises:
        ModelError: If a tower's settings cannot be read, or are beyond what is done here.
    """
    config = ProcessorConfig(
        frames=FrameConfig() if vision is None else frames_for(vision, segment_s=segment_s),
        spectrogram=SpectrogramConfig() if audio is None else sound_for(audio, segment_s=segment_s),
        segment_s=segment_s,
    )
    return Processor(config, tokenizer, None if text is None else TextTokenizer.from_hub(text))


def frames_for(source: str | Path, *, segment_s: float = 10.0) -> FrameConfig:
    """Read which frames a vision tower takes.

    Args:
        source: Hub id or folder.
        segment_s: A video tower's clip is spread over this much.

    Returns:
        Size, cut, kernel and statistics of the tower's own processor. V-JEPA 2 takes any even
        number of frames: change `frames_per_burst` and the tower's `architecture.frames_per_clip`
        together.

    Raises:
        ModelError: If the settings are missing, or ask for pictures that are not square.
    """
    from transformers import AutoConfig

    settings = _settings(source)
    try:
        tower = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from None
    is_pe = tower.model_type == "pe_audio_video"
    clip = getattr(tower, "num_frames", None) or getattr(tower, "frames_per_clip", 1)
    clip = _PE_FRAMES if is_pe else clip
    resized, is_square = _side(source, settings)
    cropped = settings.get("do_center_crop", not is_square) and settings.get("crop_size")
    side, _ = _side(source, {"size": cropped}) if cropped else (resized, is_square)
    if side > resized or abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise ModelError(f"{source}: its way to crop or scale pictures is not supported")
    kernel = settings.get("resample", _BILINEAR if is_pe else None)
    names = ("image_mean", "image_std")
    statistics: Any = tuple(tuple(map(float, settings.get(name, ()))) for name in names)
    if not settings.get("do_normalize", True):
        statistics = (0.0,) * 3, (1.0,) * 3
    if [len(values) for values in statistics] != [3, 3]:
        raise ModelError(f"{source}: its settings lack image_mean or image_std of three channels")
    frames = FrameConfig()
    return FrameConfig(
        num_bursts=1 if clip > 1 else frames.num_bursts,
        frames_per_burst=clip,
        burst_step_s=segment_s / clip if clip > 1 else frames.burst_step_s,
        image_px=side,
        margin_px=resized - side,
        crop="stretch" if is_square else "centre",
        resample="bilinear" if kernel == _BILINEAR else "bicubic",
        normalise=statistics,
    )


def sound_for(
    source: str | Path, *, segment_s: float = 10.0
) -> SpectrogramConfig | ClapConfig | WhisperConfig | WaveformConfig:
    """Read which spectrograms an audio tower takes.

    Args:
        source: Hub id or folder.
        segment_s: Decides how many windows there are at most.

    Returns:
        The front end with the settings of the tower's own one.

    Raises:
        ModelError: If there is no feature extractor, or none of AST, CLAP, Whisper and PE-AV.
    """
    from transformers import AutoFeatureExtractor

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="At least one mel filter")  # AST's, always
            own: Any = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise _unreadable(source, error) from None
    rate, kind = own.sampling_rate, type(own).__name__
    if kind == "ASTFeatureExtractor":
        return SpectrogramConfig(
            sample_rate_hz=rate,
            num_mels=own.num_mel_bins,
            hops_per_window=own.max_length,
            num_windows=math.ceil(segment_s / (own.max_length * 0.010)),
            mean=own.mean if own.do_normalize else 0.0,
            deviation=own.std if own.do_normalize else 0.5,
            beyond=0.0,
        )
    if kind == "WhisperFeatureExtractor":
        return WhisperConfig(
            sample_rate_hz=rate,
            num_mels=own.feature_size,
            fft_samples=own.n_fft,
            hop_samples=own.hop_length,
            window_s=own.chunk_length,
            num_windows=math.ceil(segment_s / own.chunk_length),
        )
    if kind == "ClapFeatureExtractor":
        return _clap(own, segment_s)
    if kind == "PeAudioFeatureExtractor":
        sound = WaveformConfig(sample_rate_hz=rate, step_samples=own.hop_length)
        num = math.ceil(segment_s * rate / sound.hops_per_window)
        return evolve(sound, {"num_windows": num})
    raise ModelError(
        f"{source}: {kind} is not supported; use a tower of AST, CLAP, Whisper or PE-AV"
    )


def _clap(own: Any, segment_s: float) -> ClapConfig:
    return ClapConfig(
        sample_rate_hz=own.sampling_rate,
        num_mels=own.feature_size,
        fft_samples=own.fft_window_size,
        hop_samples=own.hop_length,
        window_s=own.max_length_s,
        num_windows=math.ceil(segment_s / own.max_length_s),
        low_hz=float(own.frequency_min),
        high_hz=float(own.frequency_max),
        filters="htk" if own.truncation == "fusion" else "slaney",
        padding=own.padding,
    )


def _settings(source: str | Path) -> dict[str, Any]:
    """The picture part of a tower's settings, wherever its release of transformers put them."""
    from transformers.utils.hub import cached_file

    found = []
    try:
        for name in _SETTINGS:
            path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
            if path is not None:
                values = json.loads(Path(path).read_text(encoding="utf-8"))
                found += [values.get("video_processor"), values.get("image_processor"), values]
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from None
    for values in found:
        if values and ("image_mean" in values or "size" in values):
            return {name: value for name, value in values.items() if value is not None}
    raise ModelError(f"{source}: no preprocessor_config.json for pictures")


def _side(source: str | Path, settings: dict[str, Any]) -> tuple[int, bool]:
    """The size that pictures are resized to, and whether both sides are."""
    size = settings.get("size")
    match size:
        case {"shortest_edge": int(side)}:
            return side, False
        case {"height": int(side), "width": other} if side == other:
            return side, True
        case int(side):
            return side, not settings.get("do_center_crop", False)
        case None if "max_num_patches" in settings:  # SigLIP 2 of any shape: a square of as many
            return settings["patch_size"] * math.isqrt(settings["max_num_patches"]), False
    raise ModelError(
        f"{source}: pictures of size {size} are not supported, a square is needed; use another"
    )


def _unreadable(source: str | Path, error: Exception) -> ModelError:
    reason = str(error).partition("\n")[0]
    return ModelError(
        f"{source}: settings cannot be read ({reason}); give a folder, or a hub id that is "
        "downloaded or can be reached"
    )
