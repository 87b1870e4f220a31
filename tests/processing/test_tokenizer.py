"""Laws of the tokenizer."""

import pytest
import torch

from valor.errors import ModelError
from valor.processing.tokenizer import Tokenizer

CORPUS = ["a red circle moves left", "a bell rings slowly", "the blue star stays still"]


def test_decoding_gives_back_the_text():
    tokenizer = Tokenizer.train(CORPUS, vocab_size=200)
    assert tokenizer.decode(tokenizer.encode(CORPUS, max_length=30).token_ids) == CORPUS


def test_unseen_words_are_spelt_by_their_pieces():
    tokenizer = Tokenizer.train(CORPUS, vocab_size=200)
    assert tokenizer.decode(tokenizer.encode(["bet slices"], max_length=30).token_ids) == [
        "bet slices"
    ]


def test_long_texts_are_cut_but_end_properly():
    tokenizer = Tokenizer.train(CORPUS, vocab_size=200)
    text = tokenizer.encode([" ".join(CORPUS)], max_length=6)
    assert text.token_ids.shape == (1, 6)
    assert text.token_ids[0, -1] == tokenizer.special.end


def test_empty_texts_have_no_valid_token():
    text = Tokenizer.train(CORPUS, vocab_size=200).encode(["", "a bell"], max_length=9)
    assert text.has_text.tolist() == [False, True]
    assert not text.valid[0].any()


def test_the_order_of_the_corpus_does_not_matter():
    forwards, backwards = Tokenizer.train(CORPUS), Tokenizer.train(CORPUS[::-1])
    assert forwards.to_json() == backwards.to_json()


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError, match="missing"):
        Tokenizer.from_file(path)
    path.write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.from_file(path)


def test_padding_comes_last():
    text = Tokenizer.train(CORPUS, vocab_size=200).encode(CORPUS, max_length=30)
    assert torch.equal(text.valid, text.valid.sort(dim=1, descending=True).values)
