"""The table of formats, and the import that all of them share.

Entry points: `FORMATS` and `import_records`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from valor.data.manifest import Record
from valor.data.sources import audio, folders, images, paragraphs, parquet, qa, valor, video
from valor.data.sources.media import MediaFolder
from valor.errors import ManifestError, UsageError
from valor.types import Modality

Importer = Callable[[Sequence[Path], MediaFolder], Iterator[Record]]


@dataclass(frozen=True, slots=True)
class Format:
    """A format by its name on the command line."""

    read: Importer
    help: str
    files: str
    """What is to be given, as in the release."""
    seen: str = ""
    """The real files that the importer was tried on; none if it is written by description."""
    is_whole: bool = False
    """True if the files complete each other; others are read one by one."""
    parts: Callable[[Path], list[Path]] = lambda path: [path]
    """The files that a folder stands for."""
    has_media: bool = False
    """True if media come with the files, so that no other folder is needed."""


def _tables(path: Path) -> list[Path]:
    return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]


FORMATS = {
    "folder": Format(
        folders.folder,
        "media with .txt, .json or .vtt beside them",
        "the folder",
        seen="a format of this project",
        has_media=True,
    ),
    "valor": Format(
        valor.valor,
        "VALOR-1M, VALOR-32K, and the sets VAST is fine-tuned on",
        "desc_train.json, desc_val.json, desc_test.json",
        seen="desc_val.json, desc_test.json",
    ),
    "valor-ids": Format(
        valor.valor_ids,
        "the layout of VALOR's release: lists of ids and txt_mapper.json",
        "train_id.json, test_id.json, txt_mapper.json",
        is_whole=True,
    ),
    "valor-avqa": Format(
        valor.valor_avqa,
        "VALOR-32K-AVQA: questions about what is seen and heard",
        "processed_val_data.csv",
        seen="processed_val_data.csv, processed_test_data.csv",
    ),
    "vast": Format(valor.vast, "VAST-27M", "annotations.json"),
    "msrvtt": Format(
        video.msrvtt,
        "MSR-VTT, with the 1k-A and other lists",
        "MSRVTT_data.json, MSRVTT_JSFUSION_test.csv, MSRVTT_train.9k.csv",
        seen="both lists; not the JSON file",
        is_whole=True,
    ),
    "vatex": Format(video.vatex, "VATEX, English", "vatex_training_v1.0.json"),
    "msvd": Format(
        video.msvd,
        "MSVD, English",
        "AllVideoDescriptions.txt or the CSV table, train_list.txt",
        is_whole=True,
    ),
    "didemo": Format(paragraphs.didemo, "DiDeMo, a paragraph per video", "train_data.json"),
    "didemo-moments": Format(
        paragraphs.didemo_moments, "DiDeMo, a record per moment", "train_data.json"
    ),
    "activitynet": Format(
        paragraphs.activitynet,
        "ActivityNet Captions, a paragraph per video",
        "train.json, val_1.json, val_2.json",
        seen="val_1.json",
    ),
    "activitynet-events": Format(
        paragraphs.activitynet_events,
        "ActivityNet Captions, a record per sentence",
        "train.json, val_1.json, val_2.json",
        seen="val_1.json",
    ),
    "activitynet-qa": Format(
        qa.activitynet_qa,
        "ActivityNet-QA",
        "test_q.json, test_a.json",
        seen="test_q.json, test_a.json",
        is_whole=True,
    ),
    "lsmdc": Format(video.lsmdc, "LSMDC", "LSMDC16_annos_training.csv"),
    "audiocaps": Format(
        audio.audiocaps,
        "AudioCaps",
        "train.csv, val.csv, test.csv",
        seen="val.csv and test.csv of versions 1 and 2",
    ),
    "clotho": Format(
        audio.clotho,
        "Clotho, and AudioCaps as WavCaps publishes it",
        "clotho_captions_evaluation.csv",
        seen="val.csv and test.csv of both sets, as WavCaps publishes them",
    ),
    "wavcaps": Format(
        audio.wavcaps,
        "WavCaps",
        "sb_final.json",
        seen="sb_final.json (SoundBible); the AudioCaps test.json of the same project",
    ),
    "coco": Format(
        images.coco,
        "COCO captions, also by the Karpathy splits",
        "captions_val2017.json or dataset_coco.json",
        seen="captions_val2017.json; not the Karpathy splits",
    ),
    "vqav2": Format(
        qa.vqav2,
        "VQA v2",
        "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json",
        seen="the questions; not the annotations",
        is_whole=True,
    ),
    "tgif": Format(
        video.tgif,
        "TGIF",
        "tgif-v1.0.tsv, splits/train.txt, splits/val.txt, splits/test.txt",
        seen="tgif-v1.0.tsv, splits/test.txt",
        is_whole=True,
    ),
    "tgif-qa": Format(
        qa.tgif_qa,
        "TGIF-QA: FrameQA, Count, Action, Transition",
        "Train_frameqa_question.csv",
        seen="Test_frameqa_question.csv; of the others their columns",
    ),
    "msrvtt-qa": Format(qa.msrvtt_qa, "MSRVTT-QA", "train_qa.json"),
    "msvd-qa": Format(qa.msvd_qa, "MSVD-QA", "train_qa.json, youtube_mapping.txt", is_whole=True),
    "music-avqa": Format(
        qa.music_avqa,
        "MUSIC-AVQA",
        "avqa-train.json, avqa-val.json, avqa-test.json",
        seen="avqa-val.json, avqa-test.json",
    ),
    "webvid": Format(video.webvid, "WebVid", "results_2M_val.csv", seen="results_2M_val.csv"),
    "cc": Format(
        folders.webdataset,
        "CC3M and CC12M as img2dataset downloads them",
        "the folder of shards",
        parts=folders.shards,
        has_media=True,
    ),
    "webdataset": Format(
        folders.webdataset,
        "video2dataset and other WebDataset folders, as archives or as files",
        "the folder of shards",
        parts=folders.shards,
        has_media=True,
    ),
    "hdvila": Format(
        video.hdvila, "HD-VILA-100M", "hdvila_part0.jsonl", seen="the example of its README"
    ),
    "visual-genome": Format(
        images.visual_genome, "Visual Genome regions", "region_descriptions.json"
    ),
    "parquet": Format(
        parquet.parquet,
        "Parquet tables of the Hugging Face hub",
        "the tables or their folder",
        parts=_tables,
        has_media=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import found."""

    records: list[Record]
    """Those whose media are there."""
    missing: list[str]
    """Ids of those whose media are not, or whose stretch of them has no length."""

    @property
    def num_without_texts(self) -> int:
        """How many of the records have neither caption nor question."""
        return sum(not record.captions and not record.questions for record in self.records)

    @property
    def num_listed(self) -> int:
        """How many records the files list."""
        return len(self.records) + len(self.missing)


