"""Laws of a model at work."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from valor.checkpoints.folder import load_model
from valor.config import evolve
from valor.data.world.render import write_mp4
from valor.data.world.scene import NUM_FRAMES, SAMPLE_RATE_HZ, SIZE_PX
from valor.errors import MediaError, ModelError
from valor.inference import VideoModel, load
from valor.models.valor import Valor
from valor.search.library import Library
from valor.types import AUDIOVISUAL, Embedder, Modality, StreamingDescriber


@pytest.fixture(scope="module")
def model(model_folder):
    return load(model_folder)


@pytest.fixture
def video(world):
    return world / "media/test-000000.mp4"


def without(video: Path, kind: str, out: Path) -> Path:
    """Copy a video's packets but for one kind of stream."""
    with av.open(str(video)) as source, av.open(str(out), "w") as target:
        kept = [stream for stream in source.streams if stream.type != kind]
        streams = {stream.index: target.add_stream_from_template(stream) for stream in kept}
        for packet in source.demux(kept):
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return out


def test_is_an_embedder_and_a_describer(model):
    assert isinstance(model, Embedder)
    assert isinstance(model, StreamingDescriber)


def test_a_video_with_sound_is_described_from_both(model, video):
    caption = model.caption(video)
    assert caption.modalities_used == AUDIOVISUAL
    assert caption.segments == ((0.0, pytest.approx(4.0, abs=0.1)),)
    answer = model.ask(video, "what is heard")
    assert answer.modalities_used == AUDIOVISUAL
    assert 0 <= answer.confidence <= 1


def test_what_is_streamed_begins_with_the_modalities_and_ends_with_the_whole_text(model, world):
    paths = [str(world / f"media/test-00000{number}.mp4") for number in range(2)]
    segments, questions = [model.read(path) for path in paths], ["what is heard", "what moves"]
    for asked, using in ((None, AUDIOVISUAL), (questions, Modality.AUDIO)):
        first, *_, last = model.stream(segments, asked, using=using)
        assert [(one.text, one.modalities_used) for one in first] == [("", using)] * 2
        if asked:
            assert last == model.answer(segments, asked, using=using)
        else:
            texts = [one.text for one in model.describe(segments, using=using)]
            assert [one.text for one in last] == texts


@pytest.mark.parametrize(
    ("removed", "left"), [("audio", Modality.VISION), ("video", Modality.AUDIO)]
)
def test_a_missing_stream_is_not_used_and_the_result_says_so(model, video, tmp_path, removed, left):
    part = without(video, removed, tmp_path / "part.mp4")
    caption = model.caption(part)
    assert caption.modalities_used == left
    assert caption.text == model.caption(video, using=left).text
    assert model.ask(part, "what is heard").modalities_used == left
    ((_, _, vectors),) = model.embed(part)
    assert list(vectors) == [left]


def test_a_silent_copy_is_described_from_vision_only(model, video, tmp_path):
    with av.open(str(video)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    silence = np.zeros(SAMPLE_RATE_HZ * 4, np.float32)
    write_mp4(tmp_path / "silent.mp4", frames, silence)
    caption = model.caption(tmp_path / "silent.mp4")
    assert caption.modalities_used == Modality.VISION
    segment = model.read(str(tmp_path / "silent.mp4"))
    assert segment.is_silent
    assert segment.waveform is not None


def test_nothing_usable_is_one_clear_error(model, tmp_path):
    frames = np.zeros((NUM_FRAMES, SIZE_PX, SIZE_PX, 3), np.uint8)
    write_mp4(tmp_path / "silent.mp4", frames, np.zeros(SAMPLE_RATE_HZ * 4, np.float32))
    sound = without(tmp_path / "silent.mp4", "video", tmp_path / "sound.mp4")
    with pytest.raises(MediaError, match="no audiovisual to describe"):
        model.caption(sound)
    with pytest.raises(MediaError, match="no audio to ask"):
        model.ask(tmp_path / "silent.mp4", "what is heard", using=Modality.AUDIO)


def test_a_picture_is_a_video_of_one_frame(model, tmp_path):
    Image.new("RGB", (120, 60), "red").save(tmp_path / "red.png")
    assert model.caption(tmp_path / "red.png").modalities_used == Modality.VISION


def test_a_long_recording_is_described_segment_by_segment(model, video, tmp_path):
    with av.open(str(video)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    sound = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE_HZ * 12).astype(np.float32)
    write_mp4(tmp_path / "long.mp4", np.concatenate([frames] * 3), sound)
    caption = model.caption(tmp_path / "long.mp4")
    assert [round(start) for start, _ in caption.segments] == [0, 4, 8]


def test_the_same_file_gives_the_same_vectors(model, video):
    first, second = model.embed(video), model.embed(video)
    for group, vector in first[0][2].items():
        np.testing.assert_array_equal(vector, second[0][2][group])
        assert abs(np.linalg.norm(vector) - 1) < 1e-5


def test_padding_by_longer_neighbours_changes_no_caption_and_no_vector(model, video, tmp_path):
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    segments = [model.read(str(video)), model.read(str(tmp_path / "blue.png"))]
    together = model.describe(segments)
    alone = [model.describe([segment])[0] for segment in segments]
    assert [c.text for c in together] == [c.text for c in alone]
    vectors = model.embed_media(segments)[Modality.VISION]
    single = model.embed_media(segments[1:])[Modality.VISION]
    torch.testing.assert_close(
        vectors.vectors[1][vectors.valid[1]], single.vectors[0][single.valid[0]]
    )


def test_a_folder_that_is_no_model_is_one_clear_error(tmp_path, model_folder):
    with pytest.raises(ModelError, match="no such model folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load(tmp_path)
    broken = shutil.copytree(model_folder, tmp_path / "broken")
    values = json.loads((broken / "config.json").read_text())
    values["valor"]["text"]["vocab_size"] += 1
    (broken / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="vocab_size"):
        load(broken)


def test_vectors_that_a_model_fuses_itself_are_searched_as_they_are(tmp_path, world, model_folder):
    """A coarse model has one audiovisual vector, which is no row of its vision and audio."""
    fine, processor, _ = load_model(model_folder)
    torch.manual_seed(0)
    config = evolve(fine.config, {"contrast": "coarse"})
    model = VideoModel(Valor(config).eval(), processor, "coarse")
    library = Library(tmp_path / "coarse.library", model=model)
    library.add(world / "media")
    query = "a red circle moves left while a bell sounds"
    paths = sorted((world / "media").glob("*.mp4"))
    media = model.embed_media([model.read(str(path)) for path in paths])
    scores = (model.embed_text([query]).vectors[:, 0] @ media[AUDIOVISUAL].vectors[:, 0].T)[0]
    found = {
        hit.path: hit.score for hit in library.search(query, using="audiovisual", limit=len(paths))
    }
    for path, score in zip(paths, scores.tolist(), strict=True):
        assert found[str(path)] == pytest.approx(score, abs=2e-3)  # Kept in half precision.
