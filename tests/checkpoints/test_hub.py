"""Model folders through the Auto classes of transformers."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

import valor
from valor.checkpoints.folder import load_model
from valor.checkpoints.hub import ValorHubConfig, ValorHubModel, _batch, local_folder
from valor.config import to_dict
from valor.errors import ConfigError, ModelError
from valor.inference import VideoModel
from valor.models.fusion import join, similarity
from valor.types import AUDIOVISUAL, Modality


@pytest.fixture(autouse=True)
def registered():
    valor.register_auto_classes()


@pytest.fixture(scope="module")
def ours(model_folder):
    return VideoModel(*load_model(model_folder))


@pytest.fixture(scope="module")
def segments(ours, world):
    return [ours.read(str(path)) for path in sorted(world.glob("media/*.mp4"))[:3]]


def test_the_auto_classes_read_a_model_folder(model_folder, ours, segments):
    assert AutoConfig.from_pretrained(model_folder).checked == ours.valor.config
    model = AutoModel.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    texts = ["a red circle moves right", "a bell rings"]
    output = model(**processor(media=segments, text=texts))
    media = ours.embed_media(segments)
    words = ours.embed_text(texts)
    wanted = similarity(words, join(media, AUDIOVISUAL))
    torch.testing.assert_close(output.logits_per_text, wanted)
    assert output.audio_video_embeds.shape == (3, ours.valor.config.embed_dim)


def test_embeddings_by_the_names_that_users_know(model_folder, ours, segments):
    model = AutoModel.from_pretrained(model_folder)
    inputs = AutoProcessor.from_pretrained(model_folder)(media=segments, text=["a bell"])
    whole = model(**inputs)
    video = {k: inputs[k] for k in ("pixel_values", "frame_valid")}
    audio = {k: inputs[k] for k in ("spectrograms", "window_valid")}
    for found, wanted in (
        (model.get_video_embeds(**video), whole.video_embeds),
        (model.get_audio_embeds(**audio), whole.audio_embeds),
        (model.get_audio_video_embeds(**video, **audio), whole.audio_video_embeds),
        (
            model.get_text_features(inputs["input_ids"], inputs["attention_mask"]),
            whole.text_embeds,
        ),
    ):
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
    assert model(**video).audio_embeds is None


def test_generated_texts_are_ours(model_folder, ours, segments):
    model = AutoModel.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    length = ours.processor.config.max_text_length
    ids = model.generate(**processor(media=segments), num_beams=3, max_tokens=length)
    assert processor.batch_decode(ids) == [c.text for c in ours.describe(segments)]
    question = "what rings"
    inputs = processor(media=segments, text=[question] * 3)
    answers = processor.batch_decode(model.generate(**inputs, max_tokens=length))
    assert answers == [a.text for a in ours.answer(segments, [question] * 3)]


def test_saving_writes_a_model_folder(model_folder, tmp_path, ours):
    model = AutoModel.from_pretrained(model_folder)
    model.save_pretrained(tmp_path / "again")
    again, _, fingerprint = load_model(tmp_path / "again")
    assert fingerprint == ours.fingerprint
    for one, two in zip(again.parameters(), ours.valor.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_upload_is_a_complete_model_folder(model_folder, tmp_path, monkeypatch):
    """The hub is out of reach: what transformers would send to it is looked at instead."""
    sent = []
    api = SimpleNamespace(create_repo=lambda name, **_: SimpleNamespace(repo_id=name))
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda *_: api)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: Card())
    monkeypatch.setattr(
        ValorHubModel,
        "_upload_modified_files",
        lambda self, folder, *_, **__: sent.extend(sorted(p.name for p in Path(folder).iterdir())),
    )
    AutoModel.from_pretrained(model_folder).push_to_hub("me/model")
    assert sent == sorted(path.name for path in model_folder.iterdir())


class Card:
    """Stands in for the card that transformers makes."""

    def save(self, path):
        Path(path).write_text("card")


def test_code_travels_with_a_model_that_asks_for_it(model_folder, tmp_path):
    model = AutoModel.from_pretrained(model_folder)
    ValorHubModel.register_for_auto_class("AutoModel")
    try:
        model.save_pretrained(tmp_path / "own")
    finally:
        ValorHubModel._auto_class = None
    assert (tmp_path / "own" / "hub.py").is_file()
    assert AutoConfig.from_pretrained(tmp_path / "own").auto_map == {
        "AutoModel": "hub.ValorHubModel"
    }
    load_model(tmp_path / "own")


def test_masks_stand_where_the_media_are():
    batch = _batch(torch.zeros(1, 2, 3, 4, 4, device="meta"), None, torch.zeros(1, 2, 4, 4))
    assert batch.frame_valid.device.type == "meta" and batch.frame_valid.shape == (1, 2)
    assert batch.window_valid.device.type == "cpu" and batch.window_valid.all()
    batch = _batch(spectrograms=torch.zeros(1, 2, 4, 4, device="meta"))
    assert batch.window_valid.device.type == "meta"


def test_half_precision_is_asked_for_by_dtype(model_folder):
    model = AutoModel.from_pretrained(model_folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_wrong_folders_are_one_clear_error(tmp_path, model_folder):
    with pytest.raises(ModelError, match="no such folder"):
        local_folder("nobody/nothing", local_files_only=True)
    with pytest.raises(ConfigError, match=r"vision\.dmi: unknown key"):
        _ = ValorHubConfig(valor={"vision": {"kind": "vit", "dmi": 3}}).checked
    bare = ValorHubModel(ValorHubConfig(valor=to_dict(load_model(model_folder)[0].config)))
    with pytest.raises(ModelError, match="processor"):
        bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="processor"):
        bare.generate()


def test_a_file_without_sound_has_no_audio(model_folder, segments):
    processor = AutoProcessor.from_pretrained(model_folder)
    silent = [type(segments[0])(**{f: getattr(s, f) for f in s.__slots__} | {"waveform": None})
              for s in segments]  # fmt: skip
    assert "spectrograms" not in processor(media=silent)
    assert silent[0].available == Modality.VISION
