"""AdamW with warm-up, gradient clipping and float32 master weights for a bfloat16 model."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from valor.config import configclass
from valor.errors import ConfigError
from valor.processes import summed
from valor.training.parallel import complete, is_cut, local, own_part, part_of

_LAYER = re.compile(r"(?P<stack>.*?\b(?:blocks|layers|layer))\.(?P<index>\d+)\.")
_FIRST = re.compile(r"embedding|position|cls_token|pre_norm|prompt_mark")
"""What comes before a tower's first layer."""


@configclass
class OptimConfig:
    """Optimizer and schedule; defaults are the paper's."""

    learning_rate: float = 1e-4
    """Its highest value, at the end of the warm-up."""
    beta_first: float = 0.9
    """Share of the past in AdamW's mean of gradients."""
    beta_second: float = 0.98
    """Share of the past in AdamW's mean of squared gradients."""
    weight_decay: float = 0.01
    """Not applied to biases, norms, embeddings of positions and other vectors."""
    warmup_fraction: float = 0.1
    """Part of the run over which the rate rises; after it the rate falls linearly to zero."""
    clip_norm: float = 5.0
    """A gradient of a larger norm, over all weights, is scaled down to this."""
    rates: dict[str, float] = field(default_factory=dict[str, float])
    """Learning rates of the weights whose names begin so, such as `vision.`, in the place of
    `learning_rate`; the longest fitting beginning counts."""
    layer_decay: float = 1.0
    """The rate of a layer is this times that of the layer above it."""
    average: float = 0.0
    """Share of the past in a moving average of the weights, such as 0.999, which is what the model
    folder then holds; 0 for none. At step n, from 0, it is at most (1 + n) / (10 + n), so that a
    short run forgets the weights that it began with."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if self.learning_rate <= 0 or not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"learning_rate={self.learning_rate} must be above 0 and "
                f"warmup_fraction={self.warmup_fraction} in [0, 1)"
            )
        if not 0 < self.layer_decay <= 1 or not 0 <= self.average < 1:
            raise ValueError(
                f"layer_decay={self.layer_decay} must be in (0, 1] and average={self.average} "
                "in [0, 1)"
            )


class Optimizer:
    """AdamW over float32 copies of the model's parameters.

    A bfloat16 weight cannot take the small steps of training, so the optimizer works on float32
    masters and rounds them into the model after each step. A float32 model is its own master. Of a
    weight that ranks have cut, each of them has the master of its part.

    Args:
        model: Its parameters are trained, but for those that need no gradient.
        config: Rates and bounds.
        num_steps: Length of the run, for the schedule.
        exact: Parameters by name as they were before they were rounded, on any device; emptied, so
            that none is held for longer than it takes to copy it.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimConfig,
        num_steps: int,
        exact: dict[str, Tensor] | None = None,
    ) -> None:
        self.config, self.num_steps = config, num_steps
        self.model = model
        self.masters: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            known = (exact or {}).pop(name, None)
            if parameter.requires_grad:
                self.masters[name] = _master(parameter, known)
        self.averages = {n: p.detach().clone() for n, p in self.masters.items() if config.average}
        self.adamw = torch.optim.AdamW(
            self._groups(),
            lr=config.learning_rate,
            betas=(config.beta_first, config.beta_second),
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Weights by what they have in common: decay, and rate relative to the run's."""
        config = self.config
        depths = layer_depths(self.masters)
        groups: dict[tuple[bool, float], list[Tensor]] = defaultdict(list)
        for name, weight in self.masters.items():
            fitting = [beginning for beginning in config.rates if name.startswith(beginning)]
            rate = config.rates[max(fitting, key=len)] if fitting else config.learning_rate
            factor = rate / config.learning_rate * config.layer_decay ** depths[name]
            groups[weight.dim() > 1, factor].append(weight)
        for beginning in config.rates:
            if not any(name.startswith(beginning) for name in self.masters):
                raise ConfigError(
                    f"optim.rates: no trained weight's name begins with {beginning!r}"
                )
        return [
            {"params": weights, "factor": factor} | ({} if decays else {"weight_decay": 0.0})
            for (decays, factor), weights in groups.items()
        ]

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What the model keeps beside its parameters, such as batch norms' running means."""
        kept = self.model.state_dict()
        return {name: x for name, x in self.model.named_buffers() if name in kept}

    @property
    def weights(self) -> dict[str, Tensor]:
        """Everything that a model folder holds, in float32."""
        kept = self.as_parts(self.averages or self.masters)
        statistics = {name: x.float() for name, x in self.statistics.items()}
        return {**{name: complete(x) for name, x in kept.items()}, **statistics}

    def as_parts(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this rank has for its part of each weight, as parts of wholes."""
        wholes = dict(self.model.named_parameters())
        return {name: part_of(wholes[name], value) for name, value in values.items()}

    def learning_rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        warmup = max(1, round(self.config.warmup_fraction * self.num_steps))
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        return self.config.learning_rate * (self.num_steps - step) / (self.num_steps - warmup + 1)

    def step(self, step: int) -> dict[str, float]:
        """Apply the gradients and clear them.

        Args:
            step: Counted from 0; decides the learning rate.

        Returns:
            The gradient's norm before clipping, `grad_norm`, and that of each part of the model,
            such as `grad_norm/vision`; nothing if there is no gradient. Without one, or if its norm
            is not finite, the step changes nothing.
        """
        for master, parameter in self._pairs():
            if master is not parameter:
                gradient = parameter.grad
                master.grad = None if gradient is None else local(gradient).float()
                parameter.grad = None
        norms = self._norms()
        if not norms:
            return {}
        whole = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        if whole < float("inf"):
            factor = (self.config.clip_norm / (whole + 1e-6)).clamp(max=1.0)
            for master in self.masters.values():
                if master.grad is not None:
                    master.grad *= factor
            for group in self.adamw.param_groups:
                group["lr"] = self.learning_rate(step) * group["factor"]
            self.adamw.step()
            past = min(self.config.average, (1 + step) / (10 + step))
            for name, average in self.averages.items():
                average.lerp_(self.masters[name].detach(), 1 - past)
            self.publish()
        self.adamw.zero_grad()
        squares: dict[str, Tensor] = {}
        for name, norm in norms.items():
            part = f"grad_norm/{name.partition('.')[0]}"
            squares[part] = squares.get(part, 0) + norm.square()
        return {"grad_norm": whole.item(), **{n: x.sqrt().item() for n, x in squares.items()}}

    def _norms(self) -> dict[str, Tensor]:
        """Of each weight's gradient; for those that ranks have cut, all of them add up theirs."""
        wholes = dict(self.model.named_parameters())
        gradients = {
            n: master.grad for n, master in self.masters.items() if master.grad is not None
        }
        norms = {name: torch.linalg.vector_norm(x) for name, x in gradients.items()}
        cut = [name for name in norms if is_cut(wholes[name])]
        if cut:
            squares = torch.tensor(summed([float(norms[name]) ** 2 for name in cut]))
            norms |= zip(cut, squares.sqrt().to(norms[cut[0]].device), strict=True)
        return norms

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for master, parameter in self._pairs():
            if master is not parameter:
                local(parameter).copy_(master)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name, parameter in self.model.named_parameters():
            if name in self.masters:
                yield self.masters[name], parameter


def _master(parameter: Tensor, exact: Tensor | None) -> Tensor:
    """The float32 weight that the optimizer works on: the parameter itself where it can be."""
    if not is_cut(parameter) and parameter.dtype == torch.float32:
        return parameter
    found = local(parameter.detach()) if exact is None else own_part(exact.detach(), parameter)
    return found.float()


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """How many layers of its own tower stand above each weight; 0 for those outside of layers."""
    places = {name: _LAYER.match(name) for name in names}
    tops: dict[str, int] = defaultdict(int)
    for place in places.values():
        if place:
            tops[place["stack"]] = max(tops[place["stack"]], int(place["index"]))
    depths = dict.fromkeys(places, 0)
    for name, place in places.items():
        if place:
            depths[name] = tops[place["stack"]] - int(place["index"])
        elif _FIRST.search(name):
            towers = [stack for stack in tops if stack.split(".")[:1] == name.split(".")[:1]]
            depths[name] = max((tops[stack] + 1 for stack in towers), default=0)
    return depths
