"""What training begins with: a fresh model and words from the data, or an existing model folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from valor.checkpoints.folder import load_model
from valor.config import ByKind, Foreign, configclass
from valor.data.manifest import Record
from valor.errors import ConfigError
from valor.models.valor import ValorConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.tokenizer import Tokenizer


@configclass
class FolderConfig:
    """A model folder to go on from, of any system: its weights and its words."""

    kind: Literal["folder"] = "folder"
    path: str


StartConfig = Annotated[ValorConfig | FolderConfig | Foreign, ByKind("valor")]


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
        ConfigError: If a folder's model does not take what the processor gives.
    """
    if isinstance(start, FolderConfig):
        model, own, _ = load_model(Path(start.path), trust_code=True)
        try:
            model.config.check(processing)
        except ValueError as error:
            raise ConfigError(f"{start.path}: {error}") from None
        return model, Processor(processing, own.tokenizer, own.text_tokenizer)
    texts = {caption.text for record in records for caption in record.captions}
    for record in records:
        for question in record.questions:
            texts |= {question.text, *question.answers}
    tokenizer = Tokenizer.train(texts, vocab_size=start.vocab_size)
    model = start.with_vocabulary(tokenizer.vocab_size).build()
    return model, Processor(processing, tokenizer)
