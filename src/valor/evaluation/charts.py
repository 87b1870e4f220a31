"""Charts as inline SVG: bars of R@1 beside oracle and chance, and figures of training by step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any

from valor.types import MEDIA_GROUPS

TERMS = {
    "align": "Alignment",
    "caption": "Captions",
    "answer": "Answers",
    "mlm": "Masked words",
    "match": "Matching",
    "distil": "Distillation",
    "self_critical": "Self-critical",
    "mask": "Masks",
}
"""Titles of the loss terms, by how their names in metrics.jsonl begin."""
_GROUPS = [group.label for group in MEDIA_GROUPS]
_MAX_CURVE_POINTS = 80
_PLOT_WIDTH, _PLOT_HEIGHT = 412, 190
_BAR_ROW = 56
_Line = tuple[str, str, list[tuple[float, float]]]
"""Label, classes of its style, and points."""


def percent(rate: float | None) -> str:
    """A rate in percent with one decimal; a dash if there is none."""
    return "-" if rate is None else f"{100 * rate:.1f}"


def bar_chart(retrieval: Mapping[str, Any]) -> str:
    """R@1 of text to media; horizontal positions in percent, so that text keeps its size."""
    if not retrieval:
        return ""
    groups = [group for group in _GROUPS if group in retrieval]
    bottom = _BAR_ROW * len(groups)
    ticks = "".join(
        f'<line class="grid" x1="{x}%" x2="{x}%" y2="{bottom}"/>'
        f'<text class="tick" x="{x}%" y="{bottom + 18}" text-anchor="middle">{x}</text>'
        for x in (0, 25, 50, 75, 100)
    )
    bars = "".join(_bar(i * _BAR_ROW, group, retrieval[group]) for i, group in enumerate(groups))
    return (
        f'<svg width="100%" height="{bottom + 24}" role="img" aria-label="R@1 by group">'
        f'{ticks}{bars}</svg>\n<p class="quiet">R@1 of text to media, in percent. Bar: the model. '
        "Dashed outline: the oracle. Thin line: chance.</p>\n"
    )


def _bar(top: int, group: str, figures: Mapping[str, Any]) -> str:
    r1 = percent(figures["text_to_media"]["r1"])
    label = f'<tspan class="value">{r1}</tspan>'
    bars = f'<rect class="bar of-{escape(group)}" y="28" width="{r1}%" height="18"/>'
    if "oracle_r1" in figures:
        oracle = percent(figures["oracle_r1"])
        label += f" · oracle {oracle}"
        bars += f'<rect class="oracle" y="28" width="{oracle}%" height="18"/>'
    if "chance_r1" in figures:
        chance = percent(figures["chance_r1"])
        label += f" · chance {chance}"
        bars += f'<line class="chance" x1="{chance}%" x2="{chance}%" y1="24" y2="50"/>'
    return (
        f'<g transform="translate(0 {top})"><text y="20">{escape(group)}</text>'
        f'<text class="quiet" x="100%" y="20" text-anchor="end">{label}</text>{bars}</g>'
    )


def family(name: str) -> str:
    """What figures have in common that differ in their last part alone, such as the group."""
    return name.rpartition("/")[0] or name


def families(curves: Iterable[Mapping[str, float]]) -> dict[str, list[str]]:
    """Names of all figures by their family, in the order of their first steps."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in curves for name in row):
        found.setdefault(family(name), []).append(name)
    return found


def loss_charts(curves: Sequence[Mapping[str, float]]) -> str:
    """A chart for each kind of loss term that there is; empty without any."""
    names = families(curves)
    return "".join(family_chart(curves, names.get(term, ()), TERMS[term]) for term in TERMS)


