"""Reading of files for any model, in one pass where it says how it reads."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from valor.media.segments import DecodePlan, decode_segments
from valor.types import Reader, Segment


def read_in_order(
    model: Reader,
    path: str,
    stretches: Sequence[tuple[float, float]],
    *,
    keyframes_only: bool = False,
) -> Iterator[Segment]:
    """Decode stretches of a file as a model wants them, in one pass if it says how by `plan`.

    Args:
        model: One without a plan reads each stretch by itself.
        path: A local file.
        stretches: Begin and end of each in seconds, in time order, as `cut` gives them.
        keyframes_only: True looks at no other frames of a video.

    Yields:
        One segment for each stretch; `MediaError` is raised when the broken one is due.
    """
    plan = plan_of(model)
    if plan is not None:
        plan = replace(plan, keyframes_only=keyframes_only)
        yield from decode_segments(path, plan, stretches)
        return
    for start_s, end_s in stretches:
        # A still image is planned as 0 to 0, which is all of it and no empty stretch.
        end = end_s if end_s > start_s else None
        yield model.read(path, start_s=start_s, end_s=end, keyframes_only=keyframes_only)


def plan_of(model: object) -> DecodePlan | None:
    """How densely a model reads; None if only its `read` knows. Equal plans read the same."""
    return getattr(model, "plan", None)
