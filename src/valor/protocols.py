"""What the benchmarks of the paper ask for, and what was published on them: a record of each.

`valor evaluate --protocol` applies a record to a model, `valor train finetune` learns by it, and
`valor reproduce` compares. Data only. The last three records are for data of your own.

Source: VALOR (arXiv 2304.08345), tables 2 to 4; the released `config/*.json` with what the
published runs in `scripts/*.sh` override; VAST (arXiv 2305.18500), table 3; the README of
perception_models for PE-AV.
"""

from typing import Literal

from valor.config import configclass
from valor.errors import UsageError
from valor.types import AUDIOVISUAL, Modality

Task = Literal["retrieval", "captioning", "answering"]

_VISION, _AUDIO = (Modality.VISION,), (Modality.AUDIO,)
_SEEN_AND_HEARD = (AUDIOVISUAL, Modality.VISION)


@configclass
class Published:
    """Figures that others stated; nobody measured them here."""

    system: str
    group: Modality
    figures: dict[str, float]
    """By the names that a report uses, in [0, 1]; CIDEr may be more."""
    note: str = ""


@configclass
class Sampling:
    """How much of a recording is looked at and listened to; None keeps what the model has."""

    frames: int | None = None
    """Positions in time, 1 for a still image."""
    windows: int | None = None
    """Audio windows."""


@configclass
class Protocol:
    """One benchmark."""

    name: str
    """As `--protocol` takes it."""
    task: Task
    """What is measured."""
    groups: tuple[Modality, ...]
    """What is looked at, the one that comparisons are about first."""
    format: str | None = None
    """Of `valor data import`."""
    split: str = "test"
    """Of the manifest, measured."""
    num_test: int | None = None
    """Recordings of the whole test split, where the paper tells."""
    captions_per_item: int | None = None
    """Captions about each group that are used of a recording; None for all."""
    text_tokens: int | None = None
    """Most tokens of a text between its start and its end; None keeps the model's."""
    training: Sampling = Sampling()
    """Of a recording, in fine-tuning."""
    testing: Sampling = Sampling()
    """Of a recording, when measured."""
    image_px: int | None = None
    """Height and width of frames; None keeps the model's."""
    answers: str = "exact"
    """How answers are scored, as `metrics/answer_protocols.py` names it."""
    num_beams: int = 1
    """Texts that are kept at each word when writing."""
    learning_rate: float = 2e-5
    """Of fine-tuning."""
    epochs: int = 10
    """Of fine-tuning."""
    batch_size: int = 64
    """Of fine-tuning."""
    predicts_every_word: bool = False
    """Whether fine-tuning predicts all words in one pass instead of a masked share of them."""
    published: tuple[Published, ...] = ()
    """What papers state."""
    released: tuple[Published, ...] = ()
    """What the released checkpoint is confirmed to give, for `valor reproduce`."""


