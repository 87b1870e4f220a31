"""What a run will take, before anything of it runs: parameters, operations, memory, hours.

Encoders and the decoder's memory run on PyTorch's meta device, which computes shapes only, and
their operations are counted; those of texts follow from the sizes of the matrices. The rate of the
device is measured. Towers of the hub give their sizes, not their weights.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from valor.checkpoints.folder import load_configs
from valor.encoders.text import TextTransformer
from valor.errors import UsageError
from valor.models.valor import Valor, ValorConfig
from valor.processing.processor import ProcessorConfig
from valor.training.adapt import adapt
from valor.training.run import TrainConfig, training_dtype
from valor.training.start import FolderConfig, TowersConfig
from valor.training.step import ObjectivesConfig
from valor.types import AUDIOVISUAL, Batch, Modality

_EFFICIENCY = 0.5
"""Share of a matrix product's rate that training is expected to reach."""
_BESIDE = {torch.float32: 12, torch.bfloat16: 18}
"""Bytes of gradient, master copy and moments beside a trained weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of a whole run."""

    parameters: int
    trained: int
    """Parameters that get a gradient."""
    step_flop: float
    """Operations of one step, forward and backward."""
    memory_bytes: float
    """Weights, optimizer and what the backward pass keeps."""
    num_steps: int
    device: str
    matrix_rate: float
    """Operations per second of a matrix product there, measured."""
    hours: float
    """At half that rate, reading of media not included."""


def estimate(config: TrainConfig, num_records: int) -> Estimate:
    """Count what a run will take; every sample is taken to have all modalities and full texts.

    Args:
        config: The run.
        num_records: Of its data, for a run that is given in epochs.

    Returns:
        The estimate; operations are within 15 % of those that are necessary.

    Raises:
        UsageError: If the run trains another system than VALOR.
    """
    model, processing = _on_paper(config)
    adapt(model, config.adapt)
    dtype = training_dtype(config.precision)
    batch = _one_sample(processing)
    flop, kept = 0.0, 0.0
    outputs = {}
    for modality in AUDIOVISUAL:
        encoder = getattr(model, modality.label)
        with _saved() as saved, FlopCounterMode(display=False) as counter:
            outputs |= model.encode_media(_only(batch, modality))
        flop += counter.get_total_flops() * (3 if _is_trained(encoder) else 1)
        kept += sum(saved)
    with _saved() as saved, FlopCounterMode(display=False) as counter:
        model.embed_media(outputs)
        tokens = model.remember(outputs).tokens.values()
    heads, num_media = counter.get_total_flops(), sum(t.valid.shape[1] for t in tokens)
    length, weights = processing.max_text_length, [part.weight for part in config.mixture] or [1.0]
    by_part = [_text_flop(model, length, num_media, own) for own in config.objectives_by_part]
    texts = sum(w * x for w, x in zip(weights, by_part, strict=True)) / sum(weights)
    kept = (kept + sum(saved)) * (1 + texts / max(1.0, flop / 3 + heads))
    step_flop = config.batch_size * (flop + 3 * (heads + texts))
    num_steps = config.steps_on(num_records)
    device, rate = matrix_rate(dtype)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    width = dtype.itemsize
    return Estimate(
        parameters=parameters,
        trained=trained,
        step_flop=step_flop,
        memory_bytes=parameters * width
        + trained * _BESIDE[dtype]
        + config.batch_size * kept * width,
        num_steps=num_steps,
        device=device,
        matrix_rate=rate,
        hours=num_steps * step_flop / (rate * _EFFICIENCY) / 3600,
    )


def _on_paper(config: TrainConfig) -> tuple[Valor, ProcessorConfig]:
    """The model that would be trained, without memory for its weights."""
    start, processing = config.model, config.processor
    if isinstance(start, FolderConfig):
        start, _ = load_configs(Path(start.path))
    with torch.device("meta"):
        if isinstance(start, TowersConfig):
            return start.make(processing, start.model.vocab_size, weights=False)
        if isinstance(start, ValorConfig):
            return Valor(start), processing
    raise UsageError(f"--estimate counts models of VALOR, not of kind {start.kind!r}")


