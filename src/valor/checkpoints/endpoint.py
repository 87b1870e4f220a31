"""Any OpenAI-compatible chat endpoint as a Describer: vLLM, llama.cpp, Ollama or a paid service.

A segment goes out as a few JPEG frames and a WAV of its sound; nothing else leaves the machine. An
endpoint that refuses sound is asked again with pictures alone, and every result says what it was
made from. The key, if one is needed, is read from the environment variable `VALOR_API_KEY`.
"""

import base64
import hashlib
import io
import itertools
import json
import math
import os
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from valor.errors import ModelError
from valor.media.segments import DecodePlan
from valor.models.verbs import FileVerbs
from valor.types import AUDIOVISUAL, Answer, Caption, Modality, Segment

KEY_VARIABLE = "VALOR_API_KEY"
_PLAN = DecodePlan(num_frames=8, short_side_px=384, sample_rate_hz=16_000)
_SEGMENT_S = 30.0
_REQUESTS_AT_ONCE = 4
_TRIES = 4
_LONGEST_WAIT_S = 60.0
_REFUSALS = (400, 415, 422, 501)
"""What servers say to a field or a kind of content that they do not know; some fail with 500."""
_MAX_TOKENS = 200
_JPEG_QUALITY = 85
_SETTING = (
    "You are given {given} of {seconds:.0f} seconds of a recording. State only what can be told "
    "from them, and do not mention that they were given to you."
)
_DESCRIBE = "Describe what is {sensed} in one or two plain sentences."
_ANSWER = "Answer with a word or a short phrase and nothing else: {question}"


