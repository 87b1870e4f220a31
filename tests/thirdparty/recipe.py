"""A stranger's run: the smallest recipe of the tests with an encoder and an objective more."""

import dataclasses

from tests.thirdparty.encoder import BandsConfig
from tests.thirdparty.objective import TogetherConfig
from tests.tiny import small_run
from valor.training.run import TrainConfig


def together() -> TrainConfig:
    base = small_run()
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, audio=BandsConfig()),
        objectives=dataclasses.replace(base.objectives, others=(TogetherConfig(),)),
    )
