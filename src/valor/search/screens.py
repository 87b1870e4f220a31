"""What is written in the picture, by any model of transformers that turns an image into text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from valor.errors import MediaError, ModelError
from valor.media.video import decode_frames

_SHORT_SIDE_PX = 720
"""Small print stays legible; a larger picture would only be scaled down by the model."""
_MAX_NEW_TOKENS = 256


class ScreenReader:
    """An image-to-text model, such as an OCR model.

    Args:
        source: Hub id, such as `microsoft/trocr-base-printed`, or folder.

    Raises:
        ModelError: If there is no such model, or it makes no text of images.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self._processor: Any = AutoProcessor.from_pretrained(source)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(source).eval()
        except (OSError, ValueError) as error:
            problem = str(error).partition("\n")[0]
            raise ModelError(
                f"{source}: no image-to-text model ({problem}); "
                "use microsoft/trocr-base-printed, or its folder"
            ) from None
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def read(self, stretches: Sequence[tuple[str, float, float]]) -> list[str | None]:
        """Write down what the picture in the middle of each segment says.

        Args:
            stretches: Path, start and end in seconds of each segment.

        Returns:
            A text for each; None where there is no picture or no word.
        """
        pictures = [_middle(*stretch) for stretch in stretches]
        seen = [row for row, picture in enumerate(pictures) if picture is not None]
        written: list[str | None] = [None] * len(stretches)
        for row in seen:
            # One by one: pictures of several shapes do not make a batch in every processor.
            inputs = self._processor(images=pictures[row], return_tensors="pt")
            inputs = inputs.to(self._model.device, self._model.dtype)
            token_ids = self._model.generate(**inputs, max_new_tokens=_MAX_NEW_TOKENS)
            if not self._model.config.is_encoder_decoder and "input_ids" in inputs:
                token_ids = token_ids[:, inputs["input_ids"].shape[1] :]
            text = self._processor.batch_decode(token_ids, skip_special_tokens=True)[0]
            written[row] = " ".join(text.split()) or None
        return written


def _middle(path: str, start_s: float, end_s: float) -> np.ndarray | None:
    try:
        middle_s = (start_s + end_s) / 2
        frames, _ = decode_frames(path, [middle_s], short_side_px=_SHORT_SIDE_PX)
    except MediaError:
        return None
    return frames[0]
