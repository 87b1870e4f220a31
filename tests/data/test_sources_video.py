"""Captioned videos, whole and by moment, on excerpts of real files where there are any."""

import pytest

from valor.errors import ManifestError
from valor.types import Modality

MSRVTT = {
    "videos": [
        {"video_id": "video0", "split": "train"},
        {"video_id": "video9770", "split": "test"},
        {"video_id": "video6513", "split": "validate"},
    ],
    "sentences": [
        {"video_id": "video0", "caption": "a car", "sen_id": 0},
        {"video_id": "video0", "caption": "a red car", "sen_id": 1},
        {"video_id": "video9770", "caption": "another sentence", "sen_id": 2},
    ],
}
TGIF = "tumblr_nqir72vsUx1sd7dido1_500"


def texts(record):
    return [caption.text for caption in record.captions]


def test_msrvtt_has_the_splits_of_its_own(load, put):
    media = "video0.mp4 video9770.avi video6513.mp4"
    records = load("msrvtt", put("MSRVTT_data.json", MSRVTT), media=media).records
    assert [record.split for record in records] == ["train", "test", "val"]
    assert texts(records[0]) == ["a car", "a red car"]


def test_msrvtt_1k_a_tests_one_sentence_per_video(load, put):
    lists = "msrvtt/MSRVTT_JSFUSION_test.csv", "msrvtt/MSRVTT_train.9k.csv"
    captions = {
        **MSRVTT,
        "sentences": [*MSRVTT["sentences"], {"video_id": "video1", "caption": "x"}],
    }
    path = put("MSRVTT_data.json", captions)
    imported = load("msrvtt", path, *lists, media="video0.mp4 video9770.mp4 video6513.mp4")
    test, train = imported.records
    assert (test.id, test.split) == ("video9770", "test")
    assert texts(test) == ["a person is connecting something to system"]
    assert (train.id, train.split) == ("video0", "train")
    assert texts(train) == ["a car", "a red car"]
    assert imported.missing == ["video9771", "video7020", "video1"]
    with pytest.raises(ManifestError, match="no caption of 'video0'; add MSRVTT_data"):
        load("msrvtt", *lists)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("5-xGskbsBgI_000055_000065.mp4", (0.0, None)),
        ("5-xGskbsBgI_55_65.mp4", (0.0, None)),
        ("5-xGskbsBgI.mp4", (55.0, 65.0)),
    ],
)
def test_vatex_takes_the_stretch_out_of_a_whole_video(load, put, name, times):
    rows = [
        {"videoID": "5-xGskbsBgI_000055_000065", "enCap": ["A young man."], "chCap": ["\u7537"]}
    ]
    (record,) = load("vatex", put("vatex_validation_v1.0.json", rows), media=name).records
    assert (record.start_s, record.end_s) == times
    assert record.split == "val"
    assert texts(record) == ["A young man."]


def test_msvd_reads_english_from_table_and_lines(load, put):
    head = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
    table = put(
        "corpus.csv",
        f"{head}mv89psg6zh4,33,46,1,clean,9,English,A bird in a sink.\n"
        "mv89psg6zh4,33,46,2,clean,9,French,Un oiseau.\n",
    )
    lines = put(
        "AllVideoDescriptions.txt", "a header\n\nmv89psg6zh4_33_46 a bird bathes\nx_1_2 no\n"
    )
    listed = put("test_list.txt", "mv89psg6zh4_33_46\n")
    (record,) = load("msvd", table, lines, listed, media="mv89psg6zh4_33_46.avi").records
    assert texts(record) == ["A bird in a sink.", "a bird bathes"]
    assert record.split == "test"
    assert record.captions[0].about == Modality.VISION


def test_lsmdc_names_keep_their_dots(load, put):
    name = "1004_Juno_00.00.32.122-00.00.33.862"
    row = f'{name}\t00.1\t00.2\t00.1\t00.2\tSOMEONE says "no.'
    table = put("LSMDC16_challenge_1000_publictect.csv", f"{row}\n{row[:-1]} again.\n")
    (record,) = load("lsmdc", table, media=f"1004_Juno/{name}.avi").records
    assert record.id == name
    assert record.split == "test"
    assert texts(record) == ['SOMEONE says "no.', 'SOMEONE says "no again.']


