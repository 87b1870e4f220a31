"""A bridge from audible video to a frozen language model.

Frames and audio windows are encoded one by one. To each a learned embedding of its position is
added; then a Q-Former per modality, whose learned queries attend to all of them, makes a fixed
number of vectors, and a linear map brings these into the language model's embedding space, where
they stand between the words of the prompt.

Source: Video-LLaMA (arXiv 2306.02858). Differs from it: the video Q-Former attends to the frames'
tokens as they are, without an image Q-Former before it.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.audio import AstConfig
from valor.encoders.layers import check_heads
from valor.encoders.text import Memory
from valor.encoders.towers import TowerConfig
from valor.encoders.vision import VitConfig
from valor.models.decoder import Remembered
from valor.models.encoding import (
    AudioConfig,
    VisionConfig,
    at_least_one,
    audio_encoder,
    check_media,
    initialise,
    vision_encoder,
)
from valor.models.generation import Generated, GenerationConfig
from valor.models.language_model import LanguageDecoder, PromptPart
from valor.processing.processor import ProcessorConfig
from valor.types import Batch, EncoderOutput, Modality, SpecialIds, TextBatch, Tokens

FrameOrder = Literal["positions", "none", "mean"]


@configclass
class QFormerConfig:
    """Sizes of the Q-Formers."""

    dim: int = 768
    """Width of the queries."""
    num_layers: int = 2
    """Transformer layers."""
    num_heads: int = 12
    """Heads of attention of each layer; they share `dim` evenly."""
    mlp_dim: int = 3072
    """Width between the two linear maps that follow attention in a layer."""
    num_vision_queries: int = 32
    """Tokens that the language model gets for what is seen."""
    num_audio_queries: int = 8
    """Tokens that the language model gets for what is heard."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        check_heads(self.dim, self.num_heads)


@configclass
class BridgeConfig:
    """The whole system; the language model's part is read from its folder or the hub."""

    kind: Literal["bridge"] = "bridge"
    vision: VisionConfig = VitConfig()
    """Encodes frames."""
    audio: AudioConfig = AstConfig()
    """Encodes audio windows."""
    qformer: QFormerConfig = QFormerConfig()
    """Turns media of any length into a fixed number of tokens."""
    language_model: TowerConfig
    """Writes; it is the tower's own `frozen` that says whether it learns."""
    vocab_size: int
    """Tokens of the language model's tokenizer; the model itself may have room for more."""
    prompt: tuple[PromptPart, ...]
    """What the language model reads; ends in words."""
    caption: tuple[int, ...] = ()
    """Token ids of the request for a caption, in the question's place."""
    max_positions: int = 32
    """Most frames or audio windows."""
    frame_order: FrameOrder = "positions"
    """Add an embedding of its position to each frame, or none, or take the mean of all frames; the
    last two are for comparison."""

    def __post_init__(self) -> None:
        """Reject a prompt that could be empty or does not end in words."""
        if not self.prompt or self.prompt[-1].slot is not None or not self.prompt[-1].words:
            raise ValueError("the prompt must end in words, such as `<vision> <text> answer`")

    def check(self, processor: ProcessorConfig) -> None:
        """Raise a `ValueError` unless the model takes what the processor gives."""
        check_media(self.vision, self.audio, processor, self.max_positions)
        sizes, architecture = self.qformer, self.language_model.architecture
        words = sum(len(part.words) for part in self.prompt) + 2 * processor.max_text_length
        length = words + sizes.num_vision_queries + sizes.num_audio_queries
        room = architecture.get("max_position_embeddings", architecture.get("n_positions"))
        if room and length > room:
            raise ValueError(
                f"prompt, media, question and answer may take {length} positions, but the language "
                f"model has {room}; lower max_text_length or the number of queries"
            )

    def build(self) -> "Bridge":
        """A bridge with fresh weights."""
        return Bridge(self)


