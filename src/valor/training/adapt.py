"""Train a part of a model: leave some weights as they are, adapt others by low-rank updates.

LoRA (arXiv 2106.09685): a frozen linear map W becomes W + s B A with a narrow A and a B that starts
at zero, so that the model is unchanged at first. What is saved is the sum: a model folder knows
nothing of this.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from valor.checkpoints.folder import weights_of
from valor.config import configclass
from valor.encoders.towers import TransformersTower
from valor.errors import ConfigError

_TOWERS = ("vision.", "audio.", "text.", "decoder.")


@configclass
class AdaptConfig:
    """What is trained of each part of a model: all, low-rank updates, or nothing.

    Parts are given by the beginnings of the names of their weights, such as `vision.`.
    """

    frozen: tuple[str, ...] = ()
    """Parts that stay as they are, whatever else is said of them."""
    trained: tuple[str, ...] = ()
    """Parts that learn although their towers came frozen, as those of `from_siglip2_clap` do."""
    lora_rank: int = 0
    """Width of the low-rank updates; 0 for none."""
    lora: tuple[str, ...] = ()
    """Parts of which low-rank updates learn and nothing else, also of towers that came frozen; ()
    for all encoders and the decoder, less what is `frozen`. Parts beside these learn in full."""
    lora_scale: float = 2.0
    """Factor of the low-rank updates."""
    lora_layers: tuple[str, ...] = (
        *("query", "key_value", "query_key_value"),
        *("q_proj", "v_proj", "value", "Wqkv"),
    )
    """Last parts of the names of the linear layers that have updates: those of our encoders, and of
    the towers of the transformers library."""

    def __post_init__(self) -> None:
        """Reject updates without a width."""
        if self.lora_rank < 0 or (self.lora and not self.lora_rank):
            raise ValueError(f"lora_rank={self.lora_rank} must be at least 1 for low-rank updates")


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
    for beginning in config.trained:
        _fitting(model, beginning, "trained")
        for name, tower in model.named_modules():
            if isinstance(tower, TransformersTower):
                for own in tower.trainable:
                    if f"{name}.{own}".startswith(beginning):
                        tower.get_parameter(own).requires_grad = True
    if config.lora_rank:
        _put_updates(model, config)
    for beginning in config.frozen:
        for parameter in _fitting(model, beginning, "frozen"):
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("adapt: nothing is left to train")
    for module in list(model.modules()):
        _hold_still(module)


def _fitting(model: nn.Module, beginning: str, field: str) -> list[nn.Parameter]:
    found = [p for name, p in model.named_parameters() if name.startswith(beginning)]
    if not found:
        raise ConfigError(f"adapt.{field}: no weight's name begins with {beginning!r}")
    return found


def _put_updates(model: nn.Module, config: AdaptConfig) -> None:
    """Freeze the parts that learn by updates, and put these in the places of their layers."""
    chosen: dict[str, nn.Linear] = {}
    for beginning in config.lora or (_TOWERS,):
        found = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
            and f"{name}.".startswith(beginning)
            and not f"{name}.".startswith(config.frozen)
        }
        fitting = {n: m for n, m in found.items() if n.rpartition(".")[2] in config.lora_layers}
        if not fitting:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in found})) or "none"
            raise ConfigError(
                f"adapt.lora: no linear layer of {beginning!r} that is not frozen is one of "
                f"adapt.lora_layers, {', '.join(config.lora_layers)}; there is {there}"
            )
        chosen |= fitting
        for name, parameter in model.named_parameters():
            if name.startswith(beginning):
                parameter.requires_grad = False
    for name, module in chosen.items():
        parent, _, last = name.rpartition(".")
        adapted = LowRank(module, config.lora_rank, config.lora_scale)
        setattr(model.get_submodule(parent), last, adapted)


def _hold_still(module: nn.Module) -> None:
    """Keep a module whose weights all stay as they are in evaluation mode, whatever is asked for.

    Its dropout would change what it gives, and its statistics would go on.
    """
    weights = list(module.parameters())
    if weights and not any(parameter.requires_grad for parameter in weights):
        module.train = lambda mode=True: nn.Module.train(module, mode=False)
        module.eval()


def merged(model: nn.Module, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights under the names that they have without updates.

    Args:
        model: As `adapt` left it.
        masters: Exact values, of which the model may hold rounded ones.

    Returns:
        Everything that a folder holds, updates added to what they update.
    """
    weights = weights_of(model) | dict(masters)
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            up, down = weights.pop(f"{name}.up"), weights.pop(f"{name}.down")
            base = weights.pop(f"{name}.base.weight")
            weights[f"{name}.weight"] = base + module.scale * (up @ down).to(base)
            if module.base.bias is not None:
                weights[f"{name}.bias"] = weights.pop(f"{name}.base.bias")
    return {name: weight.detach() for name, weight in weights.items()}
