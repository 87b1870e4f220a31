"""A real server on a free port of this machine, and recordings for its library."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
from fastapi import FastAPI

from valor.server.serving import make_server
from valor.types import AUDIOVISUAL, Answer, Caption


@dataclass
class Served:
    """A server that answers."""

    client: httpx2.Client
    app: FastAPI
    media: Path

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    @property
    def uploads(self) -> list[Path]:
        return list(self.app.state.service.uploads._folder.iterdir())

    def id_of(self, name: str) -> str:
        paths = self.app.state.service.files.paths()
        return next(id for id, path in paths.items() if Path(path).name == name)


@contextmanager
def running(app: FastAPI) -> Iterator[httpx2.Client]:
    """Serve an app in a thread; at the end it is told to stop, and must."""
    ports: list[int] = []
    ready = threading.Event()

    def note(port: int) -> None:
        ports.append(port)
        ready.set()

    server = make_server(app, port=0, ready=note)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(60)
        with httpx2.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=120) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


class Teller:
    """A `Describer` that tells what it was given."""

    def __init__(self, model: Any) -> None:
        self.read = model.read

    def describe(self, segments, *, using=AUDIOVISUAL):
        return [
            Caption(
                text=f"{(segment.available & using).label} from {segment.start_s:.0f} s",
                modalities_used=segment.available & using,
                segments=((segment.start_s, segment.end_s),),
            )
            for segment in segments
        ]

    def stream(self, segments, questions=None, *, using=AUDIOVISUAL):
        """Word by word; the question `for ever` gets no second word before somebody ends it."""
        whole = self.answer(segments, questions or [""] * len(segments), using=using)
        texts = [text.text if questions else text.text[2:] for text in whole]
        until_s = time.monotonic() + 60
        while "for ever" in (questions or ()) and time.monotonic() < until_s:
            yield [replace(one, text="...") for one in whole]
        for num_words in range(max(len(text.split()) for text in texts) + 1):
            yield [
                replace(one, text=" ".join(text.split()[:num_words]))
                for one, text in zip(whole, texts, strict=True)
            ]

    def answer(self, segments, questions, *, using):
        captions = self.describe(segments, using=using)
        return [
            Answer(text=f"{question}: {c.text}", modalities_used=c.modalities_used, confidence=0.5)
            for c, question in zip(captions, questions, strict=True)
        ]


def write_other_formats(folder: Path) -> None:
    with av.open(str(folder / "tone.wav"), "w") as container:
        voice = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        samples = (8_000 * np.sin(np.arange(32_000) * 0.3)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    with av.open(str(folder / "tape.mxf"), "w") as container:
        picture = container.add_stream("mpeg2video", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            image = np.full((48, 64, 3), 4 * number, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode(None))
