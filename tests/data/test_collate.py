"""Laws of batches: what is not there is invalid, and texts fit their group."""

import numpy as np
import pytest
import torch

from valor.checkpoints.folder import load_model
from valor.data.collate import collate_media, collate_training, draw_aligned, draw_written
from valor.data.manifest import Question, Record, TaggedText, read_manifest
from valor.data.samples import load_sample, load_store
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality, Sample


@pytest.fixture(scope="module")
def processor(model_folder):
    return load_model(model_folder)[1]


@pytest.fixture
def sample(world, processor):
    return load_sample(read_manifest(world)[0], processor)


def test_a_modality_that_a_row_lacks_is_invalid_there(sample, processor):
    mute = Sample(id="mute", pixels=sample.pixels, spectrograms=None)
    dark = Sample(id="dark", pixels=None, spectrograms=sample.spectrograms)
    batch = collate_media([sample, mute, dark], processor)
    assert batch.frame_valid.any(dim=1).tolist() == [True, True, False]
    assert batch.window_valid.any(dim=1).tolist() == [True, False, True]


def test_a_modality_that_nobody_has_is_none(sample, processor):
    mute = Sample(id="mute", pixels=sample.pixels, spectrograms=None)
    batch = collate_media([mute, mute], processor)
    assert batch.spectrograms is None
    assert batch.window_valid is None


def test_shorter_rows_are_padded_and_marked(sample, processor):
    short = Sample(id="short", pixels=sample.pixels[:4], spectrograms=sample.spectrograms)
    batch = collate_media([sample, short], processor)
    assert batch.frame_valid.sum(dim=1).tolist() == [8, 4]


def test_the_store_equals_decoding_and_is_made_once(world, processor, tmp_path):
    records = read_manifest(world, split="test")
    bad = Record(id="bad", media=str(tmp_path / "nowhere.mp4"))
    store = load_store([bad, *records], processor, tmp_path)
    assert store.bad.keys() == {"bad"}
    assert len(store) == len(records)
    for row in (0, 5):
        direct = load_sample(records[row], processor)
        np.testing.assert_array_equal(store[row].pixels, direct.pixels)
        np.testing.assert_allclose(store[row].spectrograms, direct.spectrograms, atol=2e-3)
    calls = []
    load_store([bad, *records], processor, tmp_path, progress=lambda *done: calls.append(done))
    assert calls == []


CAPTIONS = {"seen": Modality.VISION, "heard": Modality.AUDIO, "whole": AUDIOVISUAL}


def record(*names):
    captions = tuple(TaggedText(text=name, about=CAPTIONS[name]) for name in names)
    return Record(id="x", media="x", captions=captions)


def drawn(draw, of, group):
    rng = np.random.default_rng(0)
    return {draw(of, group, rng) for _ in range(60)}


def test_a_group_is_contrasted_with_captions_that_share_a_modality():
    whole = record("seen", "heard", "whole")
    assert drawn(draw_aligned, whole, Modality.VISION) == {"seen", "whole"}
    assert drawn(draw_aligned, whole, Modality.AUDIO) == {"heard", "whole"}
    assert drawn(draw_aligned, whole, AUDIOVISUAL) == {"seen", "heard", "whole"}
    assert drawn(draw_aligned, record("heard"), Modality.VISION) == {""}


def test_a_group_writes_captions_about_itself_or_audiovisual_ones():
    assert drawn(draw_written, record("seen", "heard", "whole"), Modality.AUDIO) == {"heard"}
    assert drawn(draw_written, record("whole"), Modality.AUDIO) == {"whole"}
    assert drawn(draw_written, record("seen"), AUDIOVISUAL) == {""}


def test_questions_of_single_modalities_are_asked_only_where_they_can_be_answered(
    sample, processor
):
    asked = tuple(
        Question(text=f"what is {needs}", answers=("bell",), needs=needs)
        for needs in ("vision", "audio", "both")
    )
    rows = [Record(id="x", media="x", captions=record("whole").captions, questions=asked)] * 2
    for seed in range(20):
        batch = collate_training([sample, sample], rows, processor, seed=seed, step=0)
        for questions in batch.questions:
            texts = processor.tokenizer.decode(questions.question.token_ids)
            if questions.group != AUDIOVISUAL:
                assert texts == [f"what is {questions.group.label}"] * 2


def test_rows_without_text_take_no_part(sample, processor):
    rows = [record("whole"), record()]
    batch = collate_training([sample, sample], rows, processor, seed=0, step=0)
    for group in MEDIA_GROUPS:
        assert torch.equal(batch.caption_texts[group].has_text, torch.tensor([True, False]))
    assert batch.questions == []
