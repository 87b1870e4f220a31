"""One model for many clients: work that waits together runs together, and the queue has an end.

`Batcher` is a model's one thread. `BatchedModel` is an `Embedder` and `Describer` over two of them
for any number of threads, so the library and the routes need not know. `Entrance` lets in so many
requests and no more, and gives up those whose client has left.
"""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import torch

from valor.models.verbs import FileVerbs, need_describer, need_embedder
from valor.server.metrics import Metrics
from valor.types import (
    AUDIOVISUAL,
    Answer,
    Caption,
    Embeddings,
    Modality,
    Segment,
    StreamingDescriber,
)

T = TypeVar("T")

MAX_ITEMS = 16
"""Texts or segments in one batch; one call with more runs alone."""
WAIT_S = 0.004
"""How long the first of a batch waits for others."""


class LeftError(Exception):
    """The client has left, and nobody wants the result any more."""


class BusyError(Exception):
    """The queue is full.

    Args:
        retry_after_s: When there will probably be room.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class Ticket:
    """One request on its way through the threads."""

    is_left: bool = False
    on_text: Callable[[Answer], object] | None = None
    """Called in the model's thread with what is written so far, after every word."""


_ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


@dataclass
class _Call:
    kind: Hashable
    items: Sequence[Any]
    ticket: Ticket | None
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Joins calls of the same kind that wait at the same time.

    Args:
        run: Takes a kind and the items of some calls, call by call; returns a result for each call.
        metrics: Is told the sizes of batches.
    """

    def __init__(
        self, run: Callable[[Any, list[Sequence[Any]]], list[Any]], metrics: Metrics
    ) -> None:
        self._run = run
        self._metrics = metrics
        self._calls: deque[_Call] = deque()
        self._change = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def __call__(self, kind: Hashable, items: Sequence[Any]) -> Any:
        """Run items in the model's thread and wait for the result.

        Args:
            kind: Only calls of the same kind share a batch.
            items: What to run.

        Returns:
            The call's own result.

        Raises:
            LeftError: If the client left while the call was waiting.
        """
        call = _Call(kind, items, _ticket.get())
        with self._change:
            if self._is_closed:
                raise LeftError
            self._calls.append(call)
            self._change.notify()
        return call.future.result()

    def close(self) -> None:
        """Finish the running batch; calls that wait fail with `LeftError`."""
        with self._change:
            self._is_closed = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            try:
                results = self._run(batch[0].kind, [call.items for call in batch])
            except BaseException as error:  # It belongs to those who wait for it.
                for call in batch:
                    call.future.set_exception(error)
                continue
            for call, result in zip(batch, results, strict=True):
                call.future.set_result(result)

    def _next(self) -> list[_Call]:
        """The next calls of one kind; empty when closed."""
        batch: list[_Call] = []
        with self._change:
            while not batch:
                while not self._calls and not self._is_closed:
                    self._change.wait()
                until_s = time.monotonic() + WAIT_S
                while not self._is_closed and self._num_waiting() < MAX_ITEMS:
                    if not self._change.wait(max(0.0, until_s - time.monotonic())):
                        break
                for call in [call for call in self._calls if self._is_given_up(call)]:
                    self._calls.remove(call)
                    call.future.set_exception(LeftError())
                if self._is_closed:
                    return []
                batch = self._taken()
        self._metrics.observe("batch_items", sum(len(call.items) for call in batch))
        return batch

    def _num_waiting(self) -> int:
        return sum(len(call.items) for call in self._calls)

    def _is_given_up(self, call: _Call) -> bool:
        return self._is_closed or (call.ticket is not None and call.ticket.is_left)

    def _taken(self) -> list[_Call]:
        batch: list[_Call] = []
        num_items = 0
        for call in list(self._calls):
            fits = not batch or num_items + len(call.items) <= MAX_ITEMS
            if fits and call.kind == (batch[0].kind if batch else call.kind):
                batch.append(call)
                num_items += len(call.items)
                self._calls.remove(call)
        return batch


class BatchedModel(FileVerbs):
    """An `Embedder` and a `Describer`, as far as the models are, for many threads at once.

    It embeds in one thread and writes in another, so that searches wait for no text.

    Args:
        embedder: The library's model.
        describer: What captions and answers; None if nothing does.
        metrics: Is told the sizes of batches.
    """

    def __init__(self, embedder: Any, describer: Any, metrics: Metrics) -> None:
        self._embedder = need_embedder(embedder)
        self._describer = describer
        self._embedding = Batcher(self._embed, metrics)
        self._writing = Batcher(self._describe, metrics)
        self.fingerprint = self._embedder.fingerprint
        self.groups = self._embedder.groups

    @property
    def segment_s(self) -> float:
        """The length of recording to look at in one go."""
        return self._embedder.segment_s

    @property
    def plan(self) -> Any:
        """How densely the library's model reads recordings; None if only its `read` knows."""
        return getattr(self._embedder, "plan", None)

    @property
    def describes(self) -> bool:
        """True if there is a model that captions and answers."""
        return self._describer is not None

    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, word by word."""
        return self._embedding("text", texts)

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        """Embed segments; keys are single modalities, rows follow the segments."""
        return self._embedding("media", segments)

    def describe(
        self, segments: Sequence[Segment], *, using: Modality = AUDIOVISUAL
    ) -> list[Caption]:
        """Caption each segment from the modalities in `using` that it has."""
        ticket = _ticket.get()
        return self._writing((using, False), [(segment, None, ticket) for segment in segments])

    def answer(
        self,
        segments: Sequence[Segment],
        questions: Sequence[str],
        *,
        using: Modality = AUDIOVISUAL,
    ) -> list[Answer]:
        """Answer each segment's question from the modalities in `using` that it has."""
        asked = zip(segments, questions, itertools.repeat(_ticket.get()), strict=False)
        return self._writing((using, True), list(asked))

    def read(
        self,
        path: str,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        keyframes_only: bool = False,
    ) -> Segment:
        """Decode a stretch of a file as the library's model wants it; raises `MediaError`."""
        stretch = {"start_s": start_s, "end_s": end_s, "keyframes_only": keyframes_only}
        return self._embedder.read(path, **stretch)

    def close(self) -> None:
        """End both threads; calls that wait fail with `LeftError`."""
        self._embedding.close()
        self._writing.close()

    def _embed(self, kind: str, calls: list[Sequence[Any]]) -> list[Any]:
        items, parts = _joined(calls)
        if kind == "text":
            embeddings = self._embedder.embed_text(_padded(items))
            return [embeddings.select(torch.tensor(part)) for part in parts]
        media = self._embedder.embed_media(_padded(items))
        return [_selected(media, torch.tensor(part)) for part in parts]

    def _describe(self, kind: tuple[Modality, bool], calls: list[Sequence[Any]]) -> list[Any]:
        items, parts = _joined(calls)
        using, is_answer = kind
        results = self._write(items, using, is_answer=is_answer)
        return [results[part.start : part.stop] for part in parts]

    def _write(
        self,
        items: list[tuple[Segment, str | None, Ticket | None]],
        using: Modality,
        *,
        is_answer: bool,
    ) -> list[Any]:
        describer = need_describer(self._describer)
        tickets = [ticket for _, _, ticket in items]
        segments, questions, _ = zip(*_padded(items), strict=True)
        if isinstance(describer, StreamingDescriber) and any(t and t.on_text for t in tickets):
            texts = describer.stream(segments, questions if is_answer else None, using=using)
            answers = _followed(texts, tickets)
            return answers if is_answer else list(map(_caption, segments, answers))
        if is_answer:
            return describer.answer(segments, questions, using=using)
        return describer.describe(segments, using=using)


