"""Two processes of `torchrun` train a part of a model as one does, from the command line."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from valor.cli.main import main
from valor.training.monitor import read_metrics
from valor.training.state import States

pytestmark = pytest.mark.slow
RUN = ["--batch-size", "6", "--num-epochs", "null", "--num-steps", "4", "--save-every", "1"]
RUN += ["--precision", "float32", "--optim.learning-rate", "0.001"]
OBJECTIVES = ("captioning", "answering", "masked_language", "distillation")
TERMS = ("loss", "align", "caption", "answer", "mlm")
KEPT = ["--adapt.frozen", '["vision.", "audio."]', "--cache-frozen", "true"]
KEPT += [word for name in OBJECTIVES for word in (f"--objectives.{name}", "{}")]
UPDATES = ["--adapt.lora-rank", "2", "--optim.average", "0.5", "--probe.every", "2"]
CASES = {
    "kept tokens, all objectives": (KEPT, ["--compute.parallel", "ddp"]),
    "updates, average, held-out records": (
        UPDATES,
        ["--compute.parallel", "fsdp", "--compute.micro-batch", "2"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_go_on_with_what_one_began(case, model_folder, world, tmp_path, monkeypatch):
    changes, how = CASES[case]
    words = ["train", "finetune", "--start", str(model_folder), "--data", str(world), *RUN]
    words += changes
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    own = States.save

    def save_once(states, *, next_step, **position):
        own(states, next_step=next_step, **position)
        states.wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(States, "save", save_once)
        assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # Without `--` torchrun takes `--start` for a short form of an option of its own.
    torchrun += ["--nproc-per-node", "2", "-m", "--", "valor.cli.main"]
    command = [*torchrun, *words, *how, "--out", str(tmp_path / "cut")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, cut = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut"))
    assert [row["step"] for row in cut] == [0, 1, 2, 3]
    terms = {name for name in whole[0] if name.partition("/")[0] in TERMS}
    assert terms >= {"loss"}
    for one, two in zip(whole, cut, strict=True):
        for name in terms:
            assert two[name] == pytest.approx(one[name], abs=1e-4), name
    folder = "best" if "--probe.every" in changes else "model"
    wanted, found = (
        load_file(tmp_path / name / folder / "model.safetensors") for name in ("whole", "cut")
    )
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=0)
