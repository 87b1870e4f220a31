import csv
import itertools
import json
import math
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest

from valor.errors import ValorError
from valor.metrics.captioning import (
    BleuCounts,
    caption_report,
    cider_d,
    language_report,
    rouge_l,
)
from valor.metrics.cider import CiderCorpus


def words(text: str) -> list[str]:
    return text.split()


CAT = words("the cat sat on the mat")
CAT_REFERENCES = [words("the cat is on the mat"), words("there is a cat on the mat")]
TEXTS = [
    "a red circle moves left while a bell rings",
    "two blue squares jump over water",
    "someone plays loud drums in silence",
]


def test_bleu_of_a_hand_counted_caption() -> None:
    bleus = BleuCounts.of([CAT], [CAT_REFERENCES]).compute()
    assert bleus[0] == pytest.approx(5 / 6)
    assert bleus[1] == pytest.approx(math.sqrt(5 / 6 * 3 / 5))
    assert bleus[2] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3))
    assert bleus[3] < 1e-3


def test_short_captions_pay_the_brevity_penalty() -> None:
    counts = BleuCounts.of([words("a dog")], [[words("a dog runs fast")]])
    assert counts.compute()[0] == pytest.approx(math.exp(1 - 4 / 2))


def test_closest_reference_length_counts_and_the_shorter_of_two() -> None:
    counts = BleuCounts.of([words("a b c d")], [[words("a b c d e f"), words("a")]])
    assert counts.reference_length == 6
    tied = BleuCounts.of([words("a b c")], [[words("a b c d"), words("a b")]])
    assert tied.reference_length == 2


def test_bleu_of_merged_counts_is_bleu_of_the_corpus_in_any_order() -> None:
    captions = [text.split() for text in TEXTS]
    references = [[text.split()[1:]] for text in TEXTS]
    whole = BleuCounts.of(captions, references)
    parts = [BleuCounts.of([c], [r]) for c, r in zip(captions, references, strict=True)]
    for order in itertools.permutations(parts):
        merged = BleuCounts()
        for part in order:
            merged = merged.merge(part)
        assert merged == whole


def test_rouge_l_of_a_hand_counted_caption() -> None:
    assert rouge_l([CAT], [CAT_REFERENCES])[0] == pytest.approx(5 / 6)
    # Precision 1, recall 1/2, beta 1.2.
    scores = rouge_l([words("a dog")], [[words("a big dog barks")]])
    assert scores[0] == pytest.approx(2.44 * 0.5 / (0.5 + 1.44))


def test_rouge_l_needs_the_order() -> None:
    forward, backward = rouge_l([["a", "b", "c"], ["c", "b", "a"]], [[["a", "b", "c"]]] * 2)
    assert forward == pytest.approx(1)
    assert backward == pytest.approx(1 / 3)


def test_cider_d_of_a_hand_counted_caption() -> None:
    candidates = [words("a b c d"), words("e f g h")]
    references = [[words("a b x y")], [words("e f g h")]]
    scores = cider_d(candidates, references)
    assert scores[0] == pytest.approx(10 * (2 / 4 + 1 / 3) / 4)
    assert scores[1] == pytest.approx(10)


def test_cider_d_clips_repetition_and_punishes_length() -> None:
    references = [[words("a b c d")], [words("e f g h")]]
    repeated = cider_d([words("a a a a"), words("e f g h")], references)[0]
    # Four times "a" is clipped to one; the norms are 4 and 2; longer n-grams find nothing.
    assert repeated == pytest.approx(10 * (1 * 1 / (4 * 2)) / 4)
    longer = cider_d([words("a b c d a b c d"), words("e f g h")], references)[0]
    assert longer < 10 * math.exp(-(4**2) / (2 * 6**2))


def test_words_of_every_item_weigh_nothing_in_cider_d() -> None:
    references = [[words("the a b c d")], [words("the e f g h")]]
    assert cider_d([["the"], ["the"]], references).tolist() == [0, 0]


