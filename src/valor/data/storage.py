"""Files that lie here or elsewhere: a local path, or an address such as s3:// or gs://.

Addresses are read through fsspec, which needs the package of the place: s3fs, gcsfs.
"""

import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valor.errors import DependencyError, MediaError, ValorError


def is_remote(path: str) -> bool:
    """True for an address, which no local path looks like."""
    return "://" in path


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A local file with the content of a path.

    Args:
        path: A local path, which is taken as it is, or an address, which is fetched.

    Yields:
        The local path; a fetched file is removed afterwards.

    Raises:
        MediaError: If the address is `missing`, or `unreadable` for whatever reason it has.
        DependencyError: If the package for such addresses is not installed.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as copy:
        try:
            filesystem, name = _filesystem(path)
            with filesystem.open(name, "rb") as source:
                shutil.copyfileobj(source, copy)
        except FileNotFoundError:
            raise _missing(path) from None
        except OSError as error:
            raise MediaError(
                path, "unreadable", f"cannot be fetched ({error}); check who may read it"
            ) from None
        copy.flush()
        yield copy.name


@contextmanager
def temporary_file(content: bytes, suffix: str) -> Iterator[str]:
    """A local file with this content, for decoders that open nothing else; removed afterwards."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        yield file.name


def write_whole(path: Path, text: str) -> None:
    """Write all of a local file or nothing, also if others write the same."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[io.BufferedRandom]:
    """Open a local file for reading and writing that nobody else writes; made if needed.

    Args:
        path: The file.

    Yields:
        The open file, at its start.

    Raises:
        ValorError: If another process has it open in this way.
    """
    path.touch()
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValorError(f"{path}: another process writes it; wait for its end") from None
        yield file


def check(address: str) -> None:
    """Ask whether an object is there, without fetching it.

    Args:
        address: Such as s3://bucket/file.mp4.

    Raises:
        MediaError: If it is `missing`, or `unreadable` for whatever reason the place has.
        DependencyError: If the package for such addresses is not installed.
    """
    filesystem, name = _filesystem(address)
    try:
        filesystem.info(name)
    except FileNotFoundError:
        raise _missing(address) from None
    except Exception as error:  # Each place has its own errors for what it does not give.
        raise MediaError(
            address, "unreadable", f"cannot be asked for ({error}); check who may read it"
        ) from None


def _missing(address: str) -> MediaError:
    return MediaError(address, "missing", "no such object; correct the address")


def read_bytes(path: str) -> bytes:
    """The content of a file, wherever it lies; `FileNotFoundError` if there is none."""
    if not is_remote(path):
        return Path(path).read_bytes()
    filesystem, name = _filesystem(path)
    return filesystem.cat_file(name)


def read_ranges(path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Read stretches of a file, wherever it lies, and nothing else of it.

    Args:
        path: A local path or an address.
        ranges: Offset and size of each.

    Returns:
        Their bytes; fewer only where the file ends.
    """
    if is_remote(path):
        filesystem, name = _filesystem(path)
        starts = [offset for offset, _ in ranges]
        ends = [offset + size for offset, size in ranges]
        return filesystem.cat_ranges([name] * len(ranges), starts, ends, on_error="raise")
    with Path(path).open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        cut = [(min(offset, length), size) for offset, size in ranges]
        return [os.pread(file.fileno(), min(size, length - at), at) for at, size in cut]


def _filesystem(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.url_to_fs(path)
    except ImportError as error:
        raise DependencyError(f"{path}: {error}; install that package with pip") from None
    except ValueError as error:
        raise MediaError(path, "unreadable", str(error)) from None
