import copy
import html
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from valor.evaluation.charts import TERMS
from valor.evaluation.report import Example, SearchExample, summary_table, write_report

GROUPS = ("vision", "audio", "audiovisual")
SLOTS = ("colour", "shape", "motion", "timbre", "rhythm", "companion_colour")


class Rates:
    """Numbers that are all different in the report, so that each can be looked for."""

    def __init__(self) -> None:
        self.given: list[float] = []

    def next(self) -> float:
        self.given.append(0.101 + 0.007 * len(self.given))
        return self.given[-1]

    def ranks(self) -> dict[str, float]:
        recalls = {key: self.next() for key in ("r1", "r5", "r10")}
        return {**recalls, "median_rank": 3.5, "num": 271}


def full_report() -> tuple[dict[str, Any], list[float]]:
    rates = Rates()
    report: dict[str, Any] = {
        "model": "3f9a1c07",
        "data": {"n": 271, "coverage": 0.985, "missing": {"test_44": "unreadable"}},
        "retrieval": {
            group: {
                "text_to_media": rates.ranks(),
                "media_to_text": rates.ranks(),
                "oracle_r1": rates.next(),
                "chance_r1": rates.next(),
            }
            for group in GROUPS
        },
        "by_caption": {
            "vision": {"vision": rates.next(), "audiovisual": rates.next()},
            "audio": {"audio": rates.next(), "audiovisual": rates.next()},
            "audiovisual": {group: rates.next() for group in GROUPS},
        },
        "pairs": {"audio_to_vision": rates.ranks()},
        "captioning": {
            group: {
                **{key: rates.next() for key in ("bleu4", "rouge_l", "cider")},
                "num": 268,
                "slot_accuracy": {slot: rates.next() for slot in SLOTS},
                "hallucination_rate": {kind: rates.next() for kind in ("all", "silent")},
            }
            for group in GROUPS
        },
        "answering": {
            group: {
                "accuracy": rates.next(),
                "num": 813,
                "by_need": {
                    need: {"accuracy": rates.next(), "num": 264}
                    for need in ("vision", "audio", "both")
                },
                "prior": {need: rates.next() for need in ("vision", "audio", "both")},
            }
            for group in GROUPS
        },
        "protocol": {"seed": 17, "versions": {"torch": "2.9.1"}, "seconds": 41.25, "files": {}},
    }
    return report, rates.given


CURVES = [
    {
        "step": step,
        "elapsed_s": 0.6 * step,
        "loss": 9.0 / step,
        "align/vision": 4.0 / step,
        "align/audiovisual": 3.0 / step,
        "caption/audiovisual": 2.0 / step,
        **({"answer/audiovisual": 1.0 / step} if step % 2 else {}),
        "grad_norm": 1.0,
    }
    for step in range(1, 301)
]


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, format=kind)
    return file.getvalue()


def example(path: Path, **changes: Any) -> Example:
    values: dict[str, Any] = {
        "path": str(path),
        "thumbnail": picture("JPEG"),
        "spectrogram": picture("PNG"),
        "captions": {"vision": "a red circle", "audio": "", "audiovisual": "a circle rings"},
        "reference": "a red circle rings",
        "answers": [("what colour is it", "The red", "red"), ("what is heard", "horn", "bell")],
    }
    return Example(**{**values, **changes})


def search(query: str = "a red circle") -> SearchExample:
    modalities = {"vision": 0.625, "audio": 0.375}
    return SearchExample(
        query=query,
        by="text",
        hits=[
            ("videos/first.mp4", 1.5, 6.5, 0.812, modalities, picture("JPEG")),
            ("videos/second.wav", 0.0, 5.0, 0.433, {"audio": 0.433}, None),
        ],
    )


def written(folder: Path, report: dict[str, Any] | None = None, **parts: Any) -> str:
    path = folder / "report.html"
    write_report(path, full_report()[0] if report is None else report, **parts)
    return path.read_text(encoding="utf-8")


