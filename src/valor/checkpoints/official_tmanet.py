"""Released TMANet weights: every one by an explicit key, sizes read off the weights.

Source: upstream `mmseg/models/decode_heads/tma_head.py` and `configs/_base_/models` (github
wanghao9610/TMANet, Apache-2.0), on the ResNet of mmsegmentation 0.x.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from valor.checkpoints.masks import save_mask_model
from valor.checkpoints.official import read_weights
from valor.data.sources.masks import CAMVID, CITYSCAPES
from valor.encoders.pyramid import PyramidConfig
from valor.errors import ModelError
from valor.models.temporal_memory import (
    MaskClass,
    MemoryHead,
    MemoryHeadConfig,
    TemporalMemory,
    TemporalMemoryConfig,
)
from valor.processing.sequences import SequenceConfig

KeyMap = dict[str, str]
"""The released key by our name."""

UNUSED = re.compile(r"(^|.*\.)num_batches_tracked$")
"""Released keys that may be left over: counts that nothing depends on."""

_NORM = ("weight", "bias", "running_mean", "running_var")

_TRAINED_ON = {
    len(CITYSCAPES): (CITYSCAPES, SequenceConfig(short_side_px=1024, step_s=1 / 17)),
    len(CAMVID): (CAMVID, SequenceConfig(short_side_px=720, step_s=1 / 30)),
}
"""Classes and preprocessing by the number of classes; past frames are those just before."""


def convert_tmanet(source: Path, out: Path) -> TemporalMemoryConfig:
    """Turn a released model into a model folder.

    Args:
        source: A `.pth` of a model trained on Cityscapes or CamVid, which its number of classes
            tells.
        out: Model folder to write.

    Returns:
        The model's configuration.

    Raises:
        ModelError: If the file is damaged, or keys are missing, left over or of another shape.
    """
    released = read_weights(source)
    num_classes = _shape(released, "decode_head.conv_seg.weight", str(source))[0]
    if num_classes not in _TRAINED_ON:
        known = " or ".join(map(str, _TRAINED_ON))
        raise ModelError(
            f"{source}: decides {num_classes} classes, the released ones {known}; name one of these"
        )
    classes, sequence = _TRAINED_ON[num_classes]
    named = [MaskClass(name=name, colour=colour) for name, colour in classes.items()]
    model = load_tmanet(released, named, where=str(source))
    card = (
        "---\nlibrary_name: valor\nlicense: apache-2.0\npipeline_tag: image-segmentation\n---\n"
        "# A released TMANet\n\nConverted by `valor convert` from weights of the released "
        "implementation (wanghao9610/TMANet, Apache-2.0).\n"
    )
    save_mask_model(out, model.config, sequence, model.state_dict(), card=card)
    return model.config


def load_head(released: Mapping[str, Tensor], *, where: str) -> MemoryHead:
    """The released memory head alone, in evaluation mode.

    Args:
        released: Its weights by released key, without the `decode_head.` before each.
        where: What they are, for the error.

    Returns:
        The head.

    Raises:
        ModelError: If keys are missing, left over or of another shape.
    """
    config = head_config(released, where)
    classes = _shape(released, "conv_seg.weight", where)[0]
    head = MemoryHead(config, _shape(released, "query_key_conv.0.conv.weight", where)[1], classes)
    _take(head, released, head_keys(config), where)
    return head.eval()


def load_tmanet(
    released: Mapping[str, Tensor], classes: Sequence[MaskClass], *, where: str
) -> TemporalMemory:
    """A complete released model, in evaluation mode.

    Args:
        released: Its weights by released key.
        classes: What its outputs mean, in order.
        where: What they are, for the error.

    Returns:
        The model.

    Raises:
        ModelError: If keys are missing, left over or of another shape, or classes too few or many.
    """
    head = {
        key.removeprefix("decode_head."): weight
        for key, weight in released.items()
        if key.startswith("decode_head.")
    }
    found = _shape(head, "conv_seg.weight", where)[0]
    if found != len(classes):
        raise ModelError(f"{where}: decides {found} classes, but {len(classes)} were named")
    stages = range(1, 5)
    config = TemporalMemoryConfig(
        backbone=PyramidConfig(
            stem="deep",
            stem_dim=_shape(released, "backbone.stem.6.weight", where)[0],
            widths=tuple(
                _shape(released, f"backbone.layer{n}.0.conv3.weight", where)[0] for n in stages
            ),
            depths=tuple(_count(released, rf"backbone\.layer{n}\.(\d+)\.") for n in stages),
        ),
        head=head_config(head, where),
        auxiliary_dim=_shape(released, "auxiliary_head.conv_seg.weight", where)[1],
        classes=tuple(classes),
    )
    model = TemporalMemory(config)
    _take(model, released, model_keys(config), where)
    return model.eval()


def head_config(released: Mapping[str, Tensor], where: str) -> MemoryHeadConfig:
    """The sizes of a released head; a missing weight is a `ModelError`."""
    return MemoryHeadConfig(
        num_slots=_count(released, r"memory_key_conv\.0\.(\d+)\."),
        key_dim=_shape(released, "query_key_conv.0.conv.weight", where)[0],
        value_dim=_shape(released, "query_value_conv.0.conv.weight", where)[0],
        bottleneck_dim=_shape(released, "bottleneck.conv.weight", where)[0],
    )


def head_keys(config: MemoryHeadConfig) -> KeyMap:
    """Every weight of a head; upstream numbers slots below layers, we layers below slots."""
    keys = _conv_norm("bottleneck", "bottleneck")
    for part in ("weight", "bias"):
        keys[f"classify.{part}"] = f"conv_seg.{part}"
    for layer in range(2):
        for kind, plural in (("key", "keys"), ("value", "values")):
            keys |= _conv_norm(f"query_{kind}.{layer}", f"query_{kind}_conv.{layer}")
            for slot in range(config.num_slots):
                keys |= _conv_norm(
                    f"memory_{plural}.{slot}.{layer}", f"memory_{kind}_conv.{layer}.{slot}"
                )
    return keys


def model_keys(config: TemporalMemoryConfig) -> KeyMap:
    """Every weight of a released model."""
    keys = {f"head.{ours}": f"decode_head.{key}" for ours, key in head_keys(config.head).items()}
    keys |= _conv_norm("auxiliary.0", "auxiliary_head.convs.0")
    for part in ("weight", "bias"):
        keys[f"auxiliary.2.{part}"] = f"auxiliary_head.conv_seg.{part}"
    for layer in range(3):
        keys |= _pair(
            f"backbone.stem.{layer}",
            f"backbone.stem.{3 * layer}",
            f"backbone.stem.{3 * layer + 1}",
        )
    for stage, depth in enumerate(config.backbone.depths):
        for block in range(depth):
            ours = f"backbone.stages.{stage}.layers.{block}"
            theirs = f"backbone.layer{stage + 1}.{block}"
            for layer in range(3):
                number = layer + 1
                keys |= _pair(
                    f"{ours}.layer.{layer}", f"{theirs}.conv{number}", f"{theirs}.bn{number}"
                )
        first = f"backbone.layer{stage + 1}.0.downsample"
        keys |= _pair(f"backbone.stages.{stage}.layers.0.shortcut", f"{first}.0", f"{first}.1")
    return keys


def _conv_norm(ours: str, theirs: str) -> KeyMap:
    return _pair(ours, f"{theirs}.conv", f"{theirs}.bn")


def _pair(ours: str, convolution: str, norm: str) -> KeyMap:
    return {
        f"{ours}.convolution.weight": f"{convolution}.weight",
        **{f"{ours}.normalization.{part}": f"{norm}.{part}" for part in _NORM},
    }


def _take(module: nn.Module, released: Mapping[str, Tensor], keys: KeyMap, where: str) -> None:
    """Copy every weight, and check that none is missing or left over."""
    expected = module.state_dict()
    missing = sorted((expected.keys() - keys.keys()) | (set(keys.values()) - released.keys()))
    extra = sorted(key for key in released.keys() - set(keys.values()) if not UNUSED.match(key))
    if missing or extra:
        raise ModelError(
            f"{where}: keys do not fit, missing {missing}, left over {extra}; get it again"
        )
    for name, weight in expected.items():
        found = released[keys[name]]
        if found.shape != weight.shape:
            sizes = f"{list(found.shape)} instead of {list(weight.shape)}"
            raise ModelError(f"{where}: {keys[name]} has sizes {sizes}")
        with torch.no_grad():
            weight.copy_(found)


def _shape(released: Mapping[str, Tensor], key: str, where: str) -> torch.Size:
    if key not in released:
        raise ModelError(f"{where}: no weight {key!r}, which every released TMANet has; name one")
    return released[key].shape


def _count(released: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand at the group of a pattern, over all keys."""
    return len({found[1] for key in released if (found := re.match(pattern, key))})
