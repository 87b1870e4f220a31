"""Released VALOR checkpoints as model folders: `valor convert`.

A released model is a folder with a state dict and the options that it was trained with. Sizes are
read off the weights, the arrangement off the options, and every released key is accounted for.

Source: upstream `train_utils.py`, `data/data.py`, `model/pretrain.py`, `model/modeling.py`.
"""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from valor.checkpoints.folder import check_weights, save_model
from valor.checkpoints.official_keys import TWINS, UNUSED, key_map
from valor.encoders.audio import AstConfig
from valor.encoders.clip_text import ClipTextConfig
from valor.encoders.text import BertConfig, CrossAttentionKind
from valor.encoders.video_swin import VideoSwinConfig
from valor.encoders.vision import VitConfig
from valor.errors import ConfigError, ModelError
from valor.models.decoder import PromptConfig
from valor.models.valor import ValorConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.processing.tokenizer import TextTokenizer, Tokenizer

_CROSS_ATTENTION: dict[str, CrossAttentionKind] = {
    "va_concate": "concatenated",
    "va_parallel": "parallel",
    "video_audio": "vision_audio",
    "audio_video": "audio_vision",
}
_PROMPTS = {
    "align": "project language in common space",
    "caption": "describe the video with natural language",
    "answer": "answer the question",
}
_DEFAULTS: dict[str, Any] = {
    "video_resolution": 224,
    "audio_melbins": 64,
    "audio_patch_size": 16,
    "audio_frame_shift": 10,
    "audio_target_length": 512,
    "audio_mean": -4.2677393,
    "audio_std": 4.5689974,
    "video_encoder_type": "clip_vit_base_16",
    "txt_encoder_type": "clip_vit_base_16",
    "contra_type": "fine",
    "caption_type": "unimlm",
    "cross_attn_type": "va_concate",
    "multimodal_use_cross_attn": True,
    "share_txt_and_multimodal": True,
    "use_task_prompt": False,
    "late_fusion": False,
    "init_clip_head": True,
    "video_transforms": "none",
}
"""What the released command line takes where `hps.json` says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A released model as it lies on disk."""

    folder: Path
    weights: dict[str, Tensor]
    """In float32, by released key."""
    options: dict[str, Any]
    described: Mapping[str, Any]
    """What a `config.json` says beyond the options; empty for an `hps.json`."""
    vocabulary: Path | None
    """`vocab.txt` of BERT."""
    clip_tokenizer: Path | None
    """`tokenizer.json` of CLIP."""

    @property
    def uses_clip(self) -> bool:
        """Whether frames are encoded by CLIP."""
        return str(self.options["video_encoder_type"]).startswith("clip")

    @property
    def has_clip_text(self) -> bool:
        """Whether texts are encoded by CLIP."""
        return str(self.options["txt_encoder_type"]).startswith("clip")

    def shape(self, key: str) -> torch.Size:
        """Sizes of a released weight; a missing one is a `ModelError`."""
        if key not in self.weights:
            raise ModelError(
                f"{self.folder}: no weight {key!r}, which its options ask for "
                f"(video_encoder_type={self.options['video_encoder_type']!r}, "
                f"txt_encoder_type={self.options['txt_encoder_type']!r})"
            )
        return self.weights[key].shape

    def count(self, pattern: str) -> int:
        """How many different numbers stand at the group of a pattern, over all keys."""
        return len({m[1] for key in self.weights if (m := re.match(pattern, key))})

    def heads(self, part: str, dim: int) -> int:
        """Attention heads of a part: as described, else 64 dimensions each."""
        return self.described.get("architecture", {}).get(part, {}).get("heads", max(1, dim // 64))


def convert(source: Path, out: Path) -> ValorConfig:
    """Turn a released model into a model folder.

    Args:
        source: Folder with a `.pt` or `.safetensors` and its `hps.json` (or `config.json`), and
            optionally `vocab.txt`, with a CLIP text encoder its `tokenizer.json` too; or a released
            folder with `ckpt/` and `log/`.
        out: Model folder to write.

    Returns:
        The model's configuration.

    Raises:
        ModelError: If a file is missing or damaged, or a key is missing or left over.
        ConfigError: If the options name an arrangement that no released model has.
    """
    release = read_release(source)
    tokenizer, text_tokenizer = _tokenizers(release)
    try:
        config = valor_config(release, tokenizer)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    weights = valor_weights(release, config)
    has_words = bool(text_tokenizer if release.has_clip_text else tokenizer)
    words = (tokenizer, text_tokenizer) if has_words else (None, None)
    processor = Processor(processor_config(release, has_words), *words)
    save_model(out, config, weights, processor, card=_card(release, config, has_words))
    return config


def read_release(source: Path) -> Release:
    """Find and read a released model; a missing or damaged file is a `ModelError`."""
    if not source.is_dir():
        raise ModelError(f"{source}: no such folder; give one with a .pt and its hps.json")
    described = _json(_options_file(source))
    if not isinstance(described, dict):
        raise ModelError(f"{_options_file(source)}: no JSON object")
    options = described.get("options", described)
    words, clip_words = source / "vocab.txt", source / "tokenizer.json"
    return Release(
        folder=source,
        weights=read_weights(_weights_file(source)),
        options=_DEFAULTS | options,
        described=described if "options" in described else {},
        vocabulary=words if words.is_file() else None,
        clip_tokenizer=clip_words if clip_words.is_file() else None,
    )


def _options_file(source: Path) -> Path:
    names = ("hps.json", "log/hps.json", "config.json")
    for name in names:
        if (source / name).is_file():
            return source / name
    raise ModelError(f"{source}: no options; add one of {', '.join(names)}")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not JSON ({error})") from None


def _weights_file(source: Path) -> Path:
    """The state dict: of the last step if several are kept."""
    found = [
        path
        for folder in (source, source / "ckpt")
        for kind in ("*.pt", "*.safetensors")
        for path in sorted(folder.glob(kind))
        if path.name != "io.safetensors" and not path.name.startswith("optimizer")
    ]
    steps = {int(m[1]): p for p in found if (m := re.fullmatch(r"model_step_(\d+)\.pt", p.name))}
    if steps:
        return steps[max(steps)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(f"{source}: wanted one .pt or .safetensors, found {names}; leave one")
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of released weights, in float32; a damaged one is a `ModelError`."""
    try:
        if path.suffix == ".safetensors":
            read = load_file(path)
        else:
            read = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); get it again"
        ) from None
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path}: no plain state dict, and what else it holds could run code; "
            "save the state dict alone"
        ) from None
    read = read.get("state_dict", read) if isinstance(read, dict) else read
    if not isinstance(read, dict) or not all(isinstance(v, Tensor) for v in read.values()):
        raise ModelError(f"{path}: not a state dict: names and tensors were expected")
    return {
        name.replace("module.", ""): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in read.items()
    }


def _tokenizers(release: Release) -> tuple[Tokenizer | None, TextTokenizer | None]:
    """BERT's, and CLIP's where it encodes texts, as far as they are there."""
    if release.vocabulary is None:
        return None, None
    tokenizer = Tokenizer.from_vocabulary(release.vocabulary)
    size = release.shape("multimodal_encoder.embeddings.word_embeddings.weight")[0]
    if tokenizer.vocab_size != size:
        raise ModelError(
            f"{release.vocabulary}: {tokenizer.vocab_size} words, but the checkpoint has {size}"
        )
    if not release.has_clip_text or release.clip_tokenizer is None:
        return tokenizer, None
    return tokenizer, TextTokenizer.from_file(release.clip_tokenizer).without_punctuation()


def valor_config(release: Release, tokenizer: Tokenizer | None = None) -> ValorConfig:
    """The arrangement of a released model.

    Args:
        release: Weights and options.
        tokenizer: For the task prompts, where the release does not list their ids.

    Returns:
        Our configuration.

    Raises:
        ConfigError: If the options name an arrangement that no released model has.
    """
    options = release.options
    decoder = _bert(release, "multimodal_encoder.", _cross_attention(options))
    shares = not release.has_clip_text and options["share_txt_and_multimodal"]
    if shares:
        text = decoder
    elif release.has_clip_text:
        text = _clip_text(release)
    else:
        text = _bert(release, "txt_encoder.", "none")
    kinds = {"unimlm": "masked", "lm": "causal"}
    return ValorConfig(
        vision=_vision(release),
        audio=_audio(release),
        text=text,
        decoder=None if shares else decoder,
        contrast=_choice(options, "contra_type", {"fine": "fine", "coarse": "coarse"}),
        late_fusion=options["late_fusion"],
        language_modelling=_choice(options, "caption_type", kinds),
        embed_dim=release.shape("contra_head_a.linear.weight")[0],
        max_positions=release.shape("video_frame_embedding")[1],
        projects_equal_widths=False,
        prompts=_prompts(release, tokenizer),
    )


def _choice(options: Mapping[str, Any], name: str, choices: Mapping[str, Any]) -> Any:
    if options[name] not in choices:
        raise ConfigError(f"{name}={options[name]!r}, wanted one of {', '.join(choices)}")
    return choices[options[name]]


def _cross_attention(options: Mapping[str, Any]) -> CrossAttentionKind:
    if not options["multimodal_use_cross_attn"]:
        return "none"
    return _choice(options, "cross_attn_type", _CROSS_ATTENTION)


def _vision(release: Release) -> VitConfig | VideoSwinConfig:
    pixels = release.options["video_resolution"]
    if release.uses_clip:
        dim, _, patch, _ = release.shape("clip_model.visual.conv1.weight")
        return VitConfig(
            image_px=pixels,
            patch_px=patch,
            dim=dim,
            num_layers=release.count(r"clip_model\.visual\.transformer\.resblocks\.(\d+)\."),
            num_heads=release.heads("vision", dim),
            mlp_dim=4 * dim,
            pre_norm=True,
            activation="quick_gelu",
        )
    if not str(release.options["video_encoder_type"]).startswith("videoswin"):
        name = release.options["video_encoder_type"]
        raise ConfigError(f"video_encoder_type={name!r}, wanted clip_vit_... or videoswin_...")
    layers = r"video_encoder\.layers\."
    depths = tuple(
        release.count(rf"{layers}{stage}\.blocks\.(\d+)\.")
        for stage in range(release.count(rf"{layers}(\d+)\."))
    )
    table = "video_encoder.layers.{}.blocks.0.attn.relative_position_bias_table"
    given = release.described.get("architecture", {}).get("vision", {})
    return VideoSwinConfig(
        image_px=pixels,
        embed_dim=release.shape("video_encoder.patch_embed.proj.weight")[0],
        depths=depths,
        num_heads=tuple(release.shape(table.format(stage))[1] for stage in range(len(depths))),
        window=tuple(given.get("window", (8, 7, 7))),
    )


def _audio(release: Release) -> AstConfig:
    options = release.options
    dim, _, patch_mels, patch_hops = release.shape("audio_embeddings.first_conv.weight")
    return AstConfig(
        num_mels=options["audio_melbins"],
        hops_per_window=options["audio_target_length"],
        patch_mels=patch_mels,
        patch_hops=patch_hops,
        dim=dim,
        num_layers=release.count(r"audio_encoder\.layer\.(\d+)\."),
        num_heads=release.heads("audio", dim),
        mlp_dim=release.shape("audio_encoder.layer.0.ff_layer.linear1.weight")[0],
        norm_eps=1e-12,
    )


def _bert(release: Release, prefix: str, cross_attention: CrossAttentionKind) -> BertConfig:
    vocab_size, dim = release.shape(f"{prefix}embeddings.word_embeddings.weight")
    return BertConfig(
        vocab_size=vocab_size,
        max_length=release.shape(f"{prefix}embeddings.position_embeddings.weight")[0],
        dim=dim,
        num_layers=release.count(re.escape(prefix) + r"encoder\.layer\.(\d+)\."),
        num_heads=release.heads("bert", dim),
        mlp_dim=release.shape(f"{prefix}encoder.layer.0.intermediate.dense.weight")[0],
        cross_attention=cross_attention,
    )


def _clip_text(release: Release) -> ClipTextConfig:
    vocab_size, dim = release.shape("clip_model.token_embedding.weight")
    return ClipTextConfig(
        vocab_size=vocab_size,
        max_length=release.shape("clip_model.positional_embedding")[0],
        dim=dim,
        num_layers=release.count(r"clip_model\.transformer\.resblocks\.(\d+)\."),
        num_heads=release.heads("text", dim),
    )


def _prompts(release: Release, tokenizer: Tokenizer | None) -> PromptConfig:
    if not release.options["use_task_prompt"]:
        return PromptConfig()
    known = release.described.get("prompts", {})
    ids: dict[str, tuple[int, ...]] = {}
    for name, sentence in _PROMPTS.items():
        if sentence in known:
            ids[name] = tuple(known[sentence])
        elif tokenizer is not None:
            ids[name] = tuple(tokenizer.encode([sentence], max_length=99).token_ids[0].tolist())
        else:
            raise ModelError(
                f"{release.folder}: use_task_prompt needs the prompts' token ids; "
                "put the vocab.txt of bert-base-uncased beside the checkpoint"
            )
    align = () if release.has_clip_text else ids["align"]
    return PromptConfig(align=align, caption=ids["caption"], answer=ids["answer"][1:-1])


def valor_weights(release: Release, config: ValorConfig) -> dict[str, Tensor]:
    """All weights of a released model under our names.

    Args:
        release: Weights and options.
        config: From `valor_config`.

    Returns:
        Weights by our name. Embeddings of frames and windows beyond those that the model was
        trained with repeat the last one that was, as upstream does when loading.

    Raises:
        ModelError: If released keys are missing or left over, or do not have the right shape.
    """
    heads = release.uses_clip and release.has_clip_text and release.options["init_clip_head"]
    sources, released = key_map(config, has_clip_heads=heads), release.weights
    needed = {key for source in sources.values() for key in source.keys}
    missing = sorted(needed - released.keys())
    twins = dict(TWINS)
    if config.decoder is None:
        own = [key for key in released if key.startswith("txt_encoder.")]
        twins |= {key: key.replace("txt_encoder.", "multimodal_encoder.") for key in own}
    unused = {key for key in released if UNUSED.match(key)}
    extra = sorted(released.keys() - needed - twins.keys() - unused)
    missing += sorted(
        twin for key, twin in twins.items() if key in released and twin not in released
    )
    if missing or extra:
        raise ModelError(
            f"{release.folder}: keys do not fit the options, missing {missing}, left over {extra}; "
            "take weights and options from one release"
        )
    for key, twin in twins.items():
        if key in released and not torch.equal(released[key], released[twin]):
            raise ModelError(f"{release.folder}: {key} should equal {twin}, which it shares")
    weights = {
        name: source.make(*(released[key] for key in source.keys)).clone()
        for name, source in sources.items()
    }
    for side, name in (("video", "vision"), ("audio", "audio")):
        num_trained = release.options.get(f"{side}_sample_num", -1)
        if num_trained > 0:
            position = weights[f"memory_projections.{name}.position"]
            position[num_trained:] = position[num_trained - 1]
    check_weights(config, weights, where=str(release.folder))
    return weights


def processor_config(release: Release, has_words: bool = True) -> ProcessorConfig:
    """The preprocessing that a released model was trained with.

    Source:
        Upstream `data/data.py`: sound at 22 050 Hz through Kaldi's filter bank with a Hanning
        window and no dither, padded with zeros; frames resized to a square.
    """
    options, described = release.options, release.described

    def number(side: str, name: str, default: int) -> int:
        choices = (
            described.get(name),
            options.get(f"test_{side}_sample_num"),
            options.get(f"{side}_sample_num"),
        )
        return next((choice for choice in choices if choice and choice > 0), default)

    return ProcessorConfig(
        frames=FrameConfig(
            num_bursts=number("video", "num_video_frames", 8),
            image_px=options["video_resolution"],
            normalise="clip" if release.uses_clip else "imagenet",
            crop="centre" if options["video_transforms"] == "crop_flip" else "stretch",
            resample="bilinear",
        ),
        spectrogram=SpectrogramConfig(
            sample_rate_hz=22_050,
            num_mels=options["audio_melbins"],
            hop_s=options["audio_frame_shift"] / 1000,
            hops_per_window=options["audio_target_length"],
            num_windows=number("audio", "num_audio_clips", 2),
            mean=options["audio_mean"],
            deviation=options["audio_std"],
            beyond=0.0,
        ),
        max_text_length=32,
        has_words=has_words,
    )


def _card(release: Release, config: ValorConfig, has_words: bool) -> str:
    words = (
        "It has its tokenizer."
        if has_words
        else "There was no `vocab.txt` beside the checkpoint, so it has no tokenizer: it embeds "
        "media, but reads and writes token ids only."
    )
    return (
        "---\nlibrary_name: valor\nlicense: mit\n---\n# A released VALOR model\n\nConverted by "
        "`valor convert` from weights of the released implementation (TXH-mercury/VALOR, MIT): "
        f"vision `{release.options['video_encoder_type']}`, text "
        f"`{release.options['txt_encoder_type']}`, {config.contrast} contrast, cross-attention "
        f"`{config.decoder_config.cross_attention}`. {words}\n"
    )
