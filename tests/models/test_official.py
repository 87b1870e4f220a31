"""Heads, similarity and decoder equal the released implementation (arrangement of VALOR-B)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from valor.checkpoints.official import alignment_head, decoder, memory_projection
from valor.encoders.text import BertConfig, TextTransformer
from valor.models.decoder import Decoder, MemoryProjection
from valor.models.fusion import AlignmentHead, join, similarity
from valor.models.generation import generate
from valor.objectives.alignment import contrastive_loss
from valor.types import AUDIOVISUAL, EncoderOutput, Modality, SpecialIds, TextBatch, Tokens

FOLDER = Path(__file__).parents[1] / "golden" / "official" / "valor_base_like"
SPECIAL = SpecialIds(pad=0, start=101, end=102, mask=103)
GROUPS = {"tv": Modality.VISION, "ta": Modality.AUDIO, "tva": AUDIOVISUAL}


@pytest.fixture(scope="module")
def golden():
    weights = load_file(FOLDER / "official_state_dict.safetensors")
    return weights, load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def released_decoder(golden):
    sizes = json.loads((FOLDER / "config.json").read_text())["architecture"]["bert"]
    config = BertConfig(
        vocab_size=sizes["vocab"],
        dim=sizes["width"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
        mlp_dim=sizes["feed_forward"],
        norm_eps=sizes["norm_eps"],
        marks_prompts=True,
    )
    model = Decoder(TextTransformer(config))
    model.load_state_dict(decoder(golden[0]))
    return model.eval()


def encoded(io, name, *, summary):
    states = io[f"out.{name}_hidden"]
    there = torch.ones(states.shape[:2], dtype=torch.bool)
    every = there[:, :, None].expand(states.shape[:3]).flatten(1)
    return EncoderOutput(
        tokens=Tokens(features=states.flatten(1, 2), valid=every),
        summary=Tokens(features=summary(states), valid=there),
    )


@pytest.fixture(scope="module")
def media(golden):
    io = golden[1]
    return {
        Modality.VISION: encoded(io, "video", summary=lambda x: x.mean(dim=2)),
        Modality.AUDIO: encoded(io, "audio", summary=lambda x: x[:, :, 0]),
    }


@torch.no_grad()
def head(weights, name, features, valid):
    module = AlignmentHead(features.shape[-1], 16)
    module.load_state_dict(alignment_head(weights, name))
    return module(features, valid)


@pytest.fixture(scope="module")
def embeddings(golden, released_decoder, media):
    weights, io = golden
    ids = io["in.text_tokens"]
    with torch.no_grad():
        text = head(weights, "text", released_decoder.text(ids, ids != 0), ids != 0)
    names = {Modality.VISION: "video", Modality.AUDIO: "audio"}
    return text, {
        m: head(weights, names[m], out.summary.features, out.summary.valid)
        for m, out in media.items()
    }


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_vectors_of_the_shared_space(golden, embeddings):
    io = golden[1]
    text, media = embeddings
    close(text.vectors[text.valid], io["out.feat_t"][text.valid])
    close(media[Modality.VISION].vectors, io["out.feat_v"])
    close(media[Modality.AUDIO].vectors, io["out.feat_a"])


@pytest.mark.parametrize("name", GROUPS)
def test_similarities_without_and_with_padded_words(golden, embeddings, name):
    text, io = embeddings[0], golden[1]
    media = join(embeddings[1], GROUPS[name])
    close(similarity(text, media), io[f"out.masked_score_{name}"])
    close(similarity(text, media, padded_words="zero"), io[f"out.score_{name}"])


@pytest.mark.parametrize("name", GROUPS)
def test_contrastive_losses_of_released_scores(golden, name):
    weights, io = golden
    scores = io[f"out.score_{name}"]
    log_scale = -weights["contra_temp"].log()
    loss = contrastive_loss(scores, torch.eye(len(scores), dtype=torch.bool), log_scale)
    close(loss, io[f"out.contrastive_loss_{name}"])


@pytest.fixture(scope="module")
def memory(golden, released_decoder, media):
    seen = media[Modality.VISION]
    module = MemoryProjection(seen.tokens.features.shape[-1], 32, 32)
    module.load_state_dict(memory_projection(golden[0], "video"))
    with torch.no_grad():
        return released_decoder.remember({Modality.VISION: module(seen)})


def test_caption_logits_and_loss_from_vision(golden, released_decoder, memory):
    io = golden[1]
    ids, labels = io["in.masked_tokens"], io["in.masked_labels"]
    with torch.no_grad():
        batch = TextBatch(token_ids=ids, valid=ids != 0)
        hidden, _ = released_decoder(batch, memory, [Modality.VISION])
        logits = released_decoder.word_logits(hidden)
    close(logits[ids != 0], io["out.caption_logits_tv"][ids != 0])
    scored = labels != -1
    close(F.cross_entropy(logits[scored], labels[scored]), io["out.caption_loss_tv"])


@pytest.mark.parametrize(("name", "beams"), [("greedy", 1), ("beam3", 3)])
def test_generated_tokens_from_vision(golden, released_decoder, memory, name, beams):
    wanted = golden[1][f"out.{name}_tokens_tv"]
    written = generate(
        released_decoder,
        memory,
        Modality.VISION,
        special=SPECIAL,
        num_beams=beams,
        max_tokens=wanted.shape[1],
    ).token_ids
    for ours, theirs in zip(written.tolist(), wanted.tolist(), strict=True):
        ends = theirs.index(SPECIAL.end) if SPECIAL.end in theirs else len(theirs)
        assert [token for token in ours if token != SPECIAL.pad] == theirs[:ends]
