"""AdamW with warm-up, gradient clipping and float32 master weights for a bfloat16 model."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from valor.config import configclass


@configclass
class OptimConfig:
    """Optimizer and schedule; defaults are the paper's."""

    learning_rate: float = 1e-4
    beta_first: float = 0.9
    beta_second: float = 0.98
    weight_decay: float = 0.01
    """Not applied to biases, norms, embeddings of positions and other vectors."""
    warmup_fraction: float = 0.1
    """Part of the run over which the rate rises; after it the rate falls linearly to zero."""
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if self.learning_rate <= 0 or not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"learning_rate={self.learning_rate} must be above 0 and "
                f"warmup_fraction={self.warmup_fraction} in [0, 1)"
            )


class Optimizer:
    """AdamW over float32 copies of the model's parameters.

    A bfloat16 weight cannot take the small steps of training, so the optimizer works on float32
    masters and rounds them into the model after each step. A float32 model is its own master.

    Args:
        model: Its parameters are trained, but for those that need no gradient.
        config: Rates and bounds.
        num_steps: Length of the run, for the schedule.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, num_steps: int) -> None:
        self.config, self.num_steps = config, num_steps
        self.model = model
        self.masters = {
            name: p if p.dtype == torch.float32 else p.detach().float()
            for name, p in model.named_parameters()
            if p.requires_grad
        }
        decayed = [p for p in self.masters.values() if p.dim() > 1]
        others = [p for p in self.masters.values() if p.dim() <= 1]
        self.adamw = torch.optim.AdamW(
            [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(config.beta_first, config.beta_second),
            weight_decay=config.weight_decay,
            fused=True,
        )

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What the model keeps beside its parameters, such as batch norms' running means."""
        kept = self.model.state_dict()
        return {name: x for name, x in self.model.named_buffers() if name in kept}

    @property
    def weights(self) -> dict[str, Tensor]:
        """Everything that a model folder holds, in float32."""
        return {**self.masters, **{name: x.float() for name, x in self.statistics.items()}}

    def learning_rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        warmup = max(1, round(self.config.warmup_fraction * self.num_steps))
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        return self.config.learning_rate * (self.num_steps - step) / (self.num_steps - warmup + 1)

    def step(self, step: int) -> float:
        """Apply the gradients and clear them.

        Args:
            step: Counted from 0; decides the learning rate.

        Returns:
            The gradient's norm before clipping; a step whose norm is not finite changes nothing.
        """
        for master, parameter in self._pairs():
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
        norm = float(nn.utils.clip_grad_norm_(self.masters.values(), self.config.clip_norm))
        if norm < float("inf"):
            for group in self.adamw.param_groups:
                group["lr"] = self.learning_rate(step)
            self.adamw.step()
            self.publish()
        self.adamw.zero_grad()
        return norm

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for master, parameter in self._pairs():
            if master is not parameter:
                parameter.copy_(master)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name, parameter in self.model.named_parameters():
            if name in self.masters:
                yield self.masters[name], parameter
