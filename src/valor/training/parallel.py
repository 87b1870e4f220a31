"""Steps that processes share, as `torchrun` starts them; one process alone shares nothing.

Each rank reads its own rows of a step. Batches are padded to the same shapes, so that all ranks run
the same modules whatever their rows lack; embeddings are gathered with their gradients, so that a
contrast sees the rows of all; a mean over a rank's rows is scaled, so that the mean over ranks is
that over all rows. Loss and gradients are then those of one process with the joined batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from valor.data.collate import Place, batch_of, tensors_of
from valor.encoders.text import BertLayer
from valor.errors import TrainingError
from valor.objectives.base import LossTerm
from valor.processes import device, gather, num_ranks, rank
from valor.types import Batch, Embeddings

Parallel = Literal["none", "ddp", "fsdp"]


def in_parallel(module: nn.Module, how: Parallel, layers: Sequence[nn.Module] = ()) -> nn.Module:
    """Let all ranks train a module together.

    Args:
        module: Its `forward` computes everything that gradients come from.
        how: Every rank holds all weights (`ddp`) or a part of each (`fsdp`); with `none` they
            share nothing.
        layers: With `fsdp`, parts whose weights are whole only while they run, inner ones first;
            all ranks run them equally often. All other weights are whole for the entire step.

    Returns:
        The module to call; the parameters of the one that was given are trained.
    """
    if num_ranks() == 1 or how == "none":
        return module
    if how == "ddp":
        return DistributedDataParallel(module, find_unused_parameters=True)
    mesh = init_device_mesh(device().type, (num_ranks(),))
    scalars = {p for p in module.parameters() if p.dim() == 0}  # Which cannot be cut.
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_average)
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=scalars)
        if isinstance(layer, BertLayer):
            register_fsdp_forward_method(layer, "project_media")
    fully_shard(module, mesh=mesh, ignored_params=scalars)
    return module


def come_to_rest(module: nn.Module) -> None:
    """Let go of what ranks gathered for a forward pass that no backward pass follows."""
    if isinstance(module, FSDPModule):
        module.reshard()


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of all encoders, decoders and language models, inner ones before their holders."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return [layer for layers in reversed(lists) for layer in layers]


def _average(parameter: Tensor) -> None:
    if parameter.grad is not None:
        distributed.all_reduce(parameter.grad)
        parameter.grad /= num_ranks()


def is_cut(tensor: Shaped[Tensor, "*sizes"]) -> bool:
    """Whether each rank holds a part of it."""
    return isinstance(tensor, DTensor)


def local(tensor: Shaped[Tensor, "*whole"]) -> Shaped[Tensor, "*part"]:
    """The part of a tensor that this rank holds, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(
    whole: Shaped[Tensor, "*whole"], part: Shaped[Tensor, "*part"]
) -> Shaped[Tensor, "*whole"]:
    """What this rank holds, as a part of something that is cut like `whole`."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride()
    )


def own_part(
    whole: Shaped[Tensor, "*whole"], like: Shaped[Tensor, "*whole"]
) -> Shaped[Tensor, "*part"]:
    """What this rank holds of a whole that every rank has, if it is cut like `like`; there."""
    if not isinstance(like, DTensor):
        return whole.to(like.device)
    mesh, cuts = like.device_mesh, like.placements
    return local(distribute_tensor(whole.to(like.device), mesh, cuts, src_data_rank=None)).clone()


def complete(tensor: Shaped[Tensor, "*sizes"]) -> Shaped[Tensor, "*sizes"]:
    """All of a tensor, on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def levelled(batch: Batch) -> Batch:
    """Pad a rank's batch to the shapes that any rank needs; what it lacks is invalid there."""
    if num_ranks() == 1:
        return batch
    tensors = tensors_of(batch)
    wanted: dict[Place, tuple[torch.dtype, tuple[int, ...]]] = {}
    for shapes in gather({place: (x.dtype, tuple(x.shape)) for place, x in tensors.items()}):
        for place, (dtype, shape) in shapes.items():
            _, largest = wanted.get(place, (dtype, shape))
            wanted[place] = dtype, tuple(map(max, shape, largest))
    rows = max((shape[0] for _, shape in wanted.values()), default=0)
    own = tensors.values()
    where = next(iter(own)).device if own else device()
    padded: dict[Place, Tensor] = {}
    for place, (dtype, shape) in sorted(wanted.items(), key=lambda item: item[0]):
        found = tensors.get(place)
        if found is None:
            padded[place] = torch.zeros((rows, *shape[1:]), dtype=dtype, device=where)
        else:
            missing = zip((rows, *shape[1:]), found.shape, strict=True)
            room = [(0, size - there) for size, there in missing]
            padded[place] = F.pad(found, [width for pair in reversed(room) for width in pair])
    return batch_of(batch.ids, padded)


class _Gathered(torch.autograd.Function):
    """Rows of all ranks, whose gradients go back to where they came from."""

    @staticmethod
    def forward(ctx: Any, x: Shaped[Tensor, "rows *sizes"]) -> Shaped[Tensor, "all_rows *sizes"]:
        ctx.num_rows = len(x)
        parts = [torch.empty_like(x) for _ in range(num_ranks())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(  # pyright: ignore
        ctx: Any, gradient: Shaped[Tensor, "all_rows *sizes"]
    ) -> Shaped[Tensor, "rows *sizes"]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # It is not ours.
        distributed.all_reduce(gradient)
        return gradient[rank() * ctx.num_rows : (rank() + 1) * ctx.num_rows]


def gathered(x: Shaped[Tensor, "rows *sizes"]) -> Shaped[Tensor, "all_rows *sizes"]:
    """The rows of all ranks, of which each has as many, in their order."""
    if num_ranks() == 1:
        return x
    return _Gathered.apply(x) if x.dtype != torch.bool else _Gathered.apply(x.byte()).bool()


def gathered_embeddings(embeddings: Embeddings) -> Embeddings:
    """Those of the rows of all ranks."""
    return Embeddings(
        vectors=gathered(embeddings.vectors),
        weight_logits=gathered(embeddings.weight_logits),
        valid=gathered(embeddings.valid),
    )


def averaged(terms: dict[str, LossTerm]) -> dict[str, LossTerm]:
    """Scale means over a rank's rows so that their mean over ranks is that over all rows.

    Args:
        terms: Of this rank's rows.

    Returns:
        Those that any rank has a row for, with the rows of all.

    Raises:
        TrainingError: If an objective has no term at all on this rank.
    """
    everyone = gather({name: (term.num_rows, term.num_items) for name, term in terms.items()})
    for name in sorted({name for found in everyone for name in found} - terms.keys()):
        raise TrainingError(
            f"{name}: rank {rank()} has no such term and others have; return its "
            "terms also where no row counts"
        )
    scaled: dict[str, LossTerm] = {}
    for name, term in terms.items():
        rows, items = map(sum, zip(*(found[name] for found in everyone), strict=True))
        if items:
            scaled[name] = replace(
                term,
                value=term.value * (term.num_items * num_ranks() / items),
                num_rows=rows,
                num_words=None if term.num_words is None else items,
            )
    return scaled
