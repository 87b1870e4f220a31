"""Laws of generation, for every way in which the decoder can look at media."""

from typing import get_args

import pytest
import torch

from tests.tiny import SPECIAL, VOCAB, texts, tiny_batch, tiny_config
from valor.config import evolve
from valor.encoders.text import CrossAttentionKind, join_texts
from valor.errors import ConfigError
from valor.models.generation import GenerationConfig, beam_search, generate, stream
from valor.models.valor import Valor
from valor.types import AUDIOVISUAL, Modality, TextBatch

ARRANGEMENTS = [(kind, "masked") for kind in get_args(CrossAttentionKind)] + [
    ("concatenated", "causal"),
    ("none", "causal"),
]


def written_by(kind="concatenated", predicts="masked", seed=0, batch=None):
    """A fresh model of an arrangement, and its memory of a batch."""
    torch.manual_seed(seed)
    changes = {
        "text.cross_attention": kind,
        "language_modelling": predicts,
        "prompts.caption": [2, 9, 3],
        "prompts.answer": [7, 8],
    }
    model = Valor(evolve(tiny_config(), changes)).eval()
    with torch.no_grad():
        outputs = model.encode_media(batch or tiny_batch(seed=seed))
        return model, model.remember(outputs)


def ids_of(model, memory, question=None, group=AUDIOVISUAL, **config):
    found = generate(
        model.decoder,
        memory,
        group,
        special=SPECIAL,
        question=question,
        config=GenerationConfig(**config),
    )
    return [until_end(row) for row in found.token_ids]


def uncached(model, memory, question, num_tokens, group=AUDIOVISUAL):
    """Greedy search that runs everything anew for every token."""
    rows = memory.num_rows
    ids = torch.full((rows, 1), SPECIAL.start)
    for _ in range(num_tokens):
        asked = ids
        if not model.decoder.causal:
            asked = torch.cat([ids, torch.full((rows, 1), SPECIAL.mask)], dim=1)
        text = TextBatch(token_ids=asked, valid=torch.ones_like(asked, dtype=torch.bool))
        with torch.no_grad():
            if question is None:
                prompt = model.decoder.caption_prompt(rows)
            else:
                prompt = model.decoder.question_prompt(question)
            hidden = model.decoder.read(prompt, text, memory, group)
            token = model.decoder.word_logits(hidden[:, -1]).argmax(dim=1, keepdim=True)
        ids = torch.cat([ids, token], dim=1)
    return [until_end(row[1:]) for row in ids]


def until_end(row):
    ids = row.tolist()
    ids = ids[: ids.index(SPECIAL.end)] if SPECIAL.end in ids else ids
    return [i for i in ids if i != SPECIAL.pad]


@pytest.mark.parametrize(("kind", "predicts"), ARRANGEMENTS)
def test_the_cache_changes_nothing(kind, predicts):
    for seed in range(3):
        model, memory = written_by(kind, predicts, seed)
        for question in (None, texts(4, 5, short=2, seed=seed)):
            for group in (AUDIOVISUAL, Modality.AUDIO):
                cached = ids_of(model, memory, question, group, max_tokens=6)
                assert cached == uncached(model, memory, question, 6, group)


@pytest.mark.parametrize(("kind", "predicts"), ARRANGEMENTS)
def test_the_cache_changes_no_probability(kind, predicts):
    model, memory = written_by(kind, predicts)
    config = GenerationConfig(num_beams=3, max_tokens=5, min_tokens=5)
    found = generate(model.decoder, memory, AUDIOVISUAL, special=SPECIAL, config=config)
    assert found.token_ids.shape == (4, 5)
    start, prompt = torch.full((4, 1), SPECIAL.start), model.decoder.caption_prompt(4)
    total = torch.zeros(4)
    for place in range(5):
        seen = torch.cat([start, found.token_ids[:, :place]], dim=1)
        if predicts == "masked":
            seen = torch.cat([seen, torch.full((4, 1), SPECIAL.mask)], dim=1)
        text = TextBatch(token_ids=seen, valid=torch.ones_like(seen, dtype=torch.bool))
        with torch.no_grad():
            hidden = model.decoder.read(prompt, text, memory, AUDIOVISUAL)
            logits = model.decoder.word_logits(hidden[:, -1])
        logits[:, SPECIAL.end] = -torch.inf
        total += logits.log_softmax(1).gather(1, found.token_ids[:, place : place + 1])[:, 0]
    torch.testing.assert_close(found.log_probability, total, atol=1e-5, rtol=0)


