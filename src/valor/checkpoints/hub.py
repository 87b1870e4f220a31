"""The Hugging Face shell: model folders through AutoConfig, AutoModel and AutoProcessor.

A model folder needs nothing from here; this is for code that speaks transformers. Weights are read
and written by `checkpoints.folder`, as strictly as everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import PushToHubMixin

from valor.checkpoints.folder import load_model, save_model, weights_of
from valor.config import from_dict
from valor.data.collate import collate_media
from valor.errors import ModelError
from valor.models.fusion import join, pooled, similarity
from valor.models.generation import GenerationConfig, generate
from valor.models.valor import Valor, ValorConfig
from valor.processing.processor import Processor
from valor.types import AUDIOVISUAL, Batch, Embeddings, Modality, Segment, TextBatch


class ValorHubConfig(PreTrainedConfig):
    """`config.json` of a model folder: ours under the key `valor`.

    Args:
        valor: Our configuration as JSON values; the defaults if it is None.
        **others: Whatever the hub keeps beside it.
    """

    model_type = "valor"

    def __init__(self, valor: dict[str, Any] | None = None, **others: Any) -> None:
        self.valor = valor or {}
        super().__init__(**others)

    @property
    def checked(self) -> ValorConfig:
        """Our configuration; a wrong one is a `ConfigError`."""
        return from_dict(ValorConfig, self.valor, where="config.json")


@dataclass
class ValorOutput(ModelOutput):
    """What the model's `forward` returns; what there was no input for is None."""

    text_embeds: Float[Tensor, "texts embed"] | None = None
    """Unit vectors; the similarity is finer than their product."""
    video_embeds: Float[Tensor, "items embed"] | None = None
    audio_embeds: Float[Tensor, "items embed"] | None = None
    audio_video_embeds: Float[Tensor, "items embed"] | None = None
    logits_per_text: Float[Tensor, "texts items"] | None = None
    """VALOR's similarity with all media that an item has."""


