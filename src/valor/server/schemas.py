"""What goes over the wire, read strictly: an unknown field or an impossible value is a 422."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(ge=0, le=1e6)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
"""An id that the server gave out."""
Words = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")]
Using = Literal["vision", "audio", "audiovisual"]


class Message(BaseModel):
    """Base of all."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    reason: str | None = None
    """Of a file that cannot be decoded, a short stable word."""
    errors: list[dict[str, str]] | None = None
    """Fields that are wrong."""


class Stretch(Message):
    """A part of a file of the library."""

    media: Name
    start_s: Seconds
    end_s: Seconds

    @model_validator(mode="after")
    def _is_not_empty(self) -> "Stretch":
        if self.end_s < self.start_s:
            raise ValueError("end_s lies before start_s")
        return self


class SearchRequest(Message):
    """What to look for: words, an upload, another segment, or words and one of the others."""

    text: Words | None = None
    upload: Name | None = None
    segment: Stretch | None = None
    by: Literal["audio", "image", "video"] | None = None
    """What of the upload or segment to look for: its sound, its picture or both; by default all."""
    balance: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 compares what is seen alone, 1 what is heard alone. Null compares sounds with sounds and
    pictures with pictures, and leaves it to the library for all else."""
    limit: Annotated[int, Field(ge=1, le=100)] = 24

    @model_validator(mode="after")
    def _asks_for_something(self) -> "SearchRequest":
        if not (self.text or self.upload or self.segment):
            raise ValueError("give text, an upload or a segment")
        if self.upload and self.segment:
            raise ValueError("give an upload or a segment, not both")
        return self


class Hit(BaseModel):
    """A moment that fits."""

    media: str
    """Id of the file, for the routes under /media."""
    name: str
    path: str
    """Below the library's root."""
    start_s: float
    end_s: float
    score: float
    by_modality: dict[str, float]
    matched: str
    """The modality that fits best."""
    modalities_used: str
    moment_s: float
    """The second that fits best."""
    caption: str | None
    speech: str | None
    screen: str | None
    num_copies: int
    """Other files with the same stretch."""


class SearchResponse(BaseModel):
    """Moments, best first."""

    hits: list[Hit]
    took_ms: float


class DescribeRequest(Message):
    """Whose caption is asked for: a file of the library or an upload, all of it or a part."""

    media: Name | None = None
    upload: Name | None = None
    start_s: Seconds = 0.0
    end_s: Seconds | None = None
    """Null means the end of the recording."""
    using: Using = "audiovisual"
    stream: bool = False
    """True sends server-sent events: `text` after every word with what is written so far, the first
    one empty, with the modalities used; `part` for each part; `done` with all, or `problem`."""

    @model_validator(mode="after")
    def _names_one_file(self) -> "DescribeRequest":
        if bool(self.media) == bool(self.upload):
            raise ValueError("give media or an upload")
        return self


class AskRequest(DescribeRequest):
    """A question about it."""

    question: Words


class Said(BaseModel):
    """A text about one stretch."""

    start_s: float
    end_s: float
    text: str
    modalities_used: str
    """Empty where there is nothing to use."""
    confidence: float | None = None
    """Of an answer, in [0, 1], if the model tells."""


class DescribeResponse(BaseModel):
    """The text about all of it, and about its parts."""

    text: str
    modalities_used: str
    confidence: float | None = None
    parts: list[Said]


class UploadResponse(BaseModel):
    """An upload, to be named in other requests within the hour."""

    upload: str
    kind: Literal["audio", "image", "video"]
    duration_s: float
    has_audio: bool
    num_bytes: int


class MediaResponse(BaseModel):
    """What a player needs to know of a file."""

    media: str
    name: str
    path: str
    duration_s: float
    has_video: bool
    has_audio: bool
    is_image: bool
    width: int | None
    height: int | None
    fps: float | None
    is_playable: bool
    """False if some browsers need the preview."""
    preview_part_s: float


class LibraryResponse(BaseModel):
    """What the page shows before the first search."""

    name: str
    fingerprint: str
    num_files: int
    num_segments: int
    segment_s: float
    describes: bool
    """True if captions and answers can be asked for."""
    roots: list[str]
    """Folders that may be indexed, by name."""
    examples: list[str]
    max_upload_bytes: int
    version: str


class IndexJob(Message):
    """Index files and folders; what has not changed is skipped."""

    kind: Literal["index"]
    paths: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=100)] = []
    """Below the library's roots; none means all of them."""
    describe: bool = False
    """True captions every segment."""


class CaptionJob(Message):
    """Caption a whole recording, segment by segment."""

    kind: Literal["caption"]
    media: Name
    using: Using = "audiovisual"


JobRequest = Annotated[IndexJob | CaptionJob, Field(discriminator="kind")]


class JobResponse(BaseModel):
    """A job and how far it is."""

    id: str
    kind: str
    title: str
    state: Literal["waiting", "running", "done", "failed", "stopped"]
    done_fraction: float
    message: str
    elapsed_s: float
    left_s: float | None
    result: dict[str, Any] | None


class EmbeddingsRequest(Message):
    """As OpenAI's, for texts."""

    input: Annotated[list[Words], Field(min_length=1, max_length=256)] | Words
    model: Annotated[str, Field(max_length=200)] = ""
    """Any name; the library's model is used."""
    encoding_format: Literal["float", "base64"] = "float"
    user: Annotated[str, Field(max_length=200)] | None = None


class Embedding(BaseModel):
    """One vector of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """Base64 holds little-endian float32."""


class Usage(BaseModel):
    """Counted words."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """As OpenAI's."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
