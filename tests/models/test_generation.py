"""Laws of generation."""

import torch

from tests.tiny import SPECIAL, texts, tiny_batch, tiny_model
from valor.models.generation import generate
from valor.types import AUDIOVISUAL, Modality, TextBatch


def remembered(model, batch):
    return model.remember(model.encode_media(batch))


def uncached_greedy(model, memory, prompt, num_tokens):
    """Greedy search that runs everything anew for every token."""
    rows = len(memory.layers[0].key)
    start = torch.full((rows, 1), SPECIAL.start)
    ids = start if prompt is None else torch.cat([prompt.token_ids, start], dim=1)
    ones = torch.ones(rows, 1, dtype=torch.bool)
    valid = ones if prompt is None else torch.cat([prompt.valid, ones], dim=1)
    num_prefix = 0 if prompt is None else prompt.token_ids.shape[1]
    chosen = []
    for _ in range(num_tokens):
        masked = torch.cat([ids, torch.full((rows, 1), SPECIAL.mask)], dim=1)
        text = TextBatch(token_ids=masked, valid=torch.cat([valid, ones], dim=1))
        hidden, _ = model.decoder(text, memory, [AUDIOVISUAL], num_prefix=num_prefix)
        token = model.decoder.word_logits(hidden[:, -1]).argmax(dim=1, keepdim=True)
        chosen.append(token)
        ids, valid = torch.cat([ids, token], dim=1), torch.cat([valid, ones], dim=1)
    return torch.cat(chosen, dim=1)


def until_end(row):
    ids = row.tolist()
    ids = ids[: ids.index(SPECIAL.end)] if SPECIAL.end in ids else ids
    return [i for i in ids if i != SPECIAL.pad]


def test_the_cache_changes_nothing():
    for seed in range(5):
        model, batch = tiny_model(seed), tiny_batch(seed=seed)
        for prompt in (None, texts(4, 5, short=2, seed=seed)):
            memory = remembered(model, batch)
            cached = generate(
                model.decoder, memory, AUDIOVISUAL, special=SPECIAL, question=prompt, max_tokens=6
            ).token_ids
            plain = uncached_greedy(model, memory, prompt, 6)
            for ours, expected in zip(cached, plain, strict=True):
                assert until_end(ours) == until_end(expected)


def test_beam_search_finds_texts_at_least_as_probable_as_greedy_search():
    better = 0
    for seed in range(6):
        model, batch = tiny_model(seed), tiny_batch(seed=seed)
        memory = remembered(model, batch)
        greedy = generate(model.decoder, memory, AUDIOVISUAL, special=SPECIAL, max_tokens=4)
        beam = generate(
            model.decoder, memory, AUDIOVISUAL, special=SPECIAL, num_beams=8, max_tokens=4
        )
        better += int((beam.log_probability >= greedy.log_probability - 1e-5).sum())
    assert better >= 22  # Beam search may prune the greedy path, but rarely does.


def test_rows_are_generated_independently_of_each_other():
    model, batch = tiny_model(), tiny_batch()
    memory = remembered(model, batch)
    whole = generate(model.decoder, memory, AUDIOVISUAL, special=SPECIAL, num_beams=3, max_tokens=5)
    batch.pixels, batch.frame_valid = batch.pixels[1:2], batch.frame_valid[1:2]
    batch.spectrograms, batch.window_valid = batch.spectrograms[1:2], batch.window_valid[1:2]
    alone = generate(
        model.decoder, remembered(model, batch), AUDIOVISUAL, special=SPECIAL, num_beams=3,
        max_tokens=5,
    )  # fmt: skip
    assert until_end(whole.token_ids[1]) == until_end(alone.token_ids[0])


def test_log_probability_is_that_of_the_text():
    model, batch = tiny_model(), tiny_batch()
    memory = remembered(model, batch)
    found = generate(model.decoder, memory, Modality.VISION, special=SPECIAL, max_tokens=1)
    start = torch.full((4, 1), SPECIAL.start)
    text = TextBatch(
        token_ids=torch.cat([start, torch.full((4, 1), SPECIAL.mask)], dim=1),
        valid=torch.ones(4, 2, dtype=torch.bool),
    )
    hidden, _ = model.decoder(text, memory, [Modality.VISION])
    expected = model.decoder.word_logits(hidden[:, 1]).log_softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(found.log_probability, expected)
