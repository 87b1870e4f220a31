"""Train a part of a model: leave some weights as they are, adapt others by low-rank updates.

LoRA (arXiv 2106.09685): a frozen linear map W becomes W + s B A with a narrow A and a B that starts
at zero, so that the model is unchanged at first. What is saved is the sum: a model folder knows
nothing of this.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from valor.config import configclass
from valor.errors import ConfigError


@configclass
class AdaptConfig:
    """What of a model is trained; everything that can be, by default."""

    frozen: tuple[str, ...] = ()
    """Beginnings of the names of weights that stay as they are, such as `vision.`."""
    lora_rank: int = 0
    """Width of the low-rank updates; 0 for none."""
    lora_scale: float = 2.0
    """Factor of the low-rank updates."""
    lora_layers: tuple[str, ...] = ("q_proj", "v_proj")
    """Last parts of the names of the linear layers that are adapted, frozen or not."""


class LowRank(nn.Module):
    """A frozen linear layer with a trained update.

    Args:
        base: The layer.
        rank: Width of the update.
        scale: Factor on it.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.scale = scale
        like = base.weight
        self.down = nn.Parameter(like.new_empty(rank, base.in_features).normal_(std=rank**-0.5))
        self.up = nn.Parameter(like.new_zeros(base.out_features, rank))

    def forward(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """Apply the layer and its update."""
        return self.base(x) + self.scale * (x @ self.down.T @ self.up.T)


def adapt(model: nn.Module, config: AdaptConfig) -> None:
    """Freeze weights and put low-rank updates in their places.

    Args:
        model: Changed in place.
        config: What is trained.

    Raises:
        ConfigError: If a name fits nothing, or nothing is left to train.
    """
    for beginning in config.frozen:
        fitting = [p for name, p in model.named_parameters() if name.startswith(beginning)]
        if not fitting:
            raise ConfigError(f"adapt.frozen: no weight's name begins with {beginning!r}")
        for parameter in fitting:
            parameter.requires_grad = False
    if config.lora_rank:
        chosen = [
            (name, module)
            for name, module in model.named_modules()
            if name.rpartition(".")[2] in config.lora_layers and isinstance(module, nn.Linear)
        ]
        if not chosen:
            raise ConfigError(f"adapt.lora_layers: no linear layer is named {config.lora_layers}")
        for name, module in chosen:
            parent, _, last = name.rpartition(".")
            adapted = LowRank(module, config.lora_rank, config.lora_scale)
            setattr(model.get_submodule(parent), last, adapted)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("adapt: nothing is left to train")


def merged(model: nn.Module, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights under the names that they have without updates.

    Args:
        model: As `adapt` left it.
        masters: Exact values, of which the model may hold rounded ones.

    Returns:
        Every parameter, updates added to what they update.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()} | dict(masters)
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            up, down = weights.pop(f"{name}.up"), weights.pop(f"{name}.down")
            base = weights.pop(f"{name}.base.weight")
            weights[f"{name}.weight"] = base + module.scale * (up @ down).to(base.dtype)
            if module.base.bias is not None:
                weights[f"{name}.bias"] = weights.pop(f"{name}.base.bias")
    return {name: weight.detach() for name, weight in weights.items()}
