"""An evaluation's figures for people: one HTML page that needs no other file, and plain text.

Both show the same tables, so that they cannot disagree; rates are written in percent. The page adds
charts, learning curves and examples. Equal input gives equal bytes. Its style is in `report.css`.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import fill
from typing import Any

from valor.evaluation.charts import bar_chart, loss_charts, percent
from valor.evaluation.pages import (
    GROUPS,
    Table,
    group_name,
    plain_text,
    section,
    table_section,
    write_page,
)
from valor.metrics.answering import exact_match

_MAX_EMBEDDED_BYTES = 2_000_000
_MAX_CONFUSIONS = 10
_WIDTH = 100
"""Characters in a line of the plain text."""
_ORDER = {label: place for place, label in enumerate([*GROUPS, "both"])}
_PLAYABLE = {
    **{".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".wav": "audio/wav"},
    **{".mp3": "audio/mpeg", ".flac": "audio/flac", ".ogg": "audio/ogg", ".m4a": "audio/mp4"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One test recording with what the model said about it."""

    path: str
    """The media file; up to 2 MB it is put into the page and can be played there."""
    thumbnail: bytes | None
    """JPEG."""
    spectrogram: bytes | None
    """PNG."""
    captions: dict[str, str]
    """By group; empty where the recording has none of the group's modalities."""
    reference: str
    answers: list[tuple[str, str, str]]
    """Question, given answer, right answer."""
    note: str = ""
    """Why it is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchExample:
    """One query with its best hits."""

    query: str
    """The text, or the file's name."""
    by: str
    """What the query is: text, audio, image or video."""
    hits: list[tuple[str, float, float, float, dict[str, float], bytes | None]]
    """Path, start and end in seconds, score, score by modality, JPEG thumbnail."""


def summary_table(report: Mapping[str, Any]) -> str:
    """Write the figures of a report.json as plain text, in lines of at most 100 characters.

    Single confusions are left to the page.
    """
    parts = [fill(f"{_sentence(report)} Rates are in percent.", _WIDTH)]
    parts += [f"{table.title}\n{plain_text(table)}" for table in _tables(report)]
    return "\n\n".join(parts)


def write_report(
    path: Path,
    report: Mapping[str, Any],
    *,
    curves: Sequence[Mapping[str, float]] = (),
    examples: Sequence[Example] = (),
    failures: Sequence[Example] = (),
    searches: Sequence[SearchExample] = (),
    title: str = "VALOR report",
) -> None:
    """Write the page; `path` is replaced only when all of it is written.

    Args:
        path: The HTML file.
        report: As in report.json. What it does not hold is left out of the page.
        curves: The rows of metrics.jsonl.
        examples: Recordings to show.
        failures: Recordings on which the model does worst.
        searches: Queries to show.
        title: Heading of the page.
    """
    confusions = _confusions(report.get("answering", {}))
    tables = [*_tables(report), *([confusions] if confusions.rows else [])]
    sections = [table_section(table) for table in tables]
    sections += [_curves(curves), _searches(searches), _examples(examples), _failures(failures)]
    sections += [table_section(_missing(report["data"]["missing"]))]
    protocol = _words(report.get("protocol", {}), " · ")
    write_page(path, title, [_sentence(report), protocol], "".join(sections))


def _sentence(report: Mapping[str, Any]) -> str:
    data = report["data"]
    return (
        f"Model {report['model']} was measured on {data['n']} recordings, "
        f"{percent(data['coverage'])} % of those that were asked for."
    )


def _words(value: Any, separator: str = ", ") -> str:
    """Write JSON values as a line of words."""
    if isinstance(value, dict):
        known: Any = [item for item in value.items() if item[1] != {}]  # pyright: ignore
        return separator.join(f"{key} {_words(part)}" for key, part in known)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _in_order(labels: Iterable[str]) -> list[str]:
    """Vision before audio before both; what is unknown comes last."""
    return sorted(set(labels), key=lambda label: (_ORDER.get(label, len(_ORDER)), label))


