"""Laws of the readers of labelled frames."""

import numpy as np
import pytest
from PIL import Image

from valor.data.sources.masks import CAMVID, CITYSCAPES, camvid, cityscapes, read_moment
from valor.errors import ManifestError, MediaError
from valor.metrics.masks import IGNORED


def put(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def grey(value, height=2, width=3):
    return np.full((height, width, 3), value)


@pytest.fixture
def street(tmp_path):
    """One labelled frame of Cityscapes with its two past ones, and one without."""
    pictures = tmp_path / "leftImg8bit_sequence/train/aachen"
    for number in (17, 18, 19):
        put(pictures / f"aachen_000003_0000{number}_leftImg8bit.png", grey(number))
    put(pictures / "aachen_000004_000019_leftImg8bit.png", grey(0))
    for sequence in (3, 4):
        name = f"aachen_00000{sequence}_000019_gtFine_labelIds.png"
        put(tmp_path / "gtFine/train/aachen" / name, [[7, 33, 0], [26, 3, 255]])
    return tmp_path


def test_cityscapes_gives_past_frames_in_order_and_training_ids(street):
    found = cityscapes(street, "train", num_past=2)
    assert [frame.id for frame in found.frames] == ["aachen_000003_000019"]
    assert found.missing == ["aachen_000004_000019"]
    moment = read_moment(found.frames[0])
    assert moment.frames[:, 0, 0, 0].tolist() == [17, 18, 19]
    names = list(CITYSCAPES)
    wanted = [names.index("road"), names.index("bicycle"), IGNORED]
    assert moment.labels.tolist() == [wanted, [names.index("car"), IGNORED, IGNORED]]


def test_a_step_goes_further_back(street):
    (frame,) = cityscapes(street, "train", num_past=1, step=2).frames
    assert [path.name[14:20] for path in frame.past] == ["000017"]


@pytest.mark.parametrize("in_colours", [True, False])
def test_camvid_masks_in_colours_and_in_ids_are_the_same(tmp_path, in_colours):
    name = "0006R0_f00930"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/val.txt").write_text(f"{name}\n0006R0_f00960\n")
    for number in (929, 930):
        put(tmp_path / f"images_sequence/0006R0_f00{number}.png", grey(number - 900))
    car, van = CAMVID["car"], (64, 128, 192)
    colours = [[CAMVID["sky"], car, van], [(0, 0, 0), (1, 2, 3), CAMVID["bicyclist"]]]
    ids = [[1, 9, 9], [0, 0, 11]]
    put(tmp_path / f"labels/{name}_L.png", colours if in_colours else ids)
    found = camvid(tmp_path, "val", num_past=1)
    assert found.missing == ["0006R0_f00960"]
    moment = read_moment(found.frames[0])
    assert moment.frames[:, 0, 0, 0].tolist() == [29, 30]
    assert moment.labels.tolist() == [[1, 9, 9], [IGNORED, IGNORED, 11]]


def test_what_cannot_be_is_told(street):
    with pytest.raises(ManifestError, match="no labelled frame"):
        cityscapes(street, "val", num_past=1)
    with pytest.raises(ManifestError):
        camvid(street, "train", num_past=1)
    (frame,) = cityscapes(street, "train", num_past=1).frames
    put(frame.current, grey(0, height=5))
    with pytest.raises(MediaError, match="sizes"):
        read_moment(frame)
    frame.current.write_bytes(b"nothing")
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        read_moment(frame)