def test_one_text_at_a_time_has_the_scores_of_the_whole_corpus() -> None:
    texts = ["a dog barks at a dog", "two men sing loudly", "a man sings", "", "the the the cat"]
    references = [
        [words(text), words(text + " in the old park"), words("a dog sings")][: 1 + index % 3]
        for index, text in enumerate(texts)
    ]
    candidates = [
        words(text)
        for text in ("a dog barks at unheard things", "men sing", "", "a man", "the the cat")
    ]
    corpus = CiderCorpus(references)
    one_by_one = [corpus.score(*pair) for pair in zip(candidates, references, strict=True)]
    assert max(one_by_one) > 0.1
    assert one_by_one == pytest.approx(cider_d(candidates, references).tolist())


def test_perfect_captions_have_full_scores() -> None:
    report = caption_report(TEXTS, [[text] for text in TEXTS])
    for name in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"):
        assert report[name] == pytest.approx(1)
    assert report["num"] == 3
    # No n-gram stands in two texts, so each weighs something and every cosine is 1.
    assert report["cider"] == pytest.approx(10)


def test_foreign_captions_score_nothing() -> None:
    report = caption_report(TEXTS, [[text] for text in TEXTS[1:] + TEXTS[:1]])
    assert max(report[f"bleu{n}"] for n in (1, 2, 3, 4)) < 1e-3
    assert report["rouge_l"] == report["cider"] == 0


def test_empty_caption_scores_nothing() -> None:
    report = caption_report(["", TEXTS[1]], [[TEXTS[0]], [TEXTS[1]]])
    alone = caption_report([""], [[TEXTS[0]]])
    assert report["rouge_l"] == pytest.approx(0.5)
    assert report["cider"] == pytest.approx(5)
    assert alone["bleu1"] == alone["rouge_l"] == alone["cider"] == 0


def test_order_of_items_and_references_does_not_matter() -> None:
    references = [[text, text.replace("a ", "one ")] for text in TEXTS]
    before = caption_report(TEXTS, references)
    after = caption_report(TEXTS[::-1], [texts[::-1] for texts in references[::-1]])
    assert after == pytest.approx(before)


def test_metrics_that_are_not_computed_are_absent() -> None:
    report = caption_report(TEXTS, [[text] for text in TEXTS])
    assert set(report) == {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "num"}


def test_captions_that_are_all_alike_show_in_the_language() -> None:
    assert language_report(["a dog", "a dog", "a dog"]) == {
        "mean_length": 2,
        "vocabulary_size": 2,
        "distinct1": pytest.approx(2 / 6),
        "distinct2": pytest.approx(1 / 3),
    }
    assert language_report(["", ""])["distinct2"] == 0


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "references for 2 items"),
        ([], [], "no caption"),
        (["a"], [[]], "no reference"),
    ],
)
def test_captions_without_a_reference_are_refused(
    candidates: list[str], references: list[list[str]], message: str
) -> None:
    with pytest.raises(ValorError, match=message):
        caption_report(candidates, references)


def test_corpus_scores_equal_the_published_ones(annotations: Path) -> None:
    folder = annotations / "caption_metrics" / "audiocaps"
    candidates, references, expected = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("candidates", "references", "expected")
    )
    report = caption_report(list(candidates.values()), [references[id] for id in candidates])
    for theirs, ours in (
        *((f"bleu_{n}", f"bleu{n}") for n in (1, 2, 3, 4)),
        ("rouge_l", "rouge_l"),
    ):
        assert report[ours] == pytest.approx(expected[theirs], abs=1e-6)
    assert report["cider"] == pytest.approx(expected["cider_d"], abs=1e-4)


def test_item_scores_equal_the_published_ones(annotations: Path) -> None:
    """The published run left `woman's` whole, so words are cut at spaces here."""
    path = annotations / "caption_metrics" / "conette" / "outputs_audiocaps_test.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 912
    candidates = [row["cands"].split() for row in rows]
    references = [[text.split() for text in literal_eval(row["mrefs"])] for row in rows]
    for name, metric in (("rouge_l", rouge_l), ("cider_d", cider_d)):
        published = [float(row[f"best_fense.cands.{name}"]) for row in rows]
        np.testing.assert_allclose(metric(candidates, references), published, atol=1e-9)
