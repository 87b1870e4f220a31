"""Laws of batching: the same results, what waits together runs together, nothing is endless."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from valor.server.batching import (
    BatchedModel,
    Batcher,
    BusyError,
    Entrance,
    LeftError,
    Ticket,
    _ticket,
    unless_left,
)
from valor.server.metrics import Metrics
from valor.types import AUDIOVISUAL

TEXTS = ["a bell", "a red circle moves up", "x", "two words"]


def held_batcher(sizes: list[int]):
    """A batcher whose first batch waits for an event."""
    started, go = threading.Event(), threading.Event()

    def run(kind, calls):
        sizes.append(len(calls))
        started.set()
        assert go.wait(30)
        return [[kind, *items] for items in calls]

    return Batcher(run, Metrics()), started, go


def test_calls_that_wait_run_together_and_by_kind():
    sizes: list[int] = []
    batcher, started, go = held_batcher(sizes)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batcher, "a", [0])
        assert started.wait(30)
        waiting = [pool.submit(batcher, kind, [n]) for n, kind in enumerate("ababab")]
        while len(batcher._calls) < len(waiting):
            threading.Event().wait(0.001)
        go.set()
        assert [one.result() for one in waiting] == [[k, n] for n, k in enumerate("ababab")]
        assert first.result() == ["a", 0]
    assert sizes == [1, 3, 3]
    batcher.close()


def test_work_of_a_client_that_left_is_dropped():
    sizes: list[int] = []
    batcher, started, go = held_batcher(sizes)
    ticket = Ticket()

    def call():
        _ticket.set(ticket)
        return batcher("a", [1])

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher, "a", [0])
        assert started.wait(30)
        second = pool.submit(call)
        while not batcher._calls:
            threading.Event().wait(0.001)
        ticket.is_left = True
        go.set()
        with pytest.raises(LeftError):
            second.result()
        assert first.result() == ["a", 0]
    assert sizes == [1]
    batcher.close()


def test_an_error_belongs_to_those_who_wait_for_it():
    def run(kind, calls):
        raise RuntimeError(kind)

    batcher = Batcher(run, Metrics())
    for kind in ("one", "two"):
        with pytest.raises(RuntimeError, match=kind):
            batcher(kind, [1])
    batcher.close()


def test_batched_texts_and_media_are_as_alone(model, world):
    batched = BatchedModel(model, model, Metrics())
    path = str(world / "media/test-000000.mp4")
    segments = [model.read(path, start_s=start, end_s=start + 1) for start in (0.0, 1.0, 2.0)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda text: batched.embed_text([text]), TEXTS))
        media = list(pool.map(lambda segment: batched.embed_media([segment]), segments))
        said = list(pool.map(lambda segment: batched.describe([segment])[0], segments))
    for text, together in zip(TEXTS, texts, strict=True):
        alone = model.embed_text([text])
        torch.testing.assert_close(together.vectors[together.valid], alone.vectors[alone.valid])
    for segment, together in zip(segments, media, strict=True):
        alone = model.embed_media([segment])
        assert together.keys() == alone.keys()
        for group, part in alone.items():
            rows = together[group]
            torch.testing.assert_close(rows.vectors[rows.valid], part.vectors[part.valid])
    assert said == [model.describe([segment])[0] for segment in segments]
    batched.close()


def test_a_slow_describer_keeps_no_search_waiting(model):
    started, go = threading.Event(), threading.Event()

    class Slow:
        read = answer = model.read

        def describe(self, segments, *, using):
            started.set()
            assert go.wait(30)
            return [using] * len(segments)

    batched = BatchedModel(model, Slow(), Metrics())
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(batched.describe, [None, None], using=AUDIOVISUAL)
        assert started.wait(30)
        assert batched.embed_text(["a bell"]).valid.any()
        assert not slow.done()
        go.set()
        assert slow.result() == [AUDIOVISUAL] * 2
    batched.close()


def test_past_the_end_of_the_queue_there_is_no_room():
    entrance = Entrance(Metrics(), max_waiting=2)
    with entrance.admit(), entrance.admit():
        with pytest.raises(BusyError) as busy, entrance.admit():
            pass
        assert busy.value.retry_after_s >= 1
    with entrance.admit():
        pass


def test_a_client_that_leaves_gives_up_its_work():
    async def scenario() -> Ticket:
        entrance = Entrance(Metrics())
        release = threading.Event()
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            loop.call_soon_threadsafe(started.set)
            assert release.wait(30)

        async def receive() -> dict[str, str]:
            await started.wait()
            loop.call_later(0.01, release.set)
            return {"type": "http.disconnect"}

        with entrance.admit() as ticket, pytest.raises(LeftError):
            await unless_left(receive, ticket, entrance.run(ticket, work))
        return ticket

    assert asyncio.run(scenario()).is_left
