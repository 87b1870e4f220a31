"""Captions of images; an image is a video of one frame without sound."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from valor.data.manifest import Record
from valor.data.rows import Row, json_rows, read_json
from valor.data.sources.media import MediaFolder, bare
from valor.data.sources.shared import split_of, tagged
from valor.types import Modality


def coco(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read the captions of COCO, in its own form or in that of the Karpathy splits.

    Args:
        files: JSON objects of `images` (`id`, `file_name`) and `annotations` (`image_id`,
            `caption`); or `dataset_coco.json` with `images` (`filename`, `split`, `sentences`).
        media: Images of these names.

    Yields:
        A record per image, its id the number in twelve digits.
    """
    for path in files:
        content = Row(read_json(path), str(path))
        captions: dict[str, list[str]] = {}
        for row in content.rows("annotations"):
            captions.setdefault(row.id("image_id"), []).append(row.text("caption").strip())
        for image in content.rows("images"):
            if "sentences" in image:
                number, name = image.number("cocoid"), image.text("filename")
                texts = [said.text("raw").strip() for said in image.rows("sentences")]
                split = split_of(image.text("split"))
            else:
                number, name = image.number("id"), image.text("file_name")
                texts, split = captions.get(image.id("id"), []), split_of(path.stem)
            yield Record(
                id=f"{int(number):012d}",
                media=media.find(name, f"{int(number):012d}"),
                split=split,
                captions=tagged(texts, Modality.VISION),
            )


def visual_genome(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read the region descriptions of Visual Genome; a region's place in the image is not kept.

    Args:
        files: JSON lists of `{"id", "regions": [{"phrase"}]}`, as `region_descriptions.json`.
        media: Images named by id.

    Yields:
        A record per image, each of its phrases a caption.
    """
    for path in files:
        for row in json_rows(path):
            id = row.id("id" if "id" in row else "image_id")
            phrases = [region.text("phrase").strip() for region in row.rows("regions")]
            yield Record(
                id=bare(id),
                media=media.find(id),
                split=split_of(path.stem),
                captions=tagged(phrases, Modality.VISION),
            )
