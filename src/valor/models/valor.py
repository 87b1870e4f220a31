"""VALOR: three encoders, the alignment heads and the conditional decoder.

Training calls `forward` only; inference calls the typed methods `encode_media` and `encode_text`.
A modality that a row does not have never enters an encoder.

Source: VALOR (arXiv 2304.08345) 3.2.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.audio import AstConfig, AudioTransformer
from valor.encoders.text import BertConfig, Memory, TextTransformer, with_prompt
from valor.encoders.video_swin import VideoSwinConfig, VideoSwinTransformer
from valor.encoders.vision import VisionTransformer, VitConfig
from valor.models.decoder import Decoder, MemoryProjection, PromptConfig
from valor.models.fusion import AlignmentHead
from valor.types import Batch, Embeddings, EncoderOutput, Modality, TextBatch, Tokens

_MAX_LOG_SCALE = math.log(100.0)
_LOOK_GAIN = 2.0
"""An average over all media tokens is small; without this the decoder learns to ignore it first."""


VisionConfig = Annotated[VitConfig | VideoSwinConfig, Field(discriminator="kind")]


@configclass
class ValorConfig:
    """The whole model."""

    vision: VisionConfig = VitConfig()
    audio: AstConfig = AstConfig()
    text: BertConfig = BertConfig()
    embed_dim: int = 512
    """Width of the space in which text, vision and audio are compared."""
    temperature: float = 0.07
    """Initial temperature of the contrastive loss; learned."""
    max_positions: int = 32
    """Most frames or audio windows that the decoder can tell apart."""
    prompts: PromptConfig = PromptConfig()
    projects_equal_widths: bool = True
    """Whether media tokens of the decoder's own width are projected too, and not only others; the
    released models leave them as they are."""


@dataclass(slots=True, kw_only=True)
class Encoded:
    """What `Valor.forward` returns: everything that objectives need."""

    media: dict[Modality, Embeddings]
    """Per-frame and per-window vectors in the shared space, by single modality."""
    aligned_texts: dict[Modality, Embeddings]
    """Per-word vectors of `Batch.aligned_texts`."""
    memory: Memory | None
    """What the decoder looks at; None if the batch has nothing to describe."""
    log_scale: Float[Tensor, ""]
    """Natural log of 1 / temperature."""


class Valor(nn.Module):
    """The model.

    Args:
        config: Sizes of all parts.
    """

    def __init__(self, config: ValorConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = (
            VisionTransformer(config.vision)
            if isinstance(config.vision, VitConfig)
            else VideoSwinTransformer(config.vision)
        )
        self.audio = AudioTransformer(config.audio)
        text = TextTransformer(config.text)
        self.decoder = Decoder(text, config.prompts)
        dims = {"vision": config.vision.dim, "audio": config.audio.dim, "text": config.text.dim}
        self.heads = nn.ModuleDict(
            {name: AlignmentHead(dim, config.embed_dim) for name, dim in dims.items()}
        )
        self.memory_projections = nn.ModuleDict(
            {
                name: MemoryProjection(
                    dims[name],
                    config.text.dim,
                    config.max_positions,
                    projects=config.projects_equal_widths or dims[name] != config.text.dim,
                )
                for name in ("vision", "audio")
            }
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        for part in (self.vision, self.audio, self.heads, self.memory_projections):
            part.apply(_initialise)
        for layer in text.cross_attentions:
            layer.apply(_initialise)
            nn.init.xavier_uniform_(layer.output.weight, gain=_LOOK_GAIN)

    def forward(self, batch: Batch) -> Encoded:
        """Encode everything in a batch that objectives compare or describe."""
        outputs = self.encode_media(batch)
        describes = bool(batch.caption_texts or batch.questions)
        return Encoded(
            media=self.embed_media(outputs),
            aligned_texts={g: self.encode_text(t) for g, t in batch.aligned_texts.items()},
            memory=self.remember(outputs) if describes and outputs else None,
            log_scale=self.log_scale.clamp(max=_MAX_LOG_SCALE),
        )

    def encode_media(self, batch: Batch) -> dict[Modality, EncoderOutput]:
        """Run the vision and audio encoders on the rows that have the modality."""
        outputs = {}
        if batch.pixels is not None and batch.frame_valid is not None:
            outputs[Modality.VISION] = _encode_present(self.vision, batch.pixels, batch.frame_valid)
        if batch.spectrograms is not None and batch.window_valid is not None:
            outputs[Modality.AUDIO] = _encode_present(
                self.audio, batch.spectrograms, batch.window_valid
            )
        return outputs

    def embed_media(self, outputs: dict[Modality, EncoderOutput]) -> dict[Modality, Embeddings]:
        """Bring each frame's and window's summary into the shared space."""
        return {
            modality: self.heads[modality.label](output.summary.features, output.summary.valid)
            for modality, output in outputs.items()
        }

    def remember(self, outputs: dict[Modality, EncoderOutput]) -> Memory:
        """Prepare all media tokens for the decoder."""
        return self.decoder.remember(
            {m: self.memory_projections[m.label](output) for m, output in outputs.items()}
        )

    def encode_text(self, texts: TextBatch) -> Embeddings:
        """Embed every word of every text in the shared space."""
        prompt = self.config.prompts.align
        whole = with_prompt(prompt, texts)
        features = self.decoder.text(whole.token_ids, whole.valid, num_prefix=len(prompt))
        features = features[:, len(prompt) :]
        return self.heads["text"](features, texts.valid)


def _initialise(module: nn.Module) -> None:
    """Keep the size of signals: He for the convolutions of a stem, Xavier for linear layers."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)


def _encode_present(
    encoder: nn.Module,
    inputs: Float[Tensor, "batch positions *sizes"],
    valid: Bool[Tensor, "batch positions"],
) -> EncoderOutput:
    """Encode the rows that have the modality and put them back in their places."""
    rows = valid.any(dim=1)
    if bool(rows.all()):
        return encoder(inputs, valid)
    output = encoder(inputs[rows], valid[rows])

    def spread(tokens: Tokens) -> Tokens:
        full = tokens.features.new_zeros(len(rows), *tokens.features.shape[1:])
        full_valid = tokens.valid.new_zeros(len(rows), tokens.valid.shape[1])
        full_valid[rows] = tokens.valid
        return Tokens(features=full.index_put((rows,), tokens.features), valid=full_valid)

    return EncoderOutput(tokens=spread(output.tokens), summary=spread(output.summary))
