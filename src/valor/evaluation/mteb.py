"""Any Embedder that says by `plan` how it reads, in MTEB's video and audio tasks (extra `eval`).

MTEB compares one vector per item, so texts and media are pooled here: figures are those of pooled
search, and lie below the fine-grained similarity of `valor evaluate` on the same data.

    model = MtebEncoder("runs/demo/model")
    mteb.evaluate(model, mteb.get_task("MSRVTTT2V"))
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from valor.errors import MediaError
from valor.inference import load
from valor.media.audio import is_silent
from valor.media.reading import plan_of
from valor.media.segments import DecodePlan, frame_times
from valor.models.fusion import join, pooled
from valor.types import Embedder, Embeddings, Modality, Segment


class MtebEncoder:
    """MTEB's `EncoderProtocol` over an Embedder; MTEB decodes, so it must have a `plan`.

    Args:
        model_name: What `valor.load` takes; MTEB keeps results under it.
        revision: Kept with the results.
        device: Ignored: the model decides.
        embedder: Use this model instead of loading one.

    Raises:
        TypeError: If the model does not embed, or only its `read` knows how it reads.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        model = embedder or load(model_name)
        if not isinstance(model, Embedder):
            raise TypeError(f"{model_name} does not embed; MTEB's tasks need vectors")
        plan = plan_of(model)
        if plan is None:
            raise TypeError(f"{model_name} has no `plan`; MTEB decodes media and must know how")
        self._model, self._plan = model, plan
        self._name, self._revision = model_name, revision

    @property
    def mteb_model_meta(self) -> Any:
        """What MTEB writes beside results."""
        make = import_module("mteb.models").ModelMeta.create_empty
        known = (Modality.TEXT, *self._model.groups)
        names = {Modality.TEXT: "text", Modality.VISION: "video", Modality.AUDIO: "audio"}
        return make(
            overwrites={
                "name": f"valor/{Path(self._name).resolve().parent.name or 'model'}",
                "revision": self._revision or self._model.fingerprint,
                "modalities": [names[group] for group in known if group in names],
            }
        )

    def encode(self, inputs: Any, **task: Any) -> Float[np.ndarray, "items embed"]:
        """Embed texts or media, one vector each.

        Args:
            inputs: A loader of MTEB; its batches hold `text`, or `video` and `audio`.
            **task: What MTEB says of the task; not needed.

        Returns:
            Unit vectors.
        """
        inputs.collate_fn = _columns
        return np.concatenate([self._encode(batch) for batch in inputs])

    def similarity(
        self, embeddings1: Any, embeddings2: Any
    ) -> Float[torch.Tensor, "queries items"]:
        """Cosine of all pairs."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(
        self, embeddings1: Any, embeddings2: Any
    ) -> Float[torch.Tensor, " pairs"]:
        """Cosine row by row."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(dim=-1)

    @torch.inference_mode()
    def _encode(self, batch: Mapping[str, Sequence[Any]]) -> np.ndarray:
        videos, sounds = batch.get("video"), batch.get("audio")
        if videos is None and sounds is None:
            return pooled(self._model.embed_text(list(batch["text"]))).numpy()
        rows = len(videos or sounds or ())
        segments = [
            self._segment(videos[row] if videos else None, sounds[row] if sounds else None)
            for row in range(rows)
        ]
        media = self._model.embed_media(segments)
        if not media:
            raise MediaError("batch", "nothing_usable", "MTEB gave neither pictures nor sound")
        whole: Embeddings = join(media, Modality.VISION | Modality.AUDIO)
        return pooled(whole).numpy()

    def _segment(self, video: Any, sound: Any) -> Segment:
        """What MTEB gives of one item, as the model wants it."""
        plan = self._plan
        frames = times = waveform = None
        length_s = self._model.segment_s
        if sound is not None:
            samples = np.asarray(sound["array"], dtype=np.float32)
            waveform = _resampled(samples, int(sound["sampling_rate"]), plan.sample_rate_hz)
            length_s = len(waveform) / plan.sample_rate_hz
        if video is not None:
            frames, times = _frames(video, plan, length_s)
        return Segment(
            path="mteb",
            start_s=0.0,
            end_s=length_s,
            frames=frames,
            frame_times_s=times,
            waveform=waveform,
            sample_rate_hz=plan.sample_rate_hz,
            is_silent=waveform is not None and is_silent(waveform),
        )


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as they are: what to take of a video is decided here and not by MTEB."""
    return {key: [row[key] for row in rows] for key in rows[0]}


def _frames(video: Any, plan: DecodePlan, length_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The frames that the plan asks for, of a torchcodec decoder or of frames at an equal rate."""
    if hasattr(video, "get_frames_played_at"):
        length_s = float(video.metadata.duration_seconds)
        times = np.clip(frame_times(0.0, length_s, plan), 0.0, np.nextafter(length_s, 0.0))
        pixels = video.get_frames_played_at(times.tolist()).data
    else:
        pixels = torch.as_tensor(video, dtype=torch.uint8)
        times = frame_times(0.0, length_s, plan)
        index = (torch.tensor(times) / length_s * len(pixels)).long()
        index = index.clamp(0, len(pixels) - 1)
        pixels = pixels[index]
    return pixels.permute(0, 2, 3, 1).contiguous().numpy(), times


def _resampled(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Mono samples at another rate."""
    mono = samples.mean(axis=0) if samples.ndim > 1 else samples
    if from_hz == to_hz:
        return mono
    import av

    resampler = av.AudioResampler(format="fltp", layout="mono", rate=to_hz)
    frame = av.AudioFrame.from_ndarray(mono[None], format="fltp", layout="mono")
    frame.sample_rate = from_hz
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in parts])
