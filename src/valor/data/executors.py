"""Where independent tasks run: processes here, or a Ray cluster; one interface for both.

A stage is a module-level function of a task that can be pickled. It may run again from wherever it
was killed, so it must be resumable and its result must not depend on how often it began.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import current_process, get_context, parent_process
from threading import Thread
from typing import Any, Literal, Protocol, TypeVar

from valor.errors import DependencyError, ValorError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a stage on tasks."""

    def run(
        self, stage: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | None]]:
        """Yield tasks with their results as they are finished; None where the worker died."""
        ...


class LocalExecutor:
    """Processes on this machine; one that dies takes only its own task with it.

    Args:
        workers: How many.

    Raises:
        ValorError: If there are none.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValorError(f"workers={workers}, wanted at least 1")
        self._workers = workers

    def run(
        self, stage: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | None]]:
        """Yield tasks with their results as they are finished; None where the worker died."""
        waiting = iter(tasks)
        free = [self._process() for _ in range(self._workers)]
        running: dict[Future[Result], tuple[Task, ProcessPoolExecutor]] = {}
        try:
            while True:
                for task in waiting:
                    process = free.pop()
                    running[process.submit(stage, task)] = task, process
                    if not free:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, process = running.pop(future)
                    died = isinstance(future.exception(), BrokenProcessPool)
                    free.append(self._process() if died else process)
                    yield task, None if died else future.result()
        finally:
            for process in [*free, *(process for _, process in running.values())]:
                process.shutdown(cancel_futures=True)

    def _process(self) -> ProcessPoolExecutor:
        return process_pool(1, initializer=follow_parent)


def process_pool(
    workers: int | None, *, initializer: Callable[..., object] | None = None, initargs: Any = ()
) -> ProcessPoolExecutor:
    """Processes that start afresh, each with its first task.

    Each imports the script that started it. One that begins to work when it is imported would
    start processes without end; those are told so and end.

    Args:
        workers: How many; None for as many as there are processors.
        initializer: Called first in each process.
        initargs: Its arguments.

    Returns:
        The pool, which has not started any process yet.
    """
    if getattr(current_process(), "_inheriting", False):
        raise SystemExit('put what your script does under `if __name__ == "__main__":`')
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=initializer, initargs=initargs
    )


def follow_parent() -> None:
    """End this process when the one that started it is gone, however that was killed."""
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


class RayExecutor:
    """Ray Data, on the cluster that RAY_ADDRESS names or else on this machine.

    Tasks of a worker that dies are run again by Ray. All workers need to see the same files.

    Args:
        workers: How many tasks run at a time.

    Raises:
        ValorError: If none does.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValorError(f"workers={workers}, wanted at least 1")
        self._workers = workers

    def run(
        self, stage: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | None]]:
        """Yield tasks with their results as they end; a `DependencyError` if Ray is missing."""
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DependencyError(
                'executor ray needs the package ray; run `pip install "valor-omni[ray]"`'
            ) from None
        rows = [{"item": task} for task in tasks]
        if not rows:
            return
        if not ray.is_initialized():
            ray.init(log_to_driver=False)

        def batch(items: Any) -> Any:
            return {"item": [(task, stage(task)) for task in items["item"]]}

        data = ray.data.from_items(rows, override_num_blocks=len(rows))
        slots = ray.data.TaskPoolStrategy(size=self._workers)
        data = data.map_batches(batch, batch_size=1, compute=slots)
        for row in data.iter_rows():
            yield row["item"]


def make_executor(kind: Literal["local", "ray"], workers: int | None) -> Executor:
    """An executor by its name; None takes as many workers as there are processors."""
    workers = os.cpu_count() or 1 if workers is None else workers
    return RayExecutor(workers) if kind == "ray" else LocalExecutor(workers)
