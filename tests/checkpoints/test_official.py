"""A whole released model gives the released numbers through the public methods of `Valor`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from valor.checkpoints.official import valor_config, valor_weights
from valor.errors import ConfigError
from valor.models.fusion import join, similarity
from valor.models.generation import generate
from valor.models.valor import Valor
from valor.objectives.alignment import contrastive_loss
from valor.types import AUDIOVISUAL, Batch, Modality, SpecialIds, TextBatch

GOLDEN = Path(__file__).parents[1] / "golden" / "official"
SPECIAL = SpecialIds(pad=0, start=101, end=102, mask=103)
GROUPS = {"tv": Modality.VISION, "ta": Modality.AUDIO, "tva": AUDIOVISUAL}
CASES = [(name, group) for name in ("valor_base_like", "valor_large_like") for group in GROUPS]


def text_batch(ids):
    return TextBatch(token_ids=ids, valid=ids != 0)


class Released:
    """A released model as ours, with its inputs and results."""

    def __init__(self, name):
        folder = GOLDEN / name
        described = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "official_state_dict.safetensors")
        config = valor_config(described)
        self.model = Valor(config)
        self.model.load_state_dict(valor_weights(weights, config))
        self.model.eval()
        self.io = load_file(folder / "io.safetensors")
        pixels, sound = self.io["in.video_pixels"], self.io["in.audio_spectrograms"]
        self.batch = Batch(
            ids=[str(row) for row in range(len(pixels))],
            pixels=pixels,
            frame_valid=torch.ones(pixels.shape[:2], dtype=torch.bool),
            spectrograms=sound,
            window_valid=torch.ones(sound.shape[:2], dtype=torch.bool),
        )
        with torch.no_grad():
            outputs = self.model.encode_media(self.batch)
            self.media = self.model.embed_media(outputs)
            self.memory = self.model.remember(outputs)
            self.text = self.model.encode_text(text_batch(self.io["in.text_tokens"]))


@pytest.fixture(scope="module")
def released():
    return {name: Released(name) for name in ("valor_base_like", "valor_large_like")}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def same_until_the_end(ours, theirs):
    for mine, wanted in zip(ours.tolist(), theirs.tolist(), strict=True):
        end = wanted.index(SPECIAL.end) if SPECIAL.end in wanted else len(wanted)
        assert [token for token in mine if token != SPECIAL.pad] == wanted[:end]


@pytest.mark.parametrize("name", ["valor_base_like", "valor_large_like"])
def test_vectors_of_the_shared_space(released, name):
    it = released[name]
    words = it.text.valid
    close(it.text.vectors[words], it.io["out.feat_t"][words])
    close(it.media[Modality.VISION].vectors, it.io["out.feat_v"])
    close(it.media[Modality.AUDIO].vectors, it.io["out.feat_a"])


@pytest.mark.parametrize(("name", "group"), CASES)
def test_contrastive_losses(released, name, group):
    it = released[name]
    scores = similarity(it.text, join(it.media, GROUPS[group]), padded_words="zero")
    itself = torch.eye(len(scores), dtype=torch.bool)
    loss = contrastive_loss(scores, itself, it.model.log_scale.detach())
    close(loss, it.io[f"out.contrastive_loss_{group}"])


@pytest.mark.parametrize(("name", "group"), CASES)
def test_similarities(released, name, group):
    it = released[name]
    media = join(it.media, GROUPS[group])
    close(similarity(it.text, media), it.io[f"out.masked_score_{group}"])
    close(similarity(it.text, media, padded_words="zero"), it.io[f"out.score_{group}"])


@pytest.mark.parametrize(("name", "group"), CASES)
def test_logits_and_loss_of_masked_captions(released, name, group):
    it = released[name]
    decoder, masked = it.model.decoder, text_batch(it.io["in.masked_tokens"])
    with torch.no_grad():
        states = decoder.describe_masked(masked, it.memory, GROUPS[group])
        logits = decoder.word_logits(states)
    close(logits[masked.valid], it.io[f"out.caption_logits_{group}"][masked.valid])
    labels = it.io["in.masked_labels"]
    loss = F.cross_entropy(logits[labels != -1], labels[labels != -1])
    close(loss, it.io[f"out.caption_loss_{group}"])


@pytest.mark.parametrize(("name", "group"), CASES)
@pytest.mark.parametrize(("kind", "beams"), [("greedy", 1), ("beam3", 3), ("answer", 1)])
def test_generated_captions_and_answers(released, name, group, kind, beams):
    it = released[name]
    wanted = it.io[f"out.{kind}_tokens_{group}"]
    question = text_batch(it.io["in.question_tokens"]) if kind == "answer" else None
    written = generate(
        it.model.decoder,
        it.memory,
        GROUPS[group],
        special=SPECIAL,
        question=question,
        num_beams=beams,
        max_tokens=wanted.shape[1],
    )
    same_until_the_end(written.token_ids, wanted)


def test_an_arrangement_that_is_not_there_yet_is_refused():
    described = json.loads((GOLDEN / "clip_text_coarse" / "config.json").read_text())
    with pytest.raises(ConfigError, match="fine contrast"):
        valor_config(described)
