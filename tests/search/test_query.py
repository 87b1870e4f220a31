import itertools
from pathlib import Path

import pytest

from valor.errors import MediaError, UsageError
from valor.models.fusion import join, similarity
from valor.search import query, tables
from valor.search.library import Library
from valor.types import AUDIOVISUAL, Modality

SCENES = {
    "street.mp4": [{"see": "red car street", "hear": "horn engine"}],
    "beach.mp4": [{"see": "blue sea sand", "hear": "waves wind"}, {"see": "sand dog"}],
    "church.mp4": [{"see": "old tower", "hear": "bell"}, {"see": "candle", "hear": "choir"}],
    "radio.wav": [{"hear": "news voice bell"}],
}


@pytest.fixture
def full(library, write_file) -> Library:
    for name, scenes in SCENES.items():
        write_file(name, *scenes)
    library.add(write_file("street.mp4", *SCENES["street.mp4"]).parent)
    return library


def place(hit: query.Hit) -> tuple[str, float]:
    return Path(hit.path).name, hit.start_s


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ("red car street", ("street.mp4", 0.0)),
        ("waves wind", ("beach.mp4", 0.0)),
        ("sand dog", ("beach.mp4", 5.0)),
        ("old tower bell", ("church.mp4", 0.0)),
    ],
)
def test_best_match_of_a_text_comes_first(full, text, best):
    assert place(full.search(text)[0]) == best


@pytest.mark.parametrize(
    ("by", "using", "scene", "best"),
    [
        ("audio", "audio", {"see": "candle", "hear": "horn engine"}, ("street.mp4", 0.0)),
        ("image", "vision", {"see": "candle"}, ("church.mp4", 5.0)),
        ("video", "auto", {"see": "blue sea sand", "hear": "waves"}, ("beach.mp4", 0.0)),
        ("video", "audio", {"see": "blue sea sand", "hear": "choir"}, ("church.mp4", 5.0)),
        ("video", "auto", {"see": "sand dog"}, ("beach.mp4", 5.0)),
    ],
)
def test_best_match_of_a_file_comes_first(full, write_file, by, using, scene, best):
    hits = full.search(write_file("query.mp4", scene), by=by, using=using)
    assert place(hits[0]) == best


@pytest.mark.parametrize("using", ["vision", "audio", "audiovisual"])
def test_scores_are_the_similarity_of_the_models_own_vectors(full, using):
    model, group = full.embedder, query.USING[using]
    hits = full.search("sea bell car", using=using, limit=100, merged=False)
    assert len(hits) == {"vision": 5, "audio": 5}.get(using, 6)
    for hit in hits:
        media = model.embed_media([model.read(hit.path, start_s=hit.start_s)])
        text = model.embed_text(["sea bell car"])
        expected = similarity(text, join(media, group)).item()
        assert hit.score == pytest.approx(expected, abs=1e-3)
        for label, score in hit.by_modality.items():
            alone = similarity(text, media[Modality.parse(label)]).item()
            assert score == pytest.approx(alone, abs=1e-3)


def test_hits_say_which_modalities_they_have_and_which_were_used(full):
    hits = {
        place(hit): hit
        for hit in full.search("bell", using="audiovisual", limit=100, merged=False)
    }
    sighted, silent, blind = (
        hits[key] for key in [("church.mp4", 0.0), ("beach.mp4", 5.0), ("radio.wav", 0.0)]
    )
    assert set(sighted.by_modality) == {"vision", "audio"}
    assert set(silent.by_modality) == {"vision"}
    assert set(blind.by_modality) == {"audio"}
    assert sighted.modalities_used == AUDIOVISUAL
    assert silent.modalities_used == Modality.VISION
    assert blind.modalities_used == Modality.AUDIO
    heard = full.search("bell", using="audio", limit=100, merged=False)
    assert {hit.modalities_used for hit in heard} == {Modality.AUDIO}
    assert ("beach.mp4", 5.0) not in map(place, heard)


def test_times_lie_inside_the_file(full):
    for hit in full.search("bell", limit=100, merged=False):
        duration_s = 5.0 * len(SCENES[Path(hit.path).name])
        assert 0 <= hit.start_s < hit.end_s <= duration_s


def test_order_of_adding_does_not_change_results(tmp_path, full, word_model):
    expected = full.search("bell sand", limit=4, merged=False)
    paths = [row.path for row in full.files()]
    for index, order in enumerate(itertools.islice(itertools.permutations(paths), 0, 24, 7)):
        other = Library(tmp_path / f"other{index}", model=word_model())
        for path in order:
            other.add(path)
        found = other.search("bell sand", limit=4, merged=False)
        assert list(map(place, found)) == list(map(place, expected))
        assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-6)


def test_equal_scores_are_ordered_by_path_and_time(library, write_file):
    folder = write_file("b.mp4", {"see": "dog"}, {"see": "dog"}).parent
    write_file("a.mp4", {"see": "dog"}, {"see": "dog"})
    library.add(folder)
    assert list(map(place, library.search("dog", limit=3, merged=False))) == [
        ("a.mp4", 0.0),
        ("a.mp4", 5.0),
        ("b.mp4", 0.0),
    ]


def test_blocks_and_cache_do_not_change_results(full, monkeypatch):
    expected = full.search("bell sand", limit=4, merged=False)
    assert full.search("bell sand", limit=4, merged=False) == expected
    monkeypatch.setattr(tables, "_READ_ROWS", 2)
    monkeypatch.setattr(query, "CACHE_BYTES", 0)
    found = Library(full.path, model=full.embedder).search("bell sand", limit=4, merged=False)
    assert list(map(place, found)) == list(map(place, expected))
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-6)


def test_repeated_query_reads_the_table_once(full, monkeypatch):
    full.search("bell")
    monkeypatch.setattr(tables.Tables, "segments", None)
    assert place(full.search("choir")[0]) == ("church.mp4", 5.0)


def test_what_another_process_adds_is_found(full, write_file, word_model):
    full.search("bell")
    other = Library(full.path, model=word_model())
    other.add(write_file("new.mp4", {"see": "zebra"}))
    assert place(full.search("zebra")[0]) == ("new.mp4", 0.0)


def test_limit_is_kept(full):
    assert len(full.search("bell", limit=2)) == 2


def test_empty_library_has_no_hits(library):
    assert library.search("bell") == []


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "empty"),
        ("  ", {}, "empty"),
        ("bell", {"by": "smell"}, "by 'smell'; choose from text, audio, image, video"),
        ("bell", {"using": "smell"}, "using 'smell'; choose from auto, vision, audio, audiovisual"),
        ("bell", {"using": {"vision": -1}}, "none below 0"),
        ("bell", {"where": "smell = 1"}, "cannot filter by 'smell = 1'"),
        ("bell", {"limit": 0}, "limit"),
    ],
)
def test_impossible_request_is_a_usage_error(full, text, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        full.search(text, **options)
    assert "\n" not in str(caught.value)


def test_query_file_without_the_asked_modality_is_refused(full, write_file):
    silent = write_file("silent.mp4", {"see": "bell"})
    with pytest.raises(MediaError, match="no audio") as caught:
        full.search(silent, by="audio")
    assert caught.value.reason == "missing_modality"