def test_a_packed_decoder_writes_the_same_and_saves_the_same():
    model, memory = written_by()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = ids_of(model, memory, num_beams=3, max_tokens=6)
    model.decoder.pack()
    assert ids_of(model, memory, num_beams=3, max_tokens=6) == plain
    assert any(p.is_mkldnn for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_one_beam_is_greedy_search():
    for seed in range(3):
        model, memory = written_by(seed=seed)
        *_, one = beam_search(
            model.decoder, memory, AUDIOVISUAL, special=SPECIAL, config=GenerationConfig()
        )
        ids = one.best(SPECIAL).token_ids
        assert [until_end(row) for row in ids] == ids_of(model, memory)


def test_beam_search_finds_texts_at_least_as_probable_as_greedy_search():
    better = 0
    for seed in range(6):
        model, memory = written_by(seed=seed)
        greedy, beam = (
            generate(
                model.decoder,
                memory,
                AUDIOVISUAL,
                special=SPECIAL,
                config=GenerationConfig(num_beams=num_beams, max_tokens=4),
            )
            for num_beams in (1, 8)
        )
        better += int((beam.log_probability >= greedy.log_probability - 1e-5).sum())
    assert better >= 22  # Beam search may prune the greedy path, but rarely does.


@pytest.mark.parametrize("kind", get_args(CrossAttentionKind))
def test_rows_are_generated_independently_of_each_other(kind):
    model, memory = written_by(kind)
    question = texts(4, 5, short=2)
    batch = tiny_batch()
    for name in ("pixels", "frame_valid", "spectrograms", "window_valid"):
        setattr(batch, name, getattr(batch, name)[1:2])
    _, alone = written_by(kind, batch=batch)
    short = TextBatch(token_ids=question.token_ids[1:2, :3], valid=question.valid[1:2, :3])
    for asked, part in ((None, None), (question, short)):
        whole = ids_of(model, memory, asked, num_beams=3, max_tokens=5)
        assert whole[1] == ids_of(model, alone, part, num_beams=3, max_tokens=5)[0]


@pytest.mark.parametrize("kind", get_args(CrossAttentionKind))
def test_a_row_without_sound_is_described_from_vision(kind):
    batch = tiny_batch()
    batch.window_valid[1:] = False
    batch.spectrograms[1:] = 1e6
    model, memory = written_by(kind, batch=batch)
    both = ids_of(model, memory, max_tokens=5)
    vision = ids_of(model, memory, group=Modality.VISION, max_tokens=5)
    assert both[1:] == vision[1:]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_stream_grows_by_a_word_and_ends_with_what_is_generated(num_beams):
    model, memory = written_by()
    config = GenerationConfig(num_beams=num_beams, max_tokens=6)
    arguments = {"special": SPECIAL, "config": config}
    texts_so_far = list(stream(model.decoder, memory, AUDIOVISUAL, **arguments))
    whole = generate(model.decoder, memory, AUDIOVISUAL, **arguments)
    assert [text.token_ids.shape[1] for text in texts_so_far] == [1, 2, 3, 4, 5, 6]
    for name in ("token_ids", "log_probability", "num_tokens"):
        assert torch.equal(getattr(texts_so_far[-1], name), getattr(whole, name))
    if num_beams == 1:
        for length, text in enumerate(texts_so_far, start=1):
            assert torch.equal(text.token_ids, whole.token_ids[:, :length])


def test_texts_are_as_long_as_asked():
    model, memory = written_by()
    with torch.no_grad():
        model.decoder.bias[SPECIAL.end] = 1e3
    for num_beams in (1, 3):
        assert ids_of(model, memory, num_beams=num_beams, max_tokens=6) == [[], [], [], []]
        longer = ids_of(model, memory, num_beams=num_beams, min_tokens=3, max_tokens=6)
        assert [len(row) for row in longer] == [3, 3, 3, 3]


def test_sampling_follows_the_distribution_that_its_limits_leave():
    model, memory = written_by()
    likeliest = next(stream(model.decoder, memory, AUDIOVISUAL, special=SPECIAL))
    first, many = likeliest.log_probability.exp(), 300
    drawn = torch.stack(
        [
            next(
                stream(
                    model.decoder,
                    memory,
                    AUDIOVISUAL,
                    special=SPECIAL,
                    config=GenerationConfig(temperature=1.0, max_tokens=1),
                )
            ).token_ids
            for _ in range(many)
        ]
    )
    share = (drawn == likeliest.token_ids).float().mean(dim=0)[:, 0]
    spread = (first * (1 - first) / many).sqrt()
    assert ((share - first).abs() < 5 * spread).all()
    for limit in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        config = GenerationConfig(**{"temperature": 1.0, "max_tokens": 4, **limit})
        found = generate(model.decoder, memory, AUDIOVISUAL, special=SPECIAL, config=config)
        greedy = ids_of(model, memory, max_tokens=4)
        assert [until_end(row) for row in found.token_ids] == greedy


def test_a_fully_masked_pass_predicts_what_step_by_step_writing_does():
    for kind in get_args(CrossAttentionKind):
        model, memory = written_by(kind)
        text = texts(4, 6, short=2)
        with torch.no_grad():
            prompt = model.decoder.caption_prompt(4)
            together = model.decoder.read_fully_masked(
                prompt, text, memory, AUDIOVISUAL, mask_id=SPECIAL.mask
            )
            for place in range(1, 5):
                ids = text.token_ids[:, :place]
                head = TextBatch(token_ids=ids, valid=text.valid[:, :place])
                mask = torch.full((4, 1), SPECIAL.mask)
                mask = TextBatch(token_ids=mask, valid=torch.ones_like(mask, dtype=torch.bool))
                alone = model.decoder.read(prompt, join_texts(head, mask), memory, AUDIOVISUAL)
                torch.testing.assert_close(together[:, place - 1], alone[:, -1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_beams": 0},
        {"min_tokens": 5, "max_tokens": 4},
        {"num_beams": 2, "temperature": 1.0},
        {"top_p": 0.0},
        {"top_k": 0},
    ],
)
def test_impossible_choices_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenerationConfig(**wrong)


def test_words_are_words():
    model, memory = written_by()
    config = GenerationConfig(num_beams=3, max_tokens=7)
    found = generate(model.decoder, memory, AUDIOVISUAL, special=SPECIAL, config=config)
    assert (found.token_ids < VOCAB).all()
    assert (found.num_tokens >= 1).all()


@pytest.mark.parametrize(("kind", "predicts"), [ARRANGEMENTS[0], ARRANGEMENTS[-1]])
def test_texts_are_as_long_as_there_are_positions_and_longer_ones_are_refused(kind, predicts):
    model, memory = written_by(kind, predicts)
    longest = 32 if predicts == "causal" else 31  # The last word is predicted by a [MASK].
    for beams in (1, 2):
        own = {"min_tokens": longest, "max_tokens": longest, "num_beams": beams}
        assert all(len(ids) == longest for ids in ids_of(model, memory, **own))
        with pytest.raises(ConfigError, match=rf"max_tokens={longest + 1}, .* at most {longest} "):
            ids_of(model, memory, max_tokens=longest + 1, num_beams=beams)
