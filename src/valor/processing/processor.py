"""The processor: everything between decoded media or text and model inputs, saved with the model.

A model folder holds it as `preprocessor_config.json` and `tokenizer.json`, so that serving prepares
its inputs exactly as training did; a text tower's own tokenizer is in `text_tokenizer.json`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Discriminator, Tag
from torch import Tensor

from valor.config import configclass, from_dict, parse_json, to_json
from valor.errors import ConfigError, ModelError
from valor.media.segments import DecodePlan
from valor.media.video import Backend
from valor.processing.extractors import (
    ClapConfig,
    WaveformConfig,
    WhisperConfig,
    extracted_windows,
    waveform_windows,
)
from valor.processing.frames import FrameConfig, to_squares
from valor.processing.spectrogram import SpectrogramConfig, spectrogram_windows
from valor.processing.tokenizer import TextTokenizer, Tokenizer
from valor.types import Sample, Segment, TextBatch

_CONFIG_FILE = "preprocessor_config.json"
_TOKENIZER_FILE = "tokenizer.json"
_TEXT_TOKENIZER_FILE = "text_tokenizer.json"


def _front_end(values: Any) -> str:
    """The kind of a spectrogram's configuration; older folders have Kaldi's without saying so."""
    if isinstance(values, dict):
        return str(values.get("kind", "kaldi"))
    return getattr(values, "kind", "")


FrontEnd = Annotated[
    Annotated[SpectrogramConfig, Tag("kaldi")]
    | Annotated[WhisperConfig, Tag("whisper")]
    | Annotated[ClapConfig, Tag("clap")]
    | Annotated[WaveformConfig, Tag("waveform")],
    Discriminator(_front_end),
]


@configclass
class ProcessorConfig:
    """Preprocessing of all three modalities."""

    frames: FrameConfig = FrameConfig()
    """What is seen of a segment."""
    spectrogram: FrontEnd = SpectrogramConfig()
    """What is heard of a segment."""
    max_text_length: int = 40
    """Tokens per text, start and end included."""
    segment_s: float = 10.0
    """The stretch of a recording that the model was made for; longer ones are cut."""
    has_words: bool = True
    """False for released weights that came without their vocabulary: no tokenizer.json."""


def _windows(waveform: Tensor, sound: FrontEnd) -> Tensor:
    match sound:
        case SpectrogramConfig():
            return spectrogram_windows(waveform, sound)
        case WaveformConfig():
            return waveform_windows(waveform, sound)
    return extracted_windows(waveform, sound)


class Processor:
    """Prepare segments and texts.

    Args:
        config: Sizes and statistics.
        tokenizer: For what the decoder reads and writes; None for a model that came without words.
        text_tokenizer: For texts that media are compared with, where another tower encodes these.
        backend: Who decodes pictures; no part of a model, and so of no configuration.
    """

    def __init__(
        self,
        config: ProcessorConfig,
        tokenizer: Tokenizer | None,
        text_tokenizer: TextTokenizer | None = None,
        *,
        backend: Backend = "pyav",
    ) -> None:
        self.config = config
        self.backend: Backend = backend
        self._tokenizer = tokenizer
        self.text_tokenizer = text_tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """For what the decoder reads and writes; a model that has none is a `ModelError`."""
        if self._tokenizer is None:
            raise ModelError(
                "this model has no tokenizer.json; `valor convert` makes one if the vocab.txt of "
                "bert-base-uncased lies beside the checkpoint"
            )
        return self._tokenizer

    @property
    def plan(self) -> DecodePlan:
        """What to decode from a file for this model."""
        frames, sound = self.config.frames, self.config.spectrogram
        return DecodePlan(
            num_frames=frames.num_bursts,
            frames_per_burst=frames.frames_per_burst,
            burst_step_s=frames.burst_step_s,
            short_side_px=frames.resized_px,
            sample_rate_hz=sound.sample_rate_hz,
            backend=self.backend,
        )

    def prepare(self, segment: Segment, *, id: str = "") -> Sample:
        """Turn decoded media into model inputs; missing or silent modalities become None."""
        pixels = None if segment.frames is None else to_squares(segment.frames, self.config.frames)
        spectrograms = None
        if segment.waveform is not None and not segment.is_silent:
            waveform, sound = torch.from_numpy(segment.waveform), self.config.spectrogram
            spectrograms = _windows(waveform, sound).numpy()
        return Sample(id=id or segment.path, pixels=pixels, spectrograms=spectrograms)

    def encode_texts(self, texts: Sequence[str]) -> TextBatch:
        """Tokenize texts for the decoder, up to the configured length."""
        return self.tokenizer.encode(texts, max_length=self.config.max_text_length)

    def encode_aligned_texts(self, texts: Sequence[str]) -> TextBatch:
        """Tokenize texts that media are compared with, up to the configured length."""
        tokenizer = self.text_tokenizer or self.tokenizer
        return tokenizer.encode(texts, max_length=self.config.max_text_length)

    def save(self, folder: Path) -> None:
        """Write the files of a model folder that are the processor's."""
        (folder / _CONFIG_FILE).write_text(to_json(self.config), encoding="utf-8")
        if self.config.has_words:
            (folder / _TOKENIZER_FILE).write_text(self.tokenizer.to_json(), encoding="utf-8")
        if self.text_tokenizer is not None:
            text = self.text_tokenizer.to_json()
            (folder / _TEXT_TOKENIZER_FILE).write_text(text, encoding="utf-8")

    @staticmethod
    def load_config(folder: Path) -> ProcessorConfig:
        """Read what a model folder says of it; a missing or damaged file is a `ModelError`."""
        path = folder / _CONFIG_FILE
        try:
            values = parse_json(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise ModelError(f"{path}: missing, so {folder} is no model folder") from None
        except ConfigError as error:
            raise ModelError(str(error)) from None
        return from_dict(ProcessorConfig, values, where=str(path))

    @classmethod
    def load(cls, folder: Path) -> "Processor":
        """Read from a model folder; a missing or damaged file is a `ModelError`."""
        config = cls.load_config(folder)
        own = folder / _TEXT_TOKENIZER_FILE
        return cls(
            config,
            Tokenizer.from_file(folder / _TOKENIZER_FILE) if config.has_words else None,
            TextTokenizer.from_file(own) if own.is_file() else None,
        )
