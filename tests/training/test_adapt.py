"""Laws of training a part of a model."""

import pytest
import torch

from tests.tiny import SPECIAL, tiny_batch, tiny_bridge
from valor.errors import ConfigError
from valor.objectives.captioning import CaptioningConfig
from valor.training.adapt import AdaptConfig, LowRank, adapt, merged
from valor.training.optim import OptimConfig, Optimizer
from valor.training.step import ObjectivesConfig, backward, loss_terms
from valor.types import AUDIOVISUAL

LORA = AdaptConfig(lora_rank=2)
OBJECTIVES = ObjectivesConfig(alignment=None, captioning=CaptioningConfig())


def logits(bridge):
    batch = tiny_batch()
    text, prompt = batch.caption_texts[AUDIOVISUAL], bridge.decoder.caption_prompt(4)
    with torch.no_grad():
        return bridge.decoder.read(prompt, text, bridge(batch).memory, AUDIOVISUAL)


def trained(bridge, steps=2):
    optimizer = Optimizer(bridge.train(), OptimConfig(learning_rate=0.05), num_steps=steps)
    for step in range(steps):
        backward(loss_terms(bridge, tiny_batch(), OBJECTIVES, SPECIAL))
        optimizer.step(step)
    bridge.eval()
    return optimizer


def test_updates_change_nothing_at_first_and_the_sum_of_both_is_what_is_saved():
    bridge = tiny_bridge()
    before = logits(bridge)
    adapt(bridge, LORA)
    assert torch.equal(logits(bridge), before)
    optimizer = trained(bridge)
    after = logits(bridge)
    assert not torch.allclose(after, before, atol=1e-3)
    plain = tiny_bridge()
    plain.load_state_dict(merged(bridge, optimizer.masters), strict=False)
    assert merged(bridge, optimizer.masters).keys() == dict(plain.named_parameters()).keys()
    torch.testing.assert_close(logits(plain), after, rtol=1e-4, atol=1e-4)


def test_only_the_updates_of_the_language_model_are_trained():
    bridge = tiny_bridge()
    adapt(bridge, LORA)
    before = {name: p.clone() for name, p in bridge.decoder.named_parameters()}
    optimizer = trained(bridge)
    changed = {n for n, p in bridge.decoder.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(name.endswith((".up", ".down")) for name in changed)
    assert sum(isinstance(m, LowRank) for m in bridge.modules()) == 4
    assert {n for n in optimizer.masters if n.startswith("decoder.")} == {
        f"decoder.{name}" for name in before if name.endswith((".up", ".down"))
    }


def test_frozen_parts_stay_and_are_saved():
    bridge = tiny_bridge()
    adapt(bridge, AdaptConfig(frozen=("vision.",)))
    before = {name: p.clone() for name, p in bridge.vision.named_parameters()}
    weights = merged(bridge, trained(bridge).masters)
    for name, parameter in before.items():
        assert torch.equal(weights[f"vision.{name}"], parameter)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (AdaptConfig(frozen=("visoin.",)), "visoin"),
        (AdaptConfig(lora_rank=2, lora_layers=("nothing",)), "nothing"),
        (AdaptConfig(frozen=("",)), "left to train"),
    ],
)
def test_what_fits_nothing_is_refused(config, problem):
    with pytest.raises(ConfigError, match=problem):
        adapt(tiny_bridge(), config)
