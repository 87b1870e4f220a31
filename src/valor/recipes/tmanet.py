"""TMANet on the rendered world: the shape at every pixel of a frame that may be spoilt."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from valor.checkpoints.masks import save_mask_model
from valor.config import configclass, evolve, fingerprint
from valor.data.manifest import Record
from valor.data.masks import MaskedClip, MaskedMoment, moment_indices
from valor.data.mixture import step_rng, step_rows
from valor.data.reading import Source
from valor.data.world.masks import CLASS_COLOURS, CLASSES, masked_clip, pan, spoil
from valor.data.world.render import read_scenes
from valor.data.world.scene import FPS, Scene
from valor.encoders.pyramid import PyramidConfig
from valor.errors import ConfigError, ManifestError
from valor.metrics.masks import Confusion
from valor.models.temporal_memory import (
    MaskClass,
    MemoryHeadConfig,
    TemporalMemory,
    TemporalMemoryConfig,
)
from valor.objectives.masks import MaskObjectiveConfig, segment
from valor.processes import num_started
from valor.processing.sequences import SequenceConfig, normalised
from valor.training.estimate import Estimate, estimate_of
from valor.training.loop import Losses, StepLoss, Task, fit
from valor.training.monitor import Report, silent, write_run_page
from valor.training.optim import OptimConfig
from valor.training.state import claim, tidied

Frames = Float[Tensor, "batch frames 3 height width"]
Arrange = Callable[[Frames], Frames]
"""Changes frames; what baselines differ in."""
_EVALUATED_AT_ONCE = 16


@configclass
class MaskTrainConfig:
    """A complete run on the rendered world."""

    model: TemporalMemoryConfig
    """Sizes and classes."""
    sequence: SequenceConfig
    """Size of frames, and which past ones are shown."""
    objective: MaskObjectiveConfig = MaskObjectiveConfig()
    """Which pixels count."""
    optim: OptimConfig = OptimConfig(learning_rate=3e-3, weight_decay=0.02, clip_norm=1.0)
    """Optimizer and schedule."""
    spoilt: float = 0.5
    """How often the current frame is spoilt in training."""
    pans: bool = True
    """Whether the camera looks elsewhere in every frame."""
    batch_size: int = 16
    """Videos per step."""
    num_steps: int = 800
    """Updates of the weights."""
    save_every: int = 200
    """Steps between two states on disk."""
    seed: int = 0
    """Of fresh weights, moments and spoilt frames."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if min(self.batch_size, self.num_steps, self.save_every) < 1:
            raise ValueError("batch_size, num_steps and save_every must be at least 1")
        if not 0 <= self.spoilt <= 1:
            raise ValueError(f"spoilt={self.spoilt}, wanted in [0, 1]")

    def run(
        self,
        records: Sequence[Record],
        out: Path,
        *,
        source: Source | None = None,
        report: Report = silent,
    ) -> Path:
        """Train on a rendered world, or go on with a run that was stopped.

        Args:
            records: Of its manifest; masks follow from the `truth.jsonl` beside it.
            out: Run folder; made if needed.
            source: Must be None: masks are rendered together with their frames.
            report: Told about progress in stages `prepare` and `train`.

        Returns:
            The model folder, `out/model`.

        Raises:
            ConfigError: If the folder holds another run, for a source, or under `torchrun`.
            ManifestError: If the truth of a record is missing.
        """
        if source is not None:
            raise ConfigError("masks are rendered with their frames: give a manifest, no shards")
        if num_started() > 1:
            raise ConfigError("masks are learned by one process: start it without torchrun")
        with tidied(out):
            claim(out, self, records)
            clips = world_clips(records, self.sequence, report=report)
            model = new_model(self)
            weights = fit(mask_task(self, model, clips), out, report=report)
            card = (
                f"---\nlibrary_name: valor\nlicense: mit\npipeline_tag: image-segmentation\n---\n"
                f"# TMANet, run {fingerprint(self)}\n\nTrained for {self.num_steps} steps of "
                f"{self.batch_size} on {len(clips)} rendered videos.\n"
            )
            save_mask_model(out / "model", self.model, self.sequence, weights, card=card)
            write_run_page(out)
        return out / "model"

    def estimate(self, num_records: int) -> Estimate:
        """Count what the run will take, without memory for its weights.

        Args:
            num_records: Of its data; the length of the run does not depend on it.

        Returns:
            The estimate.
        """
        px, num = self.sequence.short_side_px, self.model.head.num_slots + 1
        with torch.device("meta"):
            model, frames = TemporalMemory(self.model), torch.empty(1, num, 3, px, px)
        return estimate_of(model, frames, batch_size=self.batch_size, num_steps=self.num_steps)


def tmanet_world() -> MaskTrainConfig:
    """TMANet with 0.2 M parameters on frames of 48x48 pixels, with four past ones 0.5 s apart.

    Differs from the released configurations: AdamW with warm-up and linear decay instead of SGD
    with polynomial decay, and no augmentation but the spoilt frames.

    Cost: 0.2 processor seconds per step. `benchmarks/tmanet_world.py` compares it with networks of
    the same size.
    """
    return MaskTrainConfig(
        model=TemporalMemoryConfig(
            backbone=PyramidConfig(
                block="basic",
                stem_dim=16,
                stem_pool=False,
                widths=(24, 32, 48),
                depths=(1, 1, 1),
                strides=(1, 2, 1),
                dilations=(1, 1, 2),
            ),
            head=MemoryHeadConfig(
                num_slots=4, key_dim=16, value_dim=32, bottleneck_dim=48, dropout=0.0
            ),
            auxiliary_dim=32,
            classes=tuple(
                MaskClass(name=name, colour=colour)
                for name, colour in zip(CLASSES, CLASS_COLOURS, strict=True)
            ),
        ),
        sequence=SequenceConfig(short_side_px=48, step_s=0.5, normalise="unit"),
    )