def _tables(report: Mapping[str, Any]) -> list[Table]:
    captioning = report.get("captioning", {})
    tables = [
        _retrieval(report.get("retrieval", {}), report.get("pairs", {})),
        _other_ways(report.get("retrieval", {})),
        _by_caption(report.get("by_caption", {})),
        _captioning(captioning),
        _by_group(
            captioning,
            "slot_accuracy",
            title="Slot accuracy of captions",
            note="How many captions name the true value, for what the modalities that the model is "
            "given can tell. A value that a caption leaves out counts as wrong.",
        ),
        _by_group(
            captioning,
            "hallucination_rate",
            title="Hallucination in captions",
            note="How much of what captions state is untrue: in all recordings, in those with a "
            "silent actor beside the sounding one, and in those with a sound from off screen.",
        ),
        _answering(report.get("answering", {})),
        _by_group(
            report.get("answering", {}),
            "by_type",
            title="Answers by type of question",
            note="How many answers are right, by the type that the data gives a question.",
        ),
        _intervals(report.get("intervals", {})),
    ]
    return [table for table in tables if table.rows]


def _retrieval(retrieval: Mapping[str, Any], pairs: Mapping[str, Any]) -> Table:
    def row(names: list[str], ranks: Mapping[str, Any], rest: list[str]) -> list[str]:
        rates = [percent(ranks[key]) for key in recalls.values()]
        return [*names, *rates, f"{ranks['median_rank']:g}", *rest, str(ranks["num"])]

    recalls = {"R@1": "r1", "R@5": "r5", "R@10": "r10"}
    rows: list[list[str]] = []
    for group in _in_order(retrieval):
        figures = retrieval[group]
        limits = [percent(figures.get(key)) for key in ("oracle_r1", "chance_r1")]
        rows.append(row([group, "text to media"], figures["text_to_media"], limits))
        if "reranked" in figures:
            again = figures["reranked"]
            rows.append(row(["", "before re-ranking"], again["before"], ["-", limits[1]]))
            name = f"first {again['candidates']} re-ranked"
            rows.append(row(["", name], again["after"], ["-", limits[1]]))
        rows.append(row(["", "media to text"], figures["media_to_text"], ["-", limits[1]]))
    rows += [row([name.replace("_", " "), "no text"], pairs[name], ["-", "-"]) for name in pairs]
    return Table(
        title="Retrieval",
        note="A text is compared with all recordings, or a recording with all texts. R@k is how "
        "often the right one is among the first k; chance is R@1 of guessing. Where an oracle is "
        "given, the truth is known, and several recordings may fit a text equally well: a first "
        "hit among k such recordings counts 1/k. The oracle, the mean of 1/k, is the highest R@1 "
        "that is possible.",
        columns=["Media", "Query", *recalls, "Median rank", "Oracle R@1", "Chance R@1", "Queries"],
        rows=rows,
        num_names=2,
        picture=bar_chart(retrieval),
    )


def _other_ways(retrieval: Mapping[str, Any]) -> Table:
    """What was asked for beside the exact figures."""
    rows: list[list[str]] = []
    for group in _in_order(retrieval):
        figures = retrieval[group]
        both = figures.get("dual_softmax", {})
        ways = {
            "in two stages, text to media": figures.get("two_stage"),
            "dual softmax, text to media": both.get("text_to_media"),
            "dual softmax, media to text": both.get("media_to_text"),
        }
        for way, ranks in ways.items():
            if ranks:
                rates = [percent(ranks[key]) for key in ("r1", "r5", "r10")]
                num = str(ranks.get("candidates", "-"))
                rows.append([group, way, *rates, num, percent(ranks.get("candidate_recall"))])
    return Table(
        title="Retrieval in other ways",
        note="In two stages, pooled vectors choose candidates, which are ranked again exactly; the "
        "recall of the candidates is how often the right item is among them. A dual softmax weighs "
        "scores by all queries of the set, which no single search has: compare its figures only "
        "with others of the kind.",
        columns=["Media", "Way", "R@1", "R@5", "R@10", "Candidates", "Recall of candidates"],
        rows=rows,
        num_names=2,
    )


