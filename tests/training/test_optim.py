"""Laws of the optimizer."""

import pytest
import torch

from tests.tiny import tiny_model
from valor.errors import ConfigError
from valor.training.optim import OptimConfig, Optimizer, layer_depths


def test_float32_equals_adamw():
    torch.manual_seed(0)
    ours, plain = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    plain.load_state_dict(ours.state_dict())
    config = OptimConfig(learning_rate=0.01, warmup_fraction=0.0, clip_norm=1e9)
    optimizer = Optimizer(ours, config, num_steps=10)
    groups = [{"params": [plain.weight]}, {"params": [plain.bias], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98), weight_decay=0.01)
    x = torch.randn(8, 4)
    for step in range(5):
        ours(x).square().sum().backward()
        plain(x).square().sum().backward()
        adamw.param_groups[0]["lr"] = adamw.param_groups[1]["lr"] = optimizer.learning_rate(step)
        optimizer.step(step)
        adamw.step()
        adamw.zero_grad()
    torch.testing.assert_close(ours.weight, plain.weight)
    torch.testing.assert_close(ours.bias, plain.bias)


def test_small_steps_are_not_lost_in_bfloat16():
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    model.weight.data.fill_(1.0)
    optimizer = Optimizer(model, OptimConfig(learning_rate=1e-4, weight_decay=0.0), num_steps=400)
    for step in range(400):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step(step)
    assert model.weight.item() < 0.99


def test_masters_are_the_weights_before_they_were_rounded():
    exact = {"weight": torch.tensor([[1.001]])}
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    model.weight.data.copy_(exact["weight"])
    masters = Optimizer(model, OptimConfig(), num_steps=10, exact=exact).masters
    assert masters["weight"].item() == pytest.approx(1.001, abs=1e-7)
    assert not exact  # Nobody holds them beside the optimizer.


def test_the_rate_rises_then_falls_to_nearly_zero():
    optimizer = Optimizer(torch.nn.Linear(1, 1), OptimConfig(learning_rate=1.0), num_steps=100)
    rates = [optimizer.learning_rate(step) for step in range(100)]
    assert max(rates) == rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_gradient_that_is_not_finite_changes_nothing():
    model = torch.nn.Linear(2, 2)
    before = model.weight.clone()
    optimizer = Optimizer(model, OptimConfig(), num_steps=10)
    model.weight.grad = torch.full_like(model.weight, float("nan"))
    model.bias.grad = torch.ones_like(model.bias)
    optimizer.step(0)
    assert torch.equal(model.weight, before)


def moved(**changes):
    """How far each weight of a tiny model goes in the first step, whose size is the rate."""
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = OptimConfig(learning_rate=0.01, weight_decay=0.0, warmup_fraction=0.0, **changes)
    optimizer = Optimizer(model, config, num_steps=1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0)
    return {n: (p.detach() - before[n]).abs().mean().item() for n, p in model.named_parameters()}


def test_a_tower_has_the_rate_of_the_longest_beginning_that_fits():
    steps = moved(rates={"vision.": 0.001, "vision.norm.": 0.002})
    assert steps["vision.blocks.0.mlp.0.weight"] == pytest.approx(0.001, rel=1e-2)
    assert steps["vision.norm.weight"] == pytest.approx(0.002, rel=1e-2)
    assert steps["audio.norm.weight"] == pytest.approx(0.01, rel=1e-2)
    with pytest.raises(ConfigError, match="begins with 'video"):
        moved(rates={"video.": 0.1})


def test_lower_layers_have_lower_rates():
    steps = moved(layer_decay=0.5)
    rates = {
        "vision.norm.weight": 0.01,
        "vision.blocks.1.mlp.0.weight": 0.01,
        "vision.blocks.0.mlp.0.weight": 0.005,
        "vision.cls_token": 0.0025,
        "decoder.text.layers.0.mlp.0.weight": 0.005,
        "decoder.text.word_embedding.weight": 0.0025,
        "heads.vision.projection.weight": 0.01,
    }
    for name, rate in rates.items():
        assert steps[name] == pytest.approx(rate, rel=1e-2), name


def test_stages_count_by_themselves():
    names = [
        "vision.stages.0.blocks.0.a",
        "vision.stages.0.blocks.1.a",
        "vision.stages.1.blocks.0.a",
    ]
    assert layer_depths(names) == dict(zip(names, (1, 0, 0), strict=True))


@pytest.mark.parametrize(
    ("average", "pasts"), [(0.15, (0.1, 0.15, 0.15)), (0.999, (0.1, 2 / 11, 0.25))]
)
def test_the_average_of_the_weights_is_what_is_kept(average, pasts):
    model = torch.nn.Linear(1, 1, bias=False)
    config = OptimConfig(learning_rate=0.1, average=average, weight_decay=0.0)
    optimizer = Optimizer(model, config, num_steps=4)
    average = model.weight.item()
    for step, past in enumerate(pasts):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step(step)
        average = past * average + (1 - past) * model.weight.item()
    assert optimizer.weights["weight"].item() == pytest.approx(average)
    assert average != pytest.approx(model.weight.item())
