"""`valor doctor`: check what valor needs and can use, and say how to mend what is wrong."""

import importlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from valor.cli.arguments import Json, parse

_PACKAGES = (
    *("valor-omni", "torch", "transformers", "av", "numpy", "pillow", "pyarrow", "tokenizers"),
    *("safetensors", "huggingface-hub"),
)
_FOR_DEVELOPERS = {"dev", "docs", "fuzz"}
_EXTRA = re.compile(r"([\w.-]+)[^;]*;.*\bextra == ['\"]([\w-]+)['\"]")
"""A package of an extra, as the metadata of a distribution name it."""
_MIN_FREE_GIB = 2.0
"""Of disk and of memory, which the demo takes."""
_MATRIX = 1024
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Check versions, devices, codecs, room, extras and speed.

    Exit code 1 if something must be mended.
    """

    seconds: float = 5.0
    """How long to measure speed; 0 leaves it out."""
    json: Json = False
    """A JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; a problem makes the exit code 1."""
    arguments = parse(Arguments, argv, verb="doctor")
    report: dict[str, Any] = {}
    for topic, found in examine(arguments.seconds):
        report[topic] = found
        if found and not arguments.json:
            text = ", ".join(f"{name} {value}" for name, value in found.items())
            print(f"{topic:>10}: {text}", flush=True)
    is_whole = "torch" in report
    report |= {"hints": _hints(report) if is_whole else [], "problems": _problems(report)}
    if arguments.json:
        print(json.dumps(report))
        return 1 if report["problems"] else 0
    for kind in ("hints", "problems"):
        for line in report[kind]:
            print(f"{kind[:-1]:>10}: {line}")
    print("" if report["problems"] else "all is well")
    return 1 if report["problems"] else 0


def examine(seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Look at everything that valor needs, one topic after the other.

    Args:
        seconds: How long to measure speed.

    Yields:
        A topic, and what was found; versions alone if a package is missing.
    """
    versions = {package: _version(package) or "missing" for package in _PACKAGES}
    yield "versions", {"python": platform.python_version(), **versions}
    if "missing" in versions.values():
        return  # All else would fail by what is missing.
    from valor.media.codecs import try_codecs

    yield "torch", _torch()
    yield "devices", _devices()
    yield "room", _room()
    yield "extras", _extras()
    yield "codecs", try_codecs()
    yield "speed", _speed(seconds) if seconds > 0 else {}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extras() -> dict[str, str]:
    """Whether the packages of each extra are there, or the command that adds what it lacks."""
    packages: dict[str, list[str]] = defaultdict(list)
    for required in (requires("valor-omni") or ()) if _version("valor-omni") else ():
        found = _EXTRA.match(required)
        if found and found[2] not in _FOR_DEVELOPERS:
            packages[found[2]].append(found[1])
    extras = {}
    for extra, names in packages.items():
        missing = " and ".join(name for name in names if _version(name) is None)
        install = f'lacks {missing}: pip install "valor-omni[{extra}]"'
        extras[extra] = install if missing else _use(extra)
    return extras


def _use(extra: str) -> str:
    """What an extra whose packages are there still needs from outside."""
    if extra == "eval" and shutil.which("java") is None:
        return "no java, for METEOR and SPICE: install a Java runtime"
    if extra == "fast":
        try:
            importlib.import_module("torchcodec.decoders")
        except (ImportError, OSError, RuntimeError) as error:
            problem = str(error).strip().partition("\n")[0]
            return f"cannot be loaded ({problem}): install FFmpeg's shared libraries"
    return "yes"


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
        f"{package} is missing: run `pip install .` in the folder of valor's source"
        for package, found in report["versions"].items()
        if found == "missing"
    ]
    bad = [
        f"{codec} ({said.removeprefix('no: ')})"
        for codec, said in report.get("codecs", {}).items()
        if said.startswith("no: ")
    ]
    if bad:
        problems.append(f"cannot decode {', '.join(bad)}: pip install --force-reinstall av")
    return problems
