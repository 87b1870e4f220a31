"""Models that come with the package, by name; `tiny-world` is one.

`find_folder` turns any name of a model of ours into its folder, `box` puts a trained model into the
package in half precision.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from valor.checkpoints.folder import load_model, write_folder

TINY_WORLD = "tiny-world"
MAX_BYTES = 5_000_000
_BOX = Path(__file__).with_name("box")


def find_boxed(name: str) -> Path | None:
    """The folder of a model in the package; None if there is none of that name."""
    folder = _BOX / name
    return folder if name == TINY_WORLD and (folder / "config.json").is_file() else None


def find_folder(name: str) -> Path:
    """The folder that a name of a model of ours stands for.

    Args:
        name: A folder, a model of the package, or a hub id, which is downloaded.

    Returns:
        The folder; what is none of these comes back as it is.

    Raises:
        ModelError: If the hub has the model and it cannot be downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if boxed := find_boxed(name):
        return boxed
    from valor.checkpoints.hub import is_ours_on_hub, local_folder

    return local_folder(name) if is_ours_on_hub(name) else folder


def box(source: Path, report: Mapping[str, Any], *, out: Path = _BOX / TINY_WORLD) -> Path:
    """Put a model that was trained on the rendered world into the package, in float16.

    Args:
        source: Its model folder.
        report: Its `report.json`, whose figures the card repeats.
        out: Folder to write.

    Returns:
        The folder.

    Raises:
        ModelError: If the model cannot be read, or something else is in the folder's place.
        ValueError: If the weights are larger than `MAX_BYTES`.
    """
    system, processor, fingerprint = load_model(source)
    weights = {
        name: weight.to(torch.float16)
        for name, weight in load_file(source / "model.safetensors").items()
    }
    size = sum(weight.nbytes for weight in weights.values())
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes of weights exceed {MAX_BYTES}; box a smaller model")
    card = _card(fingerprint, sum(weight.numel() for weight in weights.values()), report)
    write_folder(out, system.config, weights, processor.save, card=card)
    return out


def _card(fingerprint: str, num_weights: int, report: Mapping[str, Any]) -> str:
    recall = {
        group: figures["text_to_media"]["r1"] for group, figures in report["retrieval"].items()
    }
    rows = "".join(
        f"| {group} | {value:.3f} | {report['retrieval'][group]['oracle_r1']:.3f} |\n"
        for group, value in recall.items()
    )
    return (
        "---\nlibrary_name: valor\nlicense: mit\npipeline_tag: feature-extraction\n---\n"
        f"# {TINY_WORLD}\n\n"
        f"VALOR with {num_weights / 1e6:.1f} M weights in float16, made from the run with model "
        f"{fingerprint} by `make tiny-world`.\n\n"
        "It was trained on videos that this project rendered, and on nothing else. It is for "
        "seeing every verb work within a minute, for tests and for teaching. It knows **nothing of "
        "real videos**: what it says of them is meaningless. `docs/weights.md` names models that "
        "do.\n\n"
        f"R@1 on {report['data']['n']} rendered test videos of combinations that it never saw, "
        "measured before the weights were rounded:\n\n"
        f"| text to | R@1 | possible |\n|--|--|--|\n{rows}"
    )
