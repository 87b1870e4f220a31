"""Weights of the released VALOR implementation under our names.

Each part has an explicit map from released names to ours; a released weight that no rule takes, and
one of ours that no rule gives, is an error of whoever converts. So far the three media encoders are
mapped.

Source: upstream `model/clip.py`, `model/videoswin.py`, `model/transformer.py`, `model/modeling.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def clip_vision(released: Mapping[str, Tensor], prefix: str = "clip_model.visual.") -> Weights:
    """CLIP's vision tower as a `VisionTransformer` with `pre_norm` and `quick_gelu`.

    The projection into CLIP's shared space is no part of the encoder and is left out. CLIP's patch
    embedding has no bias and its frames know no time: both are zero here.

    Args:
        released: The whole state dict.
        prefix: Of the tower.

    Returns:
        Weights by our name, with room for 32 frames.
    """
    names = {
        "class_embedding": "cls_token",
        "positional_embedding": "patch_position",
        "conv1.weight": "patch_embedding.weight",
        **_both("ln_pre", "pre_norm"),
        **_both("ln_post", "norm"),
    }
    weights: Weights = {}
    for name, tensor in _below(released, prefix).items():
        if name in names:
            weights[names[name]] = tensor
        elif name.startswith("transformer.resblocks."):
            _, _, index, rest = name.split(".", 3)
            _clip_block(weights, f"blocks.{index}.", rest, tensor)
    dim = weights["cls_token"].shape[0]
    weights["patch_embedding.bias"] = torch.zeros(dim)
    weights["time_position"] = torch.zeros(32, dim)
    return weights


def _clip_block(weights: Weights, block: str, name: str, tensor: Tensor) -> None:
    """One tensor of a CLIP block; queries, keys and values are packed there in one matrix."""
    names = {
        **_both("attn.out_proj", "attention.output"),
        **_both("ln_1", "attention_norm"),
        **_both("ln_2", "mlp_norm"),
        **_both("mlp.c_fc", "mlp.0"),
        **_both("mlp.c_proj", "mlp.2"),
    }
    if name in names:
        weights[block + names[name]] = tensor
        return
    kind = name.removeprefix("attn.in_proj_")
    dim = tensor.shape[0] // 3
    weights[f"{block}attention.query.{kind}"] = tensor[:dim]
    weights[f"{block}attention.key_value.{kind}"] = tensor[dim:]


def video_swin(released: Mapping[str, Tensor], prefix: str = "video_encoder.") -> Weights:
    """Video Swin as a `VideoSwinTransformer`; buffers that can be computed are left out.

    Args:
        released: The whole state dict.
        prefix: Of the tower.

    Returns:
        Weights by our name.
    """
    names = {
        **_both("norm1", "attention_norm"),
        **_both("norm2", "mlp_norm"),
        **_both("attn.qkv", "attention.query_key_value"),
        **_both("attn.proj", "attention.output"),
        **_both("mlp.fc1", "mlp.0"),
        **_both("mlp.fc2", "mlp.2"),
        "attn.relative_position_bias_table": "attention.distance_bias",
    }
    outer = {
        **_both("patch_embed.proj", "patch_embedding"),
        **_both("patch_embed.norm", "patch_norm"),
        **_both("norm", "norm"),
    }
    weights: Weights = {}
    for name, tensor in _below(released, prefix).items():
        if name in outer:
            weights[outer[name]] = tensor
            continue
        if name.endswith("relative_position_index"):
            continue
        _, stage, kind, rest = name.split(".", 3)
        if kind == "downsample":
            weights[f"stages.{int(stage) + 1}.merge.{rest}"] = tensor
        else:
            block, rest = rest.split(".", 1)
            weights[f"stages.{stage}.blocks.{block}.{names[rest]}"] = tensor
    return weights


def ast(released: Mapping[str, Tensor]) -> Weights:
    """The audio spectrogram transformer as an `AudioTransformer`.

    Args:
        released: The whole state dict.

    Returns:
        Weights by our name.
    """
    names = {
        **_both("ff_layer.linear1", "mlp.0"),
        **_both("ff_layer.linear2", "mlp.2"),
        **_both("layernorm1", "attention_norm"),
        **_both("layernorm2", "mlp_norm"),
        **_both("attention.linears.0", "attention.query"),
        **_both("attention.linears.3", "attention.output"),
    }
    conv = released["audio_embeddings.first_conv.weight"]
    weights = {
        "cls_token": released["audio_embeddings.cls_token"][0, 0],
        "position": released["audio_embeddings.position_embeddings.weight"],
        "patch_embedding.weight": conv.flatten(1),
        "patch_embedding.bias": released["audio_embeddings.first_conv.bias"],
        "norm.weight": released["audio_encoder.last_layernorm.weight"],
        "norm.bias": released["audio_encoder.last_layernorm.bias"],
    }
    layers = _below(released, "audio_encoder.layer.")
    for name, tensor in layers.items():
        index, rest = name.split(".", 1)
        if rest in names:
            weights[f"blocks.{index}.{names[rest]}"] = tensor
        elif rest.startswith("attention.linears.1"):
            kind = rest.rpartition(".")[2]
            value = layers[f"{index}.attention.linears.2.{kind}"]
            weights[f"blocks.{index}.attention.key_value.{kind}"] = torch.cat([tensor, value])
    return weights


def _below(released: Mapping[str, Tensor], prefix: str) -> Weights:
    """The weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in released.items() if k.startswith(prefix)}


def _both(theirs: str, ours: str) -> dict[str, str]:
    """Map a module's weight and bias."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}
