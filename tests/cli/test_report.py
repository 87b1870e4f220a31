"""Laws of `valor report`."""

import json

import pytest

from valor.cli.main import main


def run_folder(folder, *, rate, losses):
    folder.mkdir()
    config = {"optim": {"learning_rate": rate}, "seed": 0}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"step": step, "elapsed_s": 60.0 * step, "loss": loss, "grad_norm/vision": 1.0}
        for step, loss in enumerate(losses)
    ]
    rows[0]["probe"], rows[1]["probe"] = 0.7, 0.6
    rows[-1]["empty"] = 1
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_runs_stand_side_by_side_on_a_page_that_needs_nothing_else(tmp_path, capsys):
    first = run_folder(tmp_path / "first<b>", rate=0.125, losses=[3.0, 2.0, 1.234])
    second = run_folder(tmp_path / "second", rate=0.25, losses=[3.0, float("nan"), 2.345])
    assert main(["report", first, second, "--out", str(tmp_path / "page.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "page.html")}
    page = (tmp_path / "page.html").read_text()
    assert "1.234" in page and "2.345" in page
    assert "optim.learning_rate" in page and "0.125" in page and "0.25" in page
    assert ">seed<" not in page
    assert "first&lt;b&gt;" in page and "first<b>" not in page
    assert "0.700 after 1" in page
    assert page.count("<figure>") == 3
    assert page.count("<polyline") == 6
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_one_run_has_its_own_page_with_all_settings(tmp_path, capsys):
    folder = run_folder(tmp_path / "run<b>", rate=0.125, losses=[3.0, float("nan"), 1.234])
    assert main(["report", folder]) == 0
    assert "report.html" in capsys.readouterr().out
    page = (tmp_path / "run<b>/report.html").read_text()
    assert "run&lt;b&gt;" in page and "run<b>" not in page
    assert ">seed<" in page and "optim.learning_rate" in page
    told = "3 steps in 2.0 minutes; best look at held-out records 0.700 after 1 steps"
    assert f"{told}; 1 without a loss." in page
    assert ">3</td>" in page and ">1.234</td>" in page
    assert page.count("<figure>") == page.count("<polyline") == 3


def test_the_page_of_an_evaluation_is_kept(tmp_path):
    folder = run_folder(tmp_path / "run", rate=0.125, losses=[3.0, 2.0])
    (tmp_path / "run/report.json").write_text("{}")
    (tmp_path / "run/report.html").write_text("evaluation")
    assert main(["report", folder]) == 0
    assert (tmp_path / "run/report.html").read_text() == "evaluation"
    assert "<polyline" in (tmp_path / "run/run.html").read_text()


def test_what_is_no_run_folder_is_a_wrong_usage(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["report", "--help"])
    assert not ended.value.code
