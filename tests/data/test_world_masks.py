"""Laws of the masks of the rendered world and of spoilt frames."""

import numpy as np
import pytest

from valor.data.masks import MaskedMoment, moment_indices
from valor.data.world.drawing import draw
from valor.data.world.masks import CLASSES, mask_scenes, masked_clip, pan, spoil
from valor.data.world.scene import SHAPES, visual_class


def test_the_class_of_a_pixel_is_the_shape_of_the_actor_seen_there():
    for scene in mask_scenes(0, 3, held_out=False):
        instances, labels = draw(scene).instances, masked_clip(scene).labels
        for index, actor in enumerate(scene.actors):
            assert set(labels[instances == 1 + index]) <= {1 + SHAPES.index(actor.shape)}
        assert np.array_equal(labels == 0, instances == 0)
    assert CLASSES[1:] == SHAPES


def test_smaller_pictures_show_the_same():
    (scene,) = mask_scenes(0, 1, held_out=False)
    whole, half = masked_clip(scene), masked_clip(scene, side_px=48)
    assert half.frames.shape == (32, 48, 48, 3)
    assert np.array_equal(half.labels, whole.labels[:, 1::2, 1::2])
    assert abs(half.frames.mean() - whole.frames.mean()) < 1
    with pytest.raises(ValueError, match="side_px=50"):
        masked_clip(scene, side_px=50)


@pytest.mark.parametrize("held_out", [False, True])
def test_training_and_test_share_no_combination_of_shape_and_colour(held_out):
    for scene in mask_scenes(0, 20, held_out=held_out):
        classes = {visual_class(actor.shape, actor.colour) == 0 for actor in scene.visible}
        assert classes == {held_out}


def test_a_spoilt_frame_is_another_and_follows_from_the_seed():
    (scene,) = mask_scenes(0, 1, held_out=False)
    frame = masked_clip(scene, side_px=48).frames[20]
    before = frame.copy()
    for seed in range(12):
        spoilt = spoil(frame, np.random.default_rng(seed))
        assert spoilt.shape == frame.shape
        assert spoilt.dtype == np.uint8
        assert (spoilt != frame).mean() > 0.02
        assert np.array_equal(spoilt, spoil(frame, np.random.default_rng(seed)))
    assert np.array_equal(frame, before)


def test_panning_shifts_each_frame_and_the_mask_with_its_own():
    (scene,) = mask_scenes(0, 1, held_out=False)
    clip = masked_clip(scene, side_px=48)
    plain = MaskedMoment(frames=clip.frames[[8, 8, 8]], labels=clip.labels[8])
    panned = pan(plain, np.random.default_rng(0))
    assert not np.array_equal(panned.frames[0], panned.frames[1])
    assert not np.array_equal(panned.labels, plain.labels)
    ways = {
        (down, right)
        for down in range(-17, 18)
        for right in range(-17, 18)
        if np.array_equal(
            middle(panned.labels), middle(np.roll(plain.labels, (down, right), (0, 1)))
        )
        and np.array_equal(
            middle(panned.frames[-1]), middle(np.roll(plain.frames[-1], (down, right), (0, 1)))
        )
    }
    assert len(ways) == 1, "the mask goes the way of the current frame"


def middle(picture):
    return picture[18:-18, 18:-18]


def test_the_past_is_in_order_and_begins_with_the_first_frame():
    assert moment_indices(9, num_past=3, step=2).tolist() == [3, 5, 7, 9]
    assert moment_indices(3, num_past=3, step=2).tolist() == [0, 0, 1, 3]
