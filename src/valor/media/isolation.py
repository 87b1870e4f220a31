"""Where media are decoded: here, or in other processes that a server keeps for it.

Decoders are large programs in C that read what strangers wrote. A process that must go on whatever
they meet uses `isolate`; from then on every function marked `isolated` runs elsewhere, whoever
calls it: an ingest, a search by a file, a caption.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Runner(Protocol):
    """Runs a function of this package by its name, in another process."""

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns; raises `MediaError` where it fails or dies."""
        ...


_runners: list[Runner] = []


@contextmanager
def isolate(runner: Runner) -> Iterator[None]:
    """Decode in this process no more while the block lasts, in none of its threads.

    Args:
        runner: Runs the functions that are marked `isolated`.

    Yields:
        None.
    """
    _runners.append(runner)
    try:
        yield
    finally:
        _runners.remove(runner)


def is_isolated() -> bool:
    """True if functions marked `isolated` run elsewhere, and whole: they cannot yield."""
    return bool(_runners)


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that reads foreign media, to be run elsewhere if the process says so."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _runners:
            return _runners[-1](function.__name__, *args, **kwargs)
        return function(*args, **kwargs)

    return run
