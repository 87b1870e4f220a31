"""Batches of records with their samples, read ahead by threads or processes.

What a step holds is a function of seed and step alone: workers only decide how soon it is there.
A record that cannot be read is left out of its step and counted, never replaced. Entry point:
`Loader`.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from valor.config import configclass
from valor.data.executors import follow_parent, process_pool
from valor.data.manifest import Record
from valor.data.mixture import Mixture
from valor.data.reading import Draw, Source
from valor.errors import DependencyError, MediaError, ValorError
from valor.media.video import Backend
from valor.processing.augment import AugmentConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.types import Sample

_FEWEST = 100
"""The fraction of bad records is taken of at least this many."""


@configclass
class ReadingConfig:
    """How training reads its samples."""

    workers: int = 0
    """0 reads in the training process, a step at a time."""
    worker_kind: Literal["thread", "process"] = "thread"
    """Threads share memory, and decoders run beside each other in them; processes also survive a
    file that crashes its decoder."""
    backend: Backend = "pyav"
    """Who decodes pictures of media files."""
    steps_ahead: int = 2
    """Steps that workers read in advance."""
    max_bad_fraction: float = 0.01
    """The run stops when more than this part of what was read is bad."""
    augment: AugmentConfig | None = None
    """Random changes of each view; None for none."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if min(self.workers, self.steps_ahead) < 0:
            raise ValueError("workers and steps_ahead must not be negative")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction={self.max_bad_fraction} must be in [0, 1]")