def _joined(calls: list[Sequence[Any]]) -> tuple[list[Any], list[range]]:
    """The items of all calls, and which are whose."""
    ends = list(itertools.accumulate(map(len, calls)))
    parts = [range(end - len(call), end) for end, call in zip(ends, calls, strict=True)]
    return [item for call in calls for item in call], parts


def _followed(texts: Iterator[list[Answer]], tickets: Sequence[Ticket | None]) -> list[Answer]:
    """Tell everyone what is written, as long as anyone is there; returns the whole texts."""
    before: list[Answer | None] = [None] * len(tickets)  # What follows them is padding.
    written: list[Answer] = []
    for written in texts:
        for ticket, text, said in zip(tickets, written, before, strict=False):
            if ticket and ticket.on_text and text != said:
                ticket.on_text(text)
        if all(ticket and ticket.is_left for ticket in tickets):
            raise LeftError
        before = [*written]
    return written


def _caption(segment: Segment, text: Answer) -> Caption:
    stretch = (segment.start_s, segment.end_s)
    return Caption(text=text.text, modalities_used=text.modalities_used, segments=(stretch,))


def _padded(items: list[Any]) -> list[Any]:
    """Repeat the last item up to a power of two.

    The matrix kernels of the CPU keep memory for every size that they have met, so a server that
    met all sizes of batches would grow for hours.
    """
    return items + items[-1:] * ((1 << (len(items) - 1).bit_length()) - len(items))


