"""Captions of sounds and of images, on excerpts of real files where there are any."""

import pytest

from valor.types import Modality


@pytest.mark.parametrize(
    "name",
    [
        "Y7fmOlUlwoNg.wav",
        "7fmOlUlwoNg_20.000_30.000.mp4",
        "7fmOlUlwoNg_20000_30000.flac",
        "102852.wav",
    ],
)
def test_audiocaps_joins_the_captions_of_a_sound(load, name):
    imported = load("audiocaps", "audiocaps/test.csv", media=name)
    (record,) = imported.records
    assert (record.id, record.split) == ("7fmOlUlwoNg_20", "test")
    assert record.media.endswith(name)
    assert len(record.captions) == 5
    assert {caption.about for caption in record.captions} == {Modality.AUDIO}
    assert imported.missing == ["6BJ455B1aAs_0"]


def test_clotho_has_a_column_per_caption(load, put):
    name = "FR.CTC.08.CoyuyoS.001"
    imported = load("clotho", "clotho/val.csv", media=f"{name}.flac")
    (record,) = imported.records
    assert (record.id, record.split, len(record.captions)) == (name, "val", 5)
    table = put("clotho_captions_development.csv", "file_name,caption_1\nA b.wav,a bell\n")
    put("media/A b.wav")
    assert [r.split for r in load("clotho", table).records] == ["train"]


def test_wavcaps_reads_both_of_its_layouts(load):
    files = "wavcaps/sb_final.json", "wavcaps/test.json"
    imported = load("wavcaps", *files, media="2219.flac Y7fmOlUlwoNg.flac")
    one, two = imported.records
    assert [caption.text for caption in one.captions] == ["An airplane is landing."]
    assert (two.id, len(two.captions)) == ("Y7fmOlUlwoNg", 2)
    assert imported.missing == ["2218"]


def test_coco_joins_captions_with_images(load, put):
    files = "coco/captions_val2017.json"
    record, other = load("coco", files, media="000000018380.jpg 000000375430.png").records
    assert (record.id, record.split) == ("000000018380", "val")
    assert [c.text for c in record.captions] == [
        "a large family enjoying a dinner on a large table"
    ]
    assert record.captions[0].about == Modality.VISION
    assert len(other.captions) == 2


def test_coco_has_the_splits_of_karpathy(load, put):
    sentences = [{"raw": "A man with a red helmet."}]
    image = {"filename": "COCO_val2014_000000391895.jpg", "cocoid": 391895, "split": "test"}
    path = put("dataset_coco.json", {"images": [{**image, "sentences": sentences}]})
    (record,) = load("coco", path, media="val2014/COCO_val2014_000000391895.jpg").records
    assert (record.id, record.split) == ("000000391895", "test")
    assert record.captions[0].text == "A man with a red helmet."


def test_visual_genome_phrases_are_captions(load, put):
    regions = [{"region_id": 1, "phrase": "the clock is green", "x": 1}, {"phrase": "a shade"}]
    path = put("region_descriptions.json", [{"id": 61512, "regions": regions}])
    (record,) = load("visual-genome", path, media="VG_100K/61512.jpg").records
    assert [caption.text for caption in record.captions] == ["the clock is green", "a shade"]
