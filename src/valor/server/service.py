"""What the server does, without HTTP: search, describe, embed and index over one library.

Every method blocks and may be called from any thread.
"""

import base64
import math
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from valor.errors import MediaError, ModelError
from valor.media.browser import Playability, write_preview
from valor.media.segments import cut
from valor.models.fusion import pooled
from valor.search.ingest import Progress, find_files
from valor.search.library import Library
from valor.search.query import Hit
from valor.server import schemas
from valor.server.batching import BatchedModel
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
_EXAMPLES = 5
_EXAMPLE_LETTERS = 60


class Service:
    """One library at work.

    Args:
        library: What to search; its model is `model`.
        model: Embeds, captions and answers.
        files: The library's files.
        views: Facts and pictures of them.
        uploads: What clients sent.
        scratch: Folder for files of a moment.
    """

    def __init__(
        self,
        library: Library,
        model: BatchedModel,
        *,
        files: MediaFiles,
        views: Views,
        uploads: Uploads,
        scratch: Path,
    ) -> None:
        self.library = library
        self.model = model
        self.files = files
        self.views = views
        self.uploads = uploads
        self._scratch = scratch
        self._examples: tuple[int, list[str]] = (-1, [])

    def search(self, request: schemas.SearchRequest) -> list[schemas.Hit]:
        """Find moments; raises what `Library.search` raises, and `Problem` for unknown ids."""
        wanted = request.limit * _CANDIDATES
        lists = []
        if request.text:
            lists.append(self._balanced(request.text, "text", request.balance, wanted))
        if request.upload:
            upload = self.uploads.find(request.upload)
            by = request.by or upload.kind
            try:
                lists.append(self._balanced(upload.path, by, request.balance, wanted))
            except MediaError as error:
                raise MediaError("upload", error.reason, error.detail) from None
        if request.segment:
            lists.append(self._like(request.segment, request.by or "video", request, wanted))
        hits = lists[0] if len(lists) == 1 else _fused(lists)
        readable = self.files.paths()
        rows = ((media_id(hit.path), hit) for hit in hits)
        return [self._row(name, hit) for name, hit in rows if name in readable][: request.limit]

    def timed_search(self, request: schemas.SearchRequest) -> tuple[list[schemas.Hit], float]:
        """The same, with the milliseconds that it took."""
        begin_s = time.perf_counter()
        hits = self.search(request)
        return hits, (time.perf_counter() - begin_s) * 1000

    def _like(
        self, segment: schemas.Stretch, by: str, request: schemas.SearchRequest, wanted: int
    ) -> list[Hit]:
        """What looks or sounds like a stretch, without the stretch itself."""
        path = self.files.find(segment.media)
        scratch = self._scratch / f"{secrets.token_hex(8)}.mp4"
        try:
            end_s = max(segment.end_s, segment.start_s + 0.5)
            write_preview(str(path), str(scratch), start_s=segment.start_s, end_s=end_s)
            hits = self._balanced(scratch, by, request.balance, wanted)
        except MediaError as error:
            raise MediaError(str(path), error.reason, error.detail) from None
        finally:
            scratch.unlink(missing_ok=True)
        return [
            hit
            for hit in hits
            if media_id(hit.path) != segment.media
            or hit.end_s <= segment.start_s
            or hit.start_s >= segment.end_s
        ]

    def _balanced(
        self, query: str | Path, by: str, balance: float | None, wanted: int
    ) -> list[Hit]:
        """Search by what is seen and heard, each with its weight."""
        if balance is None:
            using = {"audio": "audio", "image": "vision"}.get(by, "auto")
            return self.library.search(query, by=by, using=using, limit=wanted)
        if balance in (0, 1):
            using = "audio" if balance else "vision"
            return self.library.search(query, by=by, using=using, limit=wanted)
        found: dict[tuple[str, float], Hit] = {}
        for using in ("vision", "audio", "audiovisual"):
            for hit in self.library.search(query, by=by, using=using, limit=wanted):
                found[hit.path, hit.start_s] = hit
        weights = {"vision": 1 - balance, "audio": balance}
        return sorted(found.values(), key=lambda hit: -_weighted(hit, weights))

    def _row(self, name: str, hit: Hit) -> schemas.Hit:
        return schemas.Hit(
            media=name,
            name=Path(hit.path).name,
            path=self.shown(hit.path),
            start_s=hit.start_s,
            end_s=hit.end_s,
            score=hit.score,
            by_modality=hit.by_modality,
            matched=max(hit.by_modality, key=lambda one: hit.by_modality[one], default=""),
            modalities_used=hit.modalities_used.label,
            caption=hit.caption,
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
            detail = f"has {info.duration_s:g} s; nothing from {request.start_s:g} s on"
            raise MediaError(str(path), "outside", detail)
        parts = cut(end_s - request.start_s, segment_s=self.model.segment_s)
        if len(parts) > _MAX_PARTS:
            detail = f"{len(parts)} parts; at most {_MAX_PARTS} at once: use a job of kind caption"
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
        """Some things to search for: parts of captions that the library has."""
        num_segments = len(self.library)
        if self._examples[0] != num_segments:
            hits = self.library.search("a sound", limit=40) if num_segments else []
            captions = dict.fromkeys(hit.caption for hit in hits if hit.caption)
            short = [text for text in captions if len(text) <= _EXAMPLE_LETTERS]
            self._examples = (num_segments, short[:: max(1, len(short) // _EXAMPLES)][:_EXAMPLES])
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

        report = self.library.add(
            inside, describer=self.model if describe else None, progress=progress
        )
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
    """What is said about all of it: every caption once, or the most confident answer."""
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


def _weighted(hit: Hit, weights: dict[str, float]) -> float:
    """The mean over what the segment has of what is weighted."""
    has = {name: score for name, score in hit.by_modality.items() if name in weights}
    total = sum(weights[name] for name in has)
    return sum(weights[name] * score for name, score in has.items()) / total if total else -1.0


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
