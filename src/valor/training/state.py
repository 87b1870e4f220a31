"""The state of a run on disk: weights, optimizer and position, in PyTorch's distributed format.

A state is written beside the old one and then renamed over it, so that a kill leaves either.
"""

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver

from valor.config import differences, from_dict, parse_json, to_json
from valor.errors import ConfigError
from valor.training.optim import Optimizer


def claim(out: Path, config: object, data: Sequence[object]) -> None:
    """Make the run folder, or check that it is a run of the same configuration and data.

    Args:
        out: Run folder.
        config: Of the run.
        data: What it learns from.

    Raises:
        ConfigError: If the folder holds another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, stamp = out / "config.json", out / "data.sha256"
    digest = hashlib.sha256(repr(data).encode()).hexdigest() + "\n"
    if path.is_file():
        values = parse_json(path.read_bytes(), str(path))
        found = from_dict(type(config), values, where=str(path), trust_code=True)
        if found != config:
            raise ConfigError(
                f"{out} holds another run ({differences(found, config)}); "
                "choose another --out, or delete the folder"
            )
        if stamp.read_text("utf-8") != digest:
            raise ConfigError(f"{out} holds a run on other data; choose another --out")
    else:
        stamp.write_text(digest, encoding="utf-8")
        path.write_text(to_json(config), encoding="utf-8")


def save_state(folder: Path, optimizer: Optimizer, *, next_step: int) -> None:
    """Write everything that the next step depends on.

    Args:
        folder: `state/` of the run folder.
        optimizer: Holds the float32 weights and AdamW's moments.
        next_step: The step that a resumed run starts with; data and randomness follow from it.
    """
    partial = folder.with_name("state.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with _quietly():
        state_dict_saver.save(_tensors(optimizer), checkpoint_id=partial, no_dist=True)
    (partial / "position.json").write_text(json.dumps({"next_step": next_step}), encoding="utf-8")
    old = folder.with_name("state.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path, optimizer: Optimizer) -> int:
    """Restore a run; returns the step to go on with, 0 if there is no state."""
    for candidate in (folder, folder.with_name("state.old")):
        if (candidate / "position.json").is_file():
            tensors = _tensors(optimizer, fresh=True)
            with _quietly():
                state_dict_loader.load(tensors, checkpoint_id=candidate, no_dist=True)
            _restore(optimizer, tensors)
            position = json.loads((candidate / "position.json").read_text(encoding="utf-8"))
            return int(position["next_step"])
    return 0


def _tensors(optimizer: Optimizer, *, fresh: bool = False) -> dict[str, torch.Tensor]:
    """Weights and moments under flat names."""
    moments = optimizer.adamw.state
    tensors = {}
    for name, master in optimizer.masters.items():
        known = moments.get(master, {})
        tensors[f"weight.{name}"] = master.detach()
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}.{name}"] = known.get(key, torch.zeros_like(master))
        tensors[f"step.{name}"] = known.get("step", torch.zeros(()))
    tensors |= {f"statistic.{name}": x for name, x in optimizer.statistics.items()}
    return {key: value.clone() for key, value in tensors.items()} if fresh else tensors


@torch.no_grad()
def _restore(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    for name, master in optimizer.masters.items():
        master.copy_(tensors[f"weight.{name}"])
        optimizer.adamw.state[master] = {
            key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    for name, statistic in optimizer.statistics.items():
        statistic.copy_(tensors[f"statistic.{name}"])
    optimizer.publish()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that one process is meant, which is what `no_dist` says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
