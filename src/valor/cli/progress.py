"""Progress on stderr: stage, bar, rate and time left."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Things done per second."""

    def render(self, task: Task) -> Text:
        """Show the recent rate."""
        if task.fields["note"]:
            return Text(task.fields["note"])
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class StageProgress:
    """A context manager to be called with `(stage, done, total)`; one bar per stage.

    On a terminal the bars move; elsewhere each tenth of a stage prints a line.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._starts: dict[str, float] = {}
        self._tenths: dict[str, int] = {}
        self._last_end = time.perf_counter()
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )

    def __enter__(self) -> "StageProgress":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, *, note: str = "") -> None:
        """Show that `done` of `total` are done in a stage, with a rate in words if there is one."""
        task = self._tasks.get(stage)
        if task is None:
            task = self._tasks[stage] = self._progress.add_task(stage, total=total, note=note)
            self._starts[stage] = self._last_end
        self._progress.update(task, completed=done, total=total, note=note)
        if done == total:
            self._last_end = time.perf_counter()
        tenth = 10 * done // total
        if not self._live and tenth > self._tenths.get(stage, 0):
            self._tenths[stage] = tenth
            elapsed_s = max(time.perf_counter() - self._starts[stage], 1e-3)
            left_s = elapsed_s / done * (total - done)
            rate = f"{note or f'{done / elapsed_s:.1f}/s'}, {left_s:.0f} s left"
            print(f"{stage}: {done} of {total}, {rate}", file=sys.stderr, flush=True)
