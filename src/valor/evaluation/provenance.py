"""Where figures come from: the machine, the commit and the day on which a program wrote them."""

import datetime
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from valor.evaluation.predictions import write_json

_PROCESSOR = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def finish(
    figures: Mapping[str, Any], path: Path | None, *, tell: Callable[[str], None] = print
) -> None:
    """Tell what a benchmark measured, and write it as JSON, followed by `provenance`.

    Args:
        figures: By flat keys, ratios first.
        path: Of the JSON file; None writes none.
        tell: Gets every line.
    """
    width = max(map(len, figures))
    for key, value in figures.items():
        tell(f"{key:{width}} {f'{value:.5g}' if isinstance(value, float) else value}")
    if path is not None:
        write_json(path, {**figures, **provenance()})


def provenance() -> dict[str, str]:
    """`machine`, `commit` (with `, changed` if files differ from it) and `date` (UTC)."""
    return {
        "machine": machine(),
        "commit": commit(Path(__file__).parent),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def machine() -> str:
    """Processor, number of processors and threads, GPU if there is one; no name of a host."""
    told = Path("/proc/cpuinfo")
    found = _PROCESSOR.search(told.read_text(encoding="utf-8")) if told.is_file() else None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    parts = [name, f"{os.cpu_count()} processors", f"{torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def commit(folder: Path) -> str:
    """The commit that a folder of a checkout stands at; the package's version outside of one."""
    answers = [
        subprocess.run(  # noqa: S603
            [shutil.which("git") or "false", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        for words in (
            ["ls-files", "--error-unmatch", "."],
            ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=, changed"],
        )
    ]
    if any(answer.returncode for answer in answers):
        return f"version {version('valor-omni')}"
    return answers[-1].stdout.strip()
