"""Laws of what is said about wrong arguments."""

import pytest

from valor.cli.arguments import parse
from valor.cli.index import Arguments, Plan
from valor.errors import UsageError


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lib", "dir", "--frames", "x"], "invalid choice 'x' for argument '--frames'. Expected "),
        (
            ["lib", "dir", "--every", "x"],
            "Error parsing --every: could not convert string to float",
        ),
        (["lib", "dir", "--usage", "x"], "Unrecognized options: --usage, x; see `valor index"),
        (["lib", "dir", "--modl", "x"], "Unrecognized options: --modl, x; did you mean --model?"),
        ([], "Missing from valor index: LIBRARY; see"),
    ],
)
def test_one_line_says_what_is_wrong_once_and_where_to_read_on(words, told, is_plain, monkeypatch):
    monkeypatch.setattr("tyro._fmtlib._should_use_utf8_drawing_chars", lambda: not is_plain)
    with pytest.raises(UsageError) as problem:
        parse(Arguments, words, verb="index")
    assert str(problem.value).startswith(told)
    assert str(problem.value).endswith("ee `valor index --help`")
    assert str(problem.value).count("; ") == 1


def test_a_forecast_takes_a_library_before_it():
    assert parse(Plan, ["lib", "--plan", "dir"], verb="index").library is not None
    assert parse(Plan, ["--plan", "dir"], verb="index").library is None


def test_help_calls_places_by_name_and_options_by_type(capsys):
    with pytest.raises(SystemExit):
        parse(Arguments, ["--help"], verb="index")
    shown = capsys.readouterr().out
    assert "usage: valor index [-h] [OPTIONS] LIBRARY MEDIA [MEDIA ...]" in shown
    assert "--model STR" in shown
    assert "None" not in shown
