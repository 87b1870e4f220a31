"""Questions about videos and images."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from valor.data.manifest import Question, Record
from valor.data.rows import Row, json_rows, opened, read_json, table_rows
from valor.data.sources.media import MediaFolder, bare
from valor.data.sources.shared import asked, split_of
from valor.errors import ManifestError

_ACTIVITYNET_TYPES = (
    *("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other"),
)
_TGIF_KINDS = ("frameqa", "count", "action", "transition")
_MUSIC_NEEDS = {"Audio": "audio", "Visual": "vision", "Audio-Visual": "both"}


def msrvtt_qa(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read MSRVTT-QA.

    Args:
        files: JSON lists of `{"video_id", "question", "answer"}`; a `video_id` is 7010.
        media: Files named `video7010`.

    Yields:
        A record per question.
    """
    for path in files:
        for row in json_rows(path):
            id = f"video{row.id('video_id').removeprefix('video')}"
            yield Record(
                id=id, media=media.find(id), split=split_of(path.stem), questions=asked(row)
            )


def msvd_qa(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read MSVD-QA.

    Args:
        files: JSON lists of `{"video_id", "question", "answer"}`; a `video_id` is 1201. With
            `youtube_mapping.txt`, lines of `name vid1201`, videos are known by their names.
        media: Files named as in the mapping, or `vid1201`.

    Yields:
        A record per question.
    """
    names: dict[str, str] = {}
    for path in (path for path in files if path.suffix == ".txt"):
        with opened(path) as lines:
            names |= {line.split()[1]: line.split()[0] for line in lines if len(line.split()) == 2}
    for path in (path for path in files if path.suffix != ".txt"):
        for row in json_rows(path):
            number = f"vid{row.id('video_id').removeprefix('vid')}"
            id = names.get(number, number)
            found = media.find(id, number)
            yield Record(id=id, media=found, split=split_of(path.stem), questions=asked(row))


def activitynet_qa(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read ActivityNet-QA.

    Args:
        files: JSON lists of questions (`test_q.json`: `question_id`, `video_name`, `question`) and
            of their answers (`test_a.json`: `question_id`, `answer`, `type`).
        media: Files named by video, with `v_` before it or without.

    Yields:
        A record per question, its id that of the video in ActivityNet Captions.

    Raises:
        ManifestError: If a question has no answer, or a type is none of the nine.
    """
    rows = [(path, row) for path in files for row in json_rows(path)]
    answers = {row.id("question_id"): row for _, row in rows if "answer" in row}
    for path, row in rows:
        if "question" not in row:
            continue
        answer = answers.get(row.id("question_id"))
        if answer is None:
            raise row.problem("question_id", f"no answer to {row.id('question_id')}; add its file")
        kind = int(answer.number("type"))
        if not 0 <= kind < len(_ACTIVITYNET_TYPES):
            raise answer.problem("type", f"{kind}, expected 0 to {len(_ACTIVITYNET_TYPES) - 1}")
        question = Question(
            text=row.text("question").strip(),
            answers=(answer.id("answer"),),
            type=_ACTIVITYNET_TYPES[kind],
        )
        id = f"v_{row.text('video_name').removeprefix('v_')}"
        yield Record(
            id=id,
            media=media.find(id, id.removeprefix("v_")),
            split=split_of(path.stem),
            questions=(question,),
        )


def music_avqa(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read MUSIC-AVQA; the blanks of its question templates are filled in.

    Args:
        files: JSON lists of `{"video_id", "question_content", "templ_values", "type", "anser"}`.
        media: Files named by video id.

    Yields:
        A record per question that its authors did not delete.

    Raises:
        ManifestError: If a type is unknown, or blanks and values are not as many.
    """
    for path in files:
        for row in json_rows(path):
            if "question_deleted" in row and row.number("question_deleted"):
                continue
            needs, kind = _inner_list(row, "type")
            if needs not in _MUSIC_NEEDS:
                raise row.problem("type", f"{needs!r}, expected one of {', '.join(_MUSIC_NEEDS)}")
            question = Question(
                text=_filled(row),
                answers=(row.id("anser"),),
                needs=_MUSIC_NEEDS[needs],
                type=f"{needs} {kind}".lower(),
            )
            yield Record(
                id=row.id("video_id"),
                media=media.find(row.id("video_id")),
                split=split_of(path.stem),
                questions=(question,),
            )


def _inner_list(row: Row, name: str) -> list[str]:
    """A list of texts that is written as JSON inside of a text."""
    try:
        return Row({name: json.loads(row.text(name))}, row.where, row.prefix).texts(name)
    except json.JSONDecodeError:
        raise row.problem(name, f"{row.text(name)!r}, expected a list in JSON") from None


def _filled(row: Row) -> str:
    parts = re.split(r"<\w+>", row.text("question_content").replace("\uff1f", "?"))
    values = [*_inner_list(row, "templ_values"), ""]
    if len(values) != len(parts):
        message = f"{len(values) - 1} values for {len(parts) - 1} blanks"
        raise row.problem("templ_values", message)
    return "".join(part + value for part, value in zip(parts, values, strict=True))


def tgif_qa(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read TGIF-QA: FrameQA, Count, Action and Transition.

    Args:
        files: Tables separated by tabs with `gif_name`, `question` and `answer`; where there are
            choices `a1` to `a5`, the answer is the number of one of them from 0.
        media: Files named as in `gif_name`.

    Yields:
        A record per question.

    Raises:
        ManifestError: If an answer is none of the choices.
    """
    for path in files:
        for row in table_rows(path):
            answer = row.id("answer")
            if "a1" in row:
                choice = f"a{int(row.number('answer')) + 1}"
                if choice not in row:
                    raise row.problem("answer", f"{answer}, expected a choice from 0 to 4")
                answer = row.text(choice)
            kind = next(
                (k for k in ("frameqa", "count", "action", "transition") if k in path.stem), None
            )
            asks = Question(text=row.text("question"), answers=(answer,), needs="vision", type=kind)
            yield Record(
                id=bare(row.text("gif_name")),
                media=media.find(row.text("gif_name")),
                split=split_of(path.stem),
                questions=(asks,),
            )


def vqav2(files: Sequence[Path], media: MediaFolder) -> Iterator[Record]:
    """Read VQA v2.

    Args:
        files: The JSON objects of questions (`questions`: `question_id`, `image_id`, `question`)
            and of annotations (`annotations`: `question_id`, `answers`, `answer_type`).
        media: Images named `COCO_val2014_000000262148`, or by the number alone as in COCO 2017.

    Yields:
        A record per question with all its ten answers.

    Raises:
        ManifestError: If a question has no answer; those of the test sets are not published.
    """
    contents = {path: Row(read_json(path), str(path)) for path in files}
    answers = {
        row.id("question_id"): row for held in contents.values() for row in held.rows("annotations")
    }
    for path, held in contents.items():
        subset = held.text("data_subtype", default="")
        for row in held.rows("questions"):
            yield Record(
                id=f"{int(row.number('image_id')):012d}",
                media=media.find(*coco_names(int(row.number("image_id")), subset)),
                split=split_of(subset or path.stem),
                questions=(_vqa_question(row, answers),),
            )


def _vqa_question(row: Row, answers: Mapping[str, Row]) -> Question:
    id = row.id("question_id")
    if id not in answers:
        raise ManifestError(f"{row.where}: no answer to question {id}; add the annotations file")
    given = [answer.text("answer", default="").strip() for answer in answers[id].rows("answers")]
    if not any(given):
        raise answers[id].problem("answers", "expected an answer that says something")
    return Question(
        text=row.text("question"),
        answers=tuple(filter(None, given)),
        needs="vision",
        type=answers[id].text("answer_type", default="") or None,
    )


def coco_names(number: int, subset: str) -> tuple[str, ...]:
    """The names that an image of COCO may have, best first."""
    parts = filter(None, (subset, "train2014", "val2014"))
    return (*(f"COCO_{part}_{number:012d}" for part in parts), f"{number:012d}")
