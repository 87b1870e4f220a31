"""Pictures come out upright, in their true colours, with square pixels and in the asked size."""

import gc
import struct
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from valor.errors import MediaError
from valor.media.pictures import MAX_ASPECT, read_picture
from valor.media.probe import probe
from valor.media.video import decode_frames

pytestmark = pytest.mark.media

CORNERS = np.zeros((32, 48, 3), np.uint8)
CORNERS[:16, :24], CORNERS[:16, 24:], CORNERS[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)

PAINTS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128)]
PAINTED = np.repeat(np.repeat(np.array([PAINTS], np.uint8), 64, axis=0), 32, axis=1)
SPACES = {Colorspace.ITU601: 6, Colorspace.ITU709: 1, Colorspace.BT2020: 9}
"""The numbers by which files call them."""


def corners(picture: np.ndarray) -> np.ndarray:
    return picture[np.ix_([4, -5], [4, -5])].astype(int)


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, -90])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_pictures_come_out_upright(render, rotation_deg: int, is_mirrored: bool):
    path = render(
        "a.mp4",
        pictures=[(0.0, CORNERS), (0.1, CORNERS)],
        rotation_deg=rotation_deg,
        is_mirrored=is_mirrored,
    )
    frames, _ = decode_frames(path, [0.0])
    upright = np.rot90(CORNERS, rotation_deg // 90)[:, :: -1 if is_mirrored else 1]
    assert frames[0].shape == upright.shape
    assert np.abs(corners(frames[0]) - corners(upright)).max() < 60
    info = probe(path)
    assert (info.height, info.width) == upright.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_as_its_camera_was_held(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(CORNERS).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    frames, _ = decode_frames(tmp_path / "a.jpg", [0.0])
    assert frames[0].shape == upright.shape
    assert np.abs(corners(frames[0]) - corners(upright)).max() < 10
    info = probe(tmp_path / "a.jpg")
    assert (info.height, info.width) == upright.shape[:2]


def write_paints(
    path: Path, codec: str, pix_fmt: str, space: Colorspace, reach: ColorRange
) -> None:
    source = av.VideoFrame.from_ndarray(PAINTED, format="rgb24")
    frame = VideoReformatter().reformat(
        source, format=pix_fmt, dst_colorspace=space, dst_color_range=reach
    )
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25))
        stream.height, stream.width = PAINTED.shape[:2]
        stream.pix_fmt, stream.options = pix_fmt, {"qp": "1", "x265-params": "qp=1:log-level=none"}
        stream.codec_context.colorspace, stream.codec_context.color_range = SPACES[space], reach
        for index in range(3):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("space", list(SPACES), ids=lambda space: space.name)
@pytest.mark.parametrize("reach", [ColorRange.MPEG, ColorRange.JPEG], ids=["limited", "full"])
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv444p10le"),
        ("a.mp4", "libx265", "yuv420p10le"),
        ("a.mkv", "ffv1", "yuv422p"),
    ],
)
def test_colours_are_the_painted_ones(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, space: Colorspace, reach: ColorRange
):
    write_paints(tmp_path / name, codec, pix_fmt, space, reach)
    frames, _ = decode_frames(tmp_path / name, [0.0])
    assert np.abs(frames[0][32, 16::32].astype(int) - PAINTS).max() <= 4


def test_no_large_frame_waits_for_garbage_collection(render):
    path = render("a.mp4", pictures=[(0.0, CORNERS), (0.1, CORNERS)])

    def large_frames() -> list[av.VideoFrame]:
        frames = [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame]
        return [frame for frame in frames if frame.width > 16]

    gc.collect()
    gc.disable()
    try:
        before = large_frames()
        probe(path)
        decode_frames(path, [0.0, 0.1])
        assert len(large_frames()) == len(before)
    finally:
        gc.enable()


def test_pixels_come_out_square(render, grays):
    path = render("a.mp4", pictures=grays([0, 1]), pixel_aspect=Fraction(2))
    assert decode_frames(path, [0.0])[0].shape == (1, 32, 96, 3)
    assert decode_frames(path, [0.0], short_side_px=16)[0].shape == (1, 16, 48, 3)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (16, 16), (480, 16), (16, 600), (99, 37)])
@pytest.mark.parametrize("short_side_px", [8, 33, 64])
def test_the_short_side_is_as_asked(render, grays, height: int, width: int, short_side_px: int):
    path = render("a.mp4", pictures=grays([0, 1], height=height, width=width))
    shape = decode_frames(path, [0.0], short_side_px=short_side_px)[0].shape[1:3]
    assert min(shape) == short_side_px
    aspect = min(max(height, width) / min(height, width), MAX_ASPECT)
    assert max(shape) == pytest.approx(short_side_px * aspect, abs=1)
    assert (shape[0] < shape[1]) == (height < width)


def test_a_picture_shrinks_by_averaging(tmp_path: Path):
    pixels = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "checks.png")
    frames, _ = decode_frames(tmp_path / "checks.png", [0.0], short_side_px=16)
    assert np.abs(frames.astype(int) - 127).max() < 8


def stored_as(path: Path, kind: str) -> Path:
    Image.new("RGB", (8, 6), "red").save(path, format=kind)
    return path


def test_a_stored_picture_keeps_its_values(tmp_path):
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), values)
    assert read_picture(tmp_path / "a.png", "RGB").shape == (6, 8, 3)


def test_only_formats_that_pillow_reads_itself_are_pictures(tmp_path):
    """Pillow leaves EPS to another program, whatever the file is called."""
    for kind, formats in (("EPS", None), ("PNG", ("JPEG",))):
        options = {"formats": formats} if formats else {}
        with pytest.raises(MediaError) as caught:
            read_picture(stored_as(tmp_path / "a.png", kind), **options)
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("side_px", [12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path, side_px):
    path = stored_as(tmp_path / "a.bmp", "BMP")
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<II", side_px, side_px)
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        read_picture(path)
    assert caught.value.reason == "too_large"


def test_a_damaged_picture_is_an_error(tmp_path):
    path = stored_as(tmp_path / "a.png", "PNG")
    whole = path.read_bytes()
    for length in (9, 30, 50):
        path.write_bytes(whole[:length])
        with pytest.raises(MediaError):
            read_picture(path)
