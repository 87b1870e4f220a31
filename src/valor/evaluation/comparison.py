"""Pages and tables of training runs, alone or side by side, and of models beside each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from valor.config import by_path
from valor.evaluation.charts import TERMS, families, family_chart, percent, run_chart
from valor.evaluation.pages import Table, plain_text, section, table_section, write_page

_NO_CURVES = ("step", "elapsed_s", "skipped", "empty")


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


def write_run(path: Path, run: TrainedRun, name: str) -> None:
    """Write a page of one run: how far it came, curves, figures and all settings.

    Args:
        path: The HTML file, replaced only when all of it is written.
        run: The run.
        name: What to call it.
    """
    settings = Table(
        title="Settings",
        note="All of config.json.",
        columns=["Setting", "Value"],
        rows=[[key, value] for key, value in by_path(run.config).items()],
        num_names=2,
    )
    named = families(run.curves)

    def draw(one: str) -> str:
        return family_chart(run.curves, named[one], TERMS.get(one, one))

    parts = [_charts([*named], draw), table_section(_figures(run)), table_section(settings)]
    write_page(path, f"Training run {name}", [_course(run)], "".join(parts))


def write_run_comparison(path: Path, runs: Mapping[str, TrainedRun]) -> None:
    """Write a page that shows runs side by side: last losses, what differs in them, and curves.

    Args:
        path: The HTML file, replaced only when all of it is written.
        runs: By what to call them.
    """
    curves = {label: run.curves for label, run in runs.items()}
    named = families(row for run in runs.values() for row in run.curves)
    names = [name for own in named.values() for name in own]
    losses = [name for name in names if _is_loss(name)]
    parts = [
        table_section(_last_losses(runs, losses)),
        table_section(_settings(runs)),
        _charts(names, lambda name: run_chart(curves, name)),
    ]
    write_page(path, "Training runs", [", ".join(runs)], "".join(parts))


def _is_loss(name: str) -> bool:
    return name == "loss" or name.partition("/")[0] in TERMS


def _is_look(name: str) -> bool:
    return name.partition("/")[0] == "probe"


def _charts(names: Sequence[str], draw: Callable[[str], str]) -> str:
    """Sections of charts, one for each name of a figure or a family."""
    others = [name for name in names if name not in _NO_CURVES]
    others = [name for name in others if not _is_loss(name) and not _is_look(name)]
    norms = "Among them the norm of the gradient by part of the model, before clipping."
    sections = [
        ("Losses", "Of every training term; lower is better.", filter(_is_loss, names)),
        ("Looks at held-out records", "Higher is better.", filter(_is_look, names)),
        ("Other figures", norms, others),
    ]
    return "".join(
        section(title, note, charts and f'<div class="charts">{charts}</div>\n')
        for title, note, shown in sections
        for charts in ["".join(map(draw, shown))]
    )


def _course(run: TrainedRun) -> str:
    """How far a run came, in a sentence."""
    if not run.curves:
        return "No step was made yet."
    last = run.curves[-1]
    wanted = run.config.get("num_steps")
    steps, minutes = int(last["step"]) + 1, last["elapsed_s"] / 60
    told = f"{steps} of {wanted} steps" if wanted else f"{steps} steps"
    told += f" in {minutes:.1f} minutes"
    if best := _best_look(run):
        told += f"; best look at held-out records {best} steps"
    counts = {"skipped": "skipped", "empty": "without a loss", "left_out": "samples left out"}
    for name, words in counts.items():
        if count := _count(run, name):
            told += f"; {count} {words}"
    return f"{told}."


def _count(run: TrainedRun, name: str) -> int:
    return int(sum(row.get(name, 0) for row in run.curves))


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


def _best_look(run: TrainedRun) -> str:
    """The first one with the highest figure, in words; empty if there was none."""
    looks = [(row["probe"], int(row["step"]) + 1) for row in run.curves if "probe" in row]
    best = max(looks, key=lambda look: look[0], default=None)
    return f"{best[0]:.3f} after {best[1]}" if best else ""


def _ends(run: TrainedRun, name: str) -> tuple[str, str]:
    """Means over the first and the last tenth of a figure's finite values."""
    found = [row[name] for row in run.curves if math.isfinite(row.get(name, math.nan))]
    tenth = max(1, len(found) // 10)
    first, last = (f"{fmean(x):.4g}" if x else "-" for x in (found[:tenth], found[-tenth:]))
    return first, last


def _figures(run: TrainedRun) -> Table:
    return Table(
        title="Figures",
        note="Means over the first and the last tenth of each figure's values.",
        columns=["Figure", "First", "Last"],
        rows=[
            [name, *_ends(run, name)]
            for own in families(run.curves).values()
            for name in own
            if name not in _NO_CURVES
        ],
    )


def _last_losses(runs: Mapping[str, TrainedRun], losses: Sequence[str]) -> Table:
    rows = [
        [
            label,
            str(len(run.curves)),
            f"{run.curves[-1]['elapsed_s'] / 60:.1f}" if run.curves else "-",
            str(_count(run, "skipped")),
            _best_look(run) or "-",
            *(_ends(run, name)[1] for name in losses),
        ]
        for label, run in runs.items()
    ]
    return Table(
        title="Runs",
        note="Losses are means over the last tenth of their values; the best look is the highest "
        "figure on held-out records, and the steps before it.",
        columns=["Run", "Steps", "Minutes", "Skipped", "Best look", *losses],
        rows=rows,
    )


def _settings(runs: Mapping[str, TrainedRun]) -> Table:
    settings = [by_path(run.config) for run in runs.values()]
    rows = [
        [key, *(values.get(key, "-") for values in settings)]
        for key in dict.fromkeys(key for values in settings for key in values)
        if len({values.get(key) for values in settings}) > 1
    ]
    return Table(
        title="Settings",
        note="Those in which the runs differ.",
        columns=["Setting", *runs],
        rows=rows,
        num_names=1 + len(runs),
    )
