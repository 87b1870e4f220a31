"""Messages between the server and its decoding processes: JSON, and the bytes of arrays behind it.

What comes back from a process that read a stranger's file is not trusted: it can hold numbers, text
and the few records below, and nothing that Python would execute, as pickled objects are.
"""

import dataclasses
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from valor.media.browser import Playability
from valor.media.probe import MediaInfo
from valor.media.segments import DecodePlan
from valor.types import Segment

_RECORDS = {record.__name__: record for record in (DecodePlan, MediaInfo, Playability, Segment)}
_SIZES = struct.Struct(">QQ")
MAX_BYTES = 1 << 30
"""Of one message."""


def write(value: Any, send: Callable[[bytes], object]) -> None:
    """Send a message.

    Args:
        value: Of JSON's types, bytes, arrays of numbers, and the records that both sides know.
        send: Takes pieces of the message in order.
    """
    blobs: list[bytes] = []
    header = json.dumps(_lowered(value, blobs)).encode()
    send(_SIZES.pack(len(header), sum(map(len, blobs))))
    for piece in (header, *blobs):
        send(piece)


def read(receive: Callable[[int], bytes]) -> Any:
    """Receive a message.

    Args:
        receive: Returns exactly that many of the next bytes.

    Returns:
        The value that was sent.

    Raises:
        ValueError: If it is no message, or larger than `MAX_BYTES`.
    """
    header_bytes, blob_bytes = _SIZES.unpack(receive(_SIZES.size))
    if header_bytes + blob_bytes > MAX_BYTES:
        raise ValueError(f"{header_bytes + blob_bytes} bytes are more than {MAX_BYTES}")
    header = json.loads(receive(header_bytes))
    return _raised(header, memoryview(receive(blob_bytes)))


def _lowered(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, bytes):
        start = sum(map(len, blobs))
        blobs.append(value)
        return {"bytes": [start, len(value)]}
    if isinstance(value, np.ndarray):
        return {"array": [value.dtype.str, value.shape, _lowered(value.tobytes(), blobs)]}
    if type(value).__name__ in _RECORDS and dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        fields = {name: _lowered(getattr(value, name), blobs) for name in names}
        return {"record": [type(value).__name__, fields]}
    if isinstance(value, dict):
        return {"dict": {key: _lowered(part, blobs) for key, part in value.items()}}
    if isinstance(value, list | tuple):
        return [_lowered(part, blobs) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _raised(value: Any, blobs: memoryview) -> Any:
    if isinstance(value, list):
        return [_raised(part, blobs) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "bytes":
            start, size = content
            return bytes(blobs[start : start + size])
        case "array":
            dtype, shape, raw = content
            return np.frombuffer(_raised(raw, blobs), np.dtype(dtype)).reshape(shape).copy()
        case "record":
            name, fields = content
            return _RECORDS[name](**{key: _raised(part, blobs) for key, part in fields.items()})
        case "dict":
            return {key: _raised(part, blobs) for key, part in content.items()}
    raise ValueError(f"unknown part {kind!r}")
