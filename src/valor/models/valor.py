"""VALOR: three encoders, the alignment heads and the conditional decoder.

Training calls `forward` only; inference calls the typed methods `encode_media` and `encode_text`.
A modality that a row does not have never enters an encoder.

Source: VALOR (arXiv 2304.08345) 3.2.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from valor.config import ByKind, Foreign, configclass, evolve
from valor.encoders.audio import AstConfig
from valor.encoders.clip_text import ClipTextConfig, ClipTextTransformer, last_token
from valor.encoders.text import BertConfig, Memory, TextTransformer, interleave, with_prompt
from valor.encoders.towers import AudioTower, TextTower, TowerConfig, VisionTower, read_tower
from valor.encoders.vision import VitConfig
from valor.models.decoder import Decoder, MemoryProjection, PromptConfig, Remembered
from valor.models.encoding import (
    AudioConfig,
    VisionConfig,
    audio_encoder,
    check_media,
    encode_present,
    initialise,
    vision_encoder,
)
from valor.models.fusion import AlignmentHead, CoarseFusion
from valor.models.generation import Generated, GenerationConfig, generate, stream
from valor.processing.processor import ProcessorConfig
from valor.types import (
    AUDIOVISUAL,
    Batch,
    Embeddings,
    EncoderOutput,
    Modality,
    SpecialIds,
    TextBatch,
    Tokens,
)

_MAX_LOG_SCALE = math.log(100.0)
_LOOK_GAIN = 2.0
"""An average over all media tokens is small; without this the decoder learns to ignore it first."""


TextConfig = Annotated[BertConfig | ClipTextConfig | TowerConfig | Foreign, ByKind()]


@configclass
class ValorConfig:
    """The whole model."""

    kind: Literal["valor"] = "valor"
    vision: VisionConfig = VitConfig()
    """Encodes frames."""
    audio: AudioConfig = AstConfig()
    """Encodes audio windows."""
    text: TextConfig = BertConfig()
    """Encodes texts, and writes them unless there is a `decoder`."""
    decoder: BertConfig | None = None
    """The decoder's own text transformer; None shares the text encoder's."""
    contrast: Literal["fine", "coarse"] = "fine"
    """Compare every word with every frame and audio window, or one vector of each."""
    late_fusion: bool = False
    """Add the coarse scores of vision and audio instead of fusing what they are made from."""
    language_modelling: Literal["masked", "causal"] = "masked"
    """A word is predicted at a [MASK] in its place, or at the word before it."""
    embed_dim: int = 512
    """Width of the space in which text, vision and audio are compared."""
    temperature: float = 0.07
    """Initial temperature of the contrastive loss; learned."""
    align_bias: bool = False
    """Whether similarities have a learned bias beside the temperature, for the alignment loss
    `sigmoid`; a run with that loss adds it and says where it begins."""
    max_positions: int = 32
    """Most frames or audio windows that the decoder can tell apart."""
    prompts: PromptConfig = PromptConfig()
    """Words that tell the decoder what is wanted."""
    matches: bool = False
    """Whether there is a head that tells if a text and media belong together, for the objective
    `matching`."""
    projects_equal_widths: bool = True
    """Whether media tokens of the decoder's own width are projected too, and not only others; the
    released models leave them as they are."""

    def __post_init__(self) -> None:
        """Reject parts that do not fit together."""
        if self.decoder is None and not isinstance(self.text, BertConfig):
            raise ValueError(f"text.kind={self.text.kind!r} cannot be the decoder too; give one")
        if self.contrast == "coarse" and isinstance(self.text, TowerConfig):
            raise ValueError("contrast='coarse' needs text.kind bert or clip_text")
        if self.late_fusion and self.contrast == "fine":
            raise ValueError(
                "late_fusion=True adds coarse scores alone, but contrast='fine'; use "
                "contrast='coarse', or a model without late_fusion"
            )
        if self.decoder and isinstance(self.text, BertConfig) and self.text.cross_attention_names:
            raise ValueError("text.cross_attention must be none beside a decoder of its own")

    @property
    def decoder_config(self) -> BertConfig:
        """Of the decoder's text transformer, shared or not."""
        return self.decoder or self.text  # type: ignore[return-value]

    @property
    def vocab_size(self) -> int:
        """Tokens that the decoder reads and writes."""
        return self.decoder_config.vocab_size

    def check(self, processor: ProcessorConfig) -> None:
        """Raise a `ValueError` unless the model takes what the processor gives."""
        check_media(self.vision, self.audio, processor, self.max_positions)
        length, decoder = processor.max_text_length, self.decoder_config
        # BERT's positions begin anew behind a prompt; a [MASK] may stand behind the last word.
        written, prompt = length + max(1, len(self.prompts.answer)), len(self.prompts.align)
        whole = max(length, prompt) if isinstance(self.text, BertConfig) else length + prompt
        for part, room, wanted in (
            ("decoder" if self.decoder else "text", decoder.max_length, written),
            ("text", self.text.max_length, whole),
        ):
            if wanted > room:
                raise ValueError(
                    f"texts of max_text_length={length} and their prompts may take {wanted} "
                    f"positions, but model.{part}.max_length={room}"
                )

    def with_vocabulary(self, size: int) -> "ValorConfig":
        """The same for so many words of the decoder, which are a BERT text encoder's too."""
        changes = {"decoder.vocab_size": size} if self.decoder else {}
        if isinstance(self.text, BertConfig):
            changes["text.vocab_size"] = size
        return evolve(self, changes)

    def build(self) -> "Valor":
        """A model with fresh weights."""
        return Valor(self)