def _one_sample(processing: ProcessorConfig) -> Batch:
    """Inputs without content, but with true masks."""
    frames, sound = processing.frames, processing.spectrogram
    num = frames.num_bursts * frames.frames_per_burst
    pixels = torch.empty(1, num, 3, frames.image_px, frames.image_px, device="meta")
    windows = (sound.num_windows, sound.num_mels, sound.hops_per_window)
    return Batch(
        ids=["sample"],
        pixels=pixels,
        frame_valid=torch.ones(1, num, dtype=torch.bool),
        spectrograms=torch.empty(1, *windows, device="meta"),
        window_valid=torch.ones(1, sound.num_windows, dtype=torch.bool),
    )


def _only(batch: Batch, modality: Modality) -> Batch:
    seen = modality is Modality.VISION
    return Batch(
        ids=batch.ids,
        pixels=batch.pixels if seen else None,
        frame_valid=batch.frame_valid if seen else None,
        spectrograms=None if seen else batch.spectrograms,
        window_valid=None if seen else batch.window_valid,
    )


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


@contextmanager
def _saved() -> Iterator[list[int]]:
    """Sizes of the tensors that a backward pass would need, but for weights, each once."""
    sizes: list[int] = []
    known: dict[int, Tensor] = {}

    def pack(x: Shaped[Tensor, "*sizes"]) -> Shaped[Tensor, "*sizes"]:
        if id(x) not in known and not isinstance(x, nn.Parameter):
            known[id(x)] = x
            sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes


def _text_flop(model: Valor, length: int, num_media: int, objectives: ObjectivesConfig) -> float:
    """Forward operations of all texts of a sample, two for each weight and token."""
    body = model.decoder.text
    own, cross = _layer_weights(body)
    encoded = sum(p.numel() for p in model.text.parameters()) if model.text else own
    config = body.config
    seen = 4 * config.num_layers * config.dim * num_media  # Scores and sums of cross-attention.
    words = config.dim * (config.vocab_size + config.dim)
    read, total = own + cross, 0.0
    if objectives.alignment:
        total += 2 * encoded * length * len(objectives.alignment.groups)
    for objective in (objectives.captioning, objectives.masked_language):
        if objective:
            share = objective.mask_fraction or 1.0
            passes = 2 if objective.mask_fraction is None else 1
            tokens = length * len(objective.groups)
            total += tokens * (passes * (2 * read + seen) + share * 2 * words)
    if objectives.answering:
        total += 2 * length * 2 * (2 * read + seen) + 2 * length * 2 * words
    if objectives.matching:
        total += 3 * len(objectives.matching.groups) * length * (2 * read + seen)
    if objectives.self_critical:
        own = objectives.self_critical
        texts, word = own.num_samples * len(own.groups), 2 * (2 * read + seen) + 2 * words
        written = texts + len(own.groups) * (own.baseline == "greedy")
        total += length * word * (texts + written / 3)  # Written without gradients.
    return total


def _layer_weights(body: TextTransformer) -> tuple[int, int]:
    """Weights that each token meets in all layers: of the text itself, and to look at media."""
    named = [(name, p.numel()) for name, p in body.layers.named_parameters() if p.dim() > 1]
    cross = sum(n for name, n in named if ".cross." in name and "key_value" not in name)
    return sum(n for name, n in named if ".cross." not in name), cross


def matrix_rate(dtype: torch.dtype, *, side: int = 1024) -> tuple[str, float]:
    """The device's name, and the operations per second of its best matrix product of five."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8 * side if device == "cuda" else side
    a: Any = torch.randn(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return name, 2 * side**3 / best
