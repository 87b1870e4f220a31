"""A whole model on pretrained towers: it trains, and its folder needs none of them again."""

import shutil

import pytest
import torch
import transformers as hf

from tests.tiny import SPECIAL, tiny_batch, tiny_config
from valor.checkpoints.folder import load_model, save_model
from valor.config import evolve
from valor.errors import ModelError
from valor.models.valor import Valor
from valor.objectives.base import total
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.tokenizer import TextTokenizer, Tokenizer
from valor.training.step import ObjectivesConfig, loss_terms
from valor.types import Modality

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32}


@pytest.fixture
def sources(tmp_path):
    """Tiny towers as `save_pretrained` leaves them."""
    image = {**SIZES, "image_size": 16, "patch_size": 8}
    sound = {**SIZES, "num_mel_bins": 8, "max_length": 16, "patch_size": 4}
    words = {**SIZES, "vocab_size": 40, "max_position_embeddings": 40, "pad_token_id": 1}
    towers = {
        "vision": hf.CLIPModel(hf.CLIPConfig(vision_config=image, text_config=SIZES)),
        "audio": hf.ASTModel(hf.ASTConfig(**sound, frequency_stride=4, time_stride=4)),
        "text": hf.XLMRobertaModel(hf.XLMRobertaConfig(**words)),
    }
    for name, tower in towers.items():
        tower.save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in towers}


def batch_with_a_silent_row():
    batch = tiny_batch(4)
    batch.pixels = torch.randn(4, 2, 3, 16, 16)
    batch.frame_valid = torch.ones(4, 2, dtype=torch.bool)
    batch.window_valid[3] = False
    return batch


def test_frozen_towers_stay_and_all_the_rest_learns(sources):
    torch.manual_seed(0)
    frozen = Modality.VISION | Modality.TEXT
    model = Valor.from_towers(**sources, frozen=frozen, config=tiny_config())
    assert model.config.decoder == tiny_config().text
    terms = loss_terms(model.train(), batch_with_a_silent_row(), ObjectivesConfig(), SPECIAL)
    assert len(terms) == 6
    total(terms).backward()
    # Added to all logits of one softmax; for prompts, which this model does not have.
    no_effect = ("heads.text.scorer.2.bias", "decoder.text.prompt_mark")
    for name, parameter in model.named_parameters():
        if name.startswith(("vision.", "text.")):
            assert parameter.grad is None, name
        elif name not in no_effect:
            assert parameter.grad.abs().max() > 0, name


def test_the_towers_keep_their_weights(sources):
    model = Valor.from_towers(**sources, config=tiny_config())
    tower = hf.CLIPVisionModel.from_pretrained(sources["vision"]).eval()
    batch = batch_with_a_silent_row()
    with torch.no_grad():
        ours = model.eval().encode_media(batch)[Modality.VISION]
        theirs = tower(batch.pixels.flatten(0, 1))
    torch.testing.assert_close(
        ours.tokens.features, theirs.last_hidden_state.unflatten(0, (4, 2)).flatten(1, 2)
    )


def test_a_model_folder_needs_no_tower(sources, tmp_path):
    tokenizer = Tokenizer.train(["a bell rings"], vocab_size=30)
    config = evolve(tiny_config(), {"text.vocab_size": tokenizer.vocab_size})
    model = Valor.from_towers(vision=sources["vision"], text=sources["text"], config=config).eval()
    weights = dict(model.named_parameters())
    processor = Processor(ProcessorConfig(), tokenizer)
    save_model(tmp_path / "model", model.config, weights, processor, card="x")
    with pytest.raises(ModelError, match=r"text_tokenizer\.json is missing"):
        load_model(tmp_path / "model")
    own = TextTokenizer.from_file(tmp_path / "model" / "tokenizer.json")
    processor = Processor(ProcessorConfig(), tokenizer, own)
    save_model(tmp_path / "model", model.config, weights, processor, card="x")
    for folder in sources.values():
        shutil.rmtree(folder)
    again, _, _ = load_model(tmp_path / "model")
    batch = batch_with_a_silent_row()
    with torch.no_grad():
        one, two = (m.embed_media(m.encode_media(batch)) for m in (model, again))
    for modality, embeddings in one.items():
        assert torch.equal(embeddings.vectors, two[modality].vectors)