def test_webvid_is_found_in_its_folder(load):
    media = "000051_000100/1000001.mp4"
    (record,) = load("webvid", "webvid/results_2M_val.csv", media=media).records
    assert record.media.endswith(media)
    assert texts(record)[0].startswith("Bell ringing")


def test_tgif_reads_what_the_lists_name(load, put):
    table = "tgif/tgif-v1.0.tsv"
    address = f"https://38.media.tumblr.com/8cc0d8b94f1694a74f8754de3934ae2d/{TGIF}.gif"
    imported = load("tgif", table, put("splits/test.txt", f"{address}\n"), media=f"{TGIF}.gif")
    (record,) = imported.records
    assert (record.id, record.split, len(record.captions)) == (TGIF, "test", 2)
    assert imported.missing == []
    assert load("tgif", table).missing == ["tumblr_mllh01J96X1s9npefo1_250"]


def test_hdvila_takes_spans_out_of_whole_videos(load, put):
    clips = [
        {"clip_id": "QMi8x8o55Ns.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]},
        {"clip_id": "QMi8x8o55Ns.16.mp4", "span": ["00:04:52.140", "00:05:03.350"]},
    ]
    path = put("hdvila_part0.jsonl", {"video_id": "QMi8x8o55Ns", "clip": clips})
    media = "QMi8x8o55Ns/QMi8x8o55Ns.1.mp4 QMi8x8o55Ns.mp4"
    cut, whole = load("hdvila", path, media=media).records
    assert (cut.id, cut.start_s, cut.end_s) == ("QMi8x8o55Ns.1", 0.0, None)
    assert (whole.start_s, whole.end_s) == (pytest.approx(292.14), pytest.approx(303.35))


DIDEMO = [
    {
        "annotation_id": 7,
        "video": "a@N0_1.mov",
        "description": "a dog",
        "times": [[0, 0], [1, 2], [1, 2]],
    },
    {"annotation_id": 8, "video": "a@N0_1.mov", "description": "it runs", "times": [[5, 5]]},
]


def test_didemo_is_a_paragraph_or_moments(load, put):
    path = put("val_data.json", [{**row, "num_segments": 5} for row in DIDEMO])
    (paragraph,) = load("didemo", path, media="a@N0_1.mp4").records
    assert texts(paragraph) == ["a dog it runs"]
    assert paragraph.end_s == 25.0
    moments = load("didemo-moments", path).records
    assert [(moment.start_s, moment.end_s) for moment in moments] == [(5.0, 15.0), (25.0, 30.0)]
    assert {moment.split for moment in moments} == {"val"}


def test_activitynet_is_a_paragraph_or_events(load):
    (record,) = load("activitynet", "activitynet/val_1.json", media="uqiMw7tQ1Cc.mkv").records
    assert record.id == "v_uqiMw7tQ1Cc"
    assert texts(record)[0].startswith("A weight lifting tutorial is given. The coach helps")
    events = load("activitynet-events", "activitynet/val_1.json")
    assert [event.start_s for event in events.records] == [0.28, 13.79]
    assert texts(events.records[1])[0].startswith("The coach")
    assert len(events.missing) == 3


def test_two_annotations_of_a_video_are_two_captions(load, put):
    row = {"v_x": {"timestamps": [[4, 2], [3, 3]], "sentences": ["one", "two"]}}
    files = put("val_1.json", row), put("val_2.json", row)
    (record,) = load("activitynet", *files, media="v_x.mp4").records
    assert texts(record) == ["one two", "one two"]
    events = load("activitynet-events", *files)
    assert [(event.start_s, event.end_s) for event in events.records] == [(2.0, 4.0)] * 2
    assert events.missing == ["v_x#val_1#1", "v_x#val_2#1"]
