"""Laws of Video Swin; its numbers are checked with the released models."""

import torch

from valor.encoders.video_swin import VideoSwinConfig, VideoSwinTransformer


def test_videos_of_different_length_do_not_touch_each_other():
    torch.manual_seed(0)
    config = VideoSwinConfig(
        image_px=32, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window=(2, 4, 4)
    )
    encoder = VideoSwinTransformer(config).eval()
    pixels = torch.randn(3, 5, 3, 32, 32)
    valid = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        together = encoder(pixels, valid).summary.features
        alone = encoder(pixels[:1, :3], valid[:1, :3]).summary.features
    torch.testing.assert_close(together[:1, :3], alone)
    assert encoder(pixels, valid).summary.valid.equal(valid)
