"""`valor doctor`: check versions, codecs, devices and room, and say how to mend what is wrong."""

import importlib.util
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from valor.cli.arguments import Json, parse

_PACKAGES = (
    *("valor-omni", "torch", "transformers", "av", "numpy", "pillow", "pyarrow", "tokenizers"),
    *("safetensors", "huggingface-hub"),
)
_EXTRAS = {
    "search": "lancedb",
    "serve": "fastapi",
    "plots": "matplotlib",
    "sentence": "sentence_transformers",
    "ray": "ray",
    "track": "tensorboard",
    "eval": "mteb",
    "fast": "torchcodec",
}
_MIN_FREE_GIB = 2.0
"""Of disk and of memory, which the demo takes."""
_MATRIX = 1024
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Check versions, codecs, devices and room; exit code 1 if something must be mended."""

    seconds: float = 5.0
    """How long to measure speed; 0 leaves it out."""
    json: Json = False
    """A JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; a problem makes the exit code 1."""
    arguments = parse(Arguments, argv, verb="doctor")
    report = examine(arguments.seconds)
    if arguments.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            if isinstance(value, dict) and value:
                text = ", ".join(f"{k} {v}" for k, v in value.items())
                print(f"{name:>10}: {text}")
        for kind in ("hints", "problems"):
            for line in report[kind]:
                print(f"{kind[:-1]:>10}: {line}")
        print("" if report["problems"] else "all is well")
    return 1 if report["problems"] else 0


def examine(seconds: float) -> dict[str, Any]:
    """Look at everything that valor needs.

    Args:
        seconds: How long to measure speed.

    Returns:
        What was found by topic; `problems` must be mended, `hints` may be. Each says how.
    """
    from valor.media.codecs import try_codecs

    report: dict[str, Any] = {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
        "torch": _torch(),
        "devices": _devices(),
        "codecs": try_codecs(),
        "room": _room(),
        "extras": {
            extra: "yes" if importlib.util.find_spec(package) else _install(extra)
            for extra, package in _EXTRAS.items()
        },
        "speed": _speed(seconds) if seconds > 0 else {},
    }
    return {**report, "hints": _hints(report), "problems": _problems(report)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _install(extra: str) -> str:
    return f'pip install "valor-omni[{extra}]"'


def _torch() -> dict[str, Any]:
    import torch

    return {
        "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "threads": torch.get_num_threads(),
        "bfloat16": "yes" if torch.cpu._is_avx512_bf16_supported() else "no",
    }


def _devices() -> dict[str, str]:
    import torch

    gpus = range(torch.cuda.device_count())
    names = {f"cuda:{index}": torch.cuda.get_device_name(index) for index in gpus}
    return {"cpu": f"{os.cpu_count()} processors", **names}


def _room() -> dict[str, float]:
    """GiB of disk and memory that are free; memory only where the system says."""
    room = {
        "disk_here_gib": shutil.disk_usage(Path.cwd()).free / _GIB,
        "disk_temporary_gib": shutil.disk_usage(tempfile.gettempdir()).free / _GIB,
    }
    lines = Path("/proc/meminfo")
    if lines.is_file():
        values = dict(line.split(":", 1) for line in lines.read_text().splitlines())
        room["memory_gib"] = int(values["MemAvailable"].split()[0]) * 1024 / _GIB
    return {name: round(value, 1) for name, value in room.items()}


def _speed(seconds: float) -> dict[str, float]:
    """What the machine multiplies, and how fast a rendered video is decoded."""
    import torch

    from valor.data.world.render import render_scene
    from valor.data.world.scene import FPS, draw_scene
    from valor.media.video import decode_frames

    speed = {}
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.rand(_MATRIX, _MATRIX, dtype=dtype)
        rate = _rate(lambda square=square: square @ square, seconds / 3)
        name = str(dtype).removeprefix("torch.")
        speed[f"{name}_gflop_per_s"] = round(2 * _MATRIX**3 * rate / 1e9, 1)
    with tempfile.TemporaryDirectory() as folder:
        scene = draw_scene(0, "train", 0, "duet")
        render_scene(scene, folder=Path(folder), seed=0)
        (path,) = Path(folder).iterdir()
        times_s = [index / FPS for index in range(2 * FPS)]
        rate = _rate(lambda: decode_frames(path, times_s), seconds / 3)
        speed["decode_frames_per_s"] = round(rate * len(times_s), 1)
    return speed


def _rate(work: Callable[[], object], seconds: float) -> float:
    """How often per second, after once to warm up."""
    work()
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or not count:
        work()
        count += 1
    return count / spent


def _hints(report: dict[str, Any]) -> list[str]:
    hints = []
    threads, cores = report["torch"]["threads"], os.cpu_count() or 1
    if threads < cores // 2:
        hints.append(
            f"torch uses {threads} of {cores} processors: unset OMP_NUM_THREADS to use all"
        )
    has_gpu = any(name.startswith("cuda") for name in report["devices"])
    if shutil.which("nvidia-smi") and not has_gpu:
        on_cpu = report["torch"]["build"] == "CPU"
        fix = "install a CUDA build of torch" if on_cpu else "update the driver"
        hints.append(f"an NVIDIA device is here, but torch does not see it: {fix}")
    for name, free in report["room"].items():
        if free < _MIN_FREE_GIB:
            place = name.removesuffix("_gib").replace("_", ", ")
            hints.append(
                f"{place}: {free} GiB free, wanted {_MIN_FREE_GIB}: free some, or work elsewhere"
            )
    return hints


def _problems(report: dict[str, Any]) -> list[str]:
    problems = [
        f"{package} is missing: pip install --force-reinstall valor-omni"
        for package, found in report["versions"].items()
        if found == "missing"
    ]
    bad = [
        f"{codec} ({said.removeprefix('no: ')})"
        for codec, said in report["codecs"].items()
        if said.startswith("no: ")
    ]
    if bad:
        problems.append(f"cannot decode {', '.join(bad)}: pip install --force-reinstall av")
    return problems
