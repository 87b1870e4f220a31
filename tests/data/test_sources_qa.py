"""Questions about videos and images, on excerpts of real files where there are any."""

import pytest

from valor.errors import ManifestError

VQA_ANNOTATIONS = {
    "annotations": [
        {
            "question_id": 262148000 + number,
            "question_type": "what is",
            "answer_type": "other",
            "answers": [{"answer": text, "answer_id": 1}] * 10,
        }
        for number, text in enumerate(["down", "watching"])
    ]
}


def test_activitynet_qa_pairs_questions_with_answers(load):
    files = "activitynet_qa/test_q.json", "activitynet_qa/test_a.json"
    (record,) = load("activitynet-qa", *files, media="v_1QIUV7WYKXg.mp4").records
    assert (record.id, record.split) == ("v_1QIUV7WYKXg", "test")
    (question,) = record.questions
    assert question.text == "is the athlete wearing trousers"
    assert (question.answers, question.type) == (("no",), "yes/no")
    with pytest.raises(ManifestError, match="no answer to v_1QIUV7WYKXg_3; add its file"):
        load("activitynet-qa", files[0])


def test_music_avqa_fills_its_templates_in(load):
    media = " ".join(f"{id}.mp4" for id in ("00000028", "00000108", "00000288", "00000112"))
    imported = load("music-avqa", "music_avqa/avqa-val.json", media=media)
    questions = [record.questions[0] for record in imported.records]
    assert [question.text for question in questions] == [
        "Is the ukulele in the video always playing?",
        "Is the guzheng louder than the piano?",
        "What is the instrument on the left of electric_bass?",
        "How many types of musical instruments sound in the video?",
    ]
    assert [question.needs for question in questions] == ["both", "audio", "vision", "both"]
    assert [q.type for q in questions][1:3] == ["audio comparative", "visual location"]
    assert imported.missing == ["00000132"]


def test_music_avqa_refuses_a_template_with_too_few_values(load, put):
    row = {"video_id": "1", "type": '["Audio", "Counting"]', "anser": "one"}
    row |= {"question_content": "Is <Object> there?", "templ_values": "[]"}
    with pytest.raises(ManifestError, match="templ_values: 0 values for 1 blanks"):
        load("music-avqa", put("avqa-train.json", [row]))


def test_tgif_qa_answers_are_words_or_choices(load, put):
    gif = "tumblr_no73q2fm0I1uuf348o1_250"
    (record,) = load("tgif-qa", "tgif_qa/Test_frameqa_question.csv", media=f"{gif}.gif").records
    assert record.questions[0].answers == ("cookie",)
    assert (record.questions[0].type, record.split) == ("frameqa", "test")
    columns = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"
    table = put("Train_action_question.csv", f"{columns}{gif}\twhat ?\tA\tB\tC\tD\tE\t2\tx\t1\n")
    (record,) = load("tgif-qa", table).records
    assert (record.questions[0].answers, record.questions[0].type) == (("C",), "action")


def test_vqav2_keeps_all_ten_answers(load, put):
    questions = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
    published = put("v2_mscoco_val2014_annotations.json", VQA_ANNOTATIONS)
    media = "COCO_val2014_000000262148.jpg"
    (record,) = load("vqav2", questions, published, media=media).records
    assert (record.id, record.split) == ("000000262148", "val")
    assert [question.answers for question in record.questions] == [
        ("down",) * 10,
        ("watching",) * 10,
    ]
    assert {question.type for question in record.questions} == {"other"}
    with pytest.raises(ManifestError, match="add the annotations file"):
        load("vqav2", questions)


def test_msrvtt_qa_and_msvd_qa_know_videos_by_number(load, put):
    path = put(
        "test_qa.json", [{"video_id": 7010, "id": 1, "question": "who sings", "answer": "man"}]
    )
    (record,) = load("msrvtt-qa", path, media="video7010.mp4").records
    assert (record.id, record.split, record.questions[0].answers) == ("video7010", "test", ("man",))
    mapping = put("youtube_mapping.txt", "abc_1_2 vid7010\n")
    (record,) = load("msvd-qa", path, mapping, media="abc_1_2.avi").records
    assert record.id == "abc_1_2"
    (record,) = load("msvd-qa", path, media="vid7010.avi").records
    assert record.id == "vid7010"
