"""Fine-tuning: one recipe for every benchmark, and for data of your own.

What differs from benchmark to benchmark stands in `valor.protocols`.
"""

from valor.checkpoints.box import find_folder
from valor.checkpoints.folder import load_configs
from valor.config import evolve
from valor.errors import ModelError, UsageError
from valor.objectives.alignment import AlignmentConfig
from valor.objectives.answering import AnsweringConfig
from valor.objectives.captioning import CaptioningConfig
from valor.objectives.self_critical import SelfCriticalConfig
from valor.protocols import Protocol, find_protocol
from valor.recipes.benchmark import follow
from valor.training.optim import OptimConfig
from valor.training.run import TrainConfig
from valor.training.start import FolderConfig
from valor.training.step import ObjectivesConfig
from valor.types import union

_SELF_CRITICAL_RATE = 2.5e-6
"""Of the released self-critical runs, COCO and VATEX."""


def finetune(
    protocol: str = "retrieval",
    start: str = "",
    *,
    self_critical: bool = False,
    trust_code: bool = False,
) -> TrainConfig:
    """Go on from a model folder on one task: `valor train finetune --protocol msvd-qa --start M`.

    The objectives are the task's alone: the contrast of text with media, captions, or answers.
    Frames, windows, length of texts, rate, epochs and batch are the protocol's; sizes of pictures
    stay the model's. The paper's learning rates are for models of hundreds of millions of weights:
    for a small one, as of `valor demo`, give `--optim.learning-rate 0.0003`.

    Cost: of VALOR-B on MSR-VTT (9 000 videos, 70 epochs of batch 64, 4 frames): 630 000 samples of
    0.7 TFLOP each, about 2 hours at 60 TFLOP/s. Expected: the row of VALOR-B in
    `valor evaluate --protocol`, not measured here; `benchmarks/second_world.py` measures the gain
    over zero-shot and over training from scratch on rendered data.

    Args:
        protocol: Name of a record; `retrieval`, `captioning` and `answering` are for own data.
        start: Model folder, its hub id, or `tiny-world`.
        self_critical: Whether captions that the model writes are rewarded by their CIDEr, instead
            of predicting the words of others: the last stage, from a model that was fine-tuned for
            the same captions. The rate is then 2.5e-6, as in the released runs.
        trust_code: Whether the model folder may name code outside this package, to be imported.

    Returns:
        The complete run.

    Raises:
        UsageError: If there is no such protocol, no model to start from, or nothing to reward.
        ModelError: If there is no such model.
        ConfigError: If the folder names code that is not trusted.
    """
    if not start:
        raise UsageError("finetune goes on from a model; give its folder with --start")
    record = find_protocol(protocol)
    if self_critical and record.task != "captioning":
        raise UsageError(
            f"--self-critical rewards captions, but {protocol!r} is {record.task}; leave it out"
        )
    folder = find_folder(start)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"--start {start}: no model folder of ours, nor the hub id of one; name one that "
            "`valor train` or `valor convert` wrote, or tiny-world, or train on public towers by a "
            "recipe such as from_siglip2_clap"
        )
    system, processing = load_configs(folder, trust_code=trust_code)
    return TrainConfig(
        model=FolderConfig(path=str(folder), trust_code=trust_code),
        processor=follow(processing, system, record, record.training),
        objectives=rewarded(record) if self_critical else objectives_of(record),
        optim=OptimConfig(
            learning_rate=_SELF_CRITICAL_RATE if self_critical else record.learning_rate
        ),
        batch_size=record.batch_size,
        num_epochs=record.epochs,
    )


def objectives_of(protocol: Protocol) -> ObjectivesConfig:
    """What a protocol's task is learned by."""
    alignment = captioning = answering = None
    whole = protocol.predicts_every_word
    match protocol.task:
        case "retrieval":
            alignment = AlignmentConfig(groups=protocol.groups)
        case "captioning":
            own = CaptioningConfig(groups=protocol.groups)
            share = None if whole else own.mask_fraction
            captioning = CaptioningConfig(groups=protocol.groups, mask_fraction=share)
        case "answering":
            share = None if whole else AnsweringConfig().mask_fraction
            answering = AnsweringConfig(using=union(protocol.groups), mask_fraction=share)
    return ObjectivesConfig(alignment=alignment, captioning=captioning, answering=answering)


def rewarded(protocol: Protocol) -> ObjectivesConfig:
    """What the last stage of captioning is learned by."""
    own = SelfCriticalConfig(groups=protocol.groups)
    if protocol.text_tokens is not None:
        own = evolve(own, {"max_tokens": protocol.text_tokens})
    return ObjectivesConfig(alignment=None, captioning=None, self_critical=own)
