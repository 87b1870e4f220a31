"""Laws of the memory of past frames."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import tiny_memory_config
from valor.config import evolve
from valor.models.temporal_memory import MemoryHead, TemporalMemory, read_memory


def plain_read(query, keys, values):
    """The paper's formula over all pairs of positions."""
    scores = torch.einsum("bcij,btcmn->bijtmn", query, keys)
    weights = scores.flatten(3).softmax(-1).view_as(scores)
    return torch.einsum("bijtmn,btcmn->bcij", weights, values)


@pytest.mark.parametrize("key_dim, value_dim", [(8, 12), (8, 32), (16, 4), (5, 5)])
def test_the_read_is_the_softmax_of_raw_products(key_dim, value_dim):
    query = torch.randn(2, key_dim, 3, 4, requires_grad=True)
    keys = torch.randn(2, 3, key_dim, 3, 4, requires_grad=True)
    values = torch.randn(2, 3, value_dim, 3, 4, requires_grad=True)
    ours, plain = read_memory(query, keys, values), plain_read(query, keys, values)
    torch.testing.assert_close(ours, plain)
    weight = torch.randn_like(plain)
    wanted = torch.autograd.grad((plain * weight).sum(), (query, keys, values))
    found = torch.autograd.grad((ours * weight).sum(), (query, keys, values))
    torch.testing.assert_close(found, wanted)


def test_the_read_does_not_depend_on_the_order_of_memory_positions():
    query, keys, values = (
        torch.randn(1, 8, 3, 4),
        torch.randn(1, 3, 8, 3, 4),
        torch.randn(1, 3, 12, 3, 4),
    )
    order = torch.randperm(3)
    torch.testing.assert_close(
        read_memory(query, keys[:, order].flip(-1), values[:, order].flip(-1)),
        read_memory(query, keys, values),
    )


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest result of any operation has."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        found = result if isinstance(result, tuple | list) else [result]
        tensors = [x.numel() for x in found if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *tensors])
        return result


def test_the_scores_of_all_pairs_never_exist_at_once():
    side, slots, key_dim, value_dim = 24, 4, 16, 64
    query = torch.randn(1, key_dim, side, side, requires_grad=True)
    keys, values = (torch.randn(1, slots, dim, side, side) for dim in (key_dim, value_dim))
    with Largest() as seen:
        read_memory(query, keys, values).sum().backward()
    assert seen.numel <= values.numel()
    assert slots * side**4 > 4 * seen.numel


def test_every_slot_has_its_own_convolutions():
    config = tiny_memory_config()
    head = MemoryHead(config.head, 6, 3).eval()
    frame = torch.randn(1, 1, 6, 3, 4)
    keys, values = head.remember(frame.expand(-1, config.head.num_slots, -1, -1, -1))
    assert not torch.allclose(keys[:, 0], keys[:, 1])
    assert not torch.allclose(values[:, 0], values[:, 1])


def test_the_mean_of_the_past_has_the_same_parameters_and_another_result():
    config = tiny_memory_config()
    attending = TemporalMemory(config).eval()
    averaging = TemporalMemory(evolve(config, {"head.read": "mean"})).eval()
    averaging.load_state_dict(attending.state_dict())
    pixels = torch.randn(1, 3, 3, 16, 24)
    assert not torch.allclose(attending(pixels).main, averaging(pixels).main)


def test_logits_have_the_size_of_the_picture_and_rows_are_independent():
    model = TemporalMemory(tiny_memory_config()).eval()
    pixels = torch.randn(2, 3, 3, 16, 24)
    both = model(pixels)
    assert both.main.shape == (2, 3, 16, 24)
    assert both.auxiliary is None
    torch.testing.assert_close(model(pixels[1:]).main, both.main[1:])


def test_past_and_current_frame_both_matter():
    model = TemporalMemory(tiny_memory_config()).eval()
    pixels = torch.randn(1, 3, 3, 16, 24)
    for frame in range(3):
        changed = pixels.clone()
        changed[:, frame] += torch.randn(3, 16, 24)
        assert not torch.allclose(model(changed).main, model(pixels).main), frame


def test_every_parameter_gets_a_gradient():
    model = TemporalMemory(tiny_memory_config()).train()
    logits = model(torch.randn(2, 3, 3, 16, 24))
    labels = torch.randint(3, (2, 16, 24))
    (F.cross_entropy(logits.main, labels) + F.cross_entropy(logits.auxiliary, labels)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="2 frames, wanted 2 past and 1 now"):
        TemporalMemory(tiny_memory_config())(torch.randn(1, 2, 3, 16, 24))


def test_default_sizes_are_the_released_ones():
    config = evolve(tiny_memory_config(), {"head": {}, "backbone": {}})
    with torch.device("meta"):
        model = TemporalMemory(config).eval()
        logits = model(torch.empty(1, 3, 3, 64, 96))
    assert logits.main.shape == (1, 3, 64, 96)
    numbers = sum(math.prod(p.shape) for p in model.parameters())
    assert 29e6 < numbers < 31e6
