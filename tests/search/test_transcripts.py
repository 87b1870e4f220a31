import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tests.search.conftest import WRITTEN_WORDS, written_tokenizer
from valor.errors import ModelError
from valor.search.transcripts import Transcriber


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    """A Whisper of a few thousand random weights that says one word after the other."""
    config = WhisperConfig(
        vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config.max_length = None
    folder = tmp_path / "whisper"
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=8)
    extractor.save_pretrained(folder)
    written_tokenizer().save_pretrained(folder)
    return folder


def write_sound(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((samples * 20_000).astype("<i2").tobytes())
    return path


@pytest.mark.media
def test_only_sound_has_words_and_neighbours_change_none(whisper, tmp_path):
    times = np.arange(8000 * 2) / 8000
    tone = write_sound(tmp_path / "tone.wav", np.sin(2500 * times))
    noise = write_sound(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-1, 1, len(times)))
    silence = write_sound(tmp_path / "silence.wav", 0 * times)
    transcriber = Transcriber(str(whisper))
    stretches = [(str(path), 0.0, 2.0) for path in (tone, silence, noise, tmp_path / "absent.wav")]
    first, nothing, other, absent = transcriber.transcribe(stretches)
    assert (nothing, absent) == (None, None)
    assert first
    assert transcriber.transcribe(stretches[:1]) == [first]
    assert transcriber.transcribe(stretches[2:3]) == [other]
    assert set(first.split()) <= set(WRITTEN_WORDS[3:])


def test_what_is_no_whisper_is_refused(tmp_path):
    with pytest.raises(ModelError, match="openai/whisper-small"):
        Transcriber(str(tmp_path))


def test_subtitles_come_before_a_transcript(library, write_file):
    class Echo:
        def transcribe(self, stretches):
            return [f"heard {Path(path).stem} {start:g}" for path, start, _ in stretches]

    path = write_file("a.mp4", {"hear": "bell"}, {"hear": "horn"})
    path.with_suffix(".vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nwritten\n")
    write_file("b.mp4", {"hear": "bell"})
    library.add(path.parent, transcriber=Echo())
    said = {(Path(h.path).name, h.start_s): h.speech for h in library.search("bell", merged=False)}
    assert said == {("a.mp4", 0.0): "written", ("a.mp4", 5.0): None, ("b.mp4", 0.0): "heard b 0"}
