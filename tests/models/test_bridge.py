"""Laws of the bridge to a frozen language model."""

import dataclasses

import pytest
import torch

from tests.tiny import SPECIAL, VOCAB, texts, tiny_batch, tiny_bridge
from valor.models.generation import GenerationConfig
from valor.objectives.answering import AnsweringConfig
from valor.objectives.captioning import CaptioningConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.training.step import ObjectivesConfig, backward, loss_terms
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality, TextBatch

OBJECTIVES = ObjectivesConfig(
    alignment=None, captioning=CaptioningConfig(), answering=AnsweringConfig()
)
KINDS = ("llama", "gpt2", "opt")


def question(size=4):
    return texts(size, 5, short=2, seed=7)


def written(bridge, memory, group=AUDIOVISUAL, **choices):
    config = GenerationConfig(**{"max_tokens": 6, **choices})
    prompt = bridge.decoder.question_prompt(question(memory.num_rows))
    return bridge.decoder.write(prompt, memory, group, special=SPECIAL, config=config)


def remembered(bridge, batch):
    with torch.no_grad():
        return bridge(batch).memory


def without_audio(batch, *rows):
    valid = batch.window_valid.clone()
    valid[list(rows)] = False
    return dataclasses.replace(batch, window_valid=valid)


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_model_gets_no_gradient_and_all_else_does(kind):
    bridge = tiny_bridge(kind).train()
    before = {name: p.clone() for name, p in bridge.decoder.named_parameters()}
    values = backward(loss_terms(bridge, tiny_batch(), OBJECTIVES, SPECIAL))
    assert {f"caption/{g.label}" for g in MEDIA_GROUPS} | {"answer/audiovisual"} <= values.keys()
    assert not any(module.training for module in bridge.decoder.tower.modules())
    for name, parameter in bridge.named_parameters():
        if name.startswith("decoder."):
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name.removeprefix("decoder.")])
        elif not name.endswith(("time_position", "bands")):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_modality_leaves_no_trace_in_the_prompt(kind):
    bridge, batch = tiny_bridge(kind), without_audio(tiny_batch(), 1, 2)
    memory = remembered(bridge, batch)
    prompt = bridge.decoder.question_prompt(question())
    _, valid = bridge.decoder.embed_prompt(prompt, memory, AUDIOVISUAL)
    asked = prompt.valid.sum(dim=1)
    whole = 2 + 3 + 1 + 2 + 1 + asked + 1
    assert torch.equal(valid.sum(dim=1), whole - torch.tensor([0, 3, 3, 0]))
    seen = bridge.decoder.read(prompt, texts(4, 3), memory, Modality.VISION)
    both = bridge.decoder.read(prompt, texts(4, 3), memory, AUDIOVISUAL)
    torch.testing.assert_close(both[[1, 2]], seen[[1, 2]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both[[0, 3]], seen[[0, 3]], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(kind):
    bridge, batch = tiny_bridge(kind), without_audio(tiny_batch(), 0)
    whole = written(bridge, remembered(bridge, batch))
    alone = dataclasses.replace(
        batch, ids=["3"], pixels=batch.pixels[3:], frame_valid=batch.frame_valid[3:],
        spectrograms=batch.spectrograms[3:], window_valid=batch.window_valid[3:],
    )  # fmt: skip
    prompt = bridge.decoder.question_prompt(TextBatch(
        token_ids=question().token_ids[3:], valid=question().valid[3:]))  # fmt: skip
    memory, config = remembered(bridge, alone), GenerationConfig(max_tokens=6)
    one = bridge.decoder.write(prompt, memory, AUDIOVISUAL, special=SPECIAL, config=config)
    num = one.token_ids.shape[1]
    assert torch.equal(whole.token_ids[3:, :num], one.token_ids)
    torch.testing.assert_close(whole.log_probability[3:], one.log_probability, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_over_the_cache_equals_generation_without(kind):
    bridge = tiny_bridge(kind)
    memory = remembered(bridge, without_audio(tiny_batch(), 2))
    found = written(bridge, memory)
    prompt = bridge.decoder.question_prompt(question())
    ids = torch.full((4, 1), SPECIAL.start)
    score, ended = torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    for _ in range(found.token_ids.shape[1]):
        sofar = TextBatch(token_ids=ids, valid=torch.ones_like(ids, dtype=torch.bool))
        logits = bridge.decoder.read(prompt, sofar, memory, AUDIOVISUAL)[:, -1].log_softmax(1)
        best = logits.max(dim=1)
        score += best.values.masked_fill(ended, 0.0)
        ids = torch.cat([ids, best.indices.masked_fill(ended, SPECIAL.pad)[:, None]], dim=1)
        ended |= best.indices == SPECIAL.end
    expected = ids[:, 1:].masked_fill(ids[:, 1:] == SPECIAL.end, SPECIAL.pad)
    assert torch.equal(found.token_ids, expected)
    torch.testing.assert_close(found.log_probability, score.detach(), rtol=1e-4, atol=1e-4)


def test_one_beam_is_greedy_and_as_many_as_there_are_words_find_the_best_text():
    bridge = tiny_bridge()
    memory = remembered(bridge, tiny_batch())
    greedy, beam = written(bridge, memory), written(bridge, memory, num_beams=1)
    assert torch.equal(greedy.token_ids, beam.token_ids)
    best = written(bridge, memory, num_beams=VOCAB, max_tokens=2)
    prompt = bridge.decoder.question_prompt(question())
    most = torch.full((4,), float("-inf"))
    for first in range(VOCAB):
        ids = torch.tensor([[SPECIAL.start, first]]).expand(4, -1)
        text = TextBatch(token_ids=ids, valid=torch.ones_like(ids, dtype=torch.bool))
        with torch.no_grad():
            scores = bridge.decoder.read(prompt, text, memory, AUDIOVISUAL).log_softmax(dim=2)
        after = 0.0 if first == SPECIAL.end else scores[:, 1].amax(dim=1)
        most = most.maximum(scores[:, 0, first] + after)
    torch.testing.assert_close(best.log_probability, most, rtol=1e-4, atol=1e-4)


def test_sampling_follows_its_limits():
    bridge = tiny_bridge()
    memory = remembered(bridge, tiny_batch())
    greedy = written(bridge, memory)
    assert torch.equal(
        written(bridge, memory, temperature=1.0, top_k=1).token_ids, greedy.token_ids
    )
    drawn = {tuple(written(bridge, memory, temperature=3.0).token_ids[0].tolist()) for _ in "abcd"}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("order", "differs"), [("positions", True), ("none", False), ("mean", False)]
)
def test_only_frame_positions_tell_the_order_of_frames(order, differs):
    bridge, batch = tiny_bridge(frame_order=order), tiny_batch()
    turned = dataclasses.replace(
        batch, pixels=batch.pixels.unflatten(1, (2, 2)).flip(1).flatten(1, 2)
    )
    before = remembered(bridge, batch).tokens[Modality.VISION].features
    after = remembered(bridge, turned).tokens[Modality.VISION].features
    assert torch.allclose(before, after, atol=1e-5) is not differs


def test_padded_frames_change_nothing():
    bridge, batch = tiny_bridge(), tiny_batch()
    valid = batch.frame_valid.clone()
    valid[:, 2:] = False
    short = dataclasses.replace(batch, pixels=batch.pixels[:, :2], frame_valid=valid[:, :2])
    padded = dataclasses.replace(batch, frame_valid=valid)
    torch.testing.assert_close(
        remembered(bridge, padded).tokens[Modality.VISION].features,
        remembered(bridge, short).tokens[Modality.VISION].features,
    )


def test_words_are_predicted_from_the_words_before_alone():
    bridge, batch = tiny_bridge(), tiny_batch()
    memory, prompt = remembered(bridge, batch), bridge.decoder.caption_prompt(4)
    text = texts(4, 6)
    changed = dataclasses.replace(text, token_ids=text.token_ids.clone())
    changed.token_ids[:, 4] = 20
    before = bridge.decoder.read(prompt, text, memory, AUDIOVISUAL)
    after = bridge.decoder.read(prompt, changed, memory, AUDIOVISUAL)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_the_loss_of_captions_is_the_language_models_own():
    bridge, batch = tiny_bridge(), tiny_batch()
    terms = loss_terms(bridge, batch, OBJECTIVES, SPECIAL)
    memory, text = remembered(bridge, batch), batch.caption_texts[AUDIOVISUAL]
    x, valid = bridge.decoder.embed_prompt(bridge.decoder.caption_prompt(4), memory, AUDIOVISUAL)
    words, lm = text.token_ids[:, 1:], bridge.decoder.language_model
    labels = torch.cat(
        [torch.full(valid.shape, -100), words.masked_fill(~text.valid[:, 1:], -100)], 1
    )
    output = lm(
        inputs_embeds=torch.cat([x, lm.get_input_embeddings()(words)], dim=1),
        attention_mask=torch.cat([valid, text.valid[:, 1:]], dim=1).long(),
        labels=labels,
    )
    torch.testing.assert_close(terms["caption/audiovisual"].value, output.loss)


def test_a_prompt_must_end_in_words():
    config = tiny_bridge().config
    with pytest.raises(ValueError, match="must end in words"):
        dataclasses.replace(config, prompt=config.prompt[:-1])


def test_what_does_not_fit_into_the_language_model_is_refused():
    config = tiny_bridge().config
    frames = FrameConfig(num_bursts=2, frames_per_burst=2, image_px=8)
    sound = SpectrogramConfig(num_mels=8, hops_per_window=16)
    processor = ProcessorConfig(frames=frames, spectrogram=sound, max_text_length=59)
    config.check(processor)
    with pytest.raises(ValueError, match="130 positions, but the language model has 128"):
        config.check(dataclasses.replace(processor, max_text_length=60))
    with pytest.raises(ValueError, match="max_positions=1"):
        dataclasses.replace(config, max_positions=1).check(processor)
