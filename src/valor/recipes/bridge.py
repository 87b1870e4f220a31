"""A bridge to a frozen language model in two stages: captions, then instructions.

`assemble` puts a pretrained language model, encoders and fresh Q-Formers into a model folder; the
stages are ordinary runs that go on from a folder:

    valor train bridge_captions --model.path runs/start --data ... --out runs/captions
    valor train bridge_instructions --model.path runs/captions/model --data ... --out runs/answers

Source: Video-LLaMA (arXiv 2306.02858), which trains on captions first and on instructions then.
"""

from collections.abc import Sequence
from pathlib import Path

from valor.checkpoints.folder import load_model, save_model, weights_of
from valor.config import configclass, evolve
from valor.data.manifest import Record
from valor.encoders.audio import AstConfig
from valor.encoders.text import BertConfig
from valor.encoders.vision import VitConfig
from valor.errors import ConfigError
from valor.models.bridge import Bridge, BridgeConfig, FrameOrder, QFormerConfig
from valor.models.encoding import AudioConfig, VisionConfig
from valor.models.language_model import read_language_model, read_prompt, word_ids
from valor.models.valor import ValorConfig
from valor.objectives.answering import AnsweringConfig
from valor.objectives.captioning import CaptioningConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.processing.tokenizer import Tokenizer
from valor.training.monitor import Report, silent
from valor.training.optim import OptimConfig
from valor.training.run import TrainConfig, run
from valor.training.start import FolderConfig
from valor.training.step import ObjectivesConfig
from valor.types import AUDIOVISUAL

TINY_PROCESSOR = ProcessorConfig(
    frames=FrameConfig(num_bursts=8, frames_per_burst=1, image_px=48, normalise="unit"),
    spectrogram=SpectrogramConfig(hops_per_window=400, num_windows=1),
    segment_s=4.0,
)
"""Eight single frames of the rendered world and its four seconds of sound."""


@configclass
class BridgeParts:
    """What stands on the media's side of a bridge; the defaults suit the rendered world."""

    vision: VisionConfig = VitConfig(
        image_px=48,
        patch_px=16,
        stem="convolution",
        dim=96,
        num_layers=2,
        num_heads=4,
        mlp_dim=384,
    )
    """Encodes frames."""
    audio: AudioConfig = AstConfig(
        hops_per_window=400,
        patch_mels=64,
        patch_hops=16,
        dim=96,
        num_layers=2,
        num_heads=4,
        mlp_dim=384,
    )
    """Encodes audio windows."""
    qformer: QFormerConfig = QFormerConfig(
        dim=96, num_heads=4, mlp_dim=384, num_vision_queries=8, num_audio_queries=8
    )
    """Turns media of any length into a fixed number of tokens."""
    frame_order: FrameOrder = "positions"
    """How the language model learns which frame comes first; see `BridgeConfig`."""
    prompt: str = "video <vision> sound <audio> <text> answer"
    """What the language model reads; media and question stand at the marks."""
    caption: str = "describe"
    """Stands in the question's place if a caption is wanted."""
    max_positions: int = 32
    """Most frames or audio windows."""


