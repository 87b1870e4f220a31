"""The one training loop, whatever is trained.

A step that would spoil the weights is left out and counted; a signal, and whatever else ends a run,
leaves a state from which the same command goes on.
"""

import json
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from valor.data.storage import write_whole
from valor.errors import TrainingError
from valor.objectives.base import LossTerm
from valor.processes import gather, num_ranks, rank, summed
from valor.training.monitor import Monitor, Report, silent
from valor.training.optim import OptimConfig, Optimizer
from valor.training.probe import Probe
from valor.training.state import States
from valor.training.step import backward


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """What is learned from in one step."""

    terms: dict[str, LossTerm]
    """Nothing if no sample has what any objective needs."""
    ids: Sequence[str] = ()
    """Of the samples."""
    left_out: int = 0
    """Samples of the step that could not be read."""
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    """What else is worth a curve, such as the temperature."""


Losses = Generator[StepLoss]
"""Of one step after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `fit` needs to know of a run, whatever it trains."""

    model: nn.Module
    optim: OptimConfig
    exact: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Parameters in float32 that the model has rounded; see `Optimizer`."""
    num_steps: int
    save_every: int
    """Steps between two states on disk."""
    seed: int
    losses: Callable[[int], Losses]
    """Of all steps from a first one to the last; those of a step depend on its number, the weights
    and torch's random numbers alone."""
    max_skipped: int = 10
    """The run ends after so many steps in a row whose loss or gradient is not finite."""
    probe: Probe = field(default_factory=Probe)
    """Looks at held-out records, and may end the run early."""


def fit(task: Task, out: Path, *, report: Report = silent) -> dict[str, Tensor]:
    """Train any model, or go on with a run that was stopped.

    Args:
        task: Model and losses.
        out: Run folder, which holds `state/` and `metrics.jsonl`; claimed before.
        report: Told about progress in stage `train`.

    Returns:
        All weights by name, in float32.

    Raises:
        TrainingError: If a file cannot be written, or after too many steps in a row without finite
            gradients: the last state is from before them, and `skipped.json` names their samples.
        KeyboardInterrupt: On SIGINT, once the step is done and the state written.
        SystemExit: On SIGTERM, in the same way.
    """
    optimizer = Optimizer(task.model, task.optim, task.num_steps, task.exact)
    states = States(out / "state", optimizer)
    start, probe = states.load(), task.probe
    probe.restore(states.position.get("probe"))
    skipped: list[dict[str, object]] = states.position.get("skipped", [])
    task.model.train()
    with (
        closing(states),
        closing(Monitor(out, start, states.position.get("row"), writes=rank() == 0)) as monitor,
        closing(task.losses(start)) as losses,
        _signals() as received,
    ):
        for step in range(start, start if probe.gives_up else task.num_steps):
            torch.manual_seed(task.seed * 1_000_003 + step + rank() * 7_000_003)
            found = next(losses)
            values = backward(found.terms)
            norms = optimizer.step(step)
            *sums, num_samples, left_out, signal_number = summed(
                [*values.values(), len(found.ids), found.left_out, max(received, default=0)]
            )
            values = {name: x / num_ranks() for name, x in zip(values, sums, strict=True)}
            values |= {**norms, "learning_rate": optimizer.learning_rate(step), **found.figures}
            values |= {"left_out": left_out} if left_out else {}
            skipped = _skipped_in_a_row(skipped, step, norms, found.ids)
            values |= {"empty": 1} if not norms else {"skipped": 1} if skipped else {}
            if probe.is_due(step, task.num_steps):
                values |= probe.look(optimizer.weights)
            note = monitor.log(step, values, num_samples=num_samples)
            if len(skipped) >= task.max_skipped:
                raise _diverged(out, skipped)
            failure = gather(monitor.failure)[0]
            last = step + 1 == task.num_steps or probe.gives_up or failure or signal_number
            if last or ((step + 1) % task.save_every == 0 and not skipped):
                states.save(next_step=step + 1, probe=probe.state, skipped=skipped, row=monitor.row)
            if rank() == 0:
                report("train", step + 1, task.num_steps, note=note)
            if failure:
                raise TrainingError(failure)
            if signal_number:
                raise _ended_by(received[0] if received else signal.SIGTERM)
            if last:
                break
    return optimizer.weights


def _skipped_in_a_row(
    before: list[dict[str, object]], step: int, norms: Mapping[str, float], ids: Sequence[str]
) -> list[dict[str, object]]:
    """Steps up to this one whose gradient was not finite; those without any do not count."""
    if not norms:
        return before
    if norms["grad_norm"] < float("inf"):
        return []
    return [*before, {"step": step, "ids": list(chain(*gather(list(ids))))}]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them, where signals can be received."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:  # Whoever asks twice does not want to wait.
            raise _ended_by(number)
        received.append(number)

    try:
        before = {n: signal.signal(n, receive) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # Only the main thread of a program receives signals.
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended_by(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _diverged(out: Path, skipped: Sequence[dict[str, object]]) -> TrainingError:
    """Name the samples in a file, which rank 0 writes, and say what happened."""
    path, what = out / "skipped.json", f"{len(skipped)} steps in a row had no finite loss"
    try:
        if rank() == 0:
            write_whole(path, json.dumps(skipped, indent=2) + "\n")
    except OSError as error:
        return TrainingError(
            f"{what} and gradient, and {path}, which names their samples, could not be written "
            f"({error}); make room, and the same command goes on from the last state"
        )
    return TrainingError(
        f"{what} and gradient; look at the samples that {path} names, or lower "
        "optim.learning_rate in a new run"
    )
