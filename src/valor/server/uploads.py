"""Files that clients send to search by.

They are written straight to disk, into a folder of which nothing is ever served, looked at in the
sandbox, and gone after a while.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio

from valor.errors import MediaError
from valor.media.probe import MediaInfo, probe
from valor.server.batching import BusyError
from valor.server.problems import Problem

KINDS = ("audio", "image", "video")
MAX_DURATION_S = 900.0
_KEPT = 64
_KEPT_BYTES = 1 << 30
_KEEP_S = 3600.0
_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One file that somebody sent."""

    id: str
    path: Path
    kind: str
    """What it really holds: `audio`, `image` or `video`."""
    info: MediaInfo
    num_bytes: int
    until_s: float
    """By the clock of `time.monotonic`."""


class Uploads:
    """Keeps the latest uploads.

    Args:
        folder: Where they are written; nothing else may be in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._num_coming = 0

    async def receive(self, content_type: str, pieces: AsyncIterator[bytes]) -> Upload:
        """Take a file piece by piece, whatever its size, and look at what it is.

        Args:
            content_type: What the client says that it is.
            pieces: Its bytes; the guard ends them where there are too many or they are too slow.

        Returns:
            The upload.

        Raises:
            Problem: 415 for a type that cannot be searched by, 413 for one that lasts too long, 422
                for a picture that is none.
            MediaError: If it cannot be decoded.
            BusyError: If too many are being sent.
        """
        said = content_type.partition("/")[0].strip().lower()
        if said not in KINDS:
            wrong = f"the type {content_type!r} is no sound, picture or video"
            raise Problem(415, f"{wrong}; send the bytes with one, as Content-Type: audio/wav")
        if self._num_coming >= _AT_ONCE:
            raise BusyError(5.0)
        name = secrets.token_urlsafe(16)
        path = self._folder / name
        self._num_coming += 1
        try:
            async with await anyio.open_file(path, "xb") as file:
                async for piece in pieces:
                    await file.write(piece)
            info = await anyio.to_thread.run_sync(_looked_at, path)
            kind = "image" if info.is_image else "video" if info.has_video else "audio"
            if (said == "image") != (kind == "image"):
                raise Problem(422, f"the upload is said to be {content_type}, but holds {kind}")
            upload = Upload(
                id=name,
                path=path,
                kind=kind,
                info=info,
                num_bytes=path.stat().st_size,
                until_s=time.monotonic() + _KEEP_S,
            )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            self._num_coming -= 1
        self._keep(upload)
        return upload

    def find(self, name: str) -> Upload:
        """Return an upload; raises `Problem` 404 if there is none, or none any more."""
        with self._lock:
            self._forget_old()
            if name not in self._kept:
                raise Problem(404, f"no upload {name!r}; they are kept for an hour")
            return self._kept[name]

    def _keep(self, upload: Upload) -> None:
        with self._lock:
            self._kept[upload.id] = upload
            self._forget_old()

    def _forget_old(self) -> None:
        now_s = time.monotonic()
        while self._kept:
            oldest = next(iter(self._kept.values()))
            num_bytes = sum(upload.num_bytes for upload in self._kept.values())
            is_room = len(self._kept) <= _KEPT and num_bytes <= _KEPT_BYTES
            if oldest.until_s > now_s and is_room:
                return
            del self._kept[oldest.id]
            oldest.path.unlink(missing_ok=True)


def _looked_at(path: Path) -> MediaInfo:
    try:
        info = probe(str(path))
    except MediaError as error:
        raise MediaError("upload", error.reason, error.detail) from None
    if info.duration_s > MAX_DURATION_S:
        lasts = f"the upload lasts {info.duration_s:.0f} s, more than {MAX_DURATION_S:.0f} s"
        raise Problem(413, f"{lasts}; cut out what you look for")
    return info