def _by_caption(by_caption: Mapping[str, Mapping[str, float]]) -> Table:
    groups = _in_order(group for row in by_caption.values() for group in row)
    rows: list[list[str]] = []
    for about in _in_order(by_caption):
        rates = by_caption[about]
        single = [rate for group, rate in rates.items() if group != "audiovisual"]
        comparable = single and "audiovisual" in rates
        gain = f"{100 * (rates['audiovisual'] - max(single)):+.1f}" if comparable else "-"
        rows.append([about, *(percent(rates.get(group)) for group in groups), gain])
    return Table(
        title="More modalities must never hurt",
        note="R@1 by what the caption speaks of, against recordings of which the model is given "
        "one modality or both: always the same weights. The gain is audiovisual minus the best "
        "single modality, in points. A caption of one modality must not lose by the other, and "
        "an audiovisual one needs both.",
        columns=["Caption about", *groups, "Gain"],
        rows=rows,
    )


def _captioning(captioning: Mapping[str, Any]) -> Table:
    metrics = {"BLEU-4": "bleu4", "ROUGE-L": "rouge_l", "CIDEr": "cider"}
    rows = [
        [g, *(percent(captioning[g][key]) for key in metrics.values()), str(captioning[g]["num"])]
        for g in _in_order(captioning)
    ]
    return Table(
        title="Captioning",
        note="Generated captions against their references, by the modalities that the model is "
        "given; all three metrics times 100, as papers print them.",
        columns=["Model given", *metrics, "Captions"],
        rows=rows,
    )


def _by_group(captioning: Mapping[str, Any], key: str, *, title: str, note: str) -> Table:
    """A row for each of the rates under `key`, a column for each group that has them."""
    rates = {g: captioning[g][key] for g in _in_order(captioning) if key in captioning[g]}
    names = dict.fromkeys(name for group in rates.values() for name in group)
    rows = [
        [name.replace("_", " "), *(percent(_rate(group.get(name))) for group in rates.values())]
        for name in names
    ]
    return Table(title=title, note=note, columns=["", *rates], rows=rows)


def _rate(value: Any) -> float | None:
    """A rate that stands alone, or beside its count."""
    return value["accuracy"] if isinstance(value, dict) else value  # pyright: ignore


def _intervals(intervals: Mapping[str, Sequence[float]]) -> Table:
    shown = ("r1", "cider", "accuracy")
    rows = [
        [name.replace("_", " ").replace("/", ", "), percent(low), percent(high)]
        for name, (low, high) in sorted(intervals.items())
        if name.rpartition("/")[2] in shown
    ]
    return Table(
        title="How sure the figures are",
        note="95 % confidence intervals by bootstrap over items: how much a figure would change "
        "with another sample of recordings of the same kind. All of them are in report.json.",
        columns=["Figure", "Low", "High"],
        rows=rows,
    )


def _answering(answering: Mapping[str, Any]) -> Table:
    needs = _in_order(need for figures in answering.values() for need in figures["by_need"])
    rows: list[list[str]] = []
    for need in ["all", *needs]:
        for group in _in_order(answering):
            figures = answering[group] if need == "all" else answering[group]["by_need"].get(need)
            if figures:
                prior = answering[group].get("prior", {}).get(need)
                rates = [percent(figures["accuracy"]), percent(prior)]
                rows.append([need, group, *rates, str(figures["num"])])
    return Table(
        title="Question answering",
        note="How many answers are right, by the modalities that a question needs and those that "
        "the model is given. The prior is the accuracy of an exact oracle that sees only the truth "
        "of the given modalities. Where a question needs both, an audiovisual model shows that it "
        "uses both by an accuracy above the priors of vision and of audio.",
        columns=["Question needs", "Model given", "Accuracy", "Prior", "Questions"],
        rows=rows,
        num_names=2,
    )


def _confusions(answering: Mapping[str, Any]) -> Table:
    rows = [
        [group, row["type"] or "-", row["right"], row["given"] or "-", f"{row['num']}/{row['of']}"]
        for group in _in_order(answering)
        for row in answering[group].get("confusions", [])[:_MAX_CONFUSIONS]
    ]
    return Table(
        title="Confusions",
        note="The wrong answers that a model gives most often, and in how many of the questions "
        "that have the same type and right answer.",
        columns=["Model given", "Question's type", "Right answer", "Given answer", "Times"],
        rows=rows,
        num_names=4,
    )