def family_chart(curves: Sequence[Mapping[str, float]], names: Sequence[str], title: str) -> str:
    """The figures of a family by step; empty if none has a value.

    Args:
        curves: The rows of metrics.jsonl.
        names: Of the figures.
        title: Of the chart.

    Returns:
        HTML.
    """
    lines: list[_Line] = []
    num_others = 0
    for name in names:
        if line := _smooth(curves, name):
            label = name.rpartition("/")[2]
            kind = f"of-{label}"
            if label not in _GROUPS:  # Colours that no group has, then the same ones dashed.
                kind = f"of-run{3 + num_others % 3} dash{num_others // 3 % 3}"
                num_others += 1
            lines.append((label, kind, line))
    return _drawn(title, lines) if lines else ""


def run_chart(runs: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> str:
    """One figure of several runs by step; empty if no run has it.

    Args:
        runs: The rows of each one's metrics.jsonl, by what to call it.
        name: Of the figure.

    Returns:
        HTML.
    """
    lines = [
        (label, f"of-run{place % 6}", line)
        for place, (label, rows) in enumerate(runs.items())
        if (line := _smooth(rows, name))
    ]
    return _drawn(name, lines) if lines else ""


def _drawn(title: str, lines: Sequence[_Line]) -> str:
    """A figure of lines by step with its legend, which names where each line ends."""
    x_ticks = _ticks(max(x for _, _, line in lines for x, _ in line))
    heights = [y for _, _, line in lines for _, y in line]
    y_ticks = _ticks(max(heights), min(heights))
    bottom, height = y_ticks[0], y_ticks[-1] - y_ticks[0]
    drawn, legend = _axes(x_ticks, y_ticks), ""
    for label, kind, line in lines:
        style = f'class="line {escape(kind)}"'
        points = " ".join(
            f"{x / x_ticks[-1] * _PLOT_WIDTH:.1f},{(bottom - y) / height * _PLOT_HEIGHT:.1f}"
            for x, y in line
        )
        drawn += f'<polyline {style} points="{points}"/>'
        legend += (
            f'<li><svg width="24" height="8"><line {style} x2="24" y1="4" y2="4"/></svg> '
            f"{escape(label)} <b>{line[-1][1]:.3g}</b></li>"
        )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="-36 -200 460 240" role="img" '
        f'aria-label="{escape(title)}: value by step">{drawn}</svg>'
        f'<ul class="legend">{legend}</ul></figure>\n'
    )


def _axes(x_ticks: list[float], y_ticks: list[float]) -> str:
    html = f'<text class="tick" x="{_PLOT_WIDTH}" y="36" text-anchor="end">step</text>'
    for tick in x_ticks:
        x = tick / x_ticks[-1] * _PLOT_WIDTH
        html += f'<text class="tick" x="{x:.1f}" y="18" text-anchor="middle">{tick:g}</text>'
    for tick in y_ticks:
        y = (y_ticks[0] - tick) / (y_ticks[-1] - y_ticks[0]) * _PLOT_HEIGHT
        html += (
            f'<line class="grid" x2="{_PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="-6" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    return html


def _smooth(curves: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Step and value, averaged over equal stretches; steps without a finite value are left out."""
    points = [(row["step"], row[name]) for row in curves if math.isfinite(row.get(name, math.nan))]
    size = math.ceil(len(points) / _MAX_CURVE_POINTS)
    return [
        (fmean(x for x, _ in points[i : i + size]), fmean(y for _, y in points[i : i + size]))
        for i in range(0, len(points), size or 1)
    ]


def _ticks(largest: float, least: float = 0.0) -> list[float]:
    """Two to seven round values that reach as far as both and zero, or just beyond."""
    largest, least = max(largest, 0.0), min(least, 0.0)
    extent = largest - least or 1.0
    power = 10.0 ** math.floor(math.log10(extent))
    step = next(power * part for part in (0.2, 0.5, 1, 2) if extent <= 5 * power * part)
    first, last = math.floor(least / step), math.ceil(largest / step)
    return [step * i for i in range(first, max(last, first + 1) + 1)]
