import pytest

from valor.errors import MediaError
from valor.search import planning


@pytest.fixture(autouse=True)
def words_to_plan(monkeypatch, words_for_media) -> None:
    from tests.search.conftest import probe_words

    monkeypatch.setattr(planning, "probe", probe_words)


def test_cost_counts_what_would_be_written(tmp_path, library, write_file, word_model):
    scenes = [{"see": "red car", "hear": "horn"}] * 20
    for name in ("a.mp4", "b.mp4"):
        folder = write_file(name, *scenes).parent
    (folder / "bad.mp4").write_text("no media")
    cost = planning.estimate([str(folder)], word_model())
    assert (cost.num_files, cost.num_segments) == (3, 40)
    assert cost.hours_of_media == pytest.approx(200 / 3600)
    assert cost.caption_hours is None
    assert cost.embed_media_hours_per_hour * cost.embed_hours == pytest.approx(cost.hours_of_media)
    # Three tokens and two means of 64 numbers in two bytes each, and an index.
    assert cost.gigabytes * 1e9 / 40 == pytest.approx((3 + 2) * 64 * 2 + 2 * 64 + 160, rel=0.4)
    assert len(library) == 0


def test_collection_without_media_is_refused(tmp_path, word_model):
    with pytest.raises(MediaError, match="no media"):
        planning.estimate([str(tmp_path)], word_model())
