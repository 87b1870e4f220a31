"""The state of a run on disk: weights, optimizer and position, in PyTorch's distributed format.

A state is written beside the old one and then renamed over it, so that a kill leaves either.
"""

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from valor.config import differences, from_dict, parse_json, to_json
from valor.data.sources.media import is_media
from valor.data.storage import write_whole
from valor.errors import ConfigError, TrainingError, ValorError
from valor.processes import num_ranks, rank
from valor.training.monitor import read_metrics
from valor.training.optim import Optimizer
from valor.training.parallel import local

_MOMENTS = ("exp_avg", "exp_avg_sq")


def claim(
    out: Path, config: Any, data: Sequence[object], *, may_change: Sequence[str] = ()
) -> None:
    """Make the run folder, or check that it is a run of the same configuration and data.

    Args:
        out: Run folder.
        config: Of the run.
        data: What it learns from.
        may_change: Fields that decide how a run computes, not what; the folder keeps the first.

    Raises:
        ConfigError: If the folder holds another run, or recordings.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, stamp = out / "config.json", out / "data.sha256"
    digest = hashlib.sha256(repr(data).encode()).hexdigest() + "\n"
    if path.is_file():
        values = parse_json(path.read_bytes(), str(path))
        found = from_dict(type(config), values, where=str(path), trust_code=True)
        found = replace(found, **{name: getattr(config, name) for name in may_change})
        if found != config:
            raise ConfigError(
                f"{out} holds another run ({differences(found, config)}); choose another --out"
            )
        if stamp.read_text("utf-8") != digest:
            raise ConfigError(f"{out} holds a run on other data; choose another --out")
    elif foreign := [file.name for file in out.iterdir() if is_media(file.name)]:
        raise ConfigError(f"{out} is no run and holds {min(foreign)!r}; choose another --out")
    else:
        write_whole(stamp, digest)
        write_whole(path, to_json(config))


@contextlib.contextmanager
def tidied(out: Path) -> Iterator[None]:
    """Leave nothing behind but caches if a `ValorError` comes before the first step of a run."""
    before = set(out.iterdir()) if out.is_dir() else None
    try:
        yield
    except ValorError:
        has_begun = (out / "state").exists() or read_metrics(out / "metrics.jsonl")
        if rank() == 0 and out.is_dir() and not has_begun:
            for path in set(out.iterdir()) - {*(before or ()), out / "cache"}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if before is None and not any(out.iterdir()):
                out.rmdir()
        raise


class States:
    """Writes states of a run while it goes on, and reads the last whole one.

    Ranks write together, each what it holds; any number of ranks can read what another has written.

    Args:
        folder: `state/` of the run folder, which all ranks see.
        optimizer: Holds the float32 weights and AdamW's moments.
    """

    def __init__(self, folder: Path, optimizer: Optimizer) -> None:
        self._folder, self._optimizer = folder, optimizer
        self._group: Any = distributed.new_group(backend="gloo") if num_ranks() > 1 else None
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self.position: dict[str, Any] = {"next_step": 0}
        """As saved with the state that was loaded."""

    def save(self, **position: Any) -> None:
        """Begin to write everything that the next step depends on.

        Args:
            **position: `next_step`, which a resumed run starts with and from which data and
                randomness follow, and what else it must know, as JSON values.

        Raises:
            TrainingError: If the state before this one could not be written.
        """
        self.wait()
        snapshot = _tensors(self._optimizer)
        self._writing = self._pool.submit(self._write, snapshot, position)

    def wait(self) -> None:
        """Return when the state is on disk; a `TrainingError` if it cannot be written."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except (OSError, CheckpointException) as error:
            causes = getattr(error, "failures", {0: (error,)})
            reason = " ".join(str(next(iter(causes.values()))[0]).split())
            raise TrainingError(
                f"{self._folder}: the state could not be written ({reason}), the one before it is "
                "whole; make room, and the same command goes on from there"
            ) from None

    def close(self) -> None:
        """Wait for what is being written."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def load(self) -> int:
        """Restore a run.

        Returns:
            The step to go on with, 0 if there is no state.

        Raises:
            TrainingError: If the state is damaged.
        """
        for candidate in (self._folder, self._folder.with_name("state.old")):
            path = candidate / "position.json"
            if path.is_file():
                tensors = _tensors(self._optimizer)
                try:
                    position = json.loads(path.read_text(encoding="utf-8"))
                    with _quietly():
                        state_dict_loader.load(
                            tensors, checkpoint_id=candidate, no_dist=self._group is None
                        )
                except (OSError, EOFError, ValueError, RuntimeError, CheckpointException) as error:
                    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                    raise TrainingError(
                        f"{candidate} is damaged ({reason}); remove it and metrics.jsonl, and the "
                        "same command begins anew"
                    ) from None
                _restore(self._optimizer, tensors)
                self.position = position
                break
        return int(self.position["next_step"])

    def _write(self, tensors: dict[str, torch.Tensor], position: dict[str, Any]) -> None:
        partial = self._folder.with_name("state.partial")
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        if self._group is not None:
            distributed.barrier(self._group)
        with _quietly():
            state_dict_saver.save(
                tensors,
                checkpoint_id=partial,
                process_group=self._group,
                no_dist=self._group is None,
            )
        if rank() == 0:
            (partial / "position.json").write_text(json.dumps(position), encoding="utf-8")
            old = self._folder.with_name("state.old")
            if self._folder.exists():  # Otherwise the old one is all there is.
                shutil.rmtree(old, ignore_errors=True)
                self._folder.rename(old)
            partial.rename(self._folder)
            shutil.rmtree(old, ignore_errors=True)


def _tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Copies of everything in the CPU's memory, under flat names and as parts of cut wholes."""
    moments = optimizer.adamw.state
    values = {"weight": dict(optimizer.masters), "average": dict(optimizer.averages)}
    for key in _MOMENTS:
        values[key] = {
            name: moments[master][key] if master in moments else torch.zeros_like(master)
            for name, master in optimizer.masters.items()
        }
    tensors = {
        f"{key}.{name}": value
        for key, by_name in values.items()
        for name, value in optimizer.as_parts(by_name).items()
    }
    for name, master in optimizer.masters.items():
        tensors[f"step.{name}"] = moments[master]["step"] if master in moments else torch.zeros(())
    tensors |= {f"statistic.{name}": x for name, x in optimizer.statistics.items()}
    return {name: x.detach().to("cpu", copy=True) for name, x in tensors.items()}


@torch.no_grad()
def _restore(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    for name, master in optimizer.masters.items():
        master.copy_(local(tensors[f"weight.{name}"]))
        optimizer.adamw.state[master] = {  # All on its device, as a fused AdamW wants them.
            key: local(tensors[f"{key}.{name}"]).to(master.device) for key in ("step", *_MOMENTS)
        }
    for name, average in optimizer.averages.items():
        average.copy_(local(tensors[f"average.{name}"]))
    for name, statistic in optimizer.statistics.items():
        statistic.copy_(tensors[f"statistic.{name}"])
    optimizer.publish()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that one process is meant, which is what `no_dist` says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
