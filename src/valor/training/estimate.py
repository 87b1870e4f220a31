"""What a run will take, before anything of it runs: parameters, operations, memory, hours.

Encoders and the decoder's memory run on PyTorch's meta device, which computes shapes only, and
their operations are counted; those of texts follow from the sizes of the matrices. The rate of the
device is measured. Towers of the hub give their sizes, not their weights.
"""

import math
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from valor.checkpoints.folder import load_configs
from valor.encoders.text import TextTransformer
from valor.errors import UsageError
from valor.models.bridge import BridgeConfig
from valor.models.language_model import LanguageDecoder
from valor.models.valor import Valor, ValorConfig
from valor.processing.processor import ProcessorConfig
from valor.training.adapt import adapt
from valor.training.parallel import layers_of
from valor.training.run import TrainConfig, training_dtype
from valor.training.start import FolderConfig, TowersConfig
from valor.training.step import ObjectivesConfig
from valor.training.token_cache import is_frozen
from valor.types import AUDIOVISUAL, Batch, EncoderOutput, Modality, Tokens

_EFFICIENCY = 0.5
"""Share of a matrix product's rate that training is expected to reach."""
_BESIDE = {torch.float32: 12, torch.bfloat16: 18}
"""Bytes of gradient, master copy and moments beside a trained weight."""
_KEPT = 0.75
"""Numbers that a transformer keeps for the backward pass, for each forward operation and width: 18
times its width for a token and layer, of 24 times the width squared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of a whole run."""

    parameters: int
    trained: int
    """Parameters that get a gradient."""
    step_flop: float
    """Operations of one step of all processes, forward and backward; those that are repeated to
    save memory are counted again."""
    fill_flop: float
    """Operations of frozen towers on all records, once, if their tokens are kept."""
    memory_bytes: float
    """Of each process: weights, optimizer and what the backward pass keeps."""
    num_processes: int
    """That `torchrun` has started."""
    num_steps: int
    device: str
    matrix_rate: float
    """Operations per second of a matrix product there, measured."""
    hours: float
    """At half that rate on every device, reading of media not included."""


def estimate(config: TrainConfig, num_records: int) -> Estimate:
    """Count what a run will take; every sample is taken to have all modalities and full texts.

    Args:
        config: The run.
        num_records: Of its data, for a run that is given in epochs or keeps tokens.

    Returns:
        The estimate; operations are within 15 % of those that are necessary.

    Raises:
        UsageError: If the run trains a system that is none of this package.
    """
    model, processing = _on_paper(config)
    adapt(model, config.adapt)
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    rows = math.ceil(config.batch_size / num_processes)
    at_once = min(rows, config.compute.micro_batch or rows)
    sample = _sample_cost(model, processing, config, repeats=at_once < rows)
    dtype = training_dtype(config.precision)
    return _estimated(
        model,
        step_flop=config.batch_size * sample.flop,
        fill_flop=num_records * sample.kept_flop,
        memory_bytes=_weights_bytes(model, config, num_processes)
        + at_once * sample.activations * dtype.itemsize,
        num_processes=num_processes,
        num_steps=config.steps_on(num_records),
        dtype=dtype,
    )


def estimate_of(
    model: nn.Module, example: Shaped[Tensor, "1 *sizes"], *, batch_size: int, num_steps: int
) -> Estimate:
    """Count what a float32 run of another system takes, in one process.

    Args:
        model: On the meta device; all of it is trained.
        example: Its input of one sample, there too.
        batch_size: Samples of a step.
        num_steps: Of the run.

    Returns:
        The estimate.
    """
    dtype, saved = torch.float32, _Saved(model)
    with saved, FlopCounterMode(display=False) as counter:
        model(example)
    weights = sum(p.numel() for p in model.parameters())
    return _estimated(
        model,
        step_flop=3 * batch_size * counter.get_total_flops(),
        memory_bytes=weights * (dtype.itemsize + _BESIDE[dtype])
        + batch_size * saved.total() * dtype.itemsize,
        num_steps=num_steps,
        dtype=dtype,
    )


