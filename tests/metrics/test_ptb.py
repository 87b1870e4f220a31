import pytest

from valor.metrics.ptb import tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man's dog doesn't bark.", "a man 's dog does n't bark"),
        ("they're sure it can't, I'm not", "they 're sure it ca n't i 'm not"),
        ("Don\u2019t use \u201ccurly\u201d quotes", "do n't use curly quotes"),
        ("kids' toys at five o'clock, ma'am", "kids toys at five o'clock ma'am"),
        ("y'all cannot, 'til rock 'n' roll", "y' all can not 'til rock 'n' roll"),
        ("a T-shirt -- black-and-white", "a t-shirt black-and-white"),
        ("at 10:30 it costs $5.50", "at 10:30 it costs $ 5.50"),
        ("horses and/or 1/2 of 30,000-foot", r"horses and\/or 1\/2 of 30,000-foot"),
        ("Mr. Smith in the U.S. at 5 p.m. today", "mr. smith in the u.s. at 5 p.m. today"),
        ("one; two: three... 'four' \"five\"!", "one two three four five"),
        ("wow!! a 3d 7th", "wow !! a 3d 7th"),
        ("dog \u2014 cat \U0001f600\nbird", "dog cat bird"),
        ("(red) [big]", "-lrb- red -rrb- -lsb- big -rsb-"),
        ("caf\u00e9", "caf\u00e9"),
        ("", ""),
        ("... ?!,", "?!"),
    ],
)
def test_tokens_are_those_of_the_penn_treebank(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens.split()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a grey, colourful theatre", "a gray colorful theater"),
        ("neighbours travelling in vapour", "neighbors traveling in vapor"),
        ("four tours detour downpour hours", "four tours detour downpour hours"),
        ("Colour is kept with a capital", "colour is kept with a capital"),
        ("realise rising recognised", "realize rising recognized"),
    ],
)
def test_british_spelling_becomes_american(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens.split()


def test_tokens_of_plain_words_are_cut_no_further() -> None:
    tokens = tokenize("a small red circle moves left while a bell rings twice")
    assert tokenize(" ".join(tokens)) == tokens
