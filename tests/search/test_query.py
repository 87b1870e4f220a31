import itertools
from pathlib import Path

import numpy as np
import pytest

from valor.errors import MediaError, UsageError
from valor.models.fusion import join, similarity
from valor.search import asking, query, tables
from valor.search.library import Library
from valor.search.results import Hit, merge
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


def place(hit: Hit) -> tuple[str, float]:
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
    model, group = full.embedder, asking.USING[using]
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
        place(hit): hit for hit in full.search("bell", using="audiovisual", limit=100, merged=False)
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


@pytest.fixture
def indexed(tmp_path, write_file, word_model, monkeypatch) -> Library:
    """As large as an index needs to be, for once."""
    monkeypatch.setattr(tables, "_MIN_INDEXED", 300)
    library = Library(tmp_path / "large", model=word_model())
    words = [f"word{number}" for number in range(40)]
    for file in range(10):
        scenes = [
            {
                "see": f"{words[(7 * file + at) % 40]} {words[at]}",
                "hear": words[(3 * at + file) % 40],
            }
            for at in range(40)
        ]
        write_file(f"{file}.mp4", *scenes)
    library.add(tmp_path / "media")
    return library


@pytest.mark.parametrize("using", ["vision", "audio", "audiovisual"])
@pytest.mark.parametrize("text", ["word3 word17", "word5", "word30 word9 word12"])
def test_index_finds_what_a_scan_finds(indexed, using, text):
    asked = asking.embed_query(indexed.embedder, text, by="text", group=AUDIOVISUAL)
    weights = asking.parse_using(using)
    assert "pooled" in indexed._tables.indexed()
    exact = query.rank(indexed._scan.blocks(), asked, weights=weights, limit=10)
    found = indexed.find(asked, weights=weights, limit=10)
    assert list(map(place, found[:5])) == list(map(place, exact[:5]))
    assert len(set(map(place, found)) & set(map(place, exact))) >= 9


@pytest.mark.parametrize("using", ["vision", "audiovisual"])
def test_index_gives_as_many_hits_as_asked_for(indexed, using):
    assert query._NUM_CANDIDATES < 300
    hits = indexed.search("word3 word17", using=using, limit=300, merged=False)
    assert len({place(hit) for hit in hits}) == len(hits) == 300


def test_index_keeps_in_step_with_what_is_added_removed_and_compacted(indexed, write_file):
    new = write_file("new.mp4", {"see": "zebra"}, {"see": "giraffe"})
    indexed.add(new)
    assert place(indexed.search("zebra", using="vision")[0]) == ("new.mp4", 0.0)
    indexed.compact()
    assert place(indexed.search("giraffe", using="vision")[0]) == ("new.mp4", 5.0)
    indexed.remove(new)
    assert "new.mp4" not in {place(hit)[0] for hit in indexed.search("zebra", using="vision")}
    before = indexed.search("word5 word3", using="audiovisual")
    indexed.compact()
    assert indexed.search("word5 word3", using="audiovisual") == before


def test_linear_function_equals_the_score_of_the_segment_it_was_made_at(word_model):
    """With one token each, and so much alike, the means are the tokens and the weights are 1/2."""
    model = word_model()
    tokens = model.embed_text(["sea bell car"])
    media = {Modality.VISION: model.embed_text(["sea"]), Modality.AUDIO: model.embed_text(["bell"])}
    for part in media.values():
        part.weight_logits.zero_()
    row = [{"key": 1, "path": "p", "start_s": 0.0, "end_s": 5.0}]
    block = query.Block.of(tables.segment_table(row, media).to_batches()[0])
    means = np.concatenate([media[single].vectors[0, 0] for single in AUDIOVISUAL])
    for group in (Modality.VISION, Modality.AUDIO, AUDIOVISUAL):
        factors = query.linear(block, 0, tokens, {group: 1.0})
        expected = query.score(block, asking.Query(tokens=tokens), [group])[group][0]
        assert factors @ means == pytest.approx(expected, abs=1e-3)


def test_neighbours_and_copies_make_one_hit(library, write_file):
    scenes = {"see": "sea"}, {"see": "red car"}, {"see": "red car"}, {"see": "church"}
    folder = write_file("a.mp4", *scenes).parent
    write_file("copy.mp4", *scenes)
    library.add(folder)
    first, *others = library.search("red car", using="vision")
    assert (place(first), first.end_s) == (("a.mp4", 5.0), 15.0)
    assert {Path(copy).name for copy in first.copies} == {"copy.mp4"}
    assert all(hit.score < first.score for hit in others)


def test_hit_between_two_others_makes_one_of_all_three(library, write_file):
    library.add(write_file("a.mp4", {"see": "car"}, {"see": "car"}, {"see": "car"}))
    first, second, third = library.search("car", using="vision", merged=False)
    merged = merge([first, third, second], limit=10)
    assert [(hit.start_s, hit.end_s, hit.score) for hit in merged] == [(0.0, 15.0, first.score)]


def test_moment_and_modality_of_the_best_token(library, write_file):
    library.add(write_file("a.mp4", {"see": "sea sand car tree", "hear": "wind"}, {"see": "dog"}))
    best = library.search("car", using="audiovisual", merged=False)[0]
    assert (best.matched, best.moment_s) == (Modality.VISION, 5.0 * 2.5 / 4)
    assert library.search("wind", using="audiovisual")[0].matched == Modality.AUDIO


def test_filter_keeps_only_what_it_says(full):
    hits = full.search("bell", where="path LIKE '%church%' AND start_s > 0", merged=False)
    assert list(map(place, hits)) == [("church.mp4", 5.0)]


def test_text_with_a_sound_finds_what_has_both(full, write_file):
    sound = write_file("query.wav", {"hear": "waves"})
    assert place(full.search("sea", also=sound, using="audiovisual")[0]) == ("beach.mp4", 0.0)


@pytest.mark.parametrize(
    ("second", "start_s"), [("0", 0.0), ("0.000", 0.0), ("4.99", 0.0), ("5.", 5.0), ("7.5", 5.0)]
)
def test_segment_of_a_file_is_a_query(full, second, start_s):
    path = next(row.path for row in full.files() if row.path.endswith("church.mp4"))
    found = full.search(f"{path}@{second}", by="video", using="audiovisual", merged=False)
    assert place(found[0]) == ("church.mp4", start_s)


def test_name_with_an_at_sign_is_a_name(full, write_file):
    path = write_file("mail@7", {"see": "old tower"}, {"see": "candle"})
    assert place(full.search(path, by="image")[0]) == ("church.mp4", 0.0)


def test_auto_listens_sees_or_reads_as_the_query_asks(library, tmp_path, write_file):
    for file in range(12):
        scene = {"see": f"colour{file} shape{file % 5}", "hear": f"sound{file} beat{file % 4}"}
        path = write_file(f"{file}.mp4", scene)
        path.with_suffix(".vtt").write_text(
            f"WEBVTT\n\n00:01.000 --> 00:02.000\n<b>number{file}</b> calling\n"
        )
    library.add(tmp_path / "media")
    for text, matched in (
        ("colour7 shape2", Modality.VISION),
        ("sound7 beat3", Modality.AUDIO),
        ("number7 calling", Modality.TEXT),
    ):
        best = library.search(text)[0]
        assert (place(best), best.matched) == (("7.mp4", 0.0), matched)
        assert best.speech == "number7 calling"
