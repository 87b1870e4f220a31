"""Laws of random changes: all frames alike, in their ranges, and from the generator alone."""

import numpy as np
import pytest

from valor.config import evolve
from valor.processing.augment import (
    AugmentConfig,
    crop_and_flip,
    jitter_colour,
    mask_spectrograms,
)

NOTHING = AugmentConfig(
    smallest_crop=1.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    num_mel_masks=0,
    num_hop_masks=0,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp(frames: int = 3, height: int = 20, width: int = 30) -> np.ndarray:
    """Pictures of which every pixel says where it is, the same in all frames."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)
    return np.repeat(picture[None], frames, 0)


def test_nothing_changes_if_nothing_is_asked_for():
    frames, sound = ramp(), rng().standard_normal((2, 8, 16)).astype(np.float32)
    assert (crop_and_flip(frames, NOTHING, rng()) == frames).all()
    pixels = frames.transpose(0, 3, 1, 2)
    assert (jitter_colour(pixels, NOTHING, rng()) == pixels).all()
    assert (mask_spectrograms(sound, NOTHING, rng()) == sound).all()


def test_a_crop_is_the_same_square_of_every_frame():
    config = evolve(NOTHING, {"smallest_crop": 0.5})
    corners = set()
    for seed in range(50):
        cut = crop_and_flip(ramp(), config, rng(seed))
        height, width = cut.shape[1:3]
        assert height == width
        assert 10 <= height <= 20
        top, left = cut[0, 0, 0, :2]
        assert (cut == ramp()[:, top : top + height, left : left + width]).all()
        corners.add((top, left, height))
    assert len(corners) > 30


def test_all_frames_are_mirrored_or_none():
    config = evolve(NOTHING, {"flip": 0.5})
    results = [crop_and_flip(ramp(), config, rng(seed)) for seed in range(20)]
    mirrored = [(result == ramp()[:, :, ::-1]).all() for result in results]
    plain = [(result == ramp()).all() for result in results]
    assert [not one for one in mirrored] == plain
    assert 4 < sum(plain) < 16


def test_brightness_contrast_and_saturation_change_what_they_say():
    grey = np.full((2, 3, 4, 4), 100, np.uint8)
    bright = jitter_colour(grey, evolve(NOTHING, {"brightness": 0.5}), rng())
    assert len(np.unique(bright)) == 1
    assert 50 <= bright.flat[0] <= 150
    assert bright.flat[0] != 100
    for name in ("contrast", "saturation"):
        assert (jitter_colour(grey, evolve(NOTHING, {name: 1.0}), rng()) == grey).all()
    pixels = rng().integers(60, 180, (2, 3, 8, 8), dtype=np.uint8)
    spread = jitter_colour(pixels, evolve(NOTHING, {"contrast": 0.5}), rng()).std() / pixels.std()
    assert 0.5 <= spread <= 1.5
    assert abs(spread - 1) > 0.01


def test_masks_are_zero_bands_within_their_widths():
    config = AugmentConfig(
        num_mel_masks=1, widest_mel_mask=0.25, num_hop_masks=1, widest_hop_mask=0.5
    )
    widths = []
    for seed in range(40):
        masked = mask_spectrograms(np.ones((1, 16, 32), np.float32), config, rng(seed))[0]
        mels, hops = (masked == 0).all(axis=1), (masked == 0).all(axis=0)
        assert ((masked == 0) == (mels[:, None] | hops[None])).all()
        assert all(np.count_nonzero(np.diff(band)) <= 2 for band in (mels, hops))
        widths.append((mels.sum(), hops.sum()))
    assert max(mel for mel, _ in widths) == 4
    assert 12 <= max(hop for _, hop in widths) <= 16


def test_the_generator_decides():
    frames = ramp().transpose(0, 3, 1, 2)
    config = AugmentConfig()
    assert (jitter_colour(frames, config, rng(1)) == jitter_colour(frames, config, rng(1))).all()
    assert (jitter_colour(frames, config, rng(1)) != jitter_colour(frames, config, rng(2))).any()


@pytest.mark.parametrize("values", [{"smallest_crop": 0.0}, {"flip": 1.5}, {"num_mel_masks": -1}])
def test_impossible_values_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        AugmentConfig(**values)
