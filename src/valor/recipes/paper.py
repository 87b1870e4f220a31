"""Pretraining beyond the demo: for data of your own, at the paper's sizes, on public towers.

`valor train RECIPE --estimate --data M` prints what each takes on your device. Expected results of
the paper's sizes are the paper's; nobody has trained them here.
"""

from dataclasses import replace

from valor.config import evolve
from valor.encoders.audio import AstConfig
from valor.encoders.text import BertConfig
from valor.encoders.video_swin import VideoSwinConfig
from valor.encoders.vision import VitConfig
from valor.models.valor import ValorConfig
from valor.objectives.alignment import AlignmentConfig
from valor.objectives.captioning import CaptioningConfig
from valor.objectives.masked_language import MaskedLanguageConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.training.optim import OptimConfig
from valor.training.run import TrainConfig
from valor.training.start import TowersConfig
from valor.training.step import ObjectivesConfig, PartConfig
from valor.types import Modality

_SEEN = (Modality.VISION,)
_OF_SEEN = ObjectivesConfig(
    alignment=AlignmentConfig(groups=_SEEN), captioning=CaptioningConfig(groups=_SEEN)
)
"""Of parts without sound: all of the weight is on the one group that they have."""
_VISION_ALONE = {"webvid": 49, "cc3m": 58, "cc12m": 129, "coco": 17, "vg": 1, "hdvila": 98}
"""Thousands of steps: epochs x items / 1024, of the released configuration."""
_BERT = "google-bert/bert-base-uncased"
_AST = "MIT/ast-finetuned-audioset-10-10-0.4593"


def small() -> TrainConfig:
    """VALOR with 41 M parameters, from scratch, for some ten thousand recordings of your own.

    Pictures of 112 px, 4 frames, two windows of sound of 5 s.

    Cost: 3.7 TFLOP a step, counted: 20 000 steps take 41 minutes at 30 TFLOP/s, or 10 days on two
    cores that reach 85 GFLOP/s; 10 GiB. Expected: not measured; on the rendered world `tiny` does
    it in minutes.
    """
    return TrainConfig(
        model=ValorConfig(
            vision=VitConfig(
                image_px=112, stem="convolution", dim=384, num_layers=6, num_heads=6, mlp_dim=1536
            ),
            audio=AstConfig(dim=384, num_layers=6, num_heads=6, mlp_dim=1536),
            text=BertConfig(
                vocab_size=8000, max_length=128, dim=384, num_layers=6, num_heads=6, mlp_dim=1536
            ),
            embed_dim=256,
        ),
        processor=ProcessorConfig(frames=FrameConfig(image_px=112, normalise="unit")),
        optim=OptimConfig(learning_rate=5e-4),
        batch_size=64,
        num_steps=20_000,
    )


def valor_base() -> TrainConfig:
    """VALOR-B's pretraining: Video Swin, AST, BERT; 200 000 steps of 512.

    The paper's mixture is VALOR-1M (20 epochs of audiovisual, visual and audio groups), WebVid-2.5M
    and CC3M (16 each, vision alone); each step sees one of them, as often as these epochs ask for:
    `--data valor=VALOR-1M.jsonl webvid=WEBVID.jsonl cc3m=CC3M.jsonl`. For data of your own give
    `--mixture '[]'`, which draws all records alike, or parts of your own. Differs from the paper:
    the words of the decoder are learned from the data; AST takes its own 128 mels and 10 s windows;
    the text encoder is BERT, the decoder fresh and apart (in the paper: -0.9 R@1). Video Swin is
    fresh unless its released Kinetics-600 file is given:
    `--model.vision swin_base_patch244_window877_..._22k.pth`.

    Cost: the paper took 8 A100. Expected (paper, not measured here): VALOR-32K R@1 67.9, MSR-VTT
    R@1 43.0, CIDEr of VALOR-32K 55.7, MSRVTT-QA 46.7, after fine-tuning.
    """
    return TrainConfig(
        model=TowersConfig(
            audio=_AST,
            text=_BERT,
            model=ValorConfig(vision=VideoSwinConfig(), text=BertConfig(max_length=128)),
        ),
        processor=ProcessorConfig(
            frames=FrameConfig(normalise="imagenet", crop="stretch"),
            spectrogram=SpectrogramConfig(num_windows=1),
        ),
        mixture=(
            PartConfig(name="valor", weight=39),
            PartConfig(name="webvid", weight=78, groups=_SEEN, objectives=_OF_SEEN),
            PartConfig(name="cc3m", weight=94, groups=_SEEN, objectives=_OF_SEEN),
        ),
        batch_size=512,
        num_steps=200_000,
        save_every=1000,
    )


