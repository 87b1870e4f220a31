"""Laws of what is seen on a terminal while something takes long."""

import io

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
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: 1 of 10, loss 2.00, ")
    assert line.endswith(" s left")


def test_what_was_done_before_is_not_thought_fast(capsys, monkeypatch):
    monkeypatch.setattr("valor.cli.progress.time.perf_counter", iter(range(0, 100, 10)).__next__)
    with StageProgress() as progress:
        progress("train", 501, 1001, note="loss 2.00")
    assert capsys.readouterr().err == "train: 501 of 1001, loss 2.00, 5000 s left\n"