@dataclass(slots=True, kw_only=True)
class Encoded(Remembered):
    """What `Valor.forward` returns: everything that objectives need."""

    media: dict[Modality, Embeddings]
    """Per-frame and per-window vectors in the shared space, by single modality."""
    aligned_texts: dict[Modality, Embeddings]
    """Per-word vectors of `Batch.aligned_texts`."""
    log_scale: Float[Tensor, ""]
    """Natural log of 1 / temperature."""
    bias: Float[Tensor, ""] | None = None
    """Added to scaled similarities, where the model has learned it."""


class Valor(nn.Module):
    """The model.

    Args:
        config: Sizes of all parts.
        towers: Pretrained towers to take instead of fresh ones, by `vision`, `audio` and `text`.
    """

    def __init__(self, config: ValorConfig, towers: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        towers = towers or {}
        self.vision = vision_encoder(config.vision, towers.get("vision"))
        self.audio = audio_encoder(config.audio, towers.get("audio"))
        self.text = (
            None if config.decoder is None else _text_encoder(config.text, towers.get("text"))
        )
        self.decoder = Decoder(
            TextTransformer(config.decoder_config),
            config.prompts,
            causal=config.language_modelling == "causal",
        )
        dims = {"vision": config.vision.dim, "audio": config.audio.dim, "text": config.text.dim}
        fine = config.contrast == "fine"
        self.heads = nn.ModuleDict(
            {name: AlignmentHead(dim, config.embed_dim, weighs=fine) for name, dim in dims.items()}
        )
        self.fusion = None if fine else CoarseFusion(config.embed_dim, late=config.late_fusion)
        width = config.decoder_config.dim
        self.memory_projections = nn.ModuleDict(
            {
                name: MemoryProjection(
                    dims[name],
                    width,
                    config.max_positions,
                    projects=config.projects_equal_widths or dims[name] != width,
                )
                for name in ("vision", "audio")
            }
        )
        self.match_head = nn.Linear(width, 1) if config.matches else None
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.align_bias = nn.Parameter(torch.tensor(0.0)) if config.align_bias else None
        for part in (self.vision, self.audio, self.heads, self.memory_projections):
            if not isinstance(part, VisionTower | AudioTower):
                part.apply(initialise)
        for layer in self.decoder.text.bert_layers:
            for cross in layer.cross_attentions.values():
                cross.apply(initialise)
                nn.init.xavier_uniform_(cross.attention.output.weight, gain=_LOOK_GAIN)

    @classmethod
    def from_towers(
        cls,
        *,
        vision: str | Path | None = None,
        audio: str | Path | None = None,
        text: str | Path | None = None,
        frozen: Modality = Modality(0),
        config: ValorConfig | None = None,
        sizes: Mapping[Modality, tuple[int, int]] | None = None,
        weights: bool = True,
    ) -> "Valor":
        """Start from pretrained towers of the transformers library.

        Heads, memory projections and the decoder are fresh. A model with a text tower has a decoder
        of its own. `valor.processing.pretrained.processor_for` makes the processor that belongs to
        the same towers.

        Args:
            vision: Hub id or folder of an image or video tower; None keeps `config.vision`.
            audio: Of an audio tower; None keeps `config.audio`.
            text: Of a text tower; None keeps `config.text`.
            frozen: The towers whose weights training leaves as they are.
            config: Of everything else; the defaults are VALOR-B's.
            sizes: Height and width of frames, mels and hops of windows, where not the tower's own.
            weights: False leaves them random: for sizes alone, made on the meta device.

        Returns:
            The model; its `config` rebuilds it without the hub.

        Raises:
            ModelError: If a tower cannot be loaded.

        Example:
            >>> model = Valor.from_towers(  # doctest: +SKIP
            ...     vision="google/siglip2-base-patch16-224", frozen=Modality.VISION
            ... )
        """
        config = config or ValorConfig()
        sources = {Modality.VISION: vision, Modality.AUDIO: audio, Modality.TEXT: text}
        changes: dict[str, TowerConfig | BertConfig] = {}
        towers: dict[str, nn.Module] = {}
        for modality, source in sources.items():
            if source is not None:
                found = read_tower(
                    source,
                    modality,
                    frozen=modality in frozen,
                    input_size=(sizes or {}).get(modality, ()),
                    weights=weights,
                )
                changes[modality.label], towers[modality.label] = found
        if text is not None:
            changes["decoder"] = config.decoder_config
        return cls(replace(config, **changes), towers)

    def forward(self, batch: Batch) -> Encoded:
        """Encode everything in a batch that objectives compare or describe."""
        outputs = self.encode_media(batch)
        describes = bool(batch.caption_texts or batch.questions or self.match_head)
        return Encoded(
            media=self.embed_media(outputs),
            aligned_texts=self._encode_texts(batch.aligned_texts),
            memory=self.remember(outputs) if describes and outputs else None,
            log_scale=self.log_scale.clamp(max=_MAX_LOG_SCALE),
            bias=self.align_bias,
        )

    def add_bias(self, value: float, *, is_fresh: bool = False) -> None:
        """Learn a bias of similarities from now on, beginning here; a trained one stays.

        Args:
            value: Where it begins.
            is_fresh: Whether one that is there is as untrained as the rest of the model.
        """
        if self.align_bias is None or is_fresh:
            self.config = replace(self.config, align_bias=True)
            self.align_bias = nn.Parameter(torch.tensor(value))

    def encode_media(self, batch: Batch) -> dict[Modality, EncoderOutput]:
        """Run the vision and audio encoders on the rows that have the modality."""
        outputs = dict(batch.encoded or {})
        if batch.pixels is not None and batch.frame_valid is not None:
            outputs[Modality.VISION] = encode_present(self.vision, batch.pixels, batch.frame_valid)
        if batch.spectrograms is not None and batch.window_valid is not None:
            outputs[Modality.AUDIO] = encode_present(
                self.audio, batch.spectrograms, batch.window_valid
            )
        return outputs

    def embed_media(self, outputs: dict[Modality, EncoderOutput]) -> dict[Modality, Embeddings]:
        """Bring each frame's and window's summary into the shared space, or one vector of all."""
        media = {}
        for modality, output in outputs.items():
            summary = output.summary if self.fusion is None else _mean(output.summary)
            media[modality] = self.heads[modality.label](summary.features, summary.valid)
        if self.fusion is not None and len(media) > 1:
            media[AUDIOVISUAL] = self.fusion(media[Modality.VISION], media[Modality.AUDIO])
        return media

    def remember(self, outputs: dict[Modality, EncoderOutput]) -> Memory:
        """Prepare all media tokens for the decoder."""
        return self.decoder.text.remember(
            {m: self.memory_projections[m.label](output) for m, output in outputs.items()}
        )

    def write(
        self,
        outputs: dict[Modality, EncoderOutput],
        group: Modality,
        *,
        special: SpecialIds,
        question: TextBatch | None = None,
        config: GenerationConfig,
    ) -> Generated:
        """Generate a text per row about its media; arguments as of `generate`."""
        memory = self.remember(outputs)
        return generate(
            self.decoder, memory, group, special=special, question=question, config=config
        )

    def stream(
        self,
        outputs: dict[Modality, EncoderOutput],
        group: Modality,
        *,
        special: SpecialIds,
        question: TextBatch | None = None,
        config: GenerationConfig,
    ) -> Iterator[Generated]:
        """The same, handed out after every word."""
        memory = self.remember(outputs)
        return stream(
            self.decoder, memory, group, special=special, question=question, config=config
        )

    def encode_text(self, texts: TextBatch) -> Embeddings:
        """Embed every word of every text in the shared space, or every text as a whole."""
        prompt = self.config.prompts.align
        whole = with_prompt(prompt, texts)
        features, valid = self._text_features(whole, len(prompt))[:, len(prompt) :], texts.valid
        if self.fusion is not None:
            features, valid = self._whole_text(features, texts)[:, None], texts.has_text[:, None]
        return self.heads["text"](features, valid)

    def _encode_texts(self, texts: dict[Modality, TextBatch]) -> dict[Modality, Embeddings]:
        """Embed the texts of all groups in one pass, which is twice as fast for small batches."""
        if not texts:
            return {}
        whole = self.encode_text(interleave(list(texts.values())))
        return {
            group: Embeddings(
                vectors=whole.vectors[first :: len(texts)],
                weight_logits=whole.weight_logits[first :: len(texts)],
                valid=whole.valid[first :: len(texts)],
            )
            for first, group in enumerate(texts)
        }

    def _text_features(self, whole: TextBatch, num_prefix: int) -> Float[Tensor, "rows length dim"]:
        encoder = self.text or self.decoder.text
        if isinstance(encoder, TextTransformer):
            return encoder(whole.token_ids, whole.valid, num_prefix=num_prefix)
        return encoder(whole.token_ids, whole.valid)

    def _whole_text(self, features: Tensor, texts: TextBatch) -> Float[Tensor, "rows dim"]:
        """BERT's first token, CLIP's last."""
        if isinstance(self.text, ClipTextTransformer):
            return last_token(features, texts.token_ids.masked_fill(~texts.valid, 0))
        return features[:, 0]


def _text_encoder(config: TextConfig, tower: nn.Module | None) -> nn.Module:
    match config:
        case TowerConfig():
            return TextTower(config, tower)
        case ClipTextConfig():
            return ClipTextTransformer(config)
        case BertConfig():
            return TextTransformer(config)
    return config.build()


def _mean(tokens: Tokens) -> Tokens:
    """One vector per row: the mean of the valid ones."""
    valid = tokens.valid[..., None]
    total = tokens.features.masked_fill(~valid, 0.0).sum(dim=1, keepdim=True)
    mean = total / valid.sum(dim=1, keepdim=True).clamp(min=1)
    return Tokens(features=mean, valid=tokens.valid.any(dim=1, keepdim=True))
