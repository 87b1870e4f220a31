"""Attention and feed-forward layers shared by all encoders and the decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(slots=True)
class KeyValue:
    """Projected keys and values of one attention layer, split into heads."""

    key: Float[Tensor, "batch heads tokens head_dim"]
    value: Float[Tensor, "batch heads tokens head_dim"]

    def __iter__(self) -> Iterator[Tensor]:
        """Keys, then values."""
        return iter((self.key, self.value))

    def cut(self, tokens: slice) -> "KeyValue":
        """Keep some tokens only; nothing is copied."""
        return KeyValue(self.key[:, :, tokens], self.value[:, :, tokens])

    def write(self, new: "KeyValue", start: int) -> "KeyValue":
        """Put new tokens at `start`; returns everything up to their end."""
        stop = start + new.key.shape[2]
        for mine, theirs in zip(self, new, strict=True):
            mine[:, :, start:stop] = theirs
        return self.cut(slice(stop))


def linear(
    x: Float[Tensor, "*rows dim"],
    weight: Float[Tensor, "out dim"],
    bias: Float[Tensor, " out"] | None,
    *,
    gelu: bool = False,
) -> Float[Tensor, "*rows out"]:
    """Multiply by a matrix, and apply GELU if asked to, by whichever kernel is fastest here."""
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32:
        # torch's default product on x86 reaches a third to 95 % of oneDNN's rate, the less the
        # fewer rows there are (`benchmarks/bench_generate.py`, `benchmarks/bench_step.py`).
        if not torch.is_grad_enabled():
            return _one_dnn(x, weight, bias, gelu=gelu)
        if not torch.compiler.is_compiling() and x.numel():
            product = _Product.apply(x, weight, bias)
            return F.gelu(product) if gelu else product
    product = F.linear(x, weight, bias)
    return F.gelu(product) if gelu else product


def _one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    after = ("gelu", [], "none") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)


class _Product(torch.autograd.Function):
    """oneDNN's product with the gradient that it lacks, by oneDNN too."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*rows dim"],
        weight: Float[Tensor, "out dim"],
        bias: Float[Tensor, " out"] | None,
    ) -> Float[Tensor, "*rows out"]:
        ctx.save_for_backward(x, weight)
        return _one_dnn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore
        ctx: Any, gradient: Float[Tensor, "*rows out"]
    ) -> tuple[
        Float[Tensor, "*rows dim"] | None,
        Float[Tensor, "out dim"] | None,
        Float[Tensor, " out"] | None,
    ]:
        x, weight = ctx.saved_tensors
        by_row, needed = gradient.reshape(-1, gradient.shape[-1]), ctx.needs_input_grad
        return (
            _one_dnn(gradient, weight.t(), None) if needed[0] else None,
            _one_dnn(by_row.t(), x.reshape(-1, x.shape[-1]).t(), None) if needed[1] else None,
            by_row.sum(dim=0) if needed[2] else None,
        )


def packed(weight: Float[Tensor, "out dim"]) -> Float[Tensor, "out dim"]:
    """A float32 matrix in the layout that the CPU reads fastest; for `linear` without gradients."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


class Linear(nn.Linear):
    """The usual linear layer, by the fastest kernel."""

    def forward(self, input: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """Multiply by the weight and add the bias."""
        return linear(input, self.weight, self.bias)

    def pack(self) -> None:
        """Lay the weight out as the CPU reads it; for inference only, and there is no way back."""
        self.weight = nn.Parameter(packed(self.weight), requires_grad=False)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """A packed weight is saved as any other."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight.is_mkldnn:
            destination[f"{prefix}weight"] = self.weight.to_dense()


_FUSED_FROM = 64
"""Tokens from which on the fused kernel pays in float32 training on a CPU."""


def attend(
    query: Float[Tensor, "batch heads length head_dim"],
    source: KeyValue,
    allowed: Bool[Tensor, "#batch 1 #length tokens"] | None,
) -> Float[Tensor, "batch heads length head_dim"]:
    """Scaled dot-product attention, by whichever kernel is fastest here."""
    short = source.key.shape[2] < _FUSED_FROM and torch.is_grad_enabled()
    if query.device.type == "cpu" and (query.dtype == torch.bfloat16 or short):
        # torch 2.13's fused kernel and its gradient take 1.1 to 8 times as long as plain products
        # in these cases (`benchmarks/bench_attention.py`).
        scores = (query * query.shape[-1] ** -0.5) @ source.key.transpose(-1, -2)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -1e9)
        return scores.softmax(dim=-1) @ source.value
    return F.scaled_dot_product_attention(query, source.key, source.value, attn_mask=allowed)


def check_heads(dim: int, num_heads: int) -> None:
    """Raise a `ValueError` unless the heads share the width evenly."""
    if num_heads < 1 or dim < 1 or dim % num_heads:
        raise ValueError(f"dim={dim} cannot be shared evenly by num_heads={num_heads}")


class Attention(nn.Module):
    """Multi-head attention with separable key-value projection, for self- and cross-attention.

    Args:
        dim: Width of the queries and of the output.
        num_heads: Number of heads; divides `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim)
        self.output = Linear(dim, dim)

    def project(self, source: Float[Tensor, "batch tokens dim"]) -> KeyValue:
        """Project the attended tokens; done once however many queries follow."""
        both = self.key_value(source).view(*source.shape[:2], 2, self.num_heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4)
        return KeyValue(key, value)

    def forward(
        self,
        queries: Float[Tensor, "batch length dim"],
        source: KeyValue,
        *,
        allowed: Bool[Tensor, "#batch 1 #length tokens"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Attend; `allowed` is True where a query may see a token, None for everywhere."""
        attended = attend(self._split(self.query(queries)), source, allowed)
        return self.output(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


Activation = Literal["gelu", "quick_gelu"]
"""`quick_gelu` is CLIP's approximation, x * sigmoid(1.702 x)."""


class QuickGelu(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
        """Apply it to every element."""
        return x * (1.702 * x).sigmoid()


class FeedForward(nn.Sequential):
    """Two linear layers with a non-linearity between them.

    Args:
        dim: Width in and out.
        hidden_dim: Width between the layers.
        activation: The non-linearity.
    """

    def __init__(self, dim: int, hidden_dim: int, activation: Activation = "gelu") -> None:
        between = nn.GELU() if activation == "gelu" else QuickGelu()
        super().__init__(Linear(dim, hidden_dim), between, Linear(hidden_dim, dim))

    def forward(self, input: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Widen, bend and narrow."""
        first, between, second = self
        if isinstance(first, Linear) and isinstance(between, nn.GELU):
            return second(linear(input, first.weight, first.bias, gelu=True))
        return second(between(first(input)))


class PreNormBlock(nn.Module):
    """Transformer block of ViT and AST: normalisation before each sub-layer.

    Args:
        dim: Width of the tokens.
        num_heads: Number of attention heads.
        mlp_dim: Width inside the feed-forward layer.
        norm_eps: Added to variances.
        activation: Of the feed-forward layer.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        norm_eps: float = 1e-5,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = Attention(dim, num_heads)
        self.mlp_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim, mlp_dim, activation)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        allowed: Bool[Tensor, "#batch 1 #tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Mix the tokens of each row."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, self.attention.project(normed), allowed=allowed)
        return x + self.mlp(self.mlp_norm(x))
