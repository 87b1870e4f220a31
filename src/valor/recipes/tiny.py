"""The demo's model: small enough to learn the rendered world on two cores in minutes."""

from valor.config import evolve
from valor.encoders.audio import AstConfig
from valor.encoders.text import BertConfig
from valor.encoders.vision import VitConfig
from valor.models.valor import ValorConfig
from valor.objectives.answering import AnsweringConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.training.optim import OptimConfig
from valor.training.run import TrainConfig
from valor.training.step import ObjectivesConfig


def tiny() -> TrainConfig:
    """VALOR with 2.4 M parameters, for the rendered world.

    A patch covers four frames, three frames of the file apart, so that a single token sees motion,
    and its convolutions see a whole shape.

    Cost: 8 to 9 minutes on two cores at 160 GFLOP/s (float32), 2.3 GiB. Measured on the test pool
    of the world with seed 0 (`benchmarks/results/demo.json`): R@1 of vision 0.99, of audio and both
    1.00 of what is possible; colour, motion and sound right in all captions, the shape in 97 %, a
    companion's in 25 %; 88 % of needs-both questions.
    """
    return TrainConfig(
        model=ValorConfig(
            vision=VitConfig(
                image_px=64,
                patch_px=16,
                frames_per_patch=4,
                stem="convolution",
                temporal_layers=1,
                dim=128,
                num_layers=3,
                num_heads=4,
                mlp_dim=512,
            ),
            audio=AstConfig(
                hops_per_window=400,
                patch_mels=64,
                patch_hops=16,
                dim=128,
                num_layers=2,
                num_heads=4,
                mlp_dim=512,
            ),
            text=BertConfig(
                vocab_size=400,
                max_length=96,
                dim=128,
                num_layers=3,
                num_heads=4,
                mlp_dim=512,
                dropout=0.0,
            ),
            embed_dim=128,
        ),
        processor=ProcessorConfig(
            frames=FrameConfig(
                num_bursts=2,
                frames_per_burst=4,
                burst_step_s=0.375,
                image_px=64,
                normalise="unit",
            ),
            spectrogram=SpectrogramConfig(hops_per_window=400, num_windows=1),
            segment_s=4.0,
        ),
        objectives=ObjectivesConfig(answering=AnsweringConfig(mask_fraction=0.8)),
        optim=OptimConfig(learning_rate=1e-3),
        batch_size=32,
        num_steps=1150,
    )


def tiny_quick() -> TrainConfig:
    """The same for `valor demo --quick`: fewer steps, to see everything run, not to be good."""
    return evolve(tiny(), {"num_steps": 60})
