"""Work that takes longer than a request: indexing folders and captioning whole recordings.

One job runs at a time, for a library has one writer; others wait in line. A job can be stopped:
what it has committed stays, and the same job again goes on from there.
"""

import logging
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from valor.errors import ValorError
from valor.server.batching import BusyError
from valor.server.metrics import Metrics
from valor.server.problems import detail_of

_LOG = logging.getLogger("uvicorn.error")

State = Literal["waiting", "running", "done", "failed", "stopped"]
_MAX_WAITING = 16
_KEPT = 100


class StoppedError(Exception):
    """Somebody has stopped the job."""


@dataclass(slots=True, kw_only=True)
class Job:
    """One piece of work and how far it has come."""

    kind: str
    title: str
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    state: State = "waiting"
    done_fraction: float = 0.0
    message: str = ""
    """What it is doing, or why it failed."""
    result: dict[str, Any] | None = None
    begun_s: float | None = None
    """By the clock of `time.monotonic`."""
    ended_s: float | None = None
    is_stopping: bool = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the job began to run."""
        if self.begun_s is None:
            return 0.0
        return (self.ended_s or time.monotonic()) - self.begun_s

    @property
    def left_s(self) -> float | None:
        """Seconds that it probably still takes, if that can be said."""
        if self.state != "running" or self.done_fraction < 0.01:
            return None
        return self.elapsed_s / self.done_fraction * (1 - self.done_fraction)

    def progress(self, done_fraction: float, message: str) -> None:
        """Say how far it is; raises `StoppedError` where it shall not go on."""
        self.done_fraction, self.message = done_fraction, message
        if self.is_stopping:
            raise StoppedError


Work = Callable[[Job], dict[str, Any]]
"""Does a job, calls `Job.progress` now and then, and returns the result."""


class Jobs:
    """The line of jobs, and the thread that does them.

    Args:
        metrics: Is told how many there are.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._line: queue.SimpleQueue[tuple[Job, Work] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def add(self, job: Job, work: Work) -> Job:
        """Put a job in line.

        Args:
            job: What to show of it.
            work: What to do.

        Returns:
            The job.

        Raises:
            BusyError: If too many are waiting.
        """
        with self._lock:
            waiting = [known for known in self._jobs.values() if known.state == "waiting"]
            if len(waiting) >= _MAX_WAITING:
                raise BusyError(30.0)
            self._jobs[job.id] = job
            ended = [known.id for known in self._jobs.values() if known.ended_s is not None]
            for name in ended[: max(0, len(self._jobs) - _KEPT)]:
                del self._jobs[name]
        self._line.put((job, work))
        return job

    def all(self) -> list[Job]:
        """Return the jobs, the latest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def find(self, name: str) -> Job | None:
        """Return a job by its id."""
        with self._lock:
            return self._jobs.get(name)

    def stop(self, job: Job) -> None:
        """Ask a job to stop, at its next sign of progress; one that waits stops at once."""
        job.is_stopping = True
        with self._lock:
            if job.state == "waiting":
                self._end(job, "stopped")

    def close(self) -> None:
        """Stop everything, and wait some seconds for the job that runs."""
        for job in self.all():
            job.is_stopping = True
        self._line.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while entry := self._line.get():
            job, work = entry
            with self._lock:
                if job.is_stopping:
                    if job.state == "waiting":
                        self._end(job, "stopped")
                    continue
                job.state, job.begun_s = "running", time.monotonic()
            try:
                job.result = work(job)
                job.done_fraction = 1.0
                self._end(job, "done")
            except StoppedError:
                self._end(job, "stopped", "what was finished stays; start it again to go on")
            except ValorError as error:
                self._end(job, "failed", detail_of(error))
            except Exception as error:  # The thread must live for the next job.
                _LOG.exception("job %s", job.title)
                self._end(job, "failed", f"{type(error).__name__}: {error}")

    def _end(self, job: Job, state: State, message: str = "") -> None:
        job.state, job.message, job.ended_s = state, message, time.monotonic()
        self._metrics.count("jobs_ended", state=state)
