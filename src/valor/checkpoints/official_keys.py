"""Where each weight of ours stands in a released file: the key map, part by part.

Nothing is guessed from names that happen to match. `key_map` lists every weight of a model with the
released keys that it is made from; `UNUSED` lists released keys that no released model reads.

Source: upstream `model/clip.py`, `model/videoswin.py`, `model/transformer.py`, `model/modeling.py`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from valor.encoders.audio import AstConfig
from valor.encoders.clip_text import ClipTextConfig
from valor.encoders.text import BertConfig
from valor.encoders.towers import TowerConfig
from valor.encoders.video_swin import VideoSwinConfig
from valor.encoders.vision import VitConfig
from valor.models.encoding import AudioConfig, VisionConfig
from valor.models.valor import TextConfig, ValorConfig


@dataclass(frozen=True, slots=True)
class Source:
    """Released keys, and how a weight of ours is made of them."""

    keys: tuple[str, ...]
    make: Callable[..., Float[Tensor, "*sizes"]]


KeyMap = dict[str, Source]

UNUSED = re.compile(
    r"contra_temp$"  # where CLIP's temperature is used
    r"|clip_model\.(prompt_embedding|text_projection|token_embedding|positional_embedding"
    r"|ln_final|transformer)(\.|$)"  # where BERT is the text encoder
    r"|clip_model\.visual\.proj$"  # where a head of its own projects frames
    r"|clip_model\.logit_scale$"  # where the temperature is VALOR's own
    r"|(multimodal_encoder|txt_encoder)\.pooler\."
    r"|video_encoder\..*relative_position_index$"  # computed
    r"|audio_embeddings\.distill_token$"
)
"""Released keys that may be left over."""

TWINS = {"cls.decoder.weight": "multimodal_encoder.embeddings.word_embeddings.weight"}
"""Released keys that repeat another one, because the modules share their weight."""


def key_map(config: ValorConfig, *, has_clip_heads: bool) -> KeyMap:
    """Every weight of a model with its source.

    Args:
        config: Of the model.
        has_clip_heads: Whether text and vision are projected by CLIP's own matrices.

    Returns:
        Sources by our name.
    """
    is_clip = isinstance(config.vision, VitConfig)
    return {
        **_below("vision.", _vision(config.vision)),
        **_below("audio.", _audio(config.audio)),
        **_below("text.", {} if config.decoder is None else _text(config.text)),
        **_below("decoder.", decoder(config.decoder_config)),
        **_heads(config, has_clip_heads),
        **_fusion(config),
        **_below("memory_projections.vision.", _memory(config, config.vision.dim, "video")),
        **_below("memory_projections.audio.", _memory(config, config.audio.dim, "audio")),
        "log_scale": _same("clip_model.logit_scale")
        if is_clip
        else Source(("contra_temp",), lambda temperature: -temperature.log()),
    }


def _vision(config: VisionConfig) -> KeyMap:
    if isinstance(config, VitConfig):
        return clip_vision(config)
    if isinstance(config, VideoSwinConfig):
        return video_swin(config)
    raise _unknown(config)


def _audio(config: AudioConfig) -> KeyMap:
    if isinstance(config, AstConfig):
        return ast(config)
    raise _unknown(config)


def _text(config: TextConfig) -> KeyMap:
    if isinstance(config, ClipTextConfig):
        return clip_text(config)
    if isinstance(config, BertConfig):
        return _from("txt_encoder.", bert(config))
    raise _unknown(config)


def _unknown(config: TowerConfig) -> TypeError:
    return TypeError(f"no released model has an encoder of kind {config.kind!r}")


def clip_vision(config: VitConfig) -> KeyMap:
    """CLIP's vision tower as a `VisionTransformer` with `pre_norm`.

    CLIP's patch embedding has no bias and its frames know no time: both are zero here. Its patch
    positions are resized to another resolution, as upstream does when loading.
    """
    grid = config.image_px // config.patch_px

    def no_time(cls_token: Float[Tensor, " dim"]) -> Float[Tensor, "bursts dim"]:
        return cls_token.new_zeros(config.max_bursts, len(cls_token))

    return _from(
        "clip_model.visual.",
        {
            "cls_token": _same("class_embedding"),
            "patch_position": Source(("positional_embedding",), lambda p: _resize(p, grid)),
            "patch_embedding.weight": _same("conv1.weight"),
            "patch_embedding.bias": Source(("class_embedding",), torch.zeros_like),
            "time_position": Source(("class_embedding",), no_time),
            **_both("pre_norm", "ln_pre"),
            **_clip_blocks(config.num_layers),
            **_both("norm", "ln_post"),
        },
    )


def clip_text(config: ClipTextConfig) -> KeyMap:
    """CLIP's text tower as a `ClipTextTransformer`, without its projection."""
    return _from(
        "clip_model.",
        {
            "word_embedding.weight": _same("token_embedding.weight"),
            "position": _same("positional_embedding"),
            **_clip_blocks(config.num_layers),
            **_both("norm", "ln_final"),
        },
    )


