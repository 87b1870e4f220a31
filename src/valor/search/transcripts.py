"""What is said in recordings without subtitles, by Whisper through transformers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from valor.errors import MediaError, ModelError
from valor.media.audio import decode_waveform, is_silent

_RATE_HZ = 16_000


class Transcriber:
    """A Whisper model.

    Args:
        source: Hub id, such as `openai/whisper-small`, or folder.

    Raises:
        ModelError: If there is no such model, or it is no Whisper.
    """

    def __init__(self, source: str) -> None:
        from transformers import (
            AutoFeatureExtractor,
            AutoTokenizer,
            WhisperForConditionalGeneration,
        )

        try:
            self._sounds = AutoFeatureExtractor.from_pretrained(source)
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            self._model: Any = WhisperForConditionalGeneration.from_pretrained(source).eval()
        except (OSError, ValueError) as error:
            problem = str(error).partition("\n")[0]
            raise ModelError(
                f"{source}: no Whisper model ({problem}); use openai/whisper-small, or its folder"
            ) from None
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def transcribe(self, stretches: Sequence[tuple[str, float, float]]) -> list[str | None]:
        """Write down what is said.

        Args:
            stretches: Path, start and end in seconds of each segment, of 30 s at most.

        Returns:
            A text for each; None where there is no sound or no word.
        """
        sounds = [_sound(*stretch) for stretch in stretches]
        heard = [row for row, sound in enumerate(sounds) if sound is not None]
        said: list[str | None] = [None] * len(stretches)
        if not heard:
            return said
        inputs = self._sounds(
            [sounds[row] for row in heard], sampling_rate=_RATE_HZ, return_tensors="pt"
        )
        token_ids = self._model.generate(
            inputs.input_features.to(self._model.device, self._model.dtype),
            # Half of what the model can say, as in Whisper's own code; the rest is for prompts.
            max_new_tokens=self._model.config.max_target_positions // 2,
        )
        texts = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        for row, text in zip(heard, texts, strict=True):
            said[row] = text.strip() or None
        return said


def _sound(path: str, start_s: float, end_s: float) -> np.ndarray | None:
    """What there is to hear; None for silence, of which Whisper would make words."""
    end = end_s if end_s > start_s else None
    try:
        sound = decode_waveform(path, sample_rate_hz=_RATE_HZ, start_s=start_s, end_s=end)
    except MediaError:
        return None
    return None if sound is None or not len(sound) or is_silent(sound) else sound