def _estimated(
    model: nn.Module,
    *,
    step_flop: float,
    memory_bytes: float,
    num_steps: int,
    dtype: torch.dtype,
    fill_flop: float = 0.0,
    num_processes: int = 1,
) -> Estimate:
    """The same with what the device needs for it."""
    device, rate = matrix_rate(dtype)
    busy_s = fill_flop / rate + num_steps * step_flop / (rate * _num_devices(num_processes))
    return Estimate(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        step_flop=step_flop,
        fill_flop=fill_flop,
        memory_bytes=memory_bytes,
        num_processes=num_processes,
        num_steps=num_steps,
        device=device,
        matrix_rate=rate,
        hours=busy_s / _EFFICIENCY / 3600,
    )


@dataclass(slots=True)
class _Cost:
    """Of one sample."""

    flop: float = 0.0
    """At every step."""
    kept_flop: float = 0.0
    """Only once."""
    activations: float = 0.0
    """Numbers that the backward pass needs."""


def _sample_cost(
    model: Any, processing: ProcessorConfig, config: TrainConfig, *, repeats: bool
) -> _Cost:
    """Count operations and activations; `repeats` runs everything forward once more."""
    cost, outputs = _Cost(), {}
    batch, saved = _one_sample(processing), _Saved(model)
    for modality in AUDIOVISUAL:
        encoder = getattr(model, modality.label)
        with saved, FlopCounterMode(display=False) as counter:
            output = model.encode_media(_only(batch, modality))[modality]
        flop, learns = float(counter.get_total_flops()), not is_frozen(model, modality)
        is_kept = config.cache_frozen and not learns
        outputs[modality] = _whole(output, config.cache_pool if is_kept else 1)
        if is_kept:
            cost.kept_flop += flop
            continue
        again = repeats + (config.compute.recompute_layers and learns)
        cost.flop += flop * (1 + again + learns * (1 + _trained_share(encoder)))
    with saved, FlopCounterMode(display=False) as counter:
        if isinstance(model, Valor):
            model.embed_media(outputs)
        describes = any(own.describes for own in config.objectives_by_part)
        seen = model.remember(outputs).tokens if describes else {}
    heads = counter.get_total_flops()
    num_media = sum(tokens.valid.shape[1] for tokens in seen.values())
    length = processing.max_text_length
    if isinstance(model, Valor):
        width = model.config.decoder_config.dim
        count = partial(_text_flop, model, length, num_media)
    else:
        width = model.config.language_model.dim
        count = partial(_prompted_flop, model.decoder, length, num_media, width)
    weights = [part.weight for part in config.mixture] or [1.0]
    by_part = zip(weights, map(count, config.objectives_by_part), strict=True)
    texts = sum(weight * flop for weight, flop in by_part) / sum(weights)
    again = repeats + config.compute.recompute_layers
    cost.flop += heads * (3 + repeats) + texts * (2 + again + _trained_share(model.decoder))
    cost.activations = saved.total(recomputes=config.compute.recompute_layers)
    cost.activations += _KEPT * texts / width
    return cost


def _trained_share(module: nn.Module) -> float:
    """Of a part's weights, those that need a gradient: so much of the second half of its way back.

    The first half, gradients of what it was given, is needed whatever its weights do.
    """
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(size for size, learns in sizes if learns) / max(1, sum(size for size, _ in sizes))


def _weights_bytes(model: nn.Module, config: TrainConfig, num_processes: int) -> float:
    """Weights, gradients and moments that one process holds, and what looks at held-out records."""
    dtype = training_dtype(config.precision)
    beside = _BESIDE[dtype] + (4 if config.optim.average else 0)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    own = sum(size * (dtype.itemsize + learns * beside) for size, learns in sizes)
    parameters = sum(size for size, _ in sizes)
    if config.compute.parallel == "fsdp" and num_processes > 1:
        layers = [sum(p.numel() for p in layer.parameters()) for layer in _inner_layers(model)]
        whole = parameters - sum(layers) + max(layers, default=0)  # Gathered while it is needed.
        own = own / num_processes + whole * dtype.itemsize
    return own + (4 * parameters if config.probe.every else 0)


