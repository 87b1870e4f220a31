"""What a run tells: `metrics.jsonl` for machines, progress and a page for whoever started it."""

import json
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from valor.config import parse_json
from valor.data.storage import write_whole
from valor.errors import TrainingError, UsageError
from valor.evaluation.charts import TERMS, family
from valor.evaluation.comparison import TrainedRun, write_run


class Report(Protocol):
    """Called with a stage's name, how many of how many are done, and a few words on how it goes."""

    def __call__(self, stage: str, done: int, total: int, *, note: str = "") -> None:
        """Tell it."""
        ...


def silent(stage: str, done: int, total: int, *, note: str = "") -> None:
    """A report that goes nowhere."""


class Monitor:
    """Appends one JSON object per step to `metrics.jsonl`, and TensorBoard's curves if it is there.

    Args:
        out: The run folder; lines of steps that a resumed run repeats are dropped.
        first_step: The step that the run goes on with.
        last_row: Of the step before it, where the file may lack it.
        writes: Whether this process is the one that tells.

    Raises:
        TrainingError: If the files cannot be written.
    """

    def __init__(
        self,
        out: Path,
        first_step: int,
        last_row: dict[str, float] | None = None,
        *,
        writes: bool = True,
    ) -> None:
        self._path = out / "metrics.jsonl"
        found = [*read_metrics(self._path), *([last_row] if last_row else [])]
        rows = {row["step"]: row for row in found if row["step"] < first_step}
        kept = list(rows.values())
        self._lines = self._board = None
        self.row = last_row
        """Of the last step."""
        self.failure: str | None = None
        """Why it could not be written."""
        if writes:
            try:
                write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))
                self._lines = self._path.open("a", encoding="utf-8")
                self._board = _board(out / "tensorboard", first_step)
            except OSError as error:
                self.close()
                raise TrainingError(self._says(error)) from None
        self._elapsed_s = kept[-1]["elapsed_s"] if kept else 0.0
        self._probed: float | None = None
        self._last = time.perf_counter()

    def log(self, step: int, values: dict[str, float], *, num_samples: float) -> str:
        """Write the values of a step with the seconds that the run has taken so far.

        What cannot be written is kept in `row`, and `failure` says why.

        Args:
            step: Counted from 0.
            values: By name.
            num_samples: That were learned from in the step, for `samples_per_s`.

        Returns:
            The loss, its terms by objective, the last look at held-out records and the rate, in
            words.
        """
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._elapsed_s += seconds
        self._probed = values.get("probe", self._probed)
        rate = num_samples / max(seconds, 1e-6)
        note = ", ".join([*_told(values, self._probed), f"{rate:.1f} samples/s"])
        if self._lines is None:
            return note
        row = {"step": step, "elapsed_s": round(self._elapsed_s, 3), **values}
        row["samples_per_s"] = round(rate, 2)
        self.row = row
        try:
            self._lines.write(json.dumps(row) + "\n")
            self._lines.flush()
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            self.failure = self._says(error)
        return note

    def close(self) -> None:
        """Close the files; a `TrainingError` if the last steps cannot be written."""
        try:
            for file in (self._lines, self._board):
                if file is not None:
                    file.close()
        except OSError as error:
            if self.failure is None:
                raise TrainingError(self._says(error)) from None

    def _says(self, error: OSError) -> str:
        return (
            f"{self._path} or the curves beside it could not be written ({error}); the state is "
            "whole. Make room, and the same command goes on from there"
        )


def _told(values: dict[str, float], probed: float | None) -> list[str]:
    """The loss and the mean of each objective's terms, and the last look, in words."""
    means: dict[str, list[float]] = defaultdict(list)
    for name, value in values.items():
        if family(name) in ("loss", *TERMS):
            means[family(name)].append(value)
    told = [f"{name} {fmean(found):.2f}" for name, found in means.items()]
    return told if probed is None else [*told, f"probe {probed:.3f}"]


def _board(folder: Path, first_step: int) -> Any:
    """Curves for TensorBoard; None where it is not installed."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=first_step)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read `metrics.jsonl`; a line that a kill cut short is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def read_run(folder: Path) -> TrainedRun:
    """Read what a run folder tells; a `UsageError` if it is none."""
    config, metrics = folder / "config.json", folder / "metrics.jsonl"
    if not config.is_file() or not metrics.is_file():
        raise UsageError(
            f"{folder}: no run folder (config.json or metrics.jsonl is missing); "
            "give what `valor train` was given as --out"
        )
    return TrainedRun(
        curves=read_metrics(metrics), config=parse_json(config.read_bytes(), str(config))
    )


def write_run_page(folder: Path, path: Path | None = None) -> Path:
    """Write the page of a run, also of one that is going on.

    Args:
        folder: The run folder.
        path: The HTML file. None is `report.html` in the run folder, or `run.html` where the
            former is the page of an evaluation.

    Returns:
        The HTML file.

    Raises:
        UsageError: If it is no run folder.
        TrainingError: If the page cannot be written.
    """
    path = path or folder / ("run.html" if (folder / "report.json").is_file() else "report.html")
    run = read_run(folder)
    try:
        write_run(path, run, folder.resolve().name)
    except OSError as error:
        raise TrainingError(
            f"{path} could not be written ({error}), all else of the run is whole; make room, and "
            "run the same command again"
        ) from None
    return path
