"""Laws of counting."""

import pytest

from valor.data.manifest import Question, Record, TaggedText, read_manifest
from valor.data.stats import audio_concept_density, statistics
from valor.types import Modality


def test_counts_are_those_of_the_records():
    records = [
        Record(
            id="a",
            media="/x.mp4",
            start_s=1.0,
            end_s=37.0,
            captions=(
                TaggedText(text="A dog barks."),
                TaggedText(text="it's red", about=Modality.VISION),
            ),
            questions=(Question(text="what", answers=("x",), needs="both"),),
        ),
        Record(id="b", media="/x.mp4", split="test", captions=(TaggedText(text="rain"),)),
    ]
    numbers = statistics(records)
    assert (numbers.num_records, numbers.num_files) == (2, 1)
    assert numbers.splits == {"train": 1, "test": 1}
    assert numbers.captions_about == {"audiovisual": 2, "vision": 1}
    assert numbers.words_per_caption == 2.0
    assert numbers.questions_needing == {"both": 1}
    assert numbers.num_hours == pytest.approx(0.01)
    assert numbers.num_unknown_lengths == 1
    assert numbers.with_sound_fraction is None
    assert numbers.audio_concept_density is None


@pytest.mark.media
def test_opened_media_give_lengths_and_sound(world, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    clips = read_manifest(world, split="test")
    records = [*clips, Record(id="bad", media=str(tmp_path / "bad.mp4"))]
    numbers = statistics(records, open_media=True, workers=1)
    assert numbers.num_hours > len(clips) / 3600
    assert numbers.num_unknown_lengths == 1
    assert numbers.with_sound_fraction == 1
    assert numbers.unreadable == {str(tmp_path / "bad.mp4"): "unreadable"}


@pytest.mark.parametrize(
    ("text", "concepts", "density"),
    [
        ("A dog barks, then a dog.", ["dog"], 2 / 6),
        ("a dog barks", ["dog barks", "dog", "barks"], 1 / 3),
        ("dog barks dog", ["Dog  Barks dog", "dog"], 1 / 3),
        ("the bells ring", ["bell", ""], 0),
        ("", ["bell"], None),
    ],
)
def test_density_is_longest_concepts_over_words(text, concepts, density):
    assert audio_concept_density([TaggedText(text=text)], concepts) == density