def import_records(
    format: str,
    files: Sequence[Path],
    media: Path,
    *,
    split: str | None = None,
    about: Modality | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Read annotations in a public format and find their media.

    Args:
        format: A name in `FORMATS`.
        files: What the format's `files` names.
        media: Folder of the media files, at any depth; media inside of archives go there.
        split: Put all records into this split, whatever the files say.
        about: What all captions speak about, whatever is usual for the format.
        progress: Told how many of how many files are read.

    Returns:
        The records in the order in which they are listed first.

    Raises:
        ManifestError: If a file is not of this format, or texts of one id do not fit together.
        UsageError: If there is no such format.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}; there is {', '.join(FORMATS)}")
    if gone := [path for path in files if not path.exists()]:
        raise ManifestError(f"{gone[0]}: no such file or folder; check the path")
    kind = FORMATS[format]
    parts = [part for path in files for part in kind.parts(path)]
    batches = [parts] if kind.is_whole else [[part] for part in parts]
    folder = MediaFolder(media)
    records: dict[str, Record] = {}
    for done, batch in enumerate(batches, start=1):
        for record in kind.read(batch, folder):
            records[record.id] = _joined(
                records.get(record.id), replace(record, split=split or record.split)
            )
        progress(done, len(batches))
    if about is not None:
        records = {id: _about(record, about) for id, record in records.items()}
    found = [replace(record, source=format) for record in records.values() if _is_there(record)]
    missing = [record.id for record in records.values() if not _is_there(record)]
    return Imported(records=found, missing=missing)


def _is_there(record: Record) -> bool:
    return bool(record.media) and (record.end_s is None or record.end_s > record.start_s)


def _joined(first: Record | None, second: Record) -> Record:
    """The record with the texts of both, and the media of the first that has any."""
    if first is None:
        return second
    for name in ("split", "start_s", "end_s"):
        if getattr(first, name) != getattr(second, name):
            values = f"{getattr(first, name)!r} and {getattr(second, name)!r}"
            raise ManifestError(f"{first.id!r} is listed twice, with {name} {values}")
    return replace(
        first,
        media=first.media or second.media,
        captions=first.captions + second.captions,
        questions=first.questions + second.questions,
    )


def _about(record: Record, about: Modality) -> Record:
    captions = tuple(replace(caption, about=about) for caption in record.captions)
    return replace(record, captions=captions)