def tmanet_world_quick() -> MaskTrainConfig:
    """The same with fewer steps, to see everything run, not to be good."""
    return evolve(tmanet_world(), {"num_steps": 20})


def new_model(config: MaskTrainConfig) -> TemporalMemory:
    """A fresh model; its weights follow from the seed."""
    torch.manual_seed(config.seed)
    return TemporalMemory(config.model)


def world_clips(
    records: Sequence[Record], sequence: SequenceConfig, *, report: Report = silent
) -> list[MaskedClip]:
    """Draw the videos of a rendered world again, with the class of every pixel.

    Args:
        records: Of its manifest.
        sequence: Size of the frames.
        report: Told about progress in stage `prepare`.

    Returns:
        The videos, in order.

    Raises:
        ManifestError: If the truth of a record is missing.
    """
    scenes: dict[str, Scene] = {}
    for folder in {Path(record.media).parent.parent for record in records}:
        scenes |= read_scenes(folder)
    clips: list[MaskedClip] = []
    for done, record in enumerate(records, start=1):
        if record.id not in scenes:
            raise ManifestError(
                f"{record.id!r}: no truth.jsonl tells its mask; use a rendered world"
            )
        clips.append(masked_clip(scenes[record.id], side_px=sequence.short_side_px))
        report("prepare", done, len(records))
    return clips


def mask_task(
    config: MaskTrainConfig,
    model: TemporalMemory,
    clips: Sequence[MaskedClip],
    *,
    arrange: Arrange = lambda frames: frames,
) -> Task:
    """What the training loop needs to know.

    Args:
        config: Of the run.
        model: To be trained.
        clips: To learn from.
        arrange: Changes the frames of each batch.

    Returns:
        The task.
    """

    def losses(first: int) -> Losses:
        seed = config.seed
        for step in range(first, config.num_steps):
            rows = step_rows(
                num_rows=len(clips), batch_size=config.batch_size, seed=seed, step=step
            )
            rng = step_rng(seed=seed, step=step)
            moments = [
                draw_moment(clips[row], config, rng, spoilt=rng.random() < config.spoilt)
                for row in rows
            ]
            frames, labels = stack(moments, config.sequence)
            terms = segment(model(arrange(frames)), labels, config.objective)
            yield StepLoss(terms=terms, ids=[clips[row].id for row in rows])

    return Task(
        model=model,
        optim=config.optim,
        num_steps=config.num_steps,
        save_every=config.save_every,
        seed=config.seed,
        losses=losses,
    )


def draw_moment(
    clip: MaskedClip, config: MaskTrainConfig, rng: np.random.Generator, *, spoilt: bool
) -> MaskedMoment:
    """A random moment of a video that has its whole past."""
    slots, step = config.model.head.num_slots, round(config.sequence.step_s * FPS)
    now = int(rng.integers(min(slots * step, len(clip.frames) - 1), len(clip.frames)))
    frames = clip.frames[moment_indices(now, num_past=slots, step=step)]
    moment = MaskedMoment(frames=frames, labels=clip.labels[now])
    if config.pans:
        moment = pan(moment, rng)
    if spoilt:
        moment.frames[-1] = spoil(moment.frames[-1], rng)
    return moment


def stack(
    moments: Sequence[MaskedMoment], sequence: SequenceConfig
) -> tuple[Float[Tensor, "batch frames 3 height width"], Int[Tensor, "batch height width"]]:
    """Moments as the model and the objective take them."""
    frames = torch.from_numpy(np.stack([moment.frames for moment in moments]))
    labels = torch.from_numpy(np.stack([moment.labels for moment in moments]))
    return normalised(frames, sequence), labels.long()


@torch.inference_mode()
def score(
    model: TemporalMemory,
    config: MaskTrainConfig,
    clips: Sequence[MaskedClip],
    *,
    spoilt: bool,
    arrange: Arrange = lambda frames: frames,
) -> Confusion:
    """Count right and wrong pixels at one moment of every video.

    Args:
        model: To be scored; left in evaluation mode.
        config: Of its run.
        clips: Videos that it has not seen.
        spoilt: Whether all current frames are spoilt, or none.
        arrange: Changes the frames of each batch.

    Returns:
        The counts, which are the same for every model and call but for what the model decides.
    """
    model.eval()
    rng = np.random.default_rng(0)
    moments = [draw_moment(clip, config, rng, spoilt=spoilt) for clip in clips]
    total = Confusion(np.zeros((len(config.model.classes),) * 2, np.int64))
    for start in range(0, len(moments), _EVALUATED_AT_ONCE):
        frames, labels = stack(moments[start : start + _EVALUATED_AT_ONCE], config.sequence)
        decided = model(arrange(frames)).main.argmax(dim=1)
        found = Confusion.of(decided.numpy(), labels.numpy(), len(config.model.classes))
        total = total.merge(found)
    return total
