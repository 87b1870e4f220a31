"""Laws of the optimizer."""

import torch

from valor.training.optim import OptimConfig, Optimizer


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
