"""Laws of convolutional backbones."""

import pytest
import torch
from transformers import ResNetBackbone, ResNetConfig

from valor.encoders.pyramid import Pyramid, PyramidConfig

SIZES = {"stem_dim": 4, "widths": (8, 12, 16, 20), "depths": (1, 2, 1, 2)}


@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_undilated_it_is_the_published_network(block, tmp_path):
    theirs = ResNetBackbone(
        ResNetConfig(
            embedding_size=4,
            hidden_sizes=[8, 12, 16, 20],
            depths=[1, 2, 1, 2],
            layer_type=block,
            out_indices=[1, 2, 3, 4],
        )
    ).eval()
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    theirs.save_pretrained(tmp_path)
    ours = Pyramid(
        PyramidConfig(block=block, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), **SIZES)
    ).eval()
    ours.load_published(str(tmp_path))
    pixels = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours(pixels), list(theirs(pixels).feature_maps))


def test_dilation_keeps_the_resolution_and_the_values_at_the_coarse_places():
    """A dilated stage computes, at every second place, what the halving stage computes."""
    halving = Pyramid(
        PyramidConfig(
            **SIZES | {"depths": (1, 1, 1, 1)}, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)
        )
    ).eval()
    dilated = Pyramid(
        PyramidConfig(
            **SIZES | {"depths": (1, 1, 1, 1)}, strides=(1, 2, 1, 1), dilations=(1, 1, 1, 4)
        )
    ).eval()
    dilated.load_state_dict(halving.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    coarse, fine = halving(pixels), dilated(pixels)
    assert [x.shape[-1] for x in fine] == [16, 8, 8, 8]
    for stage in (2, 3):
        torch.testing.assert_close(fine[stage][..., ::2, ::2], coarse[stage])


@pytest.mark.parametrize("stem, convolutions", [("single", 1), ("deep", 3)])
def test_both_stems_halve_twice(stem, convolutions):
    pyramid = Pyramid(PyramidConfig(stem=stem, **SIZES))
    found = sum(isinstance(part, torch.nn.Conv2d) for part in pyramid.stem.modules())
    assert found == convolutions
    assert pyramid(torch.randn(2, 3, 32, 32))[0].shape == (2, 8, 8, 8)


def test_sizes_of_different_numbers_of_stages_are_refused():
    with pytest.raises(ValueError, match="as many of each"):
        PyramidConfig(depths=(1, 2))