def _num_devices(num_processes: int) -> int:
    """How many compute at the same time; the processes of one machine share a CPU."""
    on_each = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 1
    return max(1, num_processes // on_each) * min(on_each, gpus)


def _on_paper(config: TrainConfig) -> tuple[Any, ProcessorConfig]:
    """The model that would be trained, without memory for its weights."""
    start, processing = config.model, config.processor
    if isinstance(start, FolderConfig):
        start, _ = load_configs(Path(start.path), trust_code=start.trust_code)
    with torch.device("meta"):
        if isinstance(start, TowersConfig):
            return start.make(processing, start.model.vocab_size, weights=False)
        if isinstance(start, ValorConfig | BridgeConfig):
            return start.build(), processing
    raise UsageError(f"--estimate counts models of kind valor and bridge, not {start.kind!r}")


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
    """The same without the media of other modalities."""
    seen = modality is Modality.VISION
    return Batch(
        ids=batch.ids,
        pixels=batch.pixels if seen else None,
        frame_valid=batch.frame_valid if seen else None,
        spectrograms=None if seen else batch.spectrograms,
        window_valid=None if seen else batch.window_valid,
    )


def _whole(output: EncoderOutput, pool: int) -> EncoderOutput:
    """The same with masks that can be read, so many tokens of a position as one."""
    tokens, summary = output.tokens.features, output.summary.features
    positions = summary.shape[1]
    num = positions * math.ceil(tokens.shape[1] / positions / pool)
    return EncoderOutput(
        tokens=Tokens(features=tokens[:, :num], valid=torch.ones(1, num, dtype=torch.bool)),
        summary=Tokens(features=summary, valid=torch.ones(1, positions, dtype=torch.bool)),
    )


def _inner_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that hold no others."""
    layers = layers_of(model)
    return [one for one in layers if not set(layers) & {*one.modules()} - {one}]


class _Saved:
    """Counts numbers that a backward pass would need of what runs inside, each once, no weights."""

    def __init__(self, model: nn.Module) -> None:
        self._sizes: list[int] = []
        self._known = {_memory(p): p.data for p in model.parameters()}
        self._layers: list[tuple[int, int]] = []
        """What each layer was given, and what was kept inside of it."""
        self._begun = 0
        self._hooks: Any = None
        for layer in _inner_layers(model):
            layer.register_forward_pre_hook(self._begin)
            layer.register_forward_hook(self._end, with_kwargs=True)

    def total(self, *, recomputes: bool = False) -> float:
        """How many numbers; if layers are computed again, only one of them is whole at a time."""
        if not recomputes:
            return sum(self._sizes)
        inside = [kept for _, kept in self._layers]
        given = sum(size for size, kept in self._layers if kept)
        return sum(self._sizes) - sum(inside) + given + max(inside, default=0)

    def __enter__(self) -> None:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, x: Shaped[Tensor, "*sizes"]) -> Shaped[Tensor, "*sizes"]:
        if _memory(x) not in self._known:
            self._known[_memory(x)] = x
            self._sizes.append(x.untyped_storage().nbytes() // x.itemsize)
        return x

    def _begin(self, layer: nn.Module, given: Any) -> None:
        self._begun = len(self._sizes)

    def _end(self, layer: nn.Module, given: Any, named: dict[str, Any], output: Any) -> None:
        tensors = [x.numel() for x in (*given, *named.values()) if isinstance(x, Tensor)]
        self._layers.append((max(tensors, default=0), sum(self._sizes[self._begun :])))


def _memory(x: Shaped[Tensor, "*sizes"]) -> int:
    """What a tensor has in common with others that look at the same numbers."""
    return x.untyped_storage()._cdata


def _prompted_flop(
    decoder: LanguageDecoder,
    length: int,
    num_media: int,
    width: int,
    objectives: ObjectivesConfig,
) -> float:
    """Forward operations of a language model that reads media between words, for all texts."""

    def read(num_asked: int) -> float:
        prompt = sum(len(part.words) for part in decoder.prompt) + num_media
        x = torch.empty(1, prompt + num_asked + length, width, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            decoder.tower(inputs_embeds=x, **decoder.known(logits_to_keep=length))
        return counter.get_total_flops()

    total = 0.0
    if objectives.captioning:
        total += len(objectives.captioning.groups) * read(len(decoder.caption))
    if objectives.answering:
        total += 2 * read(length)
    return total


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