def assemble(
    language_model: str | Path,
    out: str | Path,
    *,
    encoders: Path | None = None,
    parts: BridgeParts | None = None,
    processing: ProcessorConfig | None = None,
) -> Path:
    """Write a model folder with a pretrained language model and a fresh bridge before it.

    Args:
        language_model: Hub id or folder of any causal model of the transformers library.
        out: Model folder to write.
        encoders: A VALOR model folder whose encoders of vision and audio are taken over; without
            one, they are as `parts` says, and fresh.
        parts: The media's side.
        processing: Of the media; None for that of `encoders`, or of the rendered world.

    Returns:
        The folder.

    Raises:
        ModelError: If the language model or the encoders cannot be loaded.
        ConfigError: If the encoders do not take what `processing` gives.
    """
    parts, valor = parts or BridgeParts(), None
    if encoders:
        valor, own, _ = load_model(encoders)
        parts = evolve(parts, {"vision": valor.config.vision, "audio": valor.config.audio})
        processing = processing or own.config
    processing = processing or TINY_PROCESSOR
    tower, model = read_language_model(language_model)
    tokenizer = Tokenizer.for_language_model(language_model)
    config = BridgeConfig(
        vision=parts.vision,
        audio=parts.audio,
        qformer=parts.qformer,
        language_model=tower,
        vocab_size=tokenizer.vocab_size,
        prompt=read_prompt(parts.prompt, tokenizer),
        caption=word_ids(parts.caption, tokenizer),
        max_positions=parts.max_positions,
        frame_order=parts.frame_order,
    )
    try:
        config.check(processing)
    except ValueError as error:
        raise ConfigError(f"{encoders or language_model}: {error}") from None
    bridge = Bridge(config, model)
    if valor is not None:
        bridge.vision.load_state_dict(valor.vision.state_dict())
        bridge.audio.load_state_dict(valor.audio.state_dict())
    card = f"# A bridge to {tower.source}\n\nNot trained yet.\n"
    folder = Path(out)
    save_model(folder, config, weights_of(bridge), Processor(processing, tokenizer), card=card)
    return folder


def bridge_encoders() -> TrainConfig:
    """Stage 0: encoders of the same sizes, by contrast with text alone; see `assemble`.

    Cost: 150 s on one core, beside other work.
    """
    parts = BridgeParts()
    text = BertConfig(
        vocab_size=400,
        max_length=96,
        dim=96,
        num_layers=2,
        num_heads=4,
        mlp_dim=384,
        dropout=0.0,
    )
    return TrainConfig(
        model=ValorConfig(vision=parts.vision, audio=parts.audio, text=text, embed_dim=96),
        processor=TINY_PROCESSOR,
        objectives=ObjectivesConfig(captioning=None),
        optim=OptimConfig(learning_rate=1e-3),
        batch_size=32,
        num_steps=400,
    )


def bridge_captions() -> TrainConfig:
    """Stage 1: say what is seen and heard.

    Cost: 250 to 410 s on one core, beside other work; `benchmarks/bridge_world.py` shows on the
    rendered world what comes of both stages.
    """
    return TrainConfig(
        model=FolderConfig(path="runs/bridge/start"),
        processor=TINY_PROCESSOR,
        objectives=ObjectivesConfig(alignment=None, captioning=CaptioningConfig()),
        optim=OptimConfig(learning_rate=1e-3),
        batch_size=32,
        num_steps=500,
    )


def bridge_instructions() -> TrainConfig:
    """Stage 2: answer questions, and go on describing.

    Cost: 140 s for 300 steps on one core, beside other work.
    """
    captions = CaptioningConfig(groups=(AUDIOVISUAL,), weight=0.2)
    objectives = ObjectivesConfig(alignment=None, captioning=captions, answering=AnsweringConfig())
    return evolve(
        bridge_captions(),
        {"model.path": "runs/bridge/captions/model", "objectives": objectives},
    )


def train_bridge(
    start: Path,
    records: Sequence[Record],
    out: Path,
    *,
    num_steps: tuple[int, int] = (500, 500),
    seed: int = 0,
    report: Report = silent,
) -> Path:
    """Run both stages.

    Args:
        start: Model folder, as `assemble` writes it.
        records: Training data with captions and questions.
        out: Folder for both runs; running it again goes on.
        num_steps: Of each stage.
        seed: Of both.
        report: Told about progress.

    Returns:
        The model folder.
    """
    stages = {"captions": bridge_captions(), "answers": bridge_instructions()}
    for (name, stage), steps in zip(stages.items(), num_steps, strict=True):
        changes = {"model.path": str(start), "num_steps": steps, "seed": seed}
        start = run(evolve(stage, changes), records, out / name, report=report)
    return start