def cells(page: str) -> list[str]:
    return [re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[dh].*?</t[dh]>", page)]


def test_every_figure_is_in_the_page_and_in_the_text(tmp_path: Path):
    report, rates = full_report()
    shown, text = cells(written(tmp_path, report)), summary_table(report).split()
    assert len(rates) == len(set(rates)) > 80
    for value in [*(f"{100 * rate:.1f}" for rate in rates), "3.5", "271", "268", "813", "264"]:
        assert value in shown
        assert value in text


def test_page_names_model_data_protocol_and_missing_files(tmp_path: Path):
    page = written(tmp_path)
    assert "Model 3f9a1c07 was measured on 271 recordings, 98.5 %" in page
    assert "seed 17 · versions torch 2.9.1 · seconds 41.25</p>" in page
    assert {"test_44", "unreadable"} <= set(cells(page))


def test_bars_are_as_long_as_the_figures(tmp_path: Path):
    report, _ = full_report()
    page = written(tmp_path, report)
    for group in GROUPS:
        figures = report["retrieval"][group]
        r1 = f"{100 * figures['text_to_media']['r1']:.1f}"
        assert re.search(rf'class="bar of-{group}"[^>]* width="{r1}%"', page)
        assert f'class="oracle" y="28" width="{100 * figures["oracle_r1"]:.1f}%"' in page
        assert f'class="chance" x1="{100 * figures["chance_r1"]:.1f}%"' in page


def test_gain_is_audiovisual_minus_the_best_single_modality(tmp_path: Path):
    report, _ = full_report()
    report["by_caption"] = {
        "vision": {"vision": 0.5, "audiovisual": 0.48},
        "audiovisual": {"vision": 0.2, "audio": 0.3, "audiovisual": 0.9},
        "audio": {"audiovisual": 0.4},
    }
    shown = cells(written(tmp_path, report))
    assert {"-2.0", "+60.0"} <= set(shown)


@pytest.mark.parametrize(
    "path",
    [
        ("retrieval", "vision", "oracle_r1"),
        ("retrieval", "audio", "chance_r1"),
        ("retrieval", "audio"),
        ("captioning", "vision", "slot_accuracy"),
        ("captioning", "vision", "slot_accuracy", "shape"),
        ("captioning", "audio", "hallucination_rate"),
        ("answering", "audiovisual", "prior"),
        ("answering", "audiovisual", "by_need", "both"),
        *(("retrieval",), ("by_caption",), ("pairs",), ("captioning",), ("answering",)),
        ("protocol",),
    ],
)
def test_what_is_absent_is_left_out(tmp_path: Path, path: tuple[str, ...]):
    whole, _ = full_report()
    report = copy.deepcopy(whole)
    parent = report
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    assert len(written(tmp_path, report)) < len(written(tmp_path, whole))
    assert "None" not in summary_table(report)


def test_a_report_of_nothing_has_no_sections(tmp_path: Path):
    data = {"n": 0, "coverage": 0.0, "missing": {}}
    assert "<section>" not in written(tmp_path, {"model": "m", "data": data})


def test_learning_curves_have_a_line_per_term_and_end_where_training_ends(tmp_path: Path):
    page = written(tmp_path, curves=CURVES)
    lines = [
        (title, *line)
        for title, figure in re.findall(r"<figcaption>([^<]*)</figcaption>(.*?)</figure>", page)
        for line in re.findall(r'<polyline class="line of-(\w+)" points="([^"]*)"', figure)
    ]
    assert [(title, group) for title, group, _ in lines] == [
        ("Alignment", "vision"),
        ("Alignment", "audiovisual"),
        ("Captions", "audiovisual"),
        ("Answers", "audiovisual"),
    ]
    for _, _, points in lines:
        xs, ys = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
        assert len(xs) <= 80
        assert list(xs) == sorted(xs)
        assert 0 <= min(xs) < max(xs) <= 412
        assert -190 <= min(ys) <= max(ys) <= 0
        assert ys[0] < ys[-1], "a falling loss goes down, where y is larger"
    assert "up to step 300, reached after 3.0 minutes" in page


@pytest.mark.parametrize("term", TERMS)
def test_every_kind_of_term_is_drawn(tmp_path: Path, term: str):
    curves = [{"step": 0, "elapsed_s": 1.0, f"{term}/audio": 1.0, "grad_norm/audio": 1.0}]
    assert written(tmp_path, curves=curves).count("<polyline") == 1


def test_a_loss_below_zero_stays_inside_of_the_axes(tmp_path: Path):
    curves = [
        {"step": step, "elapsed_s": 1.0, "self_critical/audio": value}
        for step, value in enumerate([0.5, -0.25, -2.5])
    ]
    page = written(tmp_path, curves=curves)
    (points,) = re.findall(r'<polyline [^>]*points="([^"]*)"', page)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert -190 <= heights[0] < heights[1] < heights[2] <= 0
    assert ">-2.5<" in page


def test_values_that_are_no_number_are_no_point(tmp_path: Path):
    broken = [{"step": 1, "elapsed_s": 1.0, "align/vision": float("nan"), "align/audio": 0.0}]
    page = written(tmp_path, curves=broken)
    assert page.count("<polyline") == 1
    assert "nan" not in page


def test_search_hits_show_file_time_score_and_each_modality(tmp_path: Path):
    page = written(tmp_path, searches=[search()])
    text = html.unescape(re.sub("<[^>]*>", "", page))
    for part in ("a red circle by text", "0.812 first.mp4, 1.5 to 6.5 s", "vision 0.625"):
        assert part in text
    assert "0.433 second.wav, 0.0 to 5.0 s" in text


def test_examples_show_captions_and_mark_answers(tmp_path: Path):
    page = written(tmp_path, examples=[example(tmp_path / "gone.mp4")])
    text = html.unescape(re.sub("<[^>]*>", "", page))
    for part in ("gone.mp4", "Referencea red circle rings", "audiovisuala circle rings", "audio-"):
        assert part in text
    assert '<li class="right">what colour is it' in page
    assert '<li class="wrong">what is heard' in page
    assert "✗ horn, but it is bell" in text


@pytest.mark.parametrize(
    ("name", "size", "player"),
    [
        ("small.mp4", 100, "<video"),
        ("small.WAV", 100, "<audio"),
        ("large.mp4", 2_000_001, None),
        ("small.avi", 100, None),
    ],
)
def test_small_files_that_browsers_play_are_put_into_the_page(
    tmp_path: Path, name: str, size: int, player: str | None
):
    path = tmp_path / name
    path.write_bytes(b"x" * size)
    page = written(tmp_path, examples=[example(path)])
    assert [tag for tag in ("<video", "<audio") if tag in page] == ([player] if player else [])
    assert len(page) < 100_000
    assert name in page


def test_texts_are_escaped(tmp_path: Path):
    attack = "<script>alert('x')</script>&\""
    report, _ = full_report()
    report["model"] = report["protocol"]["seed"] = attack
    report["data"]["missing"] = {attack: attack}
    for section in ("retrieval", "by_caption", "captioning", "answering"):
        report[section][attack] = report[section]["audiovisual"]
    report["pairs"][attack] = report["pairs"]["audio_to_vision"]
    report["captioning"]["vision"]["slot_accuracy"][attack] = 0.5
    report["answering"]["vision"]["by_need"][attack] = {"accuracy": 0.5, "num": 1}
    shown = example(
        tmp_path / attack.replace("/", ""),
        captions={attack: attack},
        reference=attack,
        answers=[(attack, attack, "other"), (attack, "other", attack)],
    )
    curves = [{"step": 1, "elapsed_s": 1.0, f"align/{attack}": 1.0, f"answer/{attack}": 1.0}]
    page = written(
        tmp_path,
        report,
        title=attack,
        curves=curves,
        examples=[shown],
        searches=[
            SearchExample(query=attack, by=attack, hits=[(attack, 0, 1, 0, {attack: 0}, None)])
        ],
    )
    assert "<script" not in page
    assert page.count(html.escape(attack)) > 20


def test_page_needs_nothing_else(tmp_path: Path):
    page = written(tmp_path, curves=CURVES, searches=[search()], examples=[example(tmp_path)])
    sources = re.findall(r'(?:src|href|poster|url|action)\s*[=(]\s*"?([^"\s>)]*)', page)
    assert len(sources) > 2
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|@import|<script|<link", page)


def test_equal_input_gives_equal_bytes(tmp_path: Path):
    parts = {"curves": CURVES, "searches": [search()], "examples": [example(tmp_path)]}
    assert written(tmp_path, **parts) == written(tmp_path, **parts)


def test_a_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write_half(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError("disk full")

    before = written(tmp_path)
    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path, title="new")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_summary_is_aligned_and_fits_a_terminal():
    report, _ = full_report()
    text = summary_table(report)
    assert max(map(len, text.splitlines())) <= 100
    tables = [part.splitlines()[1:] for part in text.split("\n\n")[1:]]
    assert len(tables) == 6
    for table in tables:
        assert len({len(line) for line in table}) == 1
