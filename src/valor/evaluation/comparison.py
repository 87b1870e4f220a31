"""Pages and tables that set models or training runs side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from valor.config import by_path
from valor.evaluation.charts import percent, run_chart
from valor.evaluation.pages import Table, plain_text, section, table_section, write_page

_TERMS = ("align/", "caption/", "answer/", "mlm/", "match/", "distil/")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """What a run folder tells."""

    curves: Sequence[Mapping[str, float]]
    """The rows of metrics.jsonl."""
    config: Mapping[str, Any]
    """Of config.json."""


def comparison_table(comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """Write comparisons with one model as plain text."""
    return "\n\n".join(f"{t.title}\n{plain_text(t)}" for t in _comparisons(comparisons))


def write_model_comparison(
    path: Path, comparisons: Mapping[str, Mapping[str, Any]], first: str
) -> None:
    """Write a page of comparisons; `path` is replaced only when all of it is written.

    Args:
        path: The HTML file.
        comparisons: What `items.compare` found, by name of the other model.
        first: Name of the model that they are compared with.
    """
    body = "".join(table_section(table) for table in _comparisons(comparisons))
    sentence = f"Each model is compared with {first}, item by item on the same data."
    write_page(path, "VALOR comparison", [sentence], body)


def write_run_comparison(path: Path, runs: Mapping[str, TrainedRun]) -> None:
    """Write a page that shows runs side by side: last losses, what differs in them, and curves.

    Args:
        path: The HTML file, replaced only when all of it is written.
        runs: By what to call them.
    """
    names = dict.fromkeys(name for run in runs.values() for row in run.curves for name in row)
    losses = [name for name in names if name == "loss" or name.startswith(_TERMS)]
    others = [name for name in names if name not in (*losses, "step", "elapsed_s")]
    curves = {label: run.curves for label, run in runs.items()}
    sections = [table_section(_last_losses(runs, losses)), table_section(_settings(runs))]
    for title, note, shown in (
        ("Losses", "Of every training term; lower is better.", losses),
        ("Other figures", "Among them the norm of the gradient by part of the model.", others),
    ):
        charts = "".join(run_chart(curves, name) for name in shown)
        sections.append(section(title, note, charts and f'<div class="charts">{charts}</div>\n'))
    write_page(path, "Training runs", [", ".join(runs)], "".join(sections))


def _comparisons(comparisons: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    def row(name: str, found: Mapping[str, Any]) -> list[str]:
        low, high = found["interval"]
        return [
            name.replace("/", ", ").replace("_", " "),
            *(percent(found[key]) for key in ("first", "second")),
            *(f"{100 * value:+.1f}" for value in (found["difference"], low, high)),
            f"{found['p']:.4f}",
            str(found["num"]),
        ]

    return [
        Table(
            title=name,
            note="Difference with its 95 % interval by paired bootstrap over items; p of a paired "
            "sign-flip test, two-sided, not corrected for the number of rows. Times 100.",
            columns=["Figure", "First", "This", "Difference", "Low", "High", "p", "Items"],
            rows=[row(metric, found) for metric, found in metrics.items()],
        )
        for name, metrics in comparisons.items()
    ]


def _last_losses(runs: Mapping[str, TrainedRun], losses: Sequence[str]) -> Table:
    rows: list[list[str]] = []
    for label, run in runs.items():
        tail = run.curves[-max(1, len(run.curves) // 10) :]
        minutes = f"{run.curves[-1]['elapsed_s'] / 60:.1f}" if run.curves else "-"
        looks = [(row["probe"], int(row["step"]) + 1) for row in run.curves if "probe" in row]
        best = max(looks, key=lambda look: look[0], default=None)
        shown = f"{best[0]:.3f} after {best[1]}" if best else "-"
        cells = [label, str(len(run.curves)), minutes, shown]
        for name in losses:
            found = [row[name] for row in tail if math.isfinite(row.get(name, math.nan))]
            cells.append(f"{fmean(found):.3f}" if found else "-")
        rows.append(cells)
    return Table(
        title="Runs",
        note="Losses are means over the last tenth of the steps; the best look is the highest "
        "figure on held-out records, and the steps before it.",
        columns=["Run", "Steps", "Minutes", "Best look", *losses],
        rows=rows,
    )


def _settings(runs: Mapping[str, TrainedRun]) -> Table:
    settings = [by_path(run.config) for run in runs.values()]
    rows = [
        [key, *(values.get(key, "-") for values in settings)]
        for key in dict.fromkeys(key for values in settings for key in values)
        if len({values.get(key) for values in settings}) > 1
    ]
    note = "Those in which the runs differ."
    return Table(title="Settings", note=note, columns=["Setting", *runs], rows=rows)
