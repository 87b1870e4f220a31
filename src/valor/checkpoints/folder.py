"""The model folder: config, processor, tokenizer, weights and card, written and read strictly."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from valor.config import from_dict, parse_json, to_dict
from valor.encoders.text import BertConfig
from valor.errors import ConfigError, ModelError
from valor.models.systems import SystemConfig
from valor.models.valor import Valor, ValorConfig
from valor.processing.processor import Processor, ProcessorConfig

_WEIGHTS = "model.safetensors"
_PARTS = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "text_tokenizer.json",
    _WEIGHTS,
)
"""Everything that decides an embedding, as far as a model has it."""


def save_model(
    folder: Path,
    config: SystemConfig,
    weights: Mapping[str, torch.Tensor],
    processor: Processor,
    *,
    card: str,
) -> None:
    """Write a complete model folder, replacing an older one only when it is complete.

    Args:
        folder: Made or replaced.
        config: Of the model.
        weights: Of it, by name, as `weights_of` gives them.
        processor: Its preprocessing.
        card: Text of the `README.md`: what the model is, was trained on and is for.

    Raises:
        ModelError: If something else is in the folder's place.
    """
    write_folder(folder, config, weights, processor.save, card=card)


def write_folder(
    folder: Path,
    config: object,
    weights: Mapping[str, torch.Tensor],
    save_processor: Callable[[Path], None],
    *,
    card: str,
) -> None:
    """Do the same for any model; its preprocessing is written by a function.

    Args:
        folder: Made or replaced; a folder that is no model is left alone.
        config: Of the model.
        weights: By parameter name.
        save_processor: Writes the preprocessing into a folder.
        card: Text of README.md.

    Raises:
        ModelError: If something else is in the folder's place.
    """
    if folder.exists() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: exists and is no model folder; choose another name")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    text = json.dumps({"model_type": "valor", "valor": to_dict(config)}, indent=2) + "\n"
    (partial / "config.json").write_text(text, encoding="utf-8")
    save_processor(partial)
    (partial / "README.md").write_text(card, encoding="utf-8")
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(tensors, partial / _WEIGHTS, metadata={"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load_model(folder: Path, *, trust_code: bool = False) -> tuple[Any, Processor, str]:
    """Read a model folder.

    Args:
        folder: As written by `save_model`.
        trust_code: Whether a configuration may name code outside this package, to be imported.

    Returns:
        The system in evaluation mode, its processor, and the fingerprint of configuration,
        preprocessing and weights together.

    Raises:
        ModelError: If a file is missing, damaged or does not fit the configuration.
    """
    config = _read_system(folder, trust_code=trust_code)
    processor = Processor.load(folder)
    if processor.config.has_words:
        _check_words(config, processor, folder)
    model = config.build()
    fill_weights(weights_of(model), folder)
    return model.eval(), processor, _fingerprint(folder)


def load_configs(folder: Path, *, trust_code: bool = False) -> tuple[Any, ProcessorConfig]:
    """The configurations of a folder's system and preprocessing, without weights or words.

    Args:
        folder: As written by `save_model`.
        trust_code: Whether they may name code outside this package, to be imported.

    Returns:
        Both.

    Raises:
        ModelError: If a file is missing or damaged.
        ConfigError: If it names code that is not trusted.
    """
    return _read_system(folder, trust_code=trust_code), Processor.load_config(folder)


def _read_system(folder: Path, *, trust_code: bool) -> Any:
    values = read_config(folder)
    if values.get("kind") == "temporal_memory":
        raise ModelError(f"{folder}: kind temporal_memory decides masks; use `valor masks`")
    system: Any = SystemConfig
    return from_dict(system, values, where=str(folder / "config.json"), trust_code=trust_code)


def read_config(folder: Path) -> dict[str, Any]:
    """What the `config.json` of a model folder says of the model; a `ModelError` if nothing."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no model folder (config.json is missing)")
    try:
        return dict(parse_json(path.read_bytes(), str(path))["valor"])
    except (ConfigError, KeyError, TypeError, ValueError):
        raise ModelError(f"{path}: no JSON object with a key 'valor'") from None


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Everything of a model that its folder holds, each tensor under one name.

    Args:
        model: Any.

    Returns:
        Its parameters, and buffers that belong to its state, such as batch norms' running means.
    """
    in_state = model.state_dict()
    kept = {name: buffer for name, buffer in model.named_buffers() if name in in_state}
    return dict(model.named_parameters()) | kept


def fill_weights(expected: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Read a model folder's weights into tensors by name, or raise a `ModelError`.

    It is one if the file cannot be read, or holds other names or shapes.
    """
    path = folder / _WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    _compare(expected, weights, where=str(path))
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(weights[name])


def _check_words(config: SystemConfig, processor: Processor, folder: Path) -> None:
    """Raise a `ModelError` unless both tokenizers are those of the model."""
    sizes = {"decoder's": (processor.tokenizer.vocab_size, config.vocab_size)}
    if isinstance(config, ValorConfig) and not isinstance(config.text, BertConfig):
        if processor.text_tokenizer is None:
            raise ModelError(
                f"{folder}: text_tokenizer.json is missing; take all files from one folder"
            )
        sizes["text encoder's"] = (processor.text_tokenizer.vocab_size, config.text.vocab_size)
    for part, (found, wanted) in sizes.items():
        if found > wanted or (part == "decoder's" and found != wanted):
            raise ModelError(
                f"{folder}: the {part} tokenizer has {found} tokens, vocab_size is {wanted}; "
                "take all files from the same folder"
            )


def check_weights(config: ValorConfig, weights: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Raise a `ModelError` unless the weights are those of such a model, in name and shape."""
    with torch.device("meta"):
        expected = weights_of(Valor(config))
    _compare(expected, weights, where=where)


def _compare(
    expected: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], *, where: str
) -> None:
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected)
    wrong = [
        f"{name} {list(weights[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if expected[name].shape != weights[name].shape
    ]
    if missing or extra or wrong:
        raise ModelError(
            f"{where}: missing {missing}, left over {extra}, other shape {wrong}, as it is "
            "damaged or of another version; train or convert it again"
        )


def _fingerprint(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 of everything that decides an embedding."""
    digest = hashlib.sha256()
    for name in _PARTS:
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