class Endpoint(FileVerbs):
    """A Describer behind a network address.

    Args:
        source: `URL#MODEL`, such as `http://localhost:8000/v1#Qwen/Qwen2.5-Omni-7B`.
        timeout_s: Longest wait for one reply.
        backoff_s: Wait before the second try of a busy endpoint; each further one is twice as long.

    Raises:
        ModelError: If the source names no model.
    """

    def __init__(self, source: str, *, timeout_s: float = 120.0, backoff_s: float = 1.0) -> None:
        self.source = source
        url, _, self._model = source.partition("#")
        if not self._model:
            raise ModelError(f"{source}: which model? It names none; write {url}#MODEL")
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._refuses_sound = self._refuses_logprobs = False

    @property
    def fingerprint(self) -> str:
        """Names address, model and prompts; what runs behind the address cannot be known."""
        known = json.dumps([self.source, _SETTING, _DESCRIBE, _ANSWER])
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    @property
    def segment_s(self) -> float:
        """The length of recording that one request covers."""
        return _SEGMENT_S

    @property
    def plan(self) -> DecodePlan:
        """How densely this model reads recordings."""
        return _PLAN

    def describe(
        self, segments: Sequence[Segment], *, using: Modality = AUDIOVISUAL
    ) -> list[Caption]:
        """Caption each segment; one with nothing to use gets an empty text.

        Args:
            segments: However decoded.
            using: The modalities to send, as far as a segment has them.

        Returns:
            One caption per segment.

        Raises:
            ModelError: If the endpoint cannot be reached, or gives no text.
        """
        replies = self._reply_all(segments, [None] * len(segments), using)
        return [
            Caption(text=text, modalities_used=used, segments=((part.start_s, part.end_s),))
            for (text, used, _), part in zip(replies, segments, strict=True)
        ]

    def answer(
        self,
        segments: Sequence[Segment],
        questions: Sequence[str],
        *,
        using: Modality = AUDIOVISUAL,
    ) -> list[Answer]:
        """Answer each segment's question; one with nothing to use gets an empty text.

        Args:
            segments: However decoded.
            questions: One per segment.
            using: The modalities to send, as far as a segment has them.

        Returns:
            One answer per segment; its confidence is NaN if the endpoint tells no probabilities.

        Raises:
            ModelError: If the endpoint cannot be reached, or gives no text.
        """
        return [
            Answer(text=text, modalities_used=used, confidence=confidence)
            for text, used, confidence in self._reply_all(segments, questions, using)
        ]

    def complete(self, prompt: str) -> str:
        """Reply to a text alone; raises `ModelError` as `describe` does."""
        return self._parse(self._accepted(*self._post(self._body(prompt))))[0]

    def _reply_all(
        self, segments: Sequence[Segment], questions: Sequence[str | None], using: Modality
    ) -> list[tuple[str, Modality, float]]:
        """Text, modalities used and confidence for each segment."""
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            replies = pool.map(lambda part, q: self._reply(part, q, using), segments, questions)
            return list(replies)

    def _reply(
        self, segment: Segment, question: str | None, using: Modality
    ) -> tuple[str, Modality, float]:
        """Ask, and leave out what is refused; it is left out of later requests too."""
        used = segment.available & using
        if self._refuses_sound:
            used &= ~Modality.AUDIO
        if not used:
            return "", used, 0.0
        senses = [used, Modality.VISION] if used == AUDIOVISUAL else [used]
        wants_logprobs = question is not None and not self._refuses_logprobs
        choices = itertools.product(senses, (True, False) if wants_logprobs else (False,))
        status, reply, logprobs = 0, b"", False
        for used, logprobs in choices:
            content = _content(segment, used, question)
            body = self._body(content) | ({"logprobs": True} if logprobs else {})
            status, reply = self._post(body)
            if status not in (*_REFUSALS, 500):
                break
        self._accepted(status, reply)
        self._refuses_sound |= used != senses[0]
        self._refuses_logprobs |= wants_logprobs and not logprobs
        text, confidence = self._parse(reply)
        return text, used, confidence

    def _body(self, content: str | list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": _MAX_TOKENS,
            "temperature": 0,
        }

    def _accepted(self, status: int, reply: bytes) -> bytes:
        """The reply, if the request was accepted."""
        if status != 200:
            hint = f"; set {KEY_VARIABLE}" if status in (401, 403) else ""
            raise ModelError(f"{self.source}: HTTP {status} {_excerpt(reply)}{hint}")
        return reply

    def _post(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of the reply; a busy or silent endpoint is asked again."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        # The scheme is http or https, as `valor.inference.load` saw to.
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)  # noqa: S310
        opener = urllib.request.build_opener(_NoRedirect)
        status, reply, problem = 0, b"", ""
        for attempt in range(_TRIES):
            wait_s = self._backoff_s * 2**attempt
            try:
                with opener.open(request, timeout=self._timeout_s) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                status, reply = error.code, error.read()
                if (status != 429 and status < 500) or status in _REFUSALS:
                    return status, reply
                asked = error.headers.get("Retry-After", "")
                wait_s = max(wait_s, float(asked) if asked.isdecimal() else 0.0)
            except (OSError, HTTPException) as error:
                status, problem = 0, str(getattr(error, "reason", error))
            if attempt < _TRIES - 1:
                time.sleep(min(wait_s, _LONGEST_WAIT_S))
        if not status:
            raise ModelError(
                f"{self.source}: cannot be reached ({problem}); start it, or correct the address"
            )
        return status, reply

    def _parse(self, reply: bytes) -> tuple[str, float]:
        """The text, and its confidence or NaN."""
        try:
            choice = json.loads(reply)["choices"][0]
            text = choice["message"]["content"].strip()
            tokens = (choice.get("logprobs") or {}).get("content") or []
            logprobs = [token["logprob"] for token in tokens]
        except (ValueError, LookupError, TypeError, AttributeError):
            text, logprobs = "", []
        if not text:
            raise ModelError(f"{self.source}: a reply without text: {_excerpt(reply)}")
        confidence = math.exp(sum(logprobs) / len(logprobs)) if logprobs else math.nan
        return text, confidence


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Media and key go to the address that was given, and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing; the reply becomes an error."""


def _content(segment: Segment, used: Modality, question: str | None) -> list[dict[str, Any]]:
    """The prompt, the frames and the sound."""
    given, sensed = [], []
    content: list[dict[str, Any]] = []
    if Modality.VISION in used and segment.frames is not None:
        given.append(f"{len(segment.frames)} pictures, in the order of time,")
        sensed.append("seen")
        for frame in segment.frames:
            url = f"data:image/jpeg;base64,{_jpeg(frame)}"
            content.append({"type": "image_url", "image_url": {"url": url}})
    if Modality.AUDIO in used and segment.waveform is not None:
        given.append("the sound")
        sensed.append("heard")
        sound = {"data": _wav(segment.waveform, segment.sample_rate_hz), "format": "wav"}
        content.append({"type": "input_audio", "input_audio": sound})
    setting = _SETTING.format(given=" and ".join(given), seconds=segment.end_s - segment.start_s)
    task = _DESCRIBE.format(sensed=" and ".join(sensed))
    if question is not None:
        task = _ANSWER.format(question=question)
    return [{"type": "text", "text": f"{setting} {task}"}, *content]


def _jpeg(frame: UInt8[np.ndarray, "height width 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _wav(waveform: Float[np.ndarray, " samples"], sample_rate_hz: int) -> str:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, sample_rate_hz, 0, "NONE", ""))
        sound.writeframes((waveform * 32767).astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()


def _excerpt(reply: bytes) -> str:
    return " ".join(reply[:300].decode(errors="replace").split())