class ValorHubModel(PreTrainedModel):
    """VALOR with the names and habits of transformers.

    Args:
        config: As read from a model folder.
        processor: Its preprocessing, which is saved with it.
    """

    config_class = ValorHubConfig
    base_model_prefix = "valor"
    main_input_name = "pixel_values"

    def __init__(self, config: ValorHubConfig, processor: Processor | None = None) -> None:
        super().__init__(config)
        self.valor = Valor(config.checked)
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *_: Any, **options: Any
    ) -> "ValorHubModel":
        """Load a model folder or a hub id.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            **options: `dtype`; `revision`, `cache_dir`, `token` and `local_files_only` of the hub.

        Returns:
            The model in evaluation mode.

        Raises:
            ModelError: If the folder cannot be read, or holds another system than VALOR.
        """
        folder = local_folder(pretrained_model_name_or_path, **options)
        valor, processor, _ = load_model(folder)  # type: ignore[assignment]
        if not isinstance(valor, Valor):
            raise ModelError(
                f"{folder}: {valor.config.kind} has no names in transformers; use valor.load"
            )
        model = cls(ValorHubConfig.from_pretrained(folder), processor)
        model.valor = valor
        dtype = options.get("dtype")
        if isinstance(dtype, torch.dtype):
            valor.to(dtype)
        return model.eval()

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, **options: Any
    ) -> None:
        """Write a complete model folder.

        Args:
            save_directory: Made or replaced.
            **options: `push_to_hub`, and with it `repo_id`; weights are always one file.

        Raises:
            ModelError: If the model was built without its processor.
        """
        if self.processor is None:
            raise ModelError("save_pretrained needs the processor; load the model from a folder")
        folder = Path(save_directory)
        card = "---\nlibrary_name: valor\n---\n# A VALOR model\n"
        weights = weights_of(self.valor)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        save_model(folder, self.valor.config, weights, self.processor, card=card)
        if self._auto_class is not None:
            custom_object_save(self, folder, config=self.config)  # type: ignore[arg-type]
            self.config.save_pretrained(folder)
        if options.get("push_to_hub"):
            self.push_to_hub(options.get("repo_id", folder.name))

    def get_text_features(
        self,
        input_ids: Int[Tensor, "texts length"],
        attention_mask: Shaped[Tensor, "texts length"] | None = None,
        **_: Any,
    ) -> Float[Tensor, "texts embed"]:
        """Unit vectors of token ids."""
        return pooled(self._texts(input_ids, attention_mask))

    def get_video_embeds(
        self,
        pixel_values: Float[Tensor, "batch frames 3 height width"],
        **valid: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch embed"]:
        """Unit vectors of frames."""
        return self._pooled(Modality.VISION, pixel_values=pixel_values, **valid)

    def get_audio_embeds(
        self,
        spectrograms: Float[Tensor, "batch windows mels hops"],
        **valid: Bool[Tensor, "batch windows"],
    ) -> Float[Tensor, "batch embed"]:
        """Unit vectors of windows."""
        return self._pooled(Modality.AUDIO, spectrograms=spectrograms, **valid)

    def get_audio_video_embeds(
        self,
        pixel_values: Float[Tensor, "batch frames 3 height width"],
        spectrograms: Float[Tensor, "batch windows mels hops"],
        **valid: Bool[Tensor, "batch _"],
    ) -> Float[Tensor, "batch embed"]:
        """Unit vectors of frames and windows together."""
        inputs = {"pixel_values": pixel_values, "spectrograms": spectrograms}
        return self._pooled(AUDIOVISUAL, **inputs, **valid)

    def forward(
        self,
        input_ids: Int[Tensor, "texts length"] | None = None,
        attention_mask: Shaped[Tensor, "texts length"] | None = None,
        **media: Shaped[Tensor, "batch ..."],
    ) -> ValorOutput:
        """Embed whatever is given, and compare texts with media if both are.

        Args:
            input_ids: Token ids.
            attention_mask: True where a token is part of the text.
            **media: `pixel_values`, `frame_valid`, `spectrograms`, `window_valid`.

        Returns:
            Embeddings and similarities.
        """
        output = ValorOutput()
        text = None if input_ids is None else self._texts(input_ids, attention_mask)
        if text is not None:
            output.text_embeds = pooled(text)
        embedded = self.valor.embed_media(self.valor.encode_media(_batch(**media)))
        if embedded:
            names = {"video_embeds": Modality.VISION, "audio_embeds": Modality.AUDIO}
            for name, modality in names.items():
                if modality in embedded:
                    output[name] = pooled(embedded[modality])
            whole = join(embedded, AUDIOVISUAL)
            if len(embedded) > 1:
                output.audio_video_embeds = pooled(whole)
            if text is not None:
                output.logits_per_text = similarity(text, whole)
        return output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "texts length"] | None = None,
        attention_mask: Shaped[Tensor, "texts length"] | None = None,
        **inputs: Any,
    ) -> Int[Tensor, "batch length"]:
        """Write captions, or answers to questions.

        Args:
            input_ids: Token ids of questions; None asks for captions.
            attention_mask: True where a token is part of the question.
            **inputs: Media as of `forward`, and fields of `GenerationConfig` such as `num_beams`.

        Returns:
            Token ids without start and end, padded.

        Raises:
            ModelError: If the model was built without its processor.
        """
        if self.processor is None:
            raise ModelError("generate needs the processor's tokenizer; load a model folder")
        media = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
        choices = {k: v for k, v in inputs.items() if not isinstance(v, Tensor)}
        outputs = self.valor.encode_media(_batch(**media))
        question = None if input_ids is None else _text_batch(input_ids, attention_mask)
        return generate(
            self.valor.decoder,
            self.valor.remember(outputs),
            AUDIOVISUAL,
            special=self.processor.tokenizer.special,
            question=question,
            config=GenerationConfig(**choices),
        ).token_ids

    def _texts(self, input_ids: Tensor, attention_mask: Tensor | None) -> Embeddings:
        return self.valor.encode_text(_text_batch(input_ids, attention_mask))

    def _pooled(self, group: Modality, **media: Tensor) -> Tensor:
        outputs = self.valor.encode_media(_batch(**media))
        return pooled(join(self.valor.embed_media(outputs), group))


