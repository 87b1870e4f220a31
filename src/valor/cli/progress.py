"""Progress on stderr: stage, bar, rate and time left, and how it goes in a line of its own."""

import sys
import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, RenderableType
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
        """Show the recent rate, unless the stage tells its own."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None or task.fields["note"] else f"{speed:.1f}/s")


class _Bars(Progress):
    """Bars, and below them the last note, which has the whole width."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Show bars and note."""
        yield self.make_tasks_table(self.tasks)
        notes = [task.fields["note"] for task in self.tasks if task.fields["note"]]
        yield from map(Text, notes[-1:])


class StageProgress:
    """A context manager to be called with `(stage, done, total)`; one bar per stage.

    On a terminal the bars move; elsewhere each tenth of a stage prints a line.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._starts: dict[str, tuple[float, int]] = {}
        self._tenths: dict[str, int] = {}
        self._progress = _Bars(
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
        task, is_first = self._tasks.get(stage), stage not in self._tasks
        if task is None:
            task = self._tasks[stage] = self._progress.add_task(stage, total=total, note=note)
            self._starts[stage] = (time.perf_counter(), done)
        self._progress.update(task, completed=done, total=total, note=note)
        tenth = 10 * done // total
        if not self._live and (tenth > self._tenths.get(stage, 0) or (is_first and note)):
            self._tenths[stage] = tenth
            told = [f"{stage}: {done} of {total}", *filter(None, [note])]
            start_s, before = self._starts[stage]
            if done > before:  # A stage may begin with many done at once: those of an earlier run.
                speed = (done - before) / max(time.perf_counter() - start_s, 1e-3)
                told += [] if note else [f"{speed:.1f}/s"]
                told += [f"{(total - done) / speed:.0f} s left"]
            print(", ".join(told), file=sys.stderr, flush=True)
