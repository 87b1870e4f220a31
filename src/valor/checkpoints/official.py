"""Weights of the released VALOR implementation under our names.

Each part has an explicit map from released names to ours. So far these are the arrangements of
VALOR-B and VALOR-L: Video Swin or CLIP for vision, AST for audio, one BERT for text and decoder.

Source: upstream `model/clip.py`, `model/videoswin.py`, `model/transformer.py`, `model/modeling.py`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from valor.encoders.audio import AstConfig
from valor.encoders.text import BertConfig
from valor.encoders.video_swin import VideoSwinConfig
from valor.encoders.vision import VitConfig
from valor.errors import ConfigError
from valor.models.decoder import PromptConfig
from valor.models.valor import ValorConfig

Weights = dict[str, Tensor]
Side = Literal["video", "audio"]
"""What upstream calls vision and audio."""


def valor_config(described: Mapping[str, Any]) -> ValorConfig:
    """Sizes of a released model from a description of its architecture.

    Args:
        described: `options` as in a released `hps.json`, `architecture` with every size, and
            `prompts` by sentence with their token ids.

    Returns:
        Our configuration.

    Raises:
        ConfigError: If it is an arrangement that we do not have yet.
    """
    options, sizes = described["options"], described["architecture"]
    if sizes["text"] != "shared BERT" or options["contra_type"] != "fine":
        raise ConfigError("only one BERT for text and decoder with fine contrast can be converted")
    if options["cross_attn_type"] != "va_concate":
        raise ConfigError(f"cross_attn_type={options['cross_attn_type']!r}, wanted 'va_concate'")
    ids = described["prompts"] if options["use_task_prompt"] else {}
    text = sizes["bert"]
    return ValorConfig(
        vision=vision_config(sizes["vision"]),
        audio=audio_config(sizes["audio"]),
        text=BertConfig(
            vocab_size=text["vocab"],
            dim=text["width"],
            num_layers=text["layers"],
            num_heads=text["heads"],
            mlp_dim=text["feed_forward"],
            norm_eps=text["norm_eps"],
            marks_prompts=True,
        ),
        embed_dim=sizes["shared_dim"],
        projects_equal_widths=False,
        prompts=PromptConfig(
            align=tuple(ids.get("project language in common space", ())),
            caption=tuple(ids.get("describe the video with natural language", ())),
            answer=tuple(ids.get("answer the question", ()))[1:-1],
        ),
    )


def audio_config(sizes: Mapping[str, Any]) -> AstConfig:
    """Sizes of a released audio encoder."""
    return AstConfig(
        num_mels=sizes["mel_bins"],
        hops_per_window=sizes["hops"],
        patch_mels=sizes["patch"],
        patch_hops=sizes["patch"],
        dim=sizes["width"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
        mlp_dim=sizes["feed_forward"],
        norm_eps=sizes["norm_eps"],
    )


def vision_config(sizes: Mapping[str, Any]) -> VitConfig | VideoSwinConfig:
    """Sizes of a released vision encoder."""
    if sizes["kind"] == "clip_vit":
        return VitConfig(
            image_px=sizes["resolution"],
            patch_px=sizes["patch"],
            dim=sizes["width"],
            num_layers=sizes["layers"],
            num_heads=sizes["heads"],
            mlp_dim=4 * sizes["width"],
            pre_norm=True,
            activation=sizes["activation"],
            norm_eps=sizes["norm_eps"],
        )
    return VideoSwinConfig(
        image_px=sizes["resolution"],
        embed_dim=sizes["embed_dim"],
        depths=tuple(sizes["depths"]),
        num_heads=tuple(sizes["heads"]),
        window=tuple(sizes["window"]),
    )


def valor_weights(released: Mapping[str, Tensor], config: ValorConfig) -> Weights:
    """All weights of a released model as those of a `Valor`.

    Args:
        released: The whole state dict.
        config: From `valor_config`.

    Returns:
        Weights by our name. The temperature is CLIP's where there is a CLIP, as upstream has it.
    """
    clip = isinstance(config.vision, VitConfig)
    parts = {
        "vision.": clip_vision(released) if clip else video_swin(released),
        "audio.": ast(released),
        "decoder.": decoder(released),
    }
    sides: dict[str, Side] = {"vision": "video", "audio": "audio"}
    parts["heads.text."] = alignment_head(released, "text")
    for ours, theirs in sides.items():
        parts[f"heads.{ours}."] = alignment_head(released, theirs)
        parts[f"memory_projections.{ours}."] = memory_projection(released, theirs)
    weights = {
        prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()
    }
    weights["log_scale"] = (
        released["clip_model.logit_scale"] if clip else -released["contra_temp"].log()
    )
    return weights


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
    weights = _clip_tower(_below(released, prefix), names)
    dim = weights["cls_token"].shape[0]
    weights["patch_embedding.bias"] = torch.zeros(dim)
    weights["time_position"] = torch.zeros(32, dim)
    return weights


def clip_text(released: Mapping[str, Tensor], prefix: str = "clip_model.") -> Weights:
    """CLIP's text tower as a `ClipTextTransformer`, without its projection.

    Args:
        released: The whole state dict.
        prefix: Of the tower.

    Returns:
        Weights by our name.
    """
    names = {
        "token_embedding.weight": "word_embedding.weight",
        "positional_embedding": "position",
        **_both("ln_final", "norm"),
    }
    return _clip_tower(_below(released, prefix), names)


def _clip_tower(tower: Weights, names: Mapping[str, str]) -> Weights:
    """The blocks of a CLIP tower, and what `names` says of the rest."""
    weights: Weights = {}
    for name, tensor in tower.items():
        if name in names:
            weights[names[name]] = tensor
        elif name.startswith("transformer.resblocks."):
            _, _, index, rest = name.split(".", 3)
            _clip_block(weights, f"blocks.{index}.", rest, tensor)
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


def bert(released: Mapping[str, Tensor], prefix: str = "multimodal_encoder.") -> Weights:
    """BERT with concatenated cross-attention as a `TextTransformer`.

    Every token is of the first type, so that its embedding becomes part of the position's; a
    prompt has a mark instead of the type. The pooler is used by nothing.

    Args:
        released: The whole state dict.
        prefix: Of the tower.

    Returns:
        Weights by our name.
    """
    theirs = _below(released, prefix)
    embeddings = _below(theirs, "embeddings.")
    kind = embeddings["token_type_embeddings.weight"][0]
    weights = {
        "word_embedding.weight": embeddings["word_embeddings.weight"],
        "position_embedding.weight": embeddings["position_embeddings.weight"] + kind,
        "norm.weight": embeddings["LayerNorm.weight"],
        "norm.bias": embeddings["LayerNorm.bias"],
        "prompt_mark": embeddings["prompt_embedding.weight"][0] - kind,
    }
    names = {
        **_both("attention.self.query", "attention.query"),
        **_both("attention.output.dense", "attention.output"),
        **_both("attention.output.LayerNorm", "attention_norm"),
        **_both("cross_attn.cross.query", "cross_attention.query"),
        **_both("cross_attn.output.dense", "cross_attention.output"),
        **_both("cross_attn.output.LayerNorm", "cross_norm"),
        **_both("intermediate.dense", "mlp.0"),
        **_both("output.dense", "mlp.2"),
        **_both("output.LayerNorm", "mlp_norm"),
    }
    packed = {"attention.self.": "attention", "cross_attn.cross.": "cross_attention"}
    layers = _below(theirs, "encoder.layer.")
    for name, tensor in layers.items():
        index, rest = name.split(".", 1)
        if rest in names:
            weights[f"layers.{index}.{names[rest]}"] = tensor
        for there, here in packed.items():
            if rest.startswith(f"{there}key."):
                part = rest.rpartition(".")[2]
                value = layers[f"{index}.{there}value.{part}"]
                weights[f"layers.{index}.{here}.key_value.{part}"] = torch.cat([tensor, value])
    return weights


def decoder(released: Mapping[str, Tensor]) -> Weights:
    """The shared BERT with its word head as a `Decoder`.

    Args:
        released: The whole state dict.

    Returns:
        Weights by our name.
    """
    return {
        **{f"text.{name}": tensor for name, tensor in bert(released).items()},
        "transform.weight": released["cls.dense.weight"],
        "transform.bias": released["cls.dense.bias"],
        "norm.weight": released["cls.layernorm.weight"],
        "norm.bias": released["cls.layernorm.bias"],
        "bias": released["cls.decoder.bias"],
    }


def alignment_head(released: Mapping[str, Tensor], modality: Literal["text"] | Side) -> Weights:
    """Projection and weight scorer of fine-grained contrast as an `AlignmentHead`.

    Args:
        released: The whole state dict.
        modality: As upstream calls it.

    Returns:
        Weights by our name.
    """
    scorer = _below(released, f"{modality}_fine_weight.")
    return {
        "projection.weight": released[f"contra_head_{modality[0]}.linear.weight"],
        **{f"scorer.{name}": tensor for name, tensor in scorer.items()},
    }


def memory_projection(released: Mapping[str, Tensor], modality: Side) -> Weights:
    """A modality's way to the decoder as a `MemoryProjection`.

    Args:
        released: The whole state dict.
        modality: As upstream calls it.

    Returns:
        Weights by our name.
    """
    change = _below(released, f"hidden_trans_{modality}_multimodal.")
    names = {**_both("0", "projection"), **_both("1", "norm")}
    return {
        **{names[name]: tensor for name, tensor in change.items()},
        "position": released[f"{modality}_frame_embedding"][0],
        "modality": released[f"{modality}_type_embeddings"][0, 0],
    }


def _below(released: Mapping[str, Tensor], prefix: str) -> Weights:
    """The weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in released.items() if k.startswith(prefix)}


def _both(theirs: str, ours: str) -> dict[str, str]:
    """Map a module's weight and bias."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}
