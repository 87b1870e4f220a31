"""torchcodec shows what PyAV shows, and gets no file that it might read otherwise."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest

from valor.errors import DependencyError, MediaError
from valor.media.accelerated import accelerated_frames
from valor.media.container import open_container, time_limit, video_stream
from valor.media.video import decode_frames

pytestmark = pytest.mark.media

TIMES_S = np.arange(25) / 25
WANTED_S = [-1.0, 2.6, 0.0, 0.045, 0.39, 0.9, 0.961, 9.0]


def is_loadable() -> bool:
    try:
        import torchcodec.decoders  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError):
        return False
    return True


needs_torchcodec = pytest.mark.skipif(not is_loadable(), reason="the extra `fast` is not there")


def found(path: Path, times_s, short_side_px: int | None = None):
    with open_container(path) as container:
        stream = video_stream(container)
        assert stream is not None
        return accelerated_frames(container, stream, times_s, short_side_px)


def film(path: Path, rotation_deg: int) -> Path:
    """Slopes that move, which every way of scaling keeps."""
    down, right = np.mgrid[0:64, 0:96]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.options = 96, 64, {"qp": "4", "g": "12", "bf": "2"}
        stream.set_display_rotation(rotation_deg)
        for at in range(len(TIMES_S)):
            slopes = (down * 3 + 5 * at, right * 2 + 3 * at, 0 * down + 10 * at)
            picture = np.stack(slopes, axis=-1).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return path


@needs_torchcodec
@pytest.mark.parametrize("rotation_deg", [0, 90, 180])
@pytest.mark.parametrize("short_side_px", [None, 32, 128])
def test_both_backends_show_the_same(tmp_path, rotation_deg, short_side_px):
    path = film(tmp_path / "a.mp4", rotation_deg)
    ours, ours_s = decode_frames(path, WANTED_S, short_side_px=short_side_px)
    result = found(path, WANTED_S, short_side_px)
    assert result is not None, "declined"
    theirs, theirs_s = result
    np.testing.assert_allclose(theirs_s, ours_s, atol=1e-6)
    assert theirs.shape == ours.shape
    assert np.abs(theirs.astype(int) - ours).mean() < 3
    np.testing.assert_array_equal(
        decode_frames(path, WANTED_S, short_side_px=short_side_px, backend="torchcodec")[0], theirs
    )


@needs_torchcodec
def test_what_is_left_to_pyav_is_read_all_the_same(render, grays):
    for path in (
        render("a.mkv", pictures=grays(TIMES_S)),
        render("b.mp4", pictures=grays(TIMES_S), pixel_aspect=2),
        render("c.mp4", pictures=grays(TIMES_S), is_mirrored=True),
    ):
        ours, ours_s = decode_frames(path, WANTED_S)
        theirs, theirs_s = decode_frames(path, WANTED_S, backend="torchcodec")
        np.testing.assert_allclose(theirs_s, ours_s)
        assert np.abs(theirs.astype(int) - ours).mean() < 3


@needs_torchcodec
def test_only_what_begins_as_a_film_is_given_away(render, grays):
    """An older FFmpeg takes this for a playlist that names other files; ours sees the film."""
    path = render("a.ts", pictures=grays(TIMES_S))
    path.write_bytes(b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n".ljust(188, b"\n") + path.read_bytes())
    assert decode_frames(path, [0.0])[0].shape[0] == 1
    assert found(path, [0.0]) is None
    late = render("b.mp4", pictures=grays(TIMES_S))
    late.write_bytes(late.read_bytes().replace(b"ftyp", b"free", 1))
    assert decode_frames(late, [0.0])[0].shape[0] == 1
    assert found(late, [0.0]) is None


@needs_torchcodec
def test_time_ends_for_both(render, grays):
    path = render("a.mp4", pictures=grays(TIMES_S))
    with open_container(path) as container:
        stream = video_stream(container)
        with pytest.raises(MediaError) as caught, time_limit(1e-9):
            accelerated_frames(container, stream, [0.0], None)
    assert caught.value.reason == "too_slow"


def test_without_torchcodec_the_extra_is_named(render, grays, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    path = render("a.mp4", pictures=grays([0.0, 0.1]))
    with pytest.raises(DependencyError, match="extra `fast`"):
        decode_frames(path, [0.0], backend="torchcodec")
