"""A problem is one line on stderr, which ends with what to do next."""

import re
import sys

from valor.errors import MediaError, ValorError


def say(error: ValorError) -> None:
    """Print a problem with its remedy: that of the message, or else of its class.

    Args:
        error: Of the whole command, or of one of its files.
    """
    line = " ".join(str(error).split())
    # What others said stands in parentheses, and a path may hold anything.
    told = error.detail if isinstance(error, MediaError) else line
    while (less := re.sub(r"\([^()]*\)", "", told)) != told:
        told = less
    remedy = "" if "; " in told else f"; {error.next_step}"
    print(f"valor: {line}{remedy}", file=sys.stderr)
