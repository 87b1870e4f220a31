"""What the server does, without HTTP: search, describe, embed and index over one library.

Every method blocks and may be called from any thread.
"""

import base64
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from valor.errors import MediaError, ModelError
from valor.media.browser import Playability
from valor.media.segments import cut
from valor.models.fusion import pooled
from valor.search.ingest import Progress, find_files
from valor.search.library import Library
from valor.search.results import Hit
from valor.server import schemas
from valor.server.batching import BatchedModel
from valor.server.examples import find_examples
from valor.server.jobs import Job
from valor.server.media import MediaFiles, Views, media_id
from valor.server.uploads import Uploads
from valor.types import Modality

_MAX_PARTS = 60
"""Of one caption or answer that a client waits for."""
_CANDIDATES = 4
"""Hits that are looked at for each one that is shown, where lists are joined."""
_RANK_OFFSET = 60
"""Reciprocal rank fusion (Cormack et al. 2009): the first of a list counts 1 / 61."""


class Service:
    """One library at work.

    Args:
        library: What to search; its model is `model`.
        model: Embeds, captions and answers.
        files: The library's files.
        views: Facts and pictures of them.
        uploads: What clients sent.
    """

    def __init__(
        self,
        library: Library,
        model: BatchedModel,
        *,
        files: MediaFiles,
        views: Views,
        uploads: Uploads,
    ) -> None:
        self.library = library
        self.model = model
        self.files = files
        self.views = views
        self.uploads = uploads
        self._examples: tuple[int, list[str]] = (-1, [])

    def search(self, request: schemas.SearchRequest) -> list[schemas.Hit]:
        """Find moments; raises what `Library.search` raises, and `Problem` for unknown ids."""
        readable = self.files.paths()
        rows = ((media_id(hit.path), hit) for hit in self._hits(request))
        return [self._row(name, hit) for name, hit in rows if name in readable][: request.limit]

    def timed_search(self, request: schemas.SearchRequest) -> tuple[list[schemas.Hit], float]:
        """The same, with the milliseconds that it took."""
        begin_s = time.perf_counter()
        hits = self.search(request)
        return hits, (time.perf_counter() - begin_s) * 1000

    def _hits(self, request: schemas.SearchRequest) -> list[Hit]:
        wanted = request.limit * _CANDIDATES
        upload = self.uploads.find(request.upload) if request.upload else None
        by = request.by or (upload.kind if upload else "video")
        if request.text and upload and by == "audio":
            using = _using("text", request.balance)
            also = upload.path
            return self.library.search(request.text, also=also, using=using, limit=wanted)
        lists = []
        if request.text:
            using = _using("text", request.balance)
            lists.append(self.library.search(request.text, using=using, limit=wanted))
        using = _using(by, request.balance)
        try:
            if upload:
                lists.append(self.library.search(upload.path, by=by, using=using, limit=wanted))
            if request.segment:
                second = f"{request.segment.start_s:.3f}".rstrip("0").rstrip(".")
                query = f"{self.files.find(request.segment.media)}@{second}"
                hits = self.library.search(query, by=by, using=using, limit=wanted)
                lists.append(_others(hits, request.segment))
        except MediaError as error:
            name = "upload" if upload else error.path
            raise MediaError(name, error.reason, error.detail) from None
        return lists[0] if len(lists) == 1 else _fused(lists)

    def _row(self, name: str, hit: Hit) -> schemas.Hit:
        return schemas.Hit(
            media=name,
            name=Path(hit.path).name,
            path=self.shown(hit.path),
            start_s=hit.start_s,
            end_s=hit.end_s,
            score=hit.score,
            by_modality=hit.by_modality,
            matched=hit.matched.label,
            modalities_used=hit.modalities_used.label,
            moment_s=hit.moment_s,
            caption=hit.caption,
            speech=hit.speech,
            screen=hit.screen,
            num_copies=len(hit.copies),
        )

    def shown(self, path: str | Path) -> str:
        """A path as clients see it: below its root, with the root's own name."""
        for root in self.files.roots:
            if Path(path).is_relative_to(root):
                return str(Path(root.name) / Path(path).relative_to(root))
        return Path(path).name

    def look_at(self, media: str) -> tuple[Path, Playability]:
        """Where a file lies and what a player needs to know of it."""
        path = self.files.find(media)
        return path, self.views.playability(path)

    def poster(self, media: str, *, at_s: float, side_px: int) -> bytes:
        """One frame of a file as a JPEG."""
        return self.views.poster(self.files.find(media), at_s=at_s, max_side_px=side_px)

    def sound(self, media: str, **view: Any) -> bytes:
        """The spectrogram of a stretch of a file as a PNG; arguments as of `Views.sound`."""
        return self.views.sound(self.files.find(media), **view)

    def preview(self, media: str, part: int) -> Path:
        """The mp4 file of a part of a file."""
        return self.views.preview(self.files.find(media), part)

    def source(self, request: schemas.DescribeRequest) -> tuple[Path, list[tuple[float, float]]]:
        """The file that a request is about, and the parts that it asks for.

        Args:
            request: Names a file or an upload.

        Returns:
            Its path, and start and end of each part in seconds; a still image has one of 0 to 0.

        Raises:
            Problem: If there is no such file.
            MediaError: If it is too long to wait for, or ends before the asked stretch.
            ModelError: If nothing here describes.
        """
        if not self.model.describes:
            raise ModelError("the server's model does not describe; start it with --describer")
        if request.upload:
            upload = self.uploads.find(request.upload)
            path, info = upload.path, upload.info
        else:
            path = self.files.find(request.media or "")
            info = self.views.playability(path).info
        if info.is_image:
            return path, [(0.0, 0.0)]
        end_s = min(request.end_s or info.duration_s, info.duration_s)
        if end_s <= request.start_s:
            detail = f"has {info.duration_s:g} s, nothing from {request.start_s:g} s on"
            raise MediaError(str(path), "outside", detail)
        parts = cut(end_s - request.start_s, segment_s=self.model.segment_s)
        if len(parts) > _MAX_PARTS:
            detail = f"{len(parts)} parts, at most {_MAX_PARTS} at once; use a job of kind caption"
            raise MediaError(str(path), "too_long", detail)
        return path, [(request.start_s + begin, request.start_s + end) for begin, end in parts]

    def say(
        self, path: Path, part: tuple[float, float], using: str, question: str | None = None
    ) -> schemas.Said:
        """Caption a part of a file, or answer a question about it; raises `MediaError`."""
        start_s, end_s = part
        segment = self.model.read(str(path), start_s=start_s, end_s=end_s or None)
        group, confidence = Modality.parse(using), None
        if question is None:
            said = self.model.describe([segment], using=group)[0]
        else:
            said = self.model.answer([segment], [question], using=group)[0]
            confidence = None if math.isnan(said.confidence) else said.confidence
        return schemas.Said(
            start_s=start_s,
            end_s=end_s,
            text=said.text,
            modalities_used=said.modalities_used.label,
            confidence=confidence,
        )

    def embeddings(self, request: schemas.EmbeddingsRequest) -> schemas.EmbeddingsResponse:
        """One vector for each text."""
        texts = [request.input] if isinstance(request.input, str) else request.input
        embedded = self.model.embed_text(texts)
        vectors = pooled(embedded).float().cpu().numpy().astype("<f4")
        num_tokens = int(embedded.valid.sum())
        data = [
            schemas.Embedding(index=index, embedding=_encoded(vector, request.encoding_format))
            for index, vector in enumerate(vectors)
        ]
        usage = schemas.Usage(prompt_tokens=num_tokens, total_tokens=num_tokens)
        name = request.model or self.library.fingerprint
        return schemas.EmbeddingsResponse(data=data, model=name, usage=usage)

    def examples(self) -> list[str]:
        """Some things to search for."""
        num_segments = len(self.library)
        if self._examples[0] != num_segments:
            paths = self.files.paths().values()
            found = find_examples(self.library, self.files.roots, paths)
            self._examples = (num_segments, found)
        return self._examples[1]

    def index(self, job: Job, paths: Sequence[Path], *, describe: bool) -> dict[str, Any]:
        """Add files and folders to the library; the work of a job."""
        job.progress(0.0, "looking for files")
        files = find_files(paths)
        inside = [path for path in files if self.files.is_inside(Path(path).resolve())]
        rates: list[float] = []

        def progress(now: Progress) -> None:
            rates[:] = [now.seconds_of_media / max(job.elapsed_s, 1e-3)]
            job.progress(now.done_fraction, f"{Path(now.path).name}, {rates[0]:.0f}x real time")

        try:
            report = self.library.add(
                inside, describer=self.model if describe else None, progress=progress
            )
        finally:
            self.files.changed()
        outside = sorted(set(files) - set(inside))
        bad = [(one.path, one.reason, one.detail) for one in report.bad]
        bad += [
            (path, "outside", "a link that leads out of the library's roots") for path in outside
        ]
        return {
            "added": report.added,
            "skipped": report.skipped,
            "num_segments": report.num_segments,
            "seconds_of_media": report.seconds_of_media,
            "bad": [{"path": self.shown(p), "reason": r, "detail": d} for p, r, d in bad],
        }

    def caption_all(self, job: Job, path: Path, using: str) -> dict[str, Any]:
        """Caption all of a recording; the work of a job."""
        info = self.views.playability(path).info
        parts = cut(info.duration_s, segment_s=self.model.segment_s)
        said = []
        for number, part in enumerate(parts):
            job.progress(number / len(parts), f"{part[0]:.0f} of {info.duration_s:.0f} s")
            said.append(self.say(path, part, using).model_dump())
        return {"name": path.name, "parts": said}


