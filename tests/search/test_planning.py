from types import SimpleNamespace

import pytest

from valor.errors import MediaError
from valor.search import ingest, planning
from valor.types import AUDIOVISUAL, Caption


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


def test_captions_cost_what_they_add(write_file, word_model, monkeypatch):
    class Teller(word_model):
        def describe(self, segments, *, using=AUDIOVISUAL):
            clock.now_s += len(segments) * 3.0
            return [Caption(text="a car", modalities_used=using, segments=()) for _ in segments]

        def answer(self, segments, questions, *, using=AUDIOVISUAL):
            raise NotImplementedError

        def embed_media(self, segments):
            clock.now_s += len(segments) * 2.0
            return super().embed_media(segments)

    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock.now_s)
    model = Teller()
    folder = write_file("a.mp4", *[{"see": "red car"}] * 40).parent
    cost = planning.estimate([str(folder)], model, model, seconds=1e6)
    assert cost.embed_hours * 3600 == pytest.approx(40 * 2.0)
    assert cost.caption_hours == pytest.approx(40 * 3.0 / 3600)
    assert cost.caption_media_hours_per_hour == pytest.approx(5.0 / 3.0)


def test_all_that_is_measured_counts_with_its_beginning(write_file, word_model, monkeypatch):
    """What is read ahead when the first commit is made is not embedded for nothing."""

    class Slow(word_model):
        def embed_media(self, segments):
            clock.now_s += 2.0 * len(segments) + (100.0 if not self.num_embedded else 0.0)
            return super().embed_media(segments)

    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock.now_s)
    monkeypatch.setattr(ingest, "COMMIT_S", 0.0)
    folder = write_file("a.mp4", *[{"see": "red car"}] * 160).parent
    whole = planning.estimate([str(folder)], Slow(), seconds=1e6)
    assert (whole.num_measured, whole.embed_hours) == (160, pytest.approx(420.0 / 3600))
    part = planning.estimate([str(folder)], Slow(), seconds=300.0)
    assert part.num_measured < 160
    assert part.embed_hours == pytest.approx(320.0 / 3600)


def test_a_long_collection_is_not_ingested_whole(write_file, word_model, monkeypatch):
    monkeypatch.setattr(ingest, "COMMIT_S", 0.0)
    folder = write_file("a.mp4", *[{"see": "red car"}] * 200).parent
    model = word_model()
    assert planning.estimate([str(folder)], model, seconds=0.0).num_segments == 200
    assert model.num_embedded == ingest.BATCH_SEGMENTS


def test_collection_without_media_is_refused(tmp_path, word_model):
    with pytest.raises(MediaError, match="no media"):
        planning.estimate([str(tmp_path)], word_model())
