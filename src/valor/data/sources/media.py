"""A folder of media files, found by name whatever their extension."""

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from valor.types import AUDIOVISUAL, Modality

_VIDEO = "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts mts mxf wmv flv ogv 3gp"
_AUDIO = "wav mp3 m4a aac flac ogg opus aif aiff wma"
_IMAGE = "gif jpg jpeg png webp bmp tif tiff"
_CONTENTS = ((_VIDEO, AUDIOVISUAL), (_AUDIO, Modality.AUDIO), (_IMAGE, Modality.VISION))
_CONTENT = {f".{end}": content for ends, content in _CONTENTS for end in ends.split()}
"""Extensions of media; of files with the same name, the one that stands first here is taken."""
_RANKS = {end: at for at, end in enumerate(_CONTENT)}

_STRETCH = re.compile(r"(.+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")


class MediaFolder:
    """The media files at and below a folder; hidden ones do not count.

    Args:
        folder: Need not exist yet where files will be added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._files: defaultdict[str, list[str]] = defaultdict(list)
        for path in media_files(self.folder):
            self._files[_last(bare(path))].append(path)

    def find(self, *names: str) -> str:
        """Return the absolute path of the first of these names that is there, or an empty text.

        Args:
            *names: File names with or without an extension; `a/b` is a file b in a folder a.

        Returns:
            The path. Among files of one name videos come before sounds, and sounds before images.
        """
        for name in map(bare, names):
            for path in self._files.get(_last(name), ()):
                if f"/{bare(path)}".endswith(f"/{name}"):
                    return str(self.folder / path)
        return ""

    def add(self, name: str, content: bytes) -> str:
        """Write a file that came inside an archive, unless it is there; return its path.

        Args:
            name: Path within the folder; parts that would lead out of it are dropped.
            content: All of it.

        Returns:
            The absolute path.
        """
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
        path = self.folder.joinpath(*parts)
        if not path.is_file() or path.stat().st_size != len(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.partial")
            partial.write_bytes(content)
            partial.replace(path)
        return str(path)


def media_files(folder: Path) -> list[str]:
    """Return the media files below a folder relative to it, the best of each name first."""
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(root).relative_to(folder)
        found += [(below / name).as_posix() for name in files if is_media(name)]
    return sorted(found, key=lambda path: (rank(path), path))


def is_media(name: str) -> bool:
    """True if the name ends as a media file's does, and is not hidden."""
    return _extension(name) in _RANKS and not _last(name).startswith(".")


def rank(name: str) -> int:
    """How late a media file is taken among files of the same name."""
    return _RANKS[_extension(name)]


def content_of(name: str) -> Modality:
    """What a media file may hold, by its extension."""
    return _CONTENT[_extension(name)]


def bare(name: str) -> str:
    """The name without the extension of a media file; other dots belong to the name."""
    return name[: -len(_extension(name))] if is_media(name) else name


def _extension(name: str) -> str:
    return "".join(name.lower().rpartition(".")[1:])


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def stretch(name: str) -> tuple[str, float, float] | None:
    """Split a name such as `id_20.000_30.000` into id, start and end; None for other names."""
    match = _STRETCH.fullmatch(name)
    return (match[1], float(match[2]), float(match[3])) if match else None


def stretch_names(video: str, start_s: float, end_s: float) -> tuple[str, ...]:
    """The names that are in use for a stretch cut out of a video from the web."""
    return (
        f"{video}_{start_s:.3f}_{end_s:.3f}",
        f"{video}_{start_s:g}_{end_s:g}",
        f"{video}_{start_s:06.0f}_{end_s:06.0f}",
        f"{video}_{start_s * 1000:.0f}_{end_s * 1000:.0f}",
        f"{video}_{start_s:06.0f}",
    )