def refuse_many_bad(bad: Counter[str], num_read: int, config: ReadingConfig, *, last: str) -> None:
    """Raise a `ValorError` if more is bad than the configuration allows.

    Args:
        bad: Reads that failed, by reason.
        num_read: All reads.
        config: Holds the limit.
        last: Which one failed last, and why.

    Raises:
        ValorError: If it does.
    """
    limit = config.max_bad_fraction
    if bad.total() > limit * max(num_read, _FEWEST):
        reasons = ", ".join(f"{reason} {num}" for reason, num in bad.most_common())
        raise ValorError(
            f"{bad.total()} of {num_read} records that were read are bad ({reasons}), more than "
            f"max_bad_fraction={limit:g}, at last {last}; leave them out, "
            "`valor data validate MANIFEST --decode` names each"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStep:
    """This rank's share of a step, without the records that could not be read."""

    step: int
    source: int
    records: list[Record]
    samples: list[Sample]


Loaded = tuple[Record, Sample] | MediaError
Ticket = tuple[int, int, int]
"""Source, row and step."""


def read_row(
    source: Source, row: int, processor: Processor, draw: Draw | None, *, name: str
) -> Loaded:
    """Read a record and its sample, or say why that is impossible.

    Args:
        source: Holds it.
        row: Its index there.
        processor: Prepares it.
        draw: As of `Source.load`.
        name: Of the record, where the reason is unforeseen.

    Returns:
        Both, or the error, whose reason is `failed` for whatever a decoder did not foresee.

    Raises:
        DependencyError: If a package is missing, which is no fault of the record's.
    """
    try:
        return source.load(row, processor, draw)
    except MediaError as error:
        return error
    except DependencyError:
        raise
    except Exception as error:  # Whatever a file does to a decoder is that file's.
        return MediaError(name, "failed", f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class _Reader:
    """Reads one record, in whatever thread or process."""

    sources: Sequence[Source]
    config: ProcessorConfig
    backend: Backend
    seed: int
    augment: AugmentConfig | None

    def __call__(self, ticket: Ticket) -> Loaded:
        source, row, step = ticket
        draw = Draw(seed=self.seed, step=step, augment=self.augment)
        processor = Processor(self.config, None, backend=self.backend)
        name = f"source {source}, row {row}"
        return read_row(self.sources[source], row, processor, draw, name=name)


_reader: _Reader | None = None
"""Of a worker process, set once."""


def _begin(reader: _Reader) -> None:
    global _reader  # noqa: PLW0603 -- what a worker process reads with, sent once
    _reader = reader
    torch.set_num_threads(1)
    follow_parent()


def _read(ticket: Ticket) -> Loaded:
    assert _reader is not None  # noqa: S101 -- set by `_begin`
    return _reader(ticket)


def _crash(ticket: Ticket) -> MediaError:
    detail = "the process that reads it dies; remove the record"
    return MediaError(f"source {ticket[0]}, row {ticket[1]}", "crashed", detail)


@dataclass(slots=True, kw_only=True)
class Loader:
    """Reads steps of a mixture; to be closed.

    Args:
        sources: The mixture's sources.
        mixture: Says which rows a step sees.
        processor: Prepares samples.
        config: Workers and limits.
        seed: Of the run.
        rank: Of this process.
        num_ranks: How many processes share a step; they divide its rows.
    """

    sources: Sequence[Source]
    mixture: Mixture
    processor: Processor
    config: ReadingConfig
    seed: int
    rank: int = 0
    num_ranks: int = 1
    bad: Counter[str] = field(default_factory=Counter, init=False)
    """Reads that failed, by reason."""
    _num_read: int = field(default=0, init=False)
    _pool: Executor | None = field(default=None, init=False)
    _crashed: set[tuple[int, int]] = field(default_factory=set, init=False)
    """Source and row of what kills processes, which is not read again."""
    _alone: ProcessPoolExecutor | None = field(default=None, init=False)
    """Takes what was read when a process died."""

    def steps(self, first: int, end: int) -> Iterator[LoadedStep]:
        """Read steps in their order.

        Args:
            first: The first step, from 0.
            end: The step to stop before.

        Yields:
            This rank's share of each.

        Raises:
            ValorError: If more than `max_bad_fraction` cannot be read.
        """
        ahead = self.config.steps_ahead if self.config.workers else 0
        waiting: deque[tuple[int, int, list[tuple[Ticket, Callable[[], Loaded]]]]] = deque()
        for step in range(first, end):
            while step + len(waiting) < min(step + ahead + 1, end):
                coming = step + len(waiting)
                source, rows = self.mixture.rows(coming)
                share = rows[self.rank :: self.num_ranks]
                tickets = [(source, int(row), coming) for row in share]
                waiting.append((coming, source, [(t, self._submit(t)) for t in tickets]))
            yield self._collected(*waiting.popleft())

    def close(self) -> None:
        """End all workers."""
        for pool in (self._pool, self._alone):
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        self._pool = self._alone = None

    def _collected(
        self, step: int, source: int, pending: list[tuple[Ticket, Callable[[], Loaded]]]
    ) -> LoadedStep:
        loaded = LoadedStep(step=step, source=source, records=[], samples=[])
        for ticket, result in pending:
            try:
                value = result()
            except BrokenProcessPool:
                value = self._read_alone(ticket)
            self._num_read += 1
            if isinstance(value, MediaError):
                self._count(value)
            else:
                loaded.records.append(value[0])
                loaded.samples.append(value[1])
        return loaded

    def _count(self, error: MediaError) -> None:
        self.bad[error.reason] += 1
        refuse_many_bad(self.bad, self._num_read, self.config, last=str(error))

    def _reader(self) -> _Reader:
        config = self.config
        return _Reader(
            self.sources, self.processor.config, config.backend, self.seed, config.augment
        )

    def _submit(self, ticket: Ticket) -> Callable[[], Loaded]:
        """Begin to read; returns how to wait for it."""
        if ticket[:2] in self._crashed:
            return partial(_crash, ticket)
        if not self.config.workers:
            return partial(self._reader(), ticket)
        if self.config.worker_kind == "thread":
            self._pool = self._pool or ThreadPoolExecutor(self.config.workers)
            return self._pool.submit(self._reader(), ticket).result
        try:
            self._pool = self._pool or self._processes(self.config.workers)
            return self._pool.submit(_read, ticket).result
        except BrokenProcessPool:
            self._pool = self._processes(self.config.workers)
            return self._pool.submit(_read, ticket).result

    def _processes(self, workers: int) -> ProcessPoolExecutor:
        return process_pool(workers, initializer=_begin, initargs=(self._reader(),))

    def _read_alone(self, ticket: Ticket) -> Loaded:
        """Read again, in a process of its own, what was lost when another died."""
        if ticket[:2] not in self._crashed:
            self._alone = self._alone or self._processes(1)
            try:
                return self._alone.submit(_read, ticket).result()
            except BrokenProcessPool:
                self._alone = None
                self._crashed.add(ticket[:2])
        return _crash(ticket)
