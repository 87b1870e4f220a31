"""The library's own files over HTTP, by an id that is no path, and what is made of them on demand.

Only files that the library lists are served, and of these only such as lie, with all symbolic links
followed, below one of the library's roots. Everything is decoded in the sandbox.
"""

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from valor.errors import MediaError
from valor.media.browser import Playability, playable, poster_jpeg, sound_png, write_preview
from valor.search.library import Library
from valor.server.problems import Problem

V = TypeVar("V")

PREVIEW_S = 20.0
"""Length of a part of a preview; the next part is made when the player comes near it."""
_LISTING_S = 2.0
"""A list of files that is older is read again."""
_NUM_FACTS = 4096
_PICTURE_BYTES = 64 << 20
_PREVIEW_BYTES = 2 << 30
MAX_SOUND_S = 900.0
"""Of one spectrogram."""


def media_id(path: str) -> str:
    """Name a file in addresses; the same as long as it stays where it is."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class MediaFiles:
    """What the library lists, by id.

    Args:
        library: Whose files.
        roots: Folders that may be read; by default those in which the listed files lie.
    """

    def __init__(self, library: Library, roots: Sequence[Path] = ()) -> None:
        self._library = library
        self._given_roots = [root.resolve() for root in roots]
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._listed_at_s = -math.inf
        self.roots: list[Path] = []
        self.paths()

    def paths(self) -> dict[str, str]:
        """Return the paths of all readable files by id."""
        with self._lock:
            if time.monotonic() - self._listed_at_s > _LISTING_S:
                rows = [row.path for row in self._library.files() if row.status == "ok"]
                self._paths = {media_id(path): path for path in rows}
                self.roots = self._given_roots or _top({Path(path).parent for path in rows})
                self._listed_at_s = time.monotonic()
            return self._paths

    def changed(self) -> None:
        """Say that the library has other files now."""
        with self._lock:
            self._listed_at_s = -math.inf

    def find(self, name: str) -> Path:
        """Return where a file really lies.

        Args:
            name: Its id.

        Returns:
            A path without symbolic links.

        Raises:
            Problem: 404 if the library lists no such file or it is gone, 403 if it lies outside.
        """
        path = self.paths().get(name)
        if path is None:
            raise Problem(404, f"the library lists no file {name!r}")
        return self.inside(path)

    def inside(self, path: str) -> Path:
        """Return the real path of something below the roots.

        Args:
            path: Absolute, or below the first root that has it.

        Returns:
            A path without symbolic links.

        Raises:
            Problem: 404 if there is no such file, 403 if it lies outside of all roots.
        """
        outside = Problem(403, f"{path}: lies outside of the folders that this server may read")
        try:
            candidates = [(root / path).resolve() for root in self.roots]
        except (OSError, ValueError, RuntimeError):
            raise Problem(404, f"{path!r}: no such file") from None
        allowed = [real for real in candidates if self.is_inside(real)]
        if not allowed:
            raise outside
        for real in allowed:
            if _exists(real):
                return real
        raise Problem(404, f"{path}: no such file")

    def is_inside(self, real: Path) -> bool:
        """True if a path without symbolic links lies below a root, or is one."""
        return any(real.is_relative_to(root) for root in self.roots)


class Kept(Generic[V]):
    """Values that are made once and kept until newer ones need the room.

    Args:
        max_bytes: Room for all values together.
        size: Of one value, in bytes.
        drop: Called with a value that has to go.
    """

    def __init__(
        self, max_bytes: int, size: Callable[[V], int], drop: Callable[[V], object]
    ) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._drop = drop
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._num_bytes = 0

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return a value; those who ask for the same at the same time wait for one to be made."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                with self._lock:
                    if key in self._values:
                        self._values.move_to_end(key)
                        return self._values[key]
                value = make()
                with self._lock:
                    self._values[key] = value
                    self._num_bytes += self._size(value)
                    while self._num_bytes > self._max_bytes and len(self._values) > 1:
                        _, old = self._values.popitem(last=False)
                        self._num_bytes -= self._size(old)
                        self._drop(old)
                return value
        finally:
            with self._lock:
                self._making.pop(key, None)


class Views:
    """Pictures, sounds and previews of files, made once and kept for a while.

    Args:
        folder: Where previews are written; nothing else may be in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._facts: Kept[Playability] = Kept(_NUM_FACTS, lambda _: 1, lambda _: None)
        self._pictures: Kept[bytes] = Kept(_PICTURE_BYTES, len, lambda _: None)
        self._previews: Kept[Path] = Kept(_PREVIEW_BYTES, _file_bytes, Path.unlink)

    def playability(self, path: Path) -> Playability:
        """What a player needs to know; raises `MediaError`."""
        return self._facts.get(_stamp(path), lambda: playable(str(path)))

    def poster(self, path: Path, *, at_s: float, max_side_px: int) -> bytes:
        """One frame as a JPEG; raises `MediaError`."""
        key = ("poster", _stamp(path), at_s, max_side_px)
        return self._pictures.get(
            key, lambda: poster_jpeg(str(path), at_s=at_s, max_side_px=max_side_px)
        )

    def sound(self, path: Path, *, start_s: float, end_s: float, width: int, height: int) -> bytes:
        """A spectrogram as a PNG; raises `MediaError`."""
        if not start_s < end_s <= start_s + MAX_SOUND_S:
            detail = f"no stretch of at most {MAX_SOUND_S:g} s: {start_s:g} to {end_s:g}"
            raise MediaError(str(path), "outside", detail)
        size = {"width": width, "height": height}
        return self._pictures.get(
            ("sound", _stamp(path), start_s, end_s, width, height),
            lambda: sound_png(str(path), start_s=start_s, end_s=end_s, **size),
        )

    def preview(self, path: Path, part: int) -> Path:
        """The mp4 file of a part of `PREVIEW_S` seconds; raises `MediaError`."""
        stamp = _stamp(path)
        target = self._folder / f"{media_id(repr(stamp))}-{part}.mp4"

        def make() -> Path:
            new = target.with_suffix(".new")
            begin_s = part * PREVIEW_S
            try:
                write_preview(str(path), str(new), start_s=begin_s, end_s=begin_s + PREVIEW_S)
                return new.replace(target)
            finally:
                new.unlink(missing_ok=True)

        return self._previews.get((stamp, part), make)


def _stamp(path: Path) -> tuple[str, int]:
    """A file as it is now."""
    return str(path), path.stat().st_mtime_ns


def _file_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _top(folders: set[Path]) -> list[Path]:
    """Those that lie in none of the others."""
    return sorted(f.resolve() for f in folders if not folders.intersection(f.parents))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # A name that is too long for any file.
        return False