def find_protocol(name: str) -> Protocol:
    """Return a record by its name; an unknown one is a `UsageError`."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    known = ", ".join(protocol.name for protocol in PROTOCOLS)
    raise UsageError(f"unknown protocol {name!r}; there is {known}")


def _published(
    names: str, group: Modality, rows: dict[str, str], note: str = ""
) -> tuple[Published, ...]:
    """Rows of a table in percent, such as `43.0/72.2/82.1`; `-` stands for an unknown figure."""
    found: list[Published] = []
    for system, row in rows.items():
        pairs = zip(names.split("/"), row.split("/"), strict=False)
        figures = {name: round(float(text) / 100, 4) for name, text in pairs if text != "-"}
        seen = Modality.VISION if system == "VALOR-B-" and group == AUDIOVISUAL else group
        note_of = "without sound and without VALOR-1M" if system == "VALOR-B-" else note
        found.append(Published(system=system, group=seen, figures=figures, note=note_of))
    return tuple(found)


def _retrieval(group: Modality, **rows: str) -> tuple[Published, ...]:
    return _published("r1/r5/r10", group, _systems(rows))


def _captioning(group: Modality, **rows: str) -> tuple[Published, ...]:
    return _published("bleu4/meteor/rouge_l/cider", group, _systems(rows))


def _answering(group: Modality, **rows: str) -> tuple[Published, ...]:
    return _published("accuracy", group, _systems(rows))


def _systems(rows: dict[str, str]) -> dict[str, str]:
    names = {"plain": "VALOR-B-", "base": "VALOR-B", "large": "VALOR-L", "vast": "VAST"}
    return {names[key]: row for key, row in rows.items()}


def _zero_shot(group: Modality, r1: str) -> tuple[Published, ...]:
    return _published("r1", group, {"PE-AV-L": r1}, note="zero-shot")


def _released(group: Modality, recalls: str) -> tuple[Published, ...]:
    note = "released checkpoint, upstream issue 17"
    return _published("r1/r5/r10", group, {"VALOR-B": recalls}, note=note)


def _row(
    name: str,
    task: Task,
    groups: tuple[Modality, ...],
    *,
    frames: tuple[int | None, int | None] = (4, 8),
    windows: tuple[int | None, int | None] = (None, None),
    **others: object,
) -> Protocol:
    """A benchmark with what most of them have in common; pairs are of training and testing."""
    usual: dict[str, object] = {
        "text_tokens": 30,
        "image_px": 224,
        "num_beams": 3 if task == "captioning" else 1,
        "training": Sampling(frames=frames[0], windows=windows[0]),
        "testing": Sampling(frames=frames[1], windows=windows[1]),
    }
    return Protocol(name=name, task=task, groups=groups, **(usual | others))  # type: ignore[arg-type]


_RETRIEVAL = (
    _row(
        "msrvtt-1ka", "retrieval", _SEEN_AND_HEARD, windows=(2, 2), format="msrvtt",
        num_test=1000, captions_per_item=1, epochs=70,
        published=_retrieval(
            AUDIOVISUAL, plain="36.2/64.7/75.4", base="43.0/72.2/82.1", large="54.4/79.8/87.6",
            vast="63.9",
        ),
        released=_released(AUDIOVISUAL, "43.0/72.1/82.1")
        + _released(Modality.VISION, "39.9/69.2/78.8"),
    ),
    _row(
        "valor32k-retrieval", "retrieval", (AUDIOVISUAL, Modality.VISION, Modality.AUDIO),
        windows=(2, 2), format="valor", captions_per_item=1, epochs=10,
        published=_retrieval(
            AUDIOVISUAL, plain="43.3/70.3/80.0", base="67.9/89.7/94.4", large="73.2/91.6/95.4",
            vast="80.0",
        )
        + _zero_shot(Modality.VISION, "70.9")
        + _zero_shot(Modality.AUDIO, "35.1"),
    ),
    _row(
        "didemo", "retrieval", _SEEN_AND_HEARD, frames=(8, 32), windows=(4, 8),
        format="didemo", captions_per_item=1, text_tokens=65, learning_rate=9e-6, epochs=30,
        published=_retrieval(
            AUDIOVISUAL, plain="43.2/73.9/82.4", base="52.2/80.8/86.8", large="57.6/83.3/88.8"
        ),
    ),
    _row(
        "activitynet", "retrieval", _SEEN_AND_HEARD, frames=(8, 32), windows=(4, 8),
        format="activitynet", split="val", captions_per_item=1, text_tokens=74, epochs=40,
        published=_retrieval(
            AUDIOVISUAL, plain="37.5/67.9/80.4", base="50.5/79.6/89.1", large="63.4/87.8/94.1"
        ),
    ),
    _row(
        "lsmdc", "retrieval", _SEEN_AND_HEARD, windows=(2, 2), format="lsmdc",
        captions_per_item=1, epochs=5,
        published=_retrieval(
            AUDIOVISUAL, plain="20.0/39.1/49.0", base="25.1/45.8/55.2", large="31.8/52.8/62.4"
        ),
    ),
    _row(
        "vatex-retrieval", "retrieval", _SEEN_AND_HEARD, windows=(2, 2), format="vatex",
        epochs=50,
        published=_retrieval(
            AUDIOVISUAL, plain="59.4/90.5/95.4", base="67.5/94.1/97.4", large="76.9/96.7/98.6"
        ),
    ),
    _row("msvd-retrieval", "retrieval", _VISION, format="msvd", epochs=140),
    _row(
        "clotho-retrieval", "retrieval", _AUDIO, frames=(None, None), windows=(6, 6),
        format="clotho", learning_rate=1e-4, epochs=45,
        published=_retrieval(Modality.AUDIO, base="17.5/42.7/55.3")
        + _zero_shot(Modality.AUDIO, "23.0"),
    ),
    _row(
        "audiocaps-retrieval", "retrieval", _AUDIO, frames=(None, None), windows=(2, 2),
        format="audiocaps", learning_rate=1e-4, epochs=10,
        published=_retrieval(Modality.AUDIO, base="40.1/73.9/83.1", vast="52.0")
        + _zero_shot(Modality.AUDIO, "45.8"),
    ),
    _row(
        "coco-retrieval", "retrieval", _VISION, frames=(1, 1), format="coco", image_px=392,
        num_test=5000, epochs=75, batch_size=1024,
        published=_retrieval(Modality.VISION, large="61.4/84.4/90.9"),
    ),
)  # fmt: skip

_CAPTIONING = (
    _row(
        "valor32k-captioning", "captioning", (AUDIOVISUAL, Modality.VISION, Modality.AUDIO),
        windows=(2, 2), format="valor", epochs=10,
        published=_captioning(
            AUDIOVISUAL, plain="8.0/13.5/29.4/44.3", base="8.9/14.8/30.8/55.7",
            large="9.6/15.4/31.8/61.5", vast="-/-/-/62.0",
        ),
    ),
    _row(
        "msvd-captioning", "captioning", _VISION, frames=(8, 12), format="msvd",
        learning_rate=9e-6, epochs=100,
        published=_captioning(
            Modality.VISION, plain="74.3/47.1/83.8/156.1", base="76.1/48.0/85.2/162.1",
            large="80.7/51.0/87.9/178.5",
        ),
    ),
    _row(
        "msrvtt-captioning", "captioning", _SEEN_AND_HEARD, frames=(6, 10), windows=(2, 2),
        format="msrvtt", learning_rate=9e-6, epochs=100,
        published=_captioning(
            AUDIOVISUAL, plain="48.1/30.4/64.3/61.5", base="53.8/32.3/67.0/66.6",
            large="54.4/32.9/68.0/74.0",
        ),
    ),
    _row(
        "vatex-captioning", "captioning", _SEEN_AND_HEARD, frames=(8, 20), windows=(2, 2),
        format="vatex", epochs=100,
        published=_captioning(
            AUDIOVISUAL, plain="40.7/26.1/53.8/71.6", base="41.9/26.6/54.6/73.9",
            large="45.6/29.4/57.4/95.8",
        ),
    ),
    _row(
        "clotho-captioning", "captioning", _AUDIO, frames=(None, None), windows=(6, 6),
        format="clotho", epochs=50,
        published=_captioning(Modality.AUDIO, base="16.2/17.4/38.2/42.3"),
    ),
    _row(
        "audiocaps-captioning", "captioning", _AUDIO, frames=(None, None), windows=(2, 2),
        format="audiocaps", epochs=10,
        published=_captioning(Modality.AUDIO, base="27.0/23.1/49.4/74.1"),
    ),
    _row(
        "coco-captioning", "captioning", _VISION, frames=(1, 1), format="coco", image_px=392,
        learning_rate=5e-6, epochs=25,
        published=_captioning(Modality.VISION, large="-/-/-/152.5"),
    ),
)  # fmt: skip

_ANSWERING = (
    _row(
        "msrvtt-qa", "answering", _SEEN_AND_HEARD, windows=(2, 2), format="msrvtt-qa", epochs=100,
        answers="msrvtt-qa",
        published=_answering(AUDIOVISUAL, plain="44.5", base="46.7", large="49.2"),
    ),
    _row(
        "msvd-qa", "answering", _VISION, format="msvd-qa", learning_rate=1e-5, epochs=250,
        answers="msvd-qa",
        published=_answering(Modality.VISION, plain="54.9", base="56.4", large="60.0"),
    ),
    _row(
        "tgif-qa", "answering", _VISION, format="tgif-qa", epochs=10, answers="tgif-qa",
        published=_answering(Modality.VISION, plain="73.0", base="74.5", large="78.7"),
    ),
    _row(
        "activitynet-qa", "answering", _VISION, frames=(8, 16), format="activitynet-qa",
        epochs=100, answers="activitynet-qa",
        published=_answering(Modality.VISION, plain="43.7", base="44.8", large="48.6"),
    ),
    _row(
        "music-avqa", "answering", _SEEN_AND_HEARD, windows=(4, 8), format="music-avqa",
        epochs=25, answers="music-avqa",
        published=_answering(AUDIOVISUAL, plain="74.8", base="76.6", large="78.9", vast="80.7"),
    ),
    _row(
        "vqav2", "answering", _VISION, frames=(1, 1), format="vqav2", image_px=392, epochs=200,
        batch_size=256, predicts_every_word=True, split="val", answers="vqa-v2",
        published=_published(
            "accuracy", Modality.VISION, {"VALOR-L": "78.46"},
            note="on test-dev, whose answers are not public",
        ),
    ),
)  # fmt: skip

_OWN = (
    Protocol(name="retrieval", task="retrieval", groups=(AUDIOVISUAL, *_VISION, *_AUDIO)),
    Protocol(
        name="captioning", task="captioning", groups=(AUDIOVISUAL, *_VISION, *_AUDIO), num_beams=3
    ),
    Protocol(name="answering", task="answering", groups=(AUDIOVISUAL, *_VISION, *_AUDIO)),
)
"""For data of your own: frames, windows, lengths and resolution stay what the model has."""

PROTOCOLS = _RETRIEVAL + _CAPTIONING + _ANSWERING + _OWN