def _selected(media: dict[Modality, Embeddings], part: torch.Tensor) -> dict[Modality, Embeddings]:
    """Rows of a batch; a modality that none of them has is left out."""
    selected = {group: embeddings.select(part) for group, embeddings in media.items()}
    return {group: rows for group, rows in selected.items() if rows.valid.any()}


class Entrance:
    """Lets in a number of requests that run in threads; those past the queue's end are refused.

    Args:
        metrics: Is told how many are inside.
        num_threads: Requests that run at the same time.
        max_waiting: Requests inside, running or waiting.
    """

    def __init__(self, metrics: Metrics, *, num_threads: int = 16, max_waiting: int = 64) -> None:
        self._metrics = metrics
        self._limiter = anyio.CapacityLimiter(num_threads)
        self._max_waiting = max_waiting
        self._num_inside = 0
        self._usual_s = 0.1

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """Take a place in the queue.

        Yields:
            The request's ticket, for `run`; it counts as left when the block ends.

        Raises:
            BusyError: If the queue is full.
        """
        if self._num_inside >= self._max_waiting:
            self._metrics.count("refused_busy")
            raise BusyError(max(1.0, self._num_inside * self._usual_s / self._limiter.total_tokens))
        self._num_inside += 1
        self._metrics.set("requests_inside", self._num_inside)
        ticket = Ticket()
        begin_s = time.monotonic()
        try:
            yield ticket
        finally:
            ticket.is_left = True
            self._usual_s += 0.1 * (time.monotonic() - begin_s - self._usual_s)
            self._num_inside -= 1
            self._metrics.set("requests_inside", self._num_inside)

    async def run(self, ticket: Ticket, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a function in a thread, where waiting calls to the model know the ticket.

        Args:
            ticket: From `admit`.
            function: What to run. A client that leaves keeps its place until it ends, so that
                there are never more threads than places.
            *args: Its arguments.
            **kwargs: More of them.

        Returns:
            What it returns.
        """
        token = _ticket.set(ticket)
        try:
            return await anyio.to_thread.run_sync(
                partial(function, *args, **kwargs), limiter=self._limiter
            )
        finally:
            _ticket.reset(token)


async def unless_left(
    receive: Callable[[], Awaitable[Any]], ticket: Ticket, work: Awaitable[T]
) -> T:
    """Wait for work, and cancel it when the client leaves.

    Args:
        receive: The connection's messages, of which the body has been read.
        ticket: Of the work.
        work: What the client waits for.

    Returns:
        Its result.

    Raises:
        LeftError: If the client left first.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leave(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            ticket.is_left = True
            raise LeftError
        return task.result()
    finally:
        for pending in (task, leaving):
            pending.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _leave(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def told(
    ticket: Ticket, begin: Callable[[], Coroutine[Any, Any, T]]
) -> AsyncIterator[Answer | T]:
    """Run work and hear what the model writes meanwhile.

    Args:
        ticket: Of the work.
        begin: Starts the work. It goes on to its next word, at most, if nobody listens any more.

    Yields:
        The text so far, after every word, as far as the model tells; last the work's result.
    """
    loop = asyncio.get_running_loop()
    texts = asyncio.Queue[Answer | None]()
    ticket.on_text = lambda text: loop.call_soon_threadsafe(texts.put_nowait, text)
    task = asyncio.ensure_future(begin())
    task.add_done_callback(lambda _: texts.put_nowait(None))
    try:
        while (text := await texts.get()) is not None:
            yield text
        yield await task
    except BaseException:
        ticket.is_left = True
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
