"""A model of words and files of words, so that the right answer of every search is known.

A file is JSON: a list of scenes, each of which lasts `SEGMENT_S` and names what is seen and heard.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from valor.errors import MediaError
from valor.search.library import Library
from valor.types import Embeddings, Modality, Segment

SEGMENT_S = 5.0
DIM = 64
WRITTEN_WORDS = ["<pad>", "<start>", "<end>", *(f"word{number}" for number in range(29))]
"""By their ids, of a model that reads or writes down; the first three are marks."""


class WordModel:
    """An `Embedder` whose tokens are words; a frame or sample holds the number of a word."""

    groups = (Modality.VISION, Modality.AUDIO)
    segment_s = SEGMENT_S

    def __init__(self, fingerprint: str = "words-1") -> None:
        self.fingerprint = fingerprint
        self.num_read = 0
        self.num_embedded = 0
        self.max_waiting = 0
        self.keyframes_only = set()

    def read(
        self,
        path: str,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        keyframes_only: bool = False,
    ) -> Segment:
        self.keyframes_only.add(keyframes_only)
        scene = scenes_of(path)[int(start_s // SEGMENT_S)]
        if "broken" in scene:
            raise MediaError(path, "undecodable", f"breaks at {start_s:g} s")
        seen = np.array([number(word) for word in scene.get("see", [])], np.uint8)
        heard = np.array([number(word) for word in scene.get("hear", [])], np.float32)
        self.num_read += 1
        return Segment(
            path=path,
            start_s=start_s,
            end_s=end_s if end_s is not None else start_s + SEGMENT_S,
            frames=np.stack([seen] * 3, axis=-1)[:, None, None] if len(seen) else None,
            frame_times_s=np.full(len(seen), start_s) if len(seen) else None,
            waveform=heard if len(heard) else None,
            sample_rate_hz=16_000,
        )

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        self.max_waiting = max(self.max_waiting, self.num_read - self.num_embedded)
        self.num_embedded += len(segments)
        seen = [[] if s.frames is None else s.frames[:, 0, 0, 0].tolist() for s in segments]
        heard = [[] if s.waveform is None else s.waveform.astype(int).tolist() for s in segments]
        media = {Modality.VISION: seen, Modality.AUDIO: heard}
        return {single: embed(rows) for single, rows in media.items() if any(rows)}

    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        return embed([[number(word) for word in text.split()] for text in texts])


def number(word: str) -> int:
    return zlib.crc32(word.encode()) % 251


def embed(rows: Sequence[Sequence[int]]) -> Embeddings:
    codebook = torch.randn(251, DIM, generator=torch.Generator().manual_seed(0))
    codebook = torch.nn.functional.normalize(codebook, dim=-1)
    vectors = torch.zeros(len(rows), max(map(len, rows)), DIM)
    valid = torch.zeros(vectors.shape[:2], dtype=torch.bool)
    for index, words in enumerate(rows):
        vectors[index, : len(words)] = codebook[list(words)]
        valid[index, : len(words)] = True
    return Embeddings(vectors=vectors, weight_logits=2 * vectors[..., 0], valid=valid)


def written_tokenizer() -> Any:
    """A tokenizer of `WRITTEN_WORDS` alone, as the transformers library saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(WRITTEN_WORDS)}
    raw = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<start>", eos_token="<end>"
    )


def scenes_of(path: str) -> list[dict]:
    try:
        return json.loads(Path(path).read_text())
    except ValueError:
        raise MediaError(path, "unreadable", "is no media file") from None


def probe_words(path: str) -> SimpleNamespace:
    tags = {"title": Path(path).stem}
    return SimpleNamespace(duration_s=len(scenes_of(path)) * SEGMENT_S, tags=tags)


def write(path: Path, *scenes: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{k: words.split() for k, words in s.items()} for s in scenes]))
    return path


@pytest.fixture(autouse=True)
def words_for_media(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valor.search.ingest.probe", probe_words)


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[..., Path]:
    """Write `media/NAME` with the given scenes."""
    return lambda name, *scenes: write(tmp_path / "media" / name, *scenes)


@pytest.fixture
def word_model() -> Callable[..., WordModel]:
    return WordModel


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library", model=WordModel())