class Bridge(nn.Module):
    """The system.

    Args:
        config: Sizes of all parts.
        language_model: With its weights; None builds one with random weights.
        vision: A pretrained vision tower instead of a fresh one.
        audio: A pretrained audio tower instead of a fresh one.
    """

    def __init__(
        self,
        config: BridgeConfig,
        language_model: nn.Module | None = None,
        *,
        vision: nn.Module | None = None,
        audio: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision = vision_encoder(config.vision, vision)
        self.audio = audio_encoder(config.audio, audio)
        self.decoder = LanguageDecoder(
            config.language_model, config.prompt, config.caption, language_model
        )
        for name, encoder in (("vision", self.vision), ("audio", self.audio)):
            if getattr(config, name).kind != "tower":
                encoder.apply(initialise)
        words = self.decoder.language_model.get_input_embeddings().weight
        scale = 1.0 if words.is_meta else float(words.std())
        width, order = config.language_model.dim, config.frame_order
        self.resamplers = nn.ModuleDict(
            {
                "vision": Resampler(config, config.vision.dim, width, order=order, scale=scale),
                "audio": Resampler(config, config.audio.dim, width, scale=scale),
            }
        )

    def forward(self, batch: Batch) -> Remembered:
        """Encode the media of a batch for the language model."""
        outputs = self.encode_media(batch)
        return Remembered(memory=self.remember(outputs) if outputs else None)

    def encode_media(self, batch: Batch) -> dict[Modality, EncoderOutput]:
        """Encode every frame and audio window that is there, each by itself."""
        outputs = dict(batch.encoded or {})
        if batch.pixels is not None and batch.frame_valid is not None:
            num = self.config.vision.frames_per_patch
            outputs[Modality.VISION] = _encode_each(
                self.vision, batch.pixels.unflatten(1, (-1, num)),
                batch.frame_valid.unflatten(1, (-1, num)),
            )  # fmt: skip
        if batch.spectrograms is not None and batch.window_valid is not None:
            outputs[Modality.AUDIO] = _encode_each(
                self.audio, batch.spectrograms[:, :, None], batch.window_valid[:, :, None]
            )
        return outputs

    def remember(self, outputs: dict[Modality, EncoderOutput]) -> Memory:
        """Bring all media into the language model's embedding space."""
        tokens = {m: self.resamplers[m.label](output) for m, output in outputs.items()}
        return Memory(tokens=tokens, layers=[], sources={})

    def write(
        self,
        outputs: dict[Modality, EncoderOutput],
        group: Modality,
        *,
        special: SpecialIds,
        question: TextBatch | None = None,
        config: GenerationConfig,
    ) -> Generated:
        """Generate a text per row about its media, as an answer if there is a question."""
        memory = self.remember(outputs)
        prompt = (
            self.decoder.caption_prompt(memory.num_rows)
            if question is None
            else self.decoder.question_prompt(question)
        )
        return self.decoder.write(prompt, memory, group, special=special, config=config)


class Resampler(nn.Module):
    """Make a fixed number of vectors of any number of frames or windows.

    Args:
        config: Sizes of the Q-Former.
        source_dim: Width of the encoder's tokens.
        dim: Width of the language model.
        order: How frames are told apart.
        scale: Size of the language model's word vectors, which the result has at first.
    """

    def __init__(
        self,
        config: BridgeConfig,
        source_dim: int,
        dim: int,
        *,
        order: FrameOrder | None = None,
        scale: float,
    ) -> None:
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        sizes, is_vision = config.qformer, order is not None
        num = sizes.num_vision_queries if is_vision else sizes.num_audio_queries
        self.order = order or "positions"
        self.queries = nn.Parameter(torch.randn(num, sizes.dim) * 0.02)
        if self.order == "positions":
            self.position = nn.Parameter(torch.randn(config.max_positions, source_dim) * 0.2)
        self.qformer: Any = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=sizes.dim,
                num_hidden_layers=sizes.num_layers,
                num_attention_heads=sizes.num_heads,
                intermediate_size=sizes.mlp_dim,
                encoder_hidden_size=source_dim,
                cross_attention_frequency=1,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        self.qformer.apply(initialise)
        self.projection = nn.Linear(sizes.dim, dim)
        nn.init.normal_(self.projection.weight, std=scale * sizes.dim**-0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, encoded: EncoderOutput) -> Tokens:
        """Attend to all tokens of all positions; a row without any has no valid vector."""
        positions = encoded.summary.valid.shape[1]
        x = encoded.tokens.features.unflatten(1, (positions, -1))
        valid = encoded.tokens.valid.unflatten(1, (positions, -1))
        if self.order == "positions":
            x = x + self.position[:positions, None]
        elif self.order == "mean":
            x, valid = _mean(x, valid), valid.any(dim=1, keepdim=True)
        seen = valid.flatten(1)
        present = seen.any(dim=1, keepdim=True)
        # A row without anything sees its padding, so that no softmax is empty.
        allowed = seen | ~present
        queries = self.qformer(
            query_embeds=self.queries.expand(len(x), -1, -1),
            encoder_hidden_states=x.flatten(1, 2),
            encoder_attention_mask=None if bool(allowed.all()) else allowed.long(),
        ).last_hidden_state
        features = self.projection(queries.to(x.dtype))
        return Tokens(features=features, valid=present.expand(-1, len(self.queries)))


def _mean(
    x: Float[Tensor, "batch frames tokens dim"], valid: Tensor
) -> Float[Tensor, "batch 1 tokens dim"]:
    """The mean of each token over the frames that are there."""
    num = valid.sum(dim=1, keepdim=True).clamp(min=1)
    return x.masked_fill(~valid[..., None], 0.0).sum(dim=1, keepdim=True) / num[..., None]


def _encode_each(
    encoder: nn.Module,
    inputs: Float[Tensor, "batch positions inside *sizes"],
    valid: Tensor,
) -> EncoderOutput:
    """Encode every position by itself, so that the encoder cannot know its place."""
    there = valid.all(dim=2)
    seen = at_least_one(there)
    output = encoder(inputs[seen], valid[seen] | ~there[seen, None])

    def spread(tokens: Tokens) -> Tokens:
        shape = (*there.shape, *tokens.features.shape[1:])
        features = tokens.features.new_zeros(shape).index_put((seen,), tokens.features)
        own = tokens.valid & there[seen, None]
        kept = tokens.valid.new_zeros(shape[:-1]).index_put((seen,), own)
        return Tokens(features=features.flatten(1, 2), valid=kept.flatten(1, 2))

    summary = output.summary
    return EncoderOutput(
        tokens=spread(output.tokens),
        summary=spread(Tokens(features=summary.features[:, :1], valid=summary.valid[:, :1])),
    )
