from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertLMHeadModel,
    TrOCRProcessor,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from tests.search.conftest import WRITTEN_WORDS, written_tokenizer
from valor.errors import ModelError
from valor.search.screens import ScreenReader


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """An OCR model of a few thousand random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16}
    seeing = ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes))
    writing = BertLMHeadModel(
        BertConfig(vocab_size=32, is_decoder=True, add_cross_attention=True, **sizes)
    )
    model = VisionEncoderDecoderModel(encoder=seeing, decoder=writing)
    ids = {"decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
    for name, value in ids.items():
        setattr(model.config, name, value)
        setattr(model.generation_config, name, value)
    folder = tmp_path / "reader"
    model.save_pretrained(folder)
    pictures = ViTImageProcessor(size={"height": 8, "width": 8})
    TrOCRProcessor(image_processor=pictures, tokenizer=written_tokenizer()).save_pretrained(folder)
    return folder


@pytest.mark.media
def test_only_pictures_have_words_and_neighbours_change_none(reader, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.new("RGB", (60, 40), "white").save(tmp_path / "white.png")
    screens = ScreenReader(str(reader))
    stretches = [(str(tmp_path / name), 0.0, 0.0) for name in ("noise.png", "a.wav", "white.png")]
    first, nothing, other = screens.read(stretches)
    assert nothing is None
    assert first
    assert set(first.split()) <= set(WRITTEN_WORDS[3:])
    assert screens.read(stretches[2:]) == [other]
    assert screens.read(stretches[:1]) == [first]


def test_what_makes_no_text_is_refused(tmp_path):
    with pytest.raises(ModelError, match="microsoft/trocr-base-printed"):
        ScreenReader(str(tmp_path))


def test_words_on_the_screen_are_found(library, write_file):
    class Echo:
        def read(self, stretches):
            return [f"sign {Path(path).stem}{start:g}" for path, start, _ in stretches]

    write_file("a.mp4", {"see": "door"}, {"see": "door"})
    library.add(write_file("b.mp4", {"see": "door"}).parent, screen_reader=Echo())
    best = library.search("sign a5", using="text", merged=False)[0]
    assert (best.screen, best.start_s) == ("sign a5", 5.0)
