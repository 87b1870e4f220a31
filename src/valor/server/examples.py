"""Some things to search for, as the page offers them: what the library's own recordings hold."""

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from valor.data.manifest import Record, manifest_lines, parse_record
from valor.errors import ManifestError
from valor.search.library import Library
from valor.types import AUDIOVISUAL, Modality

T = TypeVar("T")

_NUM = 5
_LETTERS = 60
_HITS = 40
_LINES = 100
"""Of a manifest that speak of the library's recordings; examples are taken from all over them."""
_MANIFEST_BYTES = 16 << 20
"""Of its beginning; what comes after is not read."""
_ABOUT = (Modality.AUDIO, Modality.VISION, AUDIOVISUAL)
"""What examples speak about, in turn; that sounds can be searched for is not well known."""


def find_examples(library: Library, roots: Sequence[Path], paths: Collection[str]) -> list[str]:
    """Take some short texts that describe recordings of a library.

    Args:
        library: Whose captions are taken.
        roots: Folders of its recordings. Where it has no captions, those of a manifest that lies in
            one of them or beside it are taken.
        paths: The library's recordings.

    Returns:
        A few texts, or none.
    """
    hits = library.search("a sound", limit=_HITS) if paths else []
    captions = dict.fromkeys(hit.caption for hit in hits if hit.caption)
    if captions:
        return _spread([text for text in captions if len(text) <= _LETTERS])
    for folder in dict.fromkeys(f for root in roots for f in (root, root.parent)):
        try:
            texts = _of_manifest(folder / "manifest.jsonl", set(paths))
        except (OSError, ValueError, TypeError, LookupError, ManifestError):
            continue  # Whatever it is, nobody asked for it to be read.
        if texts:
            return texts
    return []


def _of_manifest(file: Path, paths: Collection[str]) -> list[str]:
    if not file.is_file():
        return []
    found = (line for line in _beginning(file) if _media_of(line, file.parent) in paths)
    lines = _spread(list(itertools.islice(found, _LINES)))
    records = [parse_record(line, folder=file.parent, where=str(file)) for line in lines]
    texts = map(_text_of, records, itertools.cycle(_ABOUT))
    return list(dict.fromkeys(text for text in texts if text))


def _beginning(file: Path) -> Iterator[bytes]:
    num_bytes = 0
    for _, line in manifest_lines(file):
        num_bytes += len(line)
        if num_bytes > _MANIFEST_BYTES:
            return
        yield line


def _media_of(line: bytes, folder: Path) -> str:
    return str(folder / json.loads(line)["media"])


def _text_of(record: Record, about: Modality) -> str | None:
    """A short caption, if possible about what is wanted."""
    captions = [caption for caption in record.captions if len(caption.text) <= _LETTERS]
    wanted = [caption.text for caption in captions if caption.about == about]
    return next(iter([*wanted, *(caption.text for caption in captions)]), None)


def _spread(items: list[T]) -> list[T]:
    """A few of them, from all over the list."""
    return items[:: max(1, len(items) // _NUM)][:_NUM]