class ValorHubProcessor(PushToHubMixin):
    """Media files and texts to tensors, with the names of transformers.

    Args:
        processor: Ours.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> "ValorHubProcessor":
        """Load from a model folder or hub id; options as of the model's."""
        folder = local_folder(pretrained_model_name_or_path, **options)
        return cls(Processor.load(folder))

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write its files of the model folder."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.processor.save(Path(save_directory))

    def __call__(
        self, media: Sequence[Segment] | None = None, text: Sequence[str] | None = None
    ) -> BatchFeature:
        """Prepare segments, as from `valor.media.segments.decode_segment`, and texts."""
        values: dict[str, Tensor | None] = {}
        if media is not None:
            samples = [self.processor.prepare(segment) for segment in media]
            batch = collate_media(samples, self.processor)
            values |= {"pixel_values": batch.pixels, "frame_valid": batch.frame_valid}
            values |= {"spectrograms": batch.spectrograms, "window_valid": batch.window_valid}
        if text is not None:
            texts = self.processor.encode_texts(text)
            values |= {"input_ids": texts.token_ids, "attention_mask": texts.valid}
        return BatchFeature({name: value for name, value in values.items() if value is not None})

    def batch_decode(self, token_ids: Int[Tensor, "texts length"]) -> list[str]:
        """Texts of token ids."""
        return self.processor.tokenizer.decode(token_ids)


def register_auto_classes() -> None:
    """Let AutoConfig, AutoModel and AutoProcessor of transformers read model folders."""
    AutoConfig.register("valor", ValorHubConfig, exist_ok=True)
    AutoModel.register(ValorHubConfig, ValorHubModel, exist_ok=True)
    AutoProcessor.register(ValorHubConfig, ValorHubProcessor, exist_ok=True)


def is_ours_on_hub(source: str) -> bool:
    """Whether a hub id names a model folder of ours, as far as that can be known."""
    try:
        return PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "valor"
    except (OSError, ValueError):
        return False


def local_folder(source: str | Path, **options: Any) -> Path:
    """The folder of a model, downloaded if it is a hub id.

    Args:
        source: Folder or hub id.
        **options: `revision`, `cache_dir`, `token` and `local_files_only`; others are left to whom
            they concern.

    Returns:
        Where the files are.

    Raises:
        ModelError: If there is no such folder and the hub has none or cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    names = ("revision", "cache_dir", "token", "local_files_only")
    known = {name: options[name] for name in names if options.get(name) is not None}
    try:
        return Path(snapshot_download(str(source), **known))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        raise ModelError(
            f"{source}: no such folder, and not to be had from the hub "
            f"({str(error).splitlines()[0]})"
        ) from None


def _batch(
    pixel_values: Tensor | None = None,
    frame_valid: Tensor | None = None,
    spectrograms: Tensor | None = None,
    window_valid: Tensor | None = None,
) -> Batch:
    """Media without a mask are all there."""
    if pixel_values is not None and frame_valid is None:
        frame_valid = pixel_values.new_ones(pixel_values.shape[:2], dtype=torch.bool)
    if spectrograms is not None and window_valid is None:
        window_valid = spectrograms.new_ones(spectrograms.shape[:2], dtype=torch.bool)
    return Batch(
        ids=[],
        pixels=pixel_values,
        frame_valid=frame_valid,
        spectrograms=spectrograms,
        window_valid=window_valid,
    )


def _text_batch(input_ids: Tensor, attention_mask: Tensor | None) -> TextBatch:
    valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return TextBatch(token_ids=input_ids, valid=valid.bool())
