"""Laws of what is seen on a terminal while something takes long."""

import io

import pytest
from rich.console import Console

from valor.cli.progress import StageProgress

NOTE = (
    "loss 21.23, align 1.25, caption 2.50, answer 3.00, mlm 4.00, match 0.50, distil 10.00, "
    "probe 0.412, 123.4 samples/s"
)


def test_a_terminal_of_80_columns_shows_bar_time_and_every_word_of_a_note(monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr("valor.cli.progress.Console", lambda stderr: console)
    with StageProgress() as progress:
        progress("prepare", 200, 200)
        progress("train", 150_000, 200_000, note=NOTE)
    *_, prepare, train, note, more, _ = shown.getvalue().split("\n")
    assert "200/200" in prepare
    assert train.split()[0] == "train"
    assert "150000/200000" in train and train.count(":") == 4
    assert " ".join([*note.split(), *more.split()]) == NOTE
    assert max(map(len, (train, note, more))) <= 80


def test_a_log_shows_the_note_and_the_time_left(capsys):
    with StageProgress() as progress:
        progress("train", 1, 10, note="loss 2.00")
        progress("train", 2, 10, note="loss 1.00")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "train: 1 of 10, loss 2.00"
    assert second.startswith("train: 2 of 10, loss 1.00, ")
    assert second.endswith(" s left")


@pytest.mark.parametrize("before", [32, 501])  # A batch, or what an earlier run has done.
def test_what_is_done_at_once_says_nothing_of_the_rate(capsys, monkeypatch, before):
    monkeypatch.setattr("valor.cli.progress.time.perf_counter", iter(range(0, 100, 10)).__next__)
    with StageProgress() as progress:
        progress("evaluate", before, 1001)
        progress("evaluate", before + 200, 1001)
    seconds = round((801 - before) / 20)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"evaluate: {before + 200} of 1001, 20.0/s, {seconds} s left"
