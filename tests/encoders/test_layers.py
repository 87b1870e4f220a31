"""The fast matrix product is the plain one, values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from valor.encoders.layers import linear


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("sizes", [(5, 6), (2, 3, 6), (6, 5)])
def test_values_and_gradients_are_the_plain_products(sizes, gelu):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(sizes), torch.randn(4, 6), torch.randn(4)
    x = (x.t() if sizes == (6, 5) else x).requires_grad_()
    weight.requires_grad_()
    bias.requires_grad_()
    plain = F.linear(x, weight, bias)
    plain = F.gelu(plain) if gelu else plain
    fast = linear(x, weight, bias, gelu=gelu)
    torch.testing.assert_close(fast, plain)
    above = torch.randn_like(plain)
    inputs = (x, weight, bias)
    for ours, theirs in zip(
        torch.autograd.grad(fast, inputs, above),
        torch.autograd.grad(plain, inputs, above),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_what_is_frozen_gets_no_gradient():
    weight, bias = torch.randn(4, 6), torch.randn(4, requires_grad=True)
    linear(torch.randn(5, 6), weight, bias).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(bias.grad, torch.full((4,), 5.0))
