"""Audiovisual captions without people: draft, merge, compare with the media, keep or reject.

Every record gets drafts of what is seen, heard and said, each from a model that is given that
alone, or from subtitles. Rules or a language model make one caption of them, and an embedder says
how well each text fits its own media. What fits badly is rejected, and listed with its numbers.
Models come from outside, as things to be called in the process that works. Entry point: `caption`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from valor.config import configclass
from valor.data.building.merging import Drafts, by_rules, merge_prompt, speech_of
from valor.data.building.rows import KEPT, Row, Task, Work, do_rows, failed, write_rows
from valor.data.manifest import Record, TaggedText, write_manifest
from valor.data.storage import is_remote, local_copy
from valor.errors import ConfigError, ManifestError, MediaError, ModelError, ValorError
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Describer, Embedder, Modality, Segment

_ROWS_PER_TASK = 16
_STYLES = {"vision": "draft", "audio": "draft", "speech": "subtitle"}


class Fit(Protocol):
    """Says how well each text fits its own segment; None where it has not all of the group."""

    def __call__(
        self,
        embedder: Embedder,
        segments: Sequence[Segment],
        texts: Sequence[str],
        *,
        group: Modality,
    ) -> list[float | None]:
        """Compare texts with segments, one by one."""
        ...


@configclass
class CaptionConfig:
    """By what captions are made; models by their sources, None where there is none."""

    vision: str | None = None
    """Drafts what is seen, from the picture alone."""
    audio: str | None = None
    """Drafts what is heard, from the sound alone."""
    merge: str = "rules"
    """`rules`, or the endpoint `URL#MODEL` of a language model that merges the drafts."""
    embedder: str | None = None
    """Compares texts with media; without one all captions are kept."""


@configclass
class Keep:
    """Which captions are kept, by one of these; all of them by default."""

    min_similarity: float | None = None
    """Those whose texts are all at least this similar to their media, in [-1, 1]."""
    keep_share: float | None = None
    """This share of them, the most similar ones."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if self.min_similarity is not None and self.keep_share is not None:
            raise ValueError("min_similarity and keep_share exclude each other")
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise ValueError(f"keep_share={self.keep_share} must be in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionStage:
    """Drafts, merges and compares, for a few records at a time.

    A model is given by something that can be pickled and returns it. It is called for every task,
    so it should remember what it has loaded.
    """

    vision: Callable[[], Describer] | None = None
    audio: Callable[[], Describer] | None = None
    writer: Callable[[], Callable[[str], str]] | None = None
    """Replies to a prompt; None merges by rules."""
    embedder: Callable[[], Embedder] | None = None
    fit: Fit | None = None
    """Needed with an embedder."""

    def __call__(self, task: Task) -> list[Row]:
        """Return a row per record; a model's failure is a row's own unless it lasts.

        Args:
            task: Some records.

        Returns:
            Rows with `drafts`, `caption`, what it is `about`, and `similarity` by group.

        Raises:
            ModelError: If a model fails on the first two records as well as on all together.
        """
        try:
            return self._rows(task.records)
        except ModelError as error:
            if len(task.records) == 1:
                return [failed("unanswered", str(error))]
        rows: list[Row] = []
        for place, record in enumerate(task.records):
            try:
                rows += self._rows([record])
            except ModelError as error:
                if place == 1 and rows[0]["status"] == "unanswered":
                    raise
                rows.append(failed("unanswered", str(error)))
        return rows

    def _rows(self, records: Sequence[Record]) -> list[Row]:
        media = _Media(records)
        rows: list[Row] = [{"status": "ok", "drafts": {}} for _ in records]
        for name, load in (("vision", self.vision), ("audio", self.audio)):
            if load is not None:
                describer, group = load(), Modality.parse(name)
                read = media.read_by(describer)
                at = [place for place in read if group in read[place].available]
                captions = describer.describe([read[place] for place in at], using=group)
                for place, caption in zip(at, captions, strict=True):
                    if caption.modalities_used and caption.text.strip():
                        rows[place]["drafts"][name] = " ".join(caption.text.split())
        for place, record in enumerate(records):
            _add_speech(rows[place], record)
            rows[place] |= media.failures.get(place, {})
            if rows[place]["status"] == "ok":
                rows[place] |= self._merged(rows[place]["drafts"])
        self._compare(rows, media)
        return rows

    def _merged(self, drafts: Drafts) -> Row:
        if not drafts:
            return failed("nothing-to-say", "no model has said anything, and there is no speech")
        if self.writer is not None and len(drafts) > 1:
            text = " ".join(self.writer()(merge_prompt(drafts)).split())
        else:
            text = by_rules(drafts)
        return {"caption": text, "about": _about(drafts).label}

    def _compare(self, rows: Sequence[Row], media: "_Media") -> None:
        """Add similarities to the rows that have a caption."""
        if self.embedder is None or self.fit is None:
            return
        embedder = self.embedder()
        read = media.read_by(embedder)
        for place, row in enumerate(rows):
            row |= media.failures.get(place, {})  # noqa: PLW2901
            if row["status"] == "ok":
                row["similarity"] = {}
        for group in MEDIA_GROUPS:
            texts = {
                place: text
                for place, row in enumerate(rows)
                if row["status"] == "ok" and (text := _text_about(row, group))
            }
            if texts:
                segments = [read[place] for place in texts]
                scores = self.fit(embedder, segments, list(texts.values()), group=group)
                for place, score in zip(texts, scores, strict=True):
                    if score is not None:
                        rows[place]["similarity"][group.label] = round(score, 6)


class _Media:
    """The segments of some records, read once by each model."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._read: dict[int, dict[int, Segment]] = {}
        self.failures: dict[int, Row] = {}
        """What is wrong with records that could not be read, by their places."""

    def read_by(self, model: Describer | Embedder) -> dict[int, Segment]:
        """Segments by the places of their records, of those that could be read."""
        if id(model) not in self._read:
            found = self._read[id(model)] = {}
            for place, record in enumerate(self._records):
                if place not in self.failures:
                    try:
                        with local_copy(record.media) as path:
                            start_s, end_s = record.start_s, record.end_s
                            found[place] = model.read(path, start_s=start_s, end_s=end_s)
                    except MediaError as error:
                        self.failures[place] = failed(error.reason, error.detail)
                    except ValorError:
                        raise
                    except Exception as error:  # What a file does to a decoder is its own row.
                        self.failures[place] = failed("failed", f"{type(error).__name__}: {error}")
        return {
            place: s for place, s in self._read[id(model)].items() if place not in self.failures
        }


def _add_speech(row: Row, record: Record) -> None:
    try:
        if not is_remote(record.media):
            speech = speech_of(record.media, record.start_s, record.end_s)
            row["drafts"] |= {"speech": speech} if speech else {}
    except ManifestError as error:
        row["detail"] = f"no speech: {error}"


def _about(drafts: Drafts) -> Modality:
    about = Modality(0)
    for kind in drafts:
        about |= Modality.AUDIO if kind == "speech" else Modality.parse(kind)
    return about


def _text_about(row: Row, group: Modality) -> str | None:
    """What is compared with a group: a draft, or the caption, where no speech is part of it."""
    if group == AUDIOVISUAL:
        is_both = row["drafts"].keys() == {"vision", "audio"}
        return row["caption"] if is_both else None
    return row["drafts"].get(group.label)


@dataclass(slots=True, kw_only=True)
class Captioned:
    """What became of records."""

    num_records: int
    num_kept: int
    thresholds: dict[str, float]
    """The least similarity of what was kept, by group."""
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    """Records by reason; `unlike` is one of which a text fits its media less than that."""


def caption(
    records: Sequence[Record], config: CaptionConfig, stage: CaptionStage, keep: Keep, work: Work
) -> Captioned:
    """Write a manifest of captioned records, and beside it what became of all the rest.

    What to keep may be chosen anew at any time; only new records are captioned then.

    Args:
        records: Stretches of recordings; captions that they have stay.
        config: Names what the stage does.
        stage: Does it.
        keep: What of it is kept.
        work: The manifest, and how it is made.

    Returns:
        What was kept and what not.

    Raises:
        ConfigError: If it is not clear what to keep, or the manifest was begun with another
            configuration.
    """
    if (keep == Keep()) != (stage.embedder is None):
        raise ConfigError(
            "an embedder needs min_similarity or keep_share, and they need an embedder"
        )
    rows = do_rows(stage, records, config, work, rows_per_task=_ROWS_PER_TASK)
    thresholds: dict[str, float] = {}
    if keep.min_similarity is not None:
        thresholds = {group.label: keep.min_similarity for group in MEDIA_GROUPS}
    if keep.keep_share is not None:
        similarities = [row["similarity"] for row in rows if "similarity" in row]
        thresholds = calibrated(similarities, keep.keep_share)
    for row in rows:
        row["verdict"] = verdict(row, thresholds)
    kept = [
        replace(record, captions=(*record.captions, *_texts(row)))
        for record, row in zip(records, rows, strict=True)
        if row["verdict"] == KEPT
    ]
    write_rows(work.out, rows)
    write_manifest(work.out, kept)
    reasons = Counter(row["verdict"] for row in rows if row["verdict"] != KEPT)
    return Captioned(
        num_records=len(rows),
        num_kept=len(kept),
        thresholds=thresholds,
        rejected=dict(sorted(reasons.items())),
    )


def calibrated(similarities: Sequence[Mapping[str, float]], keep_share: float) -> dict[str, float]:
    """Find thresholds that keep a share of records.

    All groups are cut at the same rank: a record is as good as the worst rank of its texts among
    those about the same group.

    Args:
        similarities: Of each record, by group; one without any is never kept.
        keep_share: In (0, 1]; more is kept where records are equally good.

    Returns:
        The least similarity to be kept, by group.
    """
    groups = {group for similarity in similarities for group in similarity}
    by_group = {g: sorted(s[g] for s in similarities if g in s) for g in sorted(groups)}
    ranks = {
        group: {score: place / len(scores) for place, score in enumerate(scores, start=1)}
        for group, scores in by_group.items()
    }
    worst = [min(ranks[g][score] for g, score in s.items()) for s in similarities if s]
    if not worst:
        return {}
    num = min(max(1, round(keep_share * len(similarities))), len(worst))
    least = sorted(worst, reverse=True)[num - 1]
    return {
        group: min((score for score, rank in of.items() if rank >= least), default=math.inf)
        for group, of in ranks.items()
    }


def verdict(row: Row, thresholds: Mapping[str, float]) -> str:
    """Say whether a row's caption is kept.

    Args:
        row: Of a record.
        thresholds: The least similarity, by group; every text of the row must reach it.

    Returns:
        `kept`; the row's own reason, if there is no caption; `unlike` or `incomparable`, if its
        texts fit the media less, or nothing could be compared.
    """
    if row["status"] != "ok":
        return row["status"]
    similarity: Mapping[str, float] | None = row.get("similarity")
    if similarity is None:
        return KEPT
    if not similarity:
        return "incomparable"
    fits = all(score >= thresholds.get(group, math.inf) for group, score in similarity.items())
    return KEPT if fits else "unlike"


def _texts(row: Row) -> list[TaggedText]:
    """The captions of a row: all of it, then every draft that says something else."""
    texts = [TaggedText(text=row["caption"], about=Modality.parse(row["about"]), style="merged")]
    for kind, text in row["drafts"].items():
        if len(row["drafts"]) > 1:
            about = Modality.AUDIO if kind == "speech" else Modality.parse(kind)
            texts.append(TaggedText(text=text, about=about, style=_STYLES[kind]))
    return texts