def valor_large() -> TrainConfig:
    """VALOR-L's pretraining: CLIP ViT-L/14, AST, BERT; 500 000 steps of 1024, with MLM.

    The paper's mixture is VALOR-1M (32 epochs, batch 512), WebVid-2.5M (20), CC3M (20), CC12M (12),
    COCO (150), Visual Genome (3) and HD-VILA-10M (10), all of batch 1024 and of vision alone; 2
    frames of VALOR-1M and 1 of the others. `--data` takes them by the names `valor`, `webvid`,
    `cc3m`, `cc12m`, `coco`, `vg` and `hdvila`; the weights are thousands of steps. Here batches are
    of 1024 and samples of 2 frames throughout. As in the released configuration, all but VALOR-1M
    have MLM beside MGA and MGC, and CLIP is the one of 336 px at 224 px, with a rate of its own.
    What else differs is as for `valor_base`.

    Cost: half a billion samples of some 2 TFLOP: a cluster's. Expected (paper, not measured here):
    VALOR-32K R@1 73.2, MSR-VTT R@1 54.4, CIDEr of VALOR-32K 61.5, MSRVTT-QA 49.2.
    """
    base = valor_base()
    of_seen = replace(_OF_SEEN, masked_language=MaskedLanguageConfig(groups=_SEEN))
    return TrainConfig(
        model=TowersConfig(
            vision="openai/clip-vit-large-patch14-336",
            frames_px=224,
            audio=_AST,
            text=_BERT,
            model=ValorConfig(text=BertConfig(max_length=128)),
        ),
        processor=evolve(base.processor, {"frames.num_bursts": 2}),
        optim=OptimConfig(learning_rate=5e-5, clip_norm=2.0, rates={"vision.": 8e-6}),
        mixture=(
            PartConfig(name="valor", weight=62),
            *(
                PartConfig(name=name, weight=weight, groups=_SEEN, objectives=of_seen)
                for name, weight in _VISION_ALONE.items()
            ),
        ),
        batch_size=1024,
        num_steps=500_000,
        save_every=1000,
    )


def from_siglip2_clap() -> TrainConfig:
    """SigLIP 2 and CLAP, frozen, with our heads and decoder on top: what one GPU can do in a day.

    Only heads, memory projections, text encoder and decoder learn, so that a few hundred thousand
    captions are enough. The public towers' licences are on their pages (both Apache-2.0).

    Cost: the towers run forward only, with `--cache-frozen true` once for each recording, whose
    tokens then take 1.3 MB; see `--estimate`. Expected: not measured here; retrieval by
    vision starts from SigLIP 2's features, so compare with
    `valor evaluate google/siglip2-base-patch16-224+laion/clap-htsat-unfused` on the same data.
    """
    return _on_frozen("google/siglip2-base-patch16-224", "laion/clap-htsat-unfused")


def from_pe_av() -> TrainConfig:
    """PE-AV, frozen, with our heads and decoder on top: towers that were trained with each other.

    PE-AV sees 16 frames together and hears 10 s as samples, 25 tokens per second; our heads compare
    each frame and each window with each word, and the decoder attends to all tokens. Needs `pip
    install timm`. Licence of the towers: Apache-2.0.

    Cost: the towers run forward only, with `--cache-frozen true` once for each recording; see
    `--estimate`. Expected: not measured here; compare with `valor evaluate facebook/pe-av-small`,
    the same towers with their own heads, on the same data.
    """
    return _on_frozen("facebook/pe-av-small", "facebook/pe-av-small")


def _on_frozen(vision: str, audio: str) -> TrainConfig:
    """Heads, text encoder and decoder on towers that stay as they are."""
    return TrainConfig(
        model=TowersConfig(
            vision=vision,
            audio=audio,
            frozen=(Modality.VISION, Modality.AUDIO),
            model=ValorConfig(
                text=BertConfig(
                    vocab_size=16_000, max_length=128, dim=512, num_heads=8, num_layers=6,
                    mlp_dim=2048,
                ),
            ),
        ),
        processor=ProcessorConfig(spectrogram=SpectrogramConfig(num_windows=1)),
        optim=OptimConfig(learning_rate=3e-4),
        batch_size=256,
        num_steps=20_000,
        save_every=500,
    )  # fmt: skip
