"""Decoding in child processes with limits, so that a crash of a decoder is one failed item.

A few processes live on between calls; one that dies, or takes too long, fails its call with a
`MediaError` and is replaced. Entry point: `Sandbox`, to be given to `valor.media.isolation`.
"""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from valor.config import configclass
from valor.errors import MediaError
from valor.server import wire

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Every thread of a numerical library would take from the memory limit."""


@configclass
class Limits:
    """What one call may take; more is that file's failure."""

    memory_bytes: int = 2 << 30
    """Address space of the process."""
    cpu_s: float = 90.0
    """Time of the processor."""
    wall_s: float = 150.0
    """Time until the answer."""
    file_bytes: int = 1 << 30
    """Of a preview."""


class Sandbox:
    """Runs functions of `valor.media` in other processes; may be called from many threads.

    Args:
        limits: Of every call.
        num_workers: How many calls run at the same time; others wait.
    """

    def __init__(self, limits: Limits | None = None, *, num_workers: int = 2) -> None:
        self._limits = limits or Limits()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(num_workers):
            self._idle.put(None)
        self._num_workers = num_workers
        self.num_deaths = 0
        """Processes that died or were killed in the middle of a call."""

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Run one of the functions that `valor.server.worker` knows.

        Args:
            name: Of the function.
            *args: Its arguments, the path of the file first.
            **kwargs: More of them.

        Returns:
            What it returns.

        Raises:
            MediaError: What it raises; `crashed` if the process died, `too_slow` if it took more
                time than it may.
        """
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self._limits)
            answer = worker.call([name, [str(args[0]), *args[1:]], kwargs])
        except _DeadError as death:
            self.num_deaths += 1
            raise MediaError(str(args[0]), death.reason, str(death)) from None
        finally:
            alive = worker is not None and worker.is_alive
            self._idle.put(worker if alive else None)
        if "media_error" in answer:
            raise MediaError(*answer["media_error"])
        return answer["value"]

    def close(self) -> None:
        """End the processes; calls that run fail as `crashed`."""
        for _ in range(self._num_workers):
            try:
                worker = self._idle.get(timeout=1)
            except queue.Empty:
                return
            if worker is not None:
                worker.kill()


class _DeadError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Worker:
    """One process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", "valor.server.worker", json.dumps(asdict(limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
            bufsize=0,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(self, message: list[Any]) -> dict[str, Any]:
        deadline_s = time.monotonic() + self._limits.wall_s
        try:
            wire.write(message, self._process.stdin.write)  # type: ignore[union-attr]
            answer = wire.read(lambda size: self._receive(size, deadline_s))
            if not isinstance(answer, dict):
                raise ValueError("no answer")
        except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._death(error) from None
        except BaseException:
            self.kill()  # It may be in the middle of an answer.
            raise
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _receive(self, size: int, deadline_s: float) -> bytes:
        stdout = self._process.stdout.fileno()  # type: ignore[union-attr]
        data = bytearray()
        while len(data) < size:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
                raise TimeoutError
            piece = os.read(stdout, min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _death(self, error: Exception) -> _DeadError:
        if isinstance(error, EOFError):
            self._process.wait(timeout=5)
        code = self._process.poll()
        self.kill()
        if isinstance(error, TimeoutError) or code == -signal.SIGXCPU:
            seconds = f"{self._limits.cpu_s:g} s of processor time or {self._limits.wall_s:g} s"
            return _DeadError("too_slow", f"not decoded within {seconds}; is it damaged?")
        return _DeadError("crashed", f"the decoder died of it (exit {code}); is it damaged?")
