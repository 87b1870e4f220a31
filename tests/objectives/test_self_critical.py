"""Laws of self-critical training: the gradient is that of the expected reward, and is climbed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import SPECIAL, VOCAB, small_run, tiny_batch, tiny_bridge, tiny_config, tiny_model
from valor.config import evolve
from valor.data.manifest import Record, TaggedText
from valor.errors import ConfigError
from valor.models.generation import GenerationConfig, generate
from valor.models.valor import Valor
from valor.objectives.base import total
from valor.objectives.self_critical import CiderReward, SelfCriticalConfig, criticise, write
from valor.processing.tokenizer import Tokenizer
from valor.training.run import run
from valor.training.step import Losses, ObjectivesConfig, found_terms, loss_terms
from valor.types import AUDIOVISUAL, Modality

WORTH = torch.linspace(-1, 1, VOCAB, dtype=torch.float64).roll(7).numpy()


def first_word(ids, group, texts):
    """A reward that depends on the first word alone."""
    return WORTH[texts.token_ids[:, 1].numpy()]


class Spied:
    """Rewards by random numbers, and remembers what was rewarded."""

    def __init__(self):
        self.calls = []

    def __call__(self, ids, group, texts):
        scores = np.random.default_rng(len(self.calls)).random(len(texts.valid))
        self.calls.append((list(ids), group, texts, torch.from_numpy(scores).float()))
        return scores


def config(**changes):
    return SelfCriticalConfig(**({"groups": (AUDIOVISUAL,), "max_tokens": 5} | changes))


def terms_of(model, batch, reward, own):
    return criticise(model(batch), batch, model.decoder, reward, own, SPECIAL)


@pytest.mark.parametrize(("predicts", "baseline"), [("masked", "greedy"), ("causal", "others")])
def test_the_gradient_is_minus_that_of_the_expected_reward(predicts, baseline):
    model = Valor(evolve(tiny_config(), {"language_modelling": predicts})).eval()
    batch, draws = tiny_batch(2), 8000
    own = config(max_tokens=1, num_samples=draws, baseline=baseline)
    terms_of(model, batch, first_word, own)["self_critical/audiovisual"].value.backward()
    found, model.decoder.bias.grad = model.decoder.bias.grad, None
    # The same by hand, over all words that there are.
    memory = model.remember(model.encode_media(batch))
    text = write(model.decoder, memory, AUDIOVISUAL, SPECIAL, 1)
    if predicts == "masked":
        hidden = model.decoder.read_fully_masked(
            model.decoder.caption_prompt(2), text, memory, AUDIOVISUAL, mask_id=SPECIAL.mask
        )
    else:
        hidden = model.decoder.read(model.decoder.caption_prompt(2), text, memory, AUDIOVISUAL)
    probability = model.decoder.word_logits(hidden[:, 0]).softmax(dim=1)
    (probability @ torch.from_numpy(WORTH).float()).mean().neg().backward()
    wanted = model.decoder.bias.grad
    assert wanted is not None
    assert wanted.abs().max() > 0.005
    torch.testing.assert_close(found, wanted, atol=0.004, rtol=0)


@pytest.mark.parametrize("predicts", ["masked", "causal"])
def test_each_text_counts_by_its_reward_above_the_greedy_one(predicts):
    model = Valor(evolve(tiny_config(), {"language_modelling": predicts})).train()
    batch, reward = tiny_batch(3), Spied()
    torch.manual_seed(5)
    term = terms_of(model, batch, reward, config())["self_critical/audiovisual"]
    assert model.training
    model.eval()
    memory = model.remember(model.encode_media(batch))
    torch.manual_seed(5)
    rule = GenerationConfig(max_tokens=5, temperature=1.0)
    drawn = generate(model.decoder, memory, AUDIOVISUAL, special=SPECIAL, config=rule)
    (ids, _, texts, scores), (_, _, best, bar) = reward.calls
    assert ids == batch.ids
    words = texts.token_ids[:, 1:]
    assert torch.equal(words.masked_fill(words == SPECIAL.end, SPECIAL.pad), drawn.token_ids)
    greedy = write(model.decoder, memory, AUDIOVISUAL, SPECIAL, 5)
    assert torch.equal(best.token_ids, greedy.token_ids)
    by_hand = -((scores - bar) * drawn.log_probability).mean()
    torch.testing.assert_close(term.value, by_hand)


def test_rows_without_the_media_or_a_caption_are_not_rewarded():
    model, batch, reward = tiny_model(), tiny_batch(), Spied()
    batch.window_valid[1] = False
    batch.caption_texts[AUDIOVISUAL].valid[2] = False
    own = config(groups=(AUDIOVISUAL, Modality.AUDIO), num_samples=2)
    terms = terms_of(model, batch, reward, own)
    assert {name: (term.num_rows, term.weight) for name, term in terms.items()} == {
        "self_critical/audiovisual": (2, 0.5), "reward/audiovisual": (2, 0.0),
        "self_critical/audio": (3, 0.5), "reward/audio": (3, 0.0),
    }  # fmt: skip
    asked = [(ids, group) for ids, group, _, _ in reward.calls]
    assert asked[0] == (["0", "0", "3", "3"], AUDIOVISUAL)
    assert asked[1] == (["0", "3"], AUDIOVISUAL)
    means = [scores.mean() for *_, scores in reward.calls]
    torch.testing.assert_close(terms["reward/audiovisual"].value, means[0])


def test_some_rows_at_a_time_reward_the_same_rows():
    model, batch, whole, cut = tiny_model(), tiny_batch(), Spied(), Spied()
    objectives = ObjectivesConfig(alignment=None, captioning=None, self_critical=config())
    for reward, micro_batch in ((whole, None), (cut, 3)):
        losses = Losses(model, objectives, SPECIAL, micro_batch, reward)
        terms = found_terms(losses(batch))
        assert terms["self_critical/audiovisual"].num_rows == 4
    assert sorted({id for ids, *_ in cut.calls for id in ids}) == batch.ids


def test_what_is_rewarded_becomes_what_is_written():
    """A record's own caption, out of those of all, is what CIDEr asks for."""
    words = ["a red dog", "one blue bird sings", "the grey cat sleeps", "two green cars race by"]
    tokenizer = Tokenizer.train(words, vocab_size=200)
    media = AUDIOVISUAL
    records = [
        Record(id=str(row), media="x", captions=(TaggedText(text=text, about=media),))
        for row, text in enumerate(words)
    ]
    reward = CiderReward(records, (media,), tokenizer)
    right = tokenizer.encode(words, max_length=12)
    np.testing.assert_allclose(reward(["0", "1", "2", "3"], media, right), [7.5, 10, 10, 10])
    np.testing.assert_allclose(reward(["1", "2", "3", "0"], media, right), 0)
    model = Valor(evolve(tiny_config(), {"text.vocab_size": tokenizer.vocab_size}))
    batch, special = tiny_batch(), tokenizer.special
    batch.caption_texts = {media: right}
    own = SelfCriticalConfig(groups=(media,), max_tokens=6, num_samples=16, baseline="others")
    stages = (
        ObjectivesConfig(alignment=None),
        ObjectivesConfig(alignment=None, captioning=None, self_critical=own),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    rewards = []
    for step in range(45):
        losses = Losses(model, stages[step >= 25], special, None, reward)
        terms = found_terms(losses(batch))
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
        rewards += [terms[name].value.item() for name in terms if name.startswith("reward")]
    assert len(rewards) == 20
    assert np.mean(rewards[-5:]) > 1.25 * np.mean(rewards[:5]) > 0


def test_only_a_decoder_that_writes_and_a_reward_can_learn_so():
    only = ObjectivesConfig(alignment=None, captioning=None, self_critical=config())
    with pytest.raises(ConfigError, match="self_critical"):
        loss_terms(tiny_model(), tiny_batch(), only, SPECIAL)
    bridge, batch = tiny_bridge(), tiny_batch()
    with pytest.raises(ConfigError, match="self_critical"):
        criticise(bridge(batch), batch, bridge.decoder, first_word, config(), SPECIAL)
    with pytest.raises(ValueError, match="num_samples"):
        replace(config(), baseline="others")


@pytest.mark.parametrize(("predicts", "longest"), [("masked", 30), ("causal", 31)])
def test_texts_are_read_again_whole_and_longer_ones_are_refused(predicts, longest):
    model = Valor(evolve(tiny_config(), {"language_modelling": predicts}))
    batch, reward = tiny_batch(2), Spied()
    torch.nn.init.constant_(model.decoder.bias.data[SPECIAL.end], -1e4)  # So that no text ends.
    found = terms_of(model, batch, reward, config(max_tokens=longest))
    assert torch.isfinite(total(found)) and reward.calls[0][2].valid.sum(1).max() == longest + 1
    with pytest.raises(ConfigError, match=rf"max_tokens={longest + 1}, .* at most {longest} "):
        terms_of(model, batch, reward, config(max_tokens=longest + 1))


def test_a_run_refuses_captions_that_its_model_cannot_write(tmp_path):
    changes = {"objectives.self_critical": {"max_tokens": 64}, "processor.max_text_length": 20}
    own = evolve(small_run(), {**changes, "model.text.max_length": 64})
    record = Record(id="a", media="nowhere.mp4", captions=(TaggedText(text="a dog"),))
    with pytest.raises(ConfigError, match=r"self_critical.max_tokens=64, .* at most 62 tokens"):
        run(own, [record], tmp_path)
