"""A process that decodes foreign media for the server, one call after another, within limits.

Started by `valor.server.sandbox` as `python -m valor.server.worker LIMITS`; it ends when its input
does. The system ends it when it takes more memory, processor time or disk than it may.
"""

import json
import math
import os
import resource
import sys
import time
from typing import Any, BinaryIO

from valor.errors import MediaError
from valor.media import audio, browser, probe, segments
from valor.server import wire

_FUNCTIONS = {
    function.__name__: function
    for function in (
        *(audio.decode_waveform, browser.playable, browser.poster_jpeg, browser.sound_png),
        *(browser.write_preview, probe.probe, segments.decode_segment, segments.decode_stretches),
    )
}


def serve(calls: BinaryIO, answers: BinaryIO, *, cpu_s: float) -> None:
    """Answer calls until there are no more.

    Args:
        calls: Messages `[name, arguments, keywords]`.
        answers: Gets one message for each: `{"value": ...}` or `{"media_error": [...]}`.
        cpu_s: Processor time for each call.
    """
    while True:
        try:
            name, arguments, keywords = wire.read(lambda size: _exactly(calls, size))
        except EOFError:
            return
        limit = math.ceil(time.process_time() + cpu_s)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        wire.write(_answer(name, arguments, keywords), answers.write)
        answers.flush()


def _answer(name: str, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    path = str(arguments[0])
    try:
        return {"value": _FUNCTIONS[name](*arguments, **keywords)}
    except MediaError as error:
        return {"media_error": [error.path, error.reason, error.detail]}
    except MemoryError:
        return {"media_error": [path, "too_large", "needs more memory than decoding may take"]}
    except Exception as error:  # Whatever a decoder raises is the fault of this one file.
        problem = f"cannot be decoded ({type(error).__name__}: {error})"
        return {"media_error": [path, "undecodable", problem]}


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def main() -> None:
    """Take the limits from the command line, then serve."""
    limits = json.loads(sys.argv[1])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, limits["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a decoder prints must not end up among the answers.
    serve(calls, answers, cpu_s=limits["cpu_s"])


if __name__ == "__main__":
    main()
