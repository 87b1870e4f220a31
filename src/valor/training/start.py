"""What training begins with: a fresh model, pretrained towers, or an existing model folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn

from valor.checkpoints.folder import load_model
from valor.checkpoints.official import read_weights
from valor.checkpoints.official_keys import video_swin
from valor.config import ByKind, Foreign, configclass, evolve
from valor.data.manifest import Record
from valor.encoders.text import BertConfig
from valor.encoders.video_swin import VideoSwinTransformer
from valor.errors import ConfigError, ModelError
from valor.models.valor import Valor, ValorConfig
from valor.processing.pretrained import frames_for, sound_for
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.tokenizer import TextTokenizer, Tokenizer
from valor.types import Modality, union


@configclass
class FolderConfig:
    """A model folder to go on from, of any system: its weights and its words."""

    kind: Literal["folder"] = "folder"
    path: str
    """As a run leaves it in `model/` or `best/`."""
    trust_code: bool = False
    """Whether the folder may name code outside this package, to be imported."""


@configclass
class TowersConfig:
    """Pretrained towers of the transformers library, with fresh heads and a fresh decoder."""

    kind: Literal["towers"] = "towers"
    vision: str | None = None
    """Hub id or folder of an image or video tower, or the released .pth of a Video Swin; None takes
    the model's own, fresh."""
    audio: str | None = None
    """Hub id or folder of an audio tower; None takes the model's own, fresh."""
    text: str | None = None
    """Hub id or folder of a text tower; None takes the model's own, fresh."""
    frozen: tuple[Modality, ...] = ()
    """Towers whose weights stay as they are."""
    frames_px: int | None = None
    """Height and width of frames, where not the tower's own."""
    model: ValorConfig = ValorConfig()
    """Everything else."""

    def make(
        self, processing: ProcessorConfig, vocab_size: int, *, weights: bool = True
    ) -> tuple[Valor, ProcessorConfig]:
        """Load the towers.

        Args:
            processing: Of the run. How many frames and windows, and how long texts and segments
                are, is taken from it; all else from the towers.
            vocab_size: Words of the decoder.
            weights: Whether they are loaded too, and not only sizes.

        Returns:
            The model and its preprocessing.

        Raises:
            ModelError: If a tower cannot be loaded.
            ConfigError: If the towers do not take what the run asks for.
        """
        frames, sound = processing.frames, processing.spectrogram
        swin = self.vision if (self.vision or "").endswith(".pth") else None
        vision = None if swin else self.vision
        sizes: dict[Modality, tuple[int, int]] = {}
        if vision is not None:
            own = frames_for(vision, segment_s=processing.segment_s)
            num = frames.num_bursts if own.frames_per_burst == 1 else own.num_bursts
            frames = evolve(own, {"num_bursts": num, "image_px": self.frames_px or own.image_px})
            if self.frames_px:
                sizes[Modality.VISION] = (self.frames_px, self.frames_px)
        if self.audio is not None:
            own_sound = sound_for(self.audio, segment_s=processing.segment_s)
            sound = evolve(own_sound, {"num_windows": sound.num_windows})
            sizes[Modality.AUDIO] = (sound.num_mels, sound.hops_per_window)  # CLAP takes fewer too.
        changed = replace(processing, frames=frames, spectrogram=sound)
        model = Valor.from_towers(
            vision=vision,
            audio=self.audio,
            text=self.text,
            frozen=union(self.frozen),
            config=self.model.with_vocabulary(vocab_size),
            sizes=sizes,
            weights=weights,
        )
        if swin and weights:
            fill_swin(model.vision, Path(swin))
        try:
            model.config.check(changed)
        except ValueError as error:
            raise ConfigError(f"towers: {error}") from None
        return model, changed


def fill_swin(vision: nn.Module, path: Path) -> None:
    """Read a Video Swin as its authors released it, such as the one of Kinetics-600.

    Args:
        vision: Filled in place.
        path: Of the .pth.

    Raises:
        ModelError: If the encoder is no Video Swin, or the file is none of its size.
    """
    if not isinstance(vision, VideoSwinTransformer):
        raise ModelError(f"{path}: goes with a model.vision of kind video_swin")
    found = {key.removeprefix("backbone."): x for key, x in read_weights(path).items()}
    parameters = dict(vision.named_parameters())
    for name, source in video_swin(vision.config).items():
        keys = [key.removeprefix("video_encoder.") for key in source.keys]
        if missing := [key for key in keys if key not in found]:
            raise ModelError(f"{path}: no weight {missing[0]!r}; name a Video Swin of this size")
        value = source.make(*(found[key] for key in keys))
        if value.shape != parameters[name].shape:
            sizes = f"{list(value.shape)}, not {list(parameters[name].shape)}"
            raise ModelError(f"{path}: {keys[0]} is of size {sizes}")
        parameters[name].data.copy_(value)


StartConfig = Annotated[ValorConfig | FolderConfig | TowersConfig | Foreign, ByKind("valor")]


def begin(
    start: StartConfig, processing: ProcessorConfig, records: Sequence[Record]
) -> tuple[Any, Processor]:
    """Make or load what is to be trained.

    Args:
        start: A system, or a folder of one.
        processing: Of the run, also where the folder's model was trained with another.
        records: Words are learned from their texts; the same records give the same ones.

    Returns:
        The system and its processor.

    Raises:
        ConfigError: If a folder's model does not take what the processor gives or names code that
            is not trusted, or nothing gives the words of a text encoder that is no BERT.
    """
    if isinstance(start, FolderConfig):
        model, own, _ = load_model(Path(start.path), trust_code=start.trust_code)
        try:
            model.config.check(processing)
        except ValueError as error:
            raise ConfigError(f"{start.path}: {error}") from None
        return model, Processor(processing, own.tokenizer, own.text_tokenizer)
    has_words = isinstance(start, TowersConfig) and start.text is not None
    fresh = start.model if isinstance(start, TowersConfig) else start
    if isinstance(fresh, ValorConfig) and not isinstance(fresh.text, BertConfig) and not has_words:
        raise ConfigError(
            f"text.kind={fresh.text.kind!r} reads words of its own, which only bert learns from "
            "the data; start from towers with a `text`, or from a model folder"
        )
    texts = {text for record in records for text in record.texts}
    if isinstance(start, TowersConfig):
        words = Tokenizer.train(texts, vocab_size=start.model.vocab_size)
        model, changed = start.make(processing, words.vocab_size)
        own_words = None if start.text is None else TextTokenizer.from_hub(start.text)
        return model, Processor(changed, words, own_words)
    tokenizer = Tokenizer.train(texts, vocab_size=start.vocab_size)
    model = start.with_vocabulary(tokenizer.vocab_size).build()
    return model, Processor(processing, tokenizer)
