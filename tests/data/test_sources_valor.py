"""VALOR and VAST, on excerpts of real files where there are any."""

import pytest

from valor.errors import ManifestError
from valor.types import AUDIOVISUAL, Modality

FIRST = "MfCOvU5nfbQ_580.000_590.000"


def test_valor_has_a_caption_of_what_is_seen_and_heard(load):
    imported = load("valor", "valor/desc_val.json", media=f"{FIRST}.mkv Ea6wuY5zHDc_0_3.mp4")
    first, blank = imported.records
    assert first.id == FIRST
    assert first.media.endswith(f"/{FIRST}.mkv")
    assert first.split == "val"
    assert first.captions[0].about == AUDIOVISUAL
    assert first.captions[0].text.startswith("A black board in one hand")
    assert blank.captions == ()
    assert imported.num_without_texts == 1
    assert imported.missing == ["4sD0Bvt3FKk_280.000_290.000"]


def test_valor_takes_captions_in_a_list_and_questions(load, put):
    rows = [
        {"video_id": "a", "caption": ["one", "two"]},
        {"video_id": "b", "question": "what rings", "answer": "a bell"},
    ]
    one, two = load("valor", put("train.json", rows), media="a.mp4 b.mp4").records
    assert [caption.text for caption in one.captions] == ["one", "two"]
    assert two.questions[0].answers == ("a bell",)
    wrong = put("wrong.json", [{"video_id": "a", "text": "one"}])
    with pytest.raises(ManifestError, match=r"wrong.json: item 1: desc: missing"):
        load("valor", wrong)


@pytest.mark.parametrize(
    ("said", "captions", "answers"),
    [
        ("a bell", ["a bell"], []),
        (["a bell", "a tram"], ["a bell", "a tram"], []),
        ([{"question": "what rings", "answer": "a bell"}], [], [("a bell",)]),
    ],
)
def test_valor_ids_have_the_texts_of_the_mapping(load, put, said, captions, answers):
    files = put("txt_mapper.json", {"x": said, "other": "left out"}), put("test_id.json", ["x"])
    (record,) = load("valor-ids", *files, media="x.mp4").records
    assert record.split == "test"
    assert [caption.text for caption in record.captions] == captions
    assert [question.answers for question in record.questions] == answers
    with pytest.raises(ManifestError, match="expected lists of ids and an object"):
        load("valor-ids", files[1])


def test_valor_avqa_joins_the_questions_of_a_video(load):
    video = "CEfOX4fYlsY_20.000_30.000"
    imported = load("valor-avqa", "valor/processed_test_data.csv", media=f"{video}.mp4")
    (record,) = imported.records
    assert len(record.captions) == 1
    assert [question.needs for question in record.questions] == ["vision", "vision", "audio"]
    assert record.questions[0].answers == ("yellow", "The bird was yellow", "It was a yellow bird")
    assert record.questions[0].type == "desc"
    assert len(imported.missing) == 3


def test_valor_avqa_believes_only_the_first_answer_of_an_irregular_line(load):
    names = "WeJwj-Zmlms_30.000_40.000.mp4 DTnCrtCro44_30.000_40.000.mp4"
    records = load("valor-avqa", "valor/processed_test_data.csv", media=names).records
    assert [len(record.questions[0].answers) for record in records] == [1, 1]
    assert records[1].questions[0].answers[0].startswith("Rows of English letters")


def test_vast_captions_say_what_they_are_about(load, put):
    row = {"clip_id": "a.0", "vision_cap": ["v"], "audio_cap": ["h"], "vast_cap": "b"}
    path = put("annotations.jsonl", '{"clip_id": "b"}\n')
    (record,) = load("vast", put("vast.json", [{**row, "subtitle": "s"}]), media="a.0.mp4").records
    about = [(caption.text, caption.about, caption.style) for caption in record.captions]
    heard = Modality.AUDIO
    expected = [("b", AUDIOVISUAL, None), ("v", Modality.VISION, None), ("h", heard, None)]
    assert about == [*expected, ("s", heard, "subtitle")]
    assert load("vast", path).missing == ["b"]
