"""Laws of frame preprocessing."""

import numpy as np
import pytest
import torch
from PIL import Image

from valor.processing.frames import FrameConfig, normalise, shift, to_squares


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(48, 48), (48, 96), (96, 48), (37, 211), (48, 1)])
@pytest.mark.parametrize("crop", ["centre", "pad", "stretch"])
@pytest.mark.parametrize("margin_px", [0, 5])
def test_every_picture_becomes_a_square(size, crop, margin_px):
    config = FrameConfig(image_px=48, crop=crop, margin_px=margin_px)
    assert to_squares(noise(*size), config).shape == (2, 3, 48, 48)


def test_a_square_of_the_right_size_is_only_transposed():
    frames = noise(48, 48)
    np.testing.assert_array_equal(
        to_squares(frames, FrameConfig(image_px=48)), frames.transpose(0, 3, 1, 2)
    )


def test_the_middle_is_kept_when_cropping():
    frames = np.zeros((1, 10, 30, 3), np.uint8)
    frames[:, :, 10:20] = 255
    assert to_squares(frames, FrameConfig(image_px=10)).min() == 255


def test_padding_keeps_everything():
    frames = np.full((1, 10, 20, 3), 255, np.uint8)
    squares = to_squares(frames, FrameConfig(image_px=20, crop="pad"))
    assert squares[0, 0, 5:15].min() == 255
    assert squares[0, 0, :5].max() == 0


def test_stretching_keeps_everything_and_leaves_nothing_black():
    frames = np.full((1, 10, 30, 3), 255, np.uint8)
    frames[:, :, :15] = 100
    squares = to_squares(frames, FrameConfig(image_px=10, crop="stretch"))
    assert (squares[..., :3] == 100).all()
    assert (squares[..., 7:] == 255).all()


def test_a_margin_is_cut_from_all_sides():
    frames = np.zeros((1, 14, 14, 3), np.uint8)
    frames[:, 2:-2, 2:-2] = 255
    assert to_squares(frames, FrameConfig(image_px=10, margin_px=4)).min() == 255


def test_resizing_is_within_two_grey_levels_of_pillow():
    frames = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 96, 0)
    frames = np.repeat(frames[None], 3, 3)
    ours = to_squares(frames, FrameConfig(image_px=48))[0].transpose(1, 2, 0)
    theirs = np.asarray(Image.fromarray(frames[0]).resize((48, 48), Image.Resampling.BICUBIC))
    assert abs(ours.astype(int) - theirs).max() <= 2


def test_normalised_values_have_the_stated_range():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    values = normalise(pixels, FrameConfig(normalise="unit"))
    torch.testing.assert_close(
        values.aminmax(), torch.return_types.aminmax((torch.tensor(-1.0), torch.tensor(1.0)))
    )


def test_channels_can_have_statistics_of_their_own():
    pixels = torch.full((3, 1, 1), 51, dtype=torch.uint8)
    values = normalise(pixels, FrameConfig(normalise=((0.2, 0.1, 0.0), (1.0, 0.5, 0.2))))
    torch.testing.assert_close(values.flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_a_shift_moves_all_frames_alike_and_by_no_more_than_allowed():
    frames = np.zeros((2, 3, 32, 32), np.uint8)
    frames[:, :, 16, 16] = 255
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        first, second = shift(frames, 3, rng)
        np.testing.assert_array_equal(first, second)
        row, column = np.argwhere(first[0])[0]
        seen.add((row - 16, column - 16))
    assert {max(map(abs, step)) for step in seen} <= {0, 1, 2, 3}
    assert len(seen) > 40
    assert shift(frames, 0, rng) is frames