def joined(parts: Sequence[schemas.Said], *, is_answer: bool) -> schemas.DescribeResponse:
    """What is said about all of it: every caption once, or the most confident answer.

    Where no part has anything of what is to be looked at, a `MediaError` says so.
    """
    usable = [part for part in parts if part.modalities_used]
    if not usable:
        raise MediaError("it", "nothing_usable", "has nothing of what is to be looked at")
    best = max(usable, key=lambda part: part.confidence or 0.0)
    used = Modality(0)
    for part in usable:
        used |= Modality.parse(part.modalities_used)
    return schemas.DescribeResponse(
        text=best.text if is_answer else "; ".join(dict.fromkeys(part.text for part in usable)),
        modalities_used=best.modalities_used if is_answer else used.label,
        confidence=best.confidence,
        parts=list(parts),
    )


def _using(by: str, balance: float | None) -> str | dict[str, float]:
    """What of the segments to compare, by the balance of a request."""
    if balance is None:
        return {"audio": "audio", "image": "vision"}.get(by, "auto")
    return {"vision": 1 - balance, "audio": balance}


def _others(hits: Sequence[Hit], segment: schemas.Stretch) -> list[Hit]:
    """Hits that are not the segment itself."""
    return [
        hit
        for hit in hits
        if media_id(hit.path) != segment.media
        or hit.end_s <= segment.start_s
        or hit.start_s >= segment.end_s
    ]


def _fused(lists: Sequence[Sequence[Hit]]) -> list[Hit]:
    """One list of several, by reciprocal ranks, for scores of different queries do not compare."""
    found: dict[tuple[str, float], Hit] = {}
    scores: dict[tuple[str, float], float] = {}
    for hits in lists:
        for rank, hit in enumerate(hits, start=1):
            key = (hit.path, hit.start_s)
            found.setdefault(key, hit)
            scores[key] = scores.get(key, 0.0) + 1 / (_RANK_OFFSET + rank)
    return [found[key] for key in sorted(found, key=lambda key: -scores[key])]


def _encoded(vector: np.ndarray, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    return vector.tolist()
