"""A stranger's audio encoder: the mean spectrum of each window, in bands."""

from typing import Literal

import torch
from torch import nn

from valor.config import configclass
from valor.types import EncoderOutput, Tokens


@configclass
class BandsConfig:
    kind: Literal["tests.thirdparty.encoder:BandsConfig"] = "tests.thirdparty.encoder:BandsConfig"
    num_mels: int = 64
    hops_per_window: int = 400
    dim: int = 32

    def build(self) -> "Bands":
        return Bands(self)


class Bands(nn.Module):
    def __init__(self, config: BandsConfig) -> None:
        super().__init__()
        self.bands = nn.Linear(config.num_mels, config.dim)

    def forward(self, spectrograms: torch.Tensor, window_valid: torch.Tensor) -> EncoderOutput:
        tokens = Tokens(features=self.bands(spectrograms.mean(dim=-1)), valid=window_valid)
        return EncoderOutput(tokens=tokens, summary=tokens)
