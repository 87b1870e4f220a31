"""Laws of how a problem is told: one line, and one remedy at its end."""

import pytest

from valor.cli.problems import say
from valor.errors import ManifestError, MediaError, ModelError, ValorError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModelError("x: no weights; train it again"), "x: no weights; train it again"),
        (ModelError("x: no weights"), f"x: no weights; {ModelError.next_step}"),
        (
            ModelError("x: unread (a; b (c; d) e)"),
            f"x: unread (a; b (c; d) e); {ModelError.next_step}",
        ),
        (ManifestError("two\nlines"), f"two\\nlines; {ManifestError.next_step}"),
        (MediaError("a; b.mp4", "empty", "0 bytes"), f"a; b.mp4: 0 bytes; {MediaError.next_step}"),
        (MediaError("a.mp4", "empty", "0 bytes; copy it"), "a.mp4: 0 bytes; copy it"),
    ],
)
def test_the_remedy_is_that_of_the_message_or_of_its_class(error: ValorError, line, capsys):
    say(error)
    assert capsys.readouterr().err == f"valor: {line}\n"