def _clip_blocks(num_layers: int) -> KeyMap:
    """CLIP packs queries, keys and values in one matrix."""
    block = {
        **_both("attention.output", "attn.out_proj"),
        **_both("attention_norm", "ln_1"),
        **_both("mlp_norm", "ln_2"),
        **_both("mlp.0", "mlp.c_fc"),
        **_both("mlp.2", "mlp.c_proj"),
    }
    for kind in ("weight", "bias"):
        packed = (f"attn.in_proj_{kind}",)
        block[f"attention.query.{kind}"] = Source(packed, lambda t: t[: len(t) // 3])
        block[f"attention.key_value.{kind}"] = Source(packed, lambda t: t[len(t) // 3 :])
    return _layers("blocks.", "transformer.resblocks.", num_layers, block)


def video_swin(config: VideoSwinConfig) -> KeyMap:
    """Video Swin as a `VideoSwinTransformer`; buffers that can be computed are left out."""
    block = {
        **_both("attention_norm", "norm1"),
        **_both("mlp_norm", "norm2"),
        **_both("attention.query_key_value", "attn.qkv"),
        **_both("attention.output", "attn.proj"),
        **_both("mlp.0", "mlp.fc1"),
        **_both("mlp.2", "mlp.fc2"),
        "attention.distance_bias": _same("attn.relative_position_bias_table"),
    }
    stages: KeyMap = {}
    for stage, depth in enumerate(config.depths):
        stages |= _layers(f"stages.{stage}.blocks.", f"layers.{stage}.blocks.", depth, block)
        if stage:
            for part in ("norm.weight", "norm.bias", "reduction.weight"):
                merge = f"layers.{stage - 1}.downsample.{part}"
                stages[f"stages.{stage}.merge.{part}"] = _same(merge)
    return _from(
        "video_encoder.",
        {
            **_both("patch_embedding", "patch_embed.proj"),
            **_both("patch_norm", "patch_embed.norm"),
            **stages,
            **_both("norm", "norm"),
        },
    )


def ast(config: AstConfig) -> KeyMap:
    """The audio spectrogram transformer as an `AudioTransformer`."""
    block = {
        **_both("mlp.0", "ff_layer.linear1"),
        **_both("mlp.2", "ff_layer.linear2"),
        **_both("attention_norm", "layernorm1"),
        **_both("mlp_norm", "layernorm2"),
        **_both("attention.query", "attention.linears.0"),
        **_stacked("attention.key_value", "attention.linears.1", "attention.linears.2"),
        **_both("attention.output", "attention.linears.3"),
    }
    first = "audio_embeddings."
    return {
        "cls_token": Source((f"{first}cls_token",), lambda t: t[0, 0]),
        "position": _same(f"{first}position_embeddings.weight"),
        "patch_embedding.weight": Source((f"{first}first_conv.weight",), lambda t: t.flatten(1)),
        "patch_embedding.bias": _same(f"{first}first_conv.bias"),
        **_layers("blocks.", "audio_encoder.layer.", config.num_layers, block),
        **_both("norm", "audio_encoder.last_layernorm"),
    }


def bert(config: BertConfig) -> KeyMap:
    """BERT as a `TextTransformer`.

    Every token is of the first type, so that its embedding becomes part of the position's; a
    prompt has a mark instead of the type. The pooler is used by nothing.
    """
    types = "embeddings.token_type_embeddings.weight"
    layer = {
        **_both("attention.query", "attention.self.query"),
        **_stacked("attention.key_value", "attention.self.key", "attention.self.value"),
        **_both("attention.output", "attention.output.dense"),
        **_both("attention_norm", "attention.output.LayerNorm"),
        **_both("mlp.0", "intermediate.dense"),
        **_both("mlp.2", "output.dense"),
        **_both("mlp_norm", "output.LayerNorm"),
    }
    released = {"media": "cross_attn", "vision": "cross_attn_v", "audio": "cross_attn_a"}
    for name in config.cross_attention_names:
        there, here = released[name], f"cross.{name}"
        layer |= {
            **_both(f"{here}.attention.query", f"{there}.cross.query"),
            **_stacked(f"{here}.attention.key_value", f"{there}.cross.key", f"{there}.cross.value"),
            **_both(f"{here}.attention.output", f"{there}.output.dense"),
            **_both(f"{here}.norm", f"{there}.output.LayerNorm"),
        }
    return {
        "word_embedding.weight": _same("embeddings.word_embeddings.weight"),
        "position_embedding.weight": Source(
            ("embeddings.position_embeddings.weight", types), lambda place, kind: place + kind[0]
        ),
        "prompt_mark": Source(
            ("embeddings.prompt_embedding.weight", types), lambda mark, kind: mark[0] - kind[0]
        ),
        **_both("norm", "embeddings.LayerNorm"),
        **_layers("layers.", "encoder.layer.", config.num_layers, layer),
    }


def decoder(config: BertConfig) -> KeyMap:
    """The multimodal encoder with its word head as a `Decoder`."""
    return {
        **_below("text.", _from("multimodal_encoder.", bert(config))),
        **_both("transform", "cls.dense"),
        **_both("norm", "cls.layernorm"),
        "bias": _same("cls.decoder.bias"),
    }


def _heads(config: ValorConfig, has_clip_heads: bool) -> KeyMap:
    heads: KeyMap = {}
    for ours, theirs in (("text", "text"), ("vision", "video"), ("audio", "audio")):
        heads[f"heads.{ours}.projection.weight"] = _same(f"contra_head_{theirs[0]}.linear.weight")
        if config.contrast == "fine":
            for part in ("0", "2"):
                heads |= _both(f"heads.{ours}.scorer.{part}", f"{theirs}_fine_weight.{part}")
    if has_clip_heads:
        for ours, key in (("text", "text_projection"), ("vision", "visual.proj")):
            transposed = Source((f"clip_model.{key}",), lambda matrix: matrix.T)
            heads[f"heads.{ours}.projection.weight"] = transposed
    return heads


def _fusion(config: ValorConfig) -> KeyMap:
    learned = config.contrast == "coarse" and not config.late_fusion
    return _both("fusion.linear", "va_fusion") if learned else {}


def _memory(config: ValorConfig, dim: int, side: str) -> KeyMap:
    """A modality's way to the decoder; `side` is what upstream calls it."""
    change: KeyMap = {}
    if dim != config.decoder_config.dim:
        change |= _both("projection", f"hidden_trans_{side}_multimodal.0")
        change |= _both("norm", f"hidden_trans_{side}_multimodal.1")
    return {
        **change,
        "position": Source((f"{side}_frame_embedding",), lambda t: t[0]),
        "modality": Source((f"{side}_type_embeddings",), lambda t: t[0, 0]),
    }


def _resize(positions: Tensor, grid: int) -> Tensor:
    """Interpolate the patch positions behind the first one, bilinearly."""
    old = round((len(positions) - 1) ** 0.5)
    if old == grid:
        return positions
    patches = positions[1:].T.unflatten(1, (old, old))[None]
    resized = torch.nn.functional.interpolate(patches, (grid, grid), mode="bilinear")
    return torch.cat([positions[:1], resized[0].flatten(1).T])


def _same(key: str) -> Source:
    return Source((key,), lambda tensor: tensor)


def _both(ours: str, theirs: str) -> KeyMap:
    """A module's weight and bias."""
    return {f"{ours}.{kind}": _same(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def _stacked(ours: str, *theirs: str) -> KeyMap:
    """Weight and bias of several modules, one below the other."""
    return {
        f"{ours}.{kind}": Source(
            tuple(f"{name}.{kind}" for name in theirs), lambda *parts: torch.cat(parts)
        )
        for kind in ("weight", "bias")
    }


def _layers(ours: str, theirs: str, num: int, layer: Mapping[str, Source]) -> KeyMap:
    """The same map for each of several layers."""
    layers: KeyMap = {}
    for index in range(num):
        layers |= _below(f"{ours}{index}.", _from(f"{theirs}{index}.", layer))
    return layers


def _below(prefix: str, part: Mapping[str, Source]) -> KeyMap:
    """The same map with a prefix before our names."""
    return {f"{prefix}{name}": source for name, source in part.items()}


def _from(prefix: str, part: Mapping[str, Source]) -> KeyMap:
    """The same map with a prefix before the released keys."""
    return {
        name: replace(source, keys=tuple(f"{prefix}{key}" for key in source.keys))
        for name, source in part.items()
    }
