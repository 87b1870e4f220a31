"""Laws of what a run tells."""

import pytest

from tests.tiny import SPECIAL, small_run, tiny_batch, tiny_config
from tests.training.test_loop import spoilt_task
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.errors import TrainingError
from valor.evaluation.charts import TERMS, family
from valor.models.valor import Valor
from valor.objectives.answering import AnsweringConfig
from valor.objectives.distillation import DistillationConfig
from valor.objectives.masked_language import MaskedLanguageConfig
from valor.objectives.matching import MatchingConfig
from valor.training.loop import fit
from valor.training.monitor import Monitor
from valor.training.run import run
from valor.training.step import ObjectivesConfig, loss_terms


def all_terms():
    """Names and values of the six objectives that need no reward."""
    objectives = ObjectivesConfig(
        answering=AnsweringConfig(),
        masked_language=MaskedLanguageConfig(),
        matching=MatchingConfig(),
        distillation=DistillationConfig(),
    )
    model = Valor(evolve(tiny_config(), {"matches": True}))
    terms = loss_terms(model, tiny_batch(), objectives, SPECIAL)
    return {name: term.value.item() for name, term in terms.items()}


def test_progress_shows_the_mean_of_each_objective(tmp_path):
    terms = all_terms()
    assert {family(name) for name in terms} <= set(TERMS)
    means = {"align": 1.25, "caption": 2.5, "answer": 3.0, "mlm": 4.0, "match": 0.5, "distil": 10}
    shown = {name: means[family(name)] for name in terms}
    shown |= {"align/vision": 1.0, "align/audio": 1.5}
    monitor = Monitor(tmp_path, first_step=0)
    note = monitor.log(0, {"loss": 21.234, **shown, "grad_norm/audio": 9.0}, num_samples=4)
    monitor.close()
    *told, rate = note.split(", ")
    assert dict(word.split() for word in told) == {
        "loss": "21.23",
        **{name: f"{value:.2f}" for name, value in means.items()},
    }
    assert rate.endswith(" samples/s")


def test_what_a_step_did_not_learn_is_not_shown_but_the_last_look_is(tmp_path):
    monitor = Monitor(tmp_path, first_step=0)
    monitor.log(0, {"loss": 2.0, "align/audio": 2.0, "probe": 0.5}, num_samples=4)
    note = monitor.log(1, {"loss": 3.0, "mask": 1.0, "mask/auxiliary": 2.0}, num_samples=4)
    monitor.close()
    assert note.startswith("loss 3.00, mask 1.50, probe 0.500, ")


@pytest.mark.parametrize("is_evaluated", [False, True])
def test_a_run_leaves_a_page_that_needs_nothing_else(world, tmp_path, is_evaluated):
    if is_evaluated:
        (tmp_path / "report.json").write_text("{}")
    run(small_run(), read_manifest(world, split="train"), tmp_path)
    page = (tmp_path / ("run.html" if is_evaluated else "report.html")).read_text()
    assert "4 of 4 steps" in page
    for title in ("Alignment", "Captions", "Answers", "grad_norm", "learning_rate"):
        assert f"<figcaption>{title}</figcaption>" in page
    for title in ("temperature", "token_weight", "samples_per_s"):
        assert f"<figcaption>{title}</figcaption>" in page
    assert ">optim.learning_rate</td>" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def full(*values, **named):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "place",
    ["valor.training.monitor.write_whole", "pathlib.Path.open", "valor.training.monitor._board"],
)
def test_a_full_disk_at_the_start_is_one_line(tmp_path, monkeypatch, place):
    monkeypatch.setattr(place, full)
    with pytest.raises(TrainingError, match=r"metrics.jsonl .*\(.*No space left.*Make room"):
        Monitor(tmp_path, first_step=0)


def test_a_page_that_cannot_be_written_is_one_line(world, tmp_path, monkeypatch):
    monkeypatch.setattr("valor.training.monitor.write_run", full)
    config, records = evolve(small_run(), {"num_steps": 1}), read_manifest(world, split="train")
    with pytest.raises(TrainingError, match=r"report.html could .*No space left.*; make room"):
        run(config, records, tmp_path)
    monkeypatch.undo()
    run(config, records, tmp_path)
    assert (tmp_path / "report.html").is_file()


def test_the_first_rank_names_the_samples_of_skipped_steps_and_says_if_it_cannot(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("valor.training.loop.rank", lambda: 1)
    with pytest.raises(TrainingError, match="look at the samples"):
        fit(spoilt_task(set(range(8))), tmp_path)
    assert not (tmp_path / "skipped.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr("valor.training.loop.write_whole", full)
    wanted = r"3 steps in a row .*skipped.json.*could not be written \(.*No space.*; make room"
    with pytest.raises(TrainingError, match=wanted):
        fit(spoilt_task(set(range(8))), tmp_path)