def _missing(reasons: Mapping[str, str]) -> Table:
    return Table(
        title="Missing files",
        note="These recordings could not be used. They are in no figure above.",
        columns=["Recording", "Reason"],
        rows=[[id, reason] for id, reason in sorted(reasons.items())],
        num_names=2,
    )


def _curves(curves: Sequence[Mapping[str, float]]) -> str:
    charts = loss_charts(curves)
    if not charts:
        return ""
    note = (
        f"The loss of each training term up to step {curves[-1]['step']:g}, reached after "
        f"{curves[-1]['elapsed_s'] / 60:.1f} minutes. Lines are smoothed; the number beside a name "
        "is where its line ends. Lower is better."
    )
    return section("Learning curves", note, f'<div class="charts">{charts}</div>\n')


def _searches(searches: Sequence[SearchExample]) -> str:
    queries = [
        f'<h3>{escape(search.query)} <span class="quiet">by {escape(search.by)}</span></h3>\n'
        f'<ol class="hits">{"".join(map(_hit, search.hits))}</ol>\n'
        for search in searches
    ]
    note = "Each query's best segments with their similarity, in all and of each modality alone."
    return section("Search", note, "".join(queries))


def _hit(hit: tuple[str, float, float, float, dict[str, float], bytes | None]) -> str:
    path, start_s, end_s, score, by_modality, thumbnail = hit
    parts = "".join(
        f"<li>{group_name(modality)} {by_modality[modality]:.3f}</li>"
        for modality in _in_order(by_modality)
    )
    return (
        f"<li>{_picture(thumbnail, 'image/jpeg')}<b>{score:.3f}</b> {escape(Path(path).name)}, "
        f'{start_s:.1f} to {end_s:.1f} s<ul class="legend">{parts}</ul></li>'
    )


def _examples(examples: Sequence[Example]) -> str:
    note = "Recordings that were not trained on, drawn by seed and not chosen."
    return section("Examples", note, "".join(map(_example, examples)))


def _failures(failures: Sequence[Example]) -> str:
    note = "Recordings on which the model does worst, by search, captions and answers in turn."
    return section("Failures", note, "".join(map(_example, failures)))


def _example(example: Example) -> str:
    captions = "".join(
        f"<dt>{group_name(group)}</dt><dd>{escape(example.captions[group]) or '-'}</dd>"
        for group in _in_order(example.captions)
    )
    answers = "".join(_answer(*answer) for answer in example.answers)
    note = f"<p><b>{escape(example.note)}</b></p>\n" if example.note else ""
    return (
        f"<article>\n<div>{_player(example)}{_picture(example.spectrogram, 'image/png')}"
        f'<p class="quiet">{escape(Path(example.path).name)}</p></div>\n'
        f"<div>{note}<dl><dt>Reference</dt><dd>{escape(example.reference)}</dd>{captions}</dl>\n"
        f'<ul class="answers">{answers}</ul></div>\n</article>\n'
    )


def _answer(question: str, given: str, right: str) -> str:
    if exact_match(given, [right]):
        mark, verdict = "right", f"✓ {escape(given)}"
    else:
        mark, verdict = "wrong", f"✗ {escape(given)}</b>, but it is <b>{escape(right)}"
    return f'<li class="{mark}">{escape(question)} <b>{verdict}</b></li>'


def _player(example: Example) -> str:
    """The recording itself if it is small and browsers play its kind, else a picture of it."""
    path = Path(example.path)
    kind = _PLAYABLE.get(path.suffix.lower())
    picture = _picture(example.thumbnail, "image/jpeg")
    if not kind or not path.is_file() or path.stat().st_size > _MAX_EMBEDDED_BYTES:
        return picture
    source = _data_uri(path.read_bytes(), kind)
    if kind.startswith("audio"):
        return f'{picture}<audio controls src="{source}"></audio>'
    poster = f' poster="{_data_uri(example.thumbnail, "image/jpeg")}"' if example.thumbnail else ""
    return f'<video controls playsinline src="{source}"{poster}></video>'


def _picture(content: bytes | None, kind: str) -> str:
    return f'<img alt="" src="{_data_uri(content, kind)}">' if content else ""


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
