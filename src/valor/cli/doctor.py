"""`valor doctor`: check versions, codecs and devices, and say how to mend what is wrong."""

import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from valor.cli.arguments import Json, parse

_PACKAGES = ("valor-omni", "torch", "av", "numpy", "tokenizers", "safetensors")
_CODECS = ("h264", "hevc", "vp9", "aac", "mp3", "opus", "flac")
_EXTRAS = {"search": "lancedb", "serve": "fastapi", "plots": "matplotlib", "fast": "torchcodec"}
_EXTRAS |= {"sentence": "sentence_transformers"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Check versions, codecs and devices."""

    json: Json = False
    """A JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; a problem makes the exit code 1."""
    arguments = parse(Arguments, argv, verb="doctor")
    report = examine()
    if arguments.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            if name != "problems":
                text = ", ".join(f"{k} {v}" for k, v in value.items())
                print(f"{name:>10}: {text}")
        for problem in report["problems"]:
            print(f"   problem: {problem}")
        print("all is well" if not report["problems"] else "")
    return 1 if report["problems"] else 0


def examine() -> dict[str, Any]:
    """Look at everything that valor needs."""
    import av
    import torch

    problems = []
    missing = [codec for codec in _CODECS if codec not in av.codecs_available]
    if missing:
        problems.append(f"av cannot read {', '.join(missing)}: pip install --force-reinstall av")
    devices = {"cpu": f"{os.cpu_count()} processors, {torch.get_num_threads()} threads"}
    devices["bfloat16"] = "yes" if torch.cpu._is_avx512_bf16_supported() else "no"
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    extras = {
        extra: "yes" if importlib.util.find_spec(package) else f"pip install valor-omni[{extra}]"
        for extra, package in _EXTRAS.items()
    }
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "codecs": {codec: "yes" if codec not in missing else "no" for codec in _CODECS},
        "devices": devices,
        "extras": extras,
        "problems": problems,
    }
