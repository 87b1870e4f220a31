"""Laws of public models as Embedders: they say what transformers says, and are fused fairly."""

import importlib.util
import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, normalize
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer

from valor.checkpoints.foreign import PublicModel
from valor.data.manifest import read_manifest
from valor.errors import DependencyError, ModelError
from valor.evaluation.run import collect, evaluate
from valor.inference import load
from valor.media.segments import DecodePlan
from valor.models.fusion import join, similarity
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Describer, Embedder, Modality, Segment

VISION, AUDIO = Modality.VISION, Modality.AUDIO
TEXTS = ["a red circle", "a dog barks"]


def public_model(source: object) -> PublicModel:
    model = load(str(source))
    assert isinstance(model, PublicModel)
    return model


def segment(*, frames: int = 3, seconds: float = 1.0, rate: int = 8000, seed: int = 0) -> Segment:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (frames, 24, 40, 3), np.uint8)
    sound = rng.normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    return Segment(
        path=f"{seed}.mp4",
        start_s=0.0,
        end_s=max(seconds, 1.0),
        frames=pixels if frames else None,
        frame_times_s=np.arange(frames, dtype=np.float64) if frames else None,
        waveform=sound if seconds else None,
        sample_rate_hz=rate,
    )


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
@torch.inference_mode()
def test_pictures_and_texts_are_what_transformers_makes_of_them(public, name):
    model, reference = public_model(public / name), AutoModel.from_pretrained(public / name).eval()
    assert isinstance(model, Embedder)
    assert not isinstance(model, Describer)
    assert model.groups == [VISION]
    segments = [segment(frames=3), segment(frames=0), segment(frames=2, seed=1)]
    media = model.embed_media(segments)
    assert list(media) == [VISION]
    assert media[VISION].valid.sum(dim=1).tolist() == [3, 0, 2]
    images = AutoImageProcessor.from_pretrained(public / name, backend="pil")
    for row in (0, 2):
        inputs = images(list(segments[row].frames), return_tensors="pt")
        expected = normalize(reference.get_image_features(**inputs).pooler_output, dim=-1)
        found = media[VISION].vectors[row][media[VISION].valid[row]]
        torch.testing.assert_close(found, expected)
    tokenizer = AutoTokenizer.from_pretrained(public / name)
    if name == "clip":
        tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    else:
        ids = [tokenizer(text)["input_ids"] for text in TEXTS]
        padded = [row + [tokenizer.pad_token_id] * (16 - len(row)) for row in ids]
        tokens = {"input_ids": torch.tensor(padded)}
    expected = reference.get_text_features(**tokens)
    asked = [text.upper() if name == "siglip" else text for text in TEXTS]
    found = model.embed_text(asked).vectors[:, 0]
    torch.testing.assert_close(found, normalize(expected.pooler_output, dim=-1))


@torch.inference_mode()
def test_sounds_are_what_transformers_makes_of_them_window_by_window(public):
    model = public_model(public / "clap")
    reference = AutoModel.from_pretrained(public / "clap").eval()
    assert model.groups == [AUDIO]
    segments = [segment(seconds=1.5), segment(seconds=0), segment(seconds=4.5, seed=1)]
    audio = model.embed_media(segments)[AUDIO]
    assert audio.valid.sum(dim=1).tolist() == [1, 0, 3]
    torch.testing.assert_close(audio.weight_logits.exp()[2], torch.full((3,), 1 / 3))
    sounds, long = AutoFeatureExtractor.from_pretrained(public / "clap"), segments[2].waveform
    for row, place, part in (
        (0, 0, segments[0].waveform),
        (2, 0, long[:16_000]),
        (2, 1, long[10_000:26_000]),
        (2, 2, long[20_000:]),
    ):
        inputs = sounds(part, sampling_rate=8000, return_tensors="pt")
        inputs["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)
        expected = reference.get_audio_features(**inputs).pooler_output
        torch.testing.assert_close(audio.vectors[row, place], normalize(expected, dim=-1)[0])
    tokens = AutoTokenizer.from_pretrained(public / "clap")(
        TEXTS, padding=True, return_tensors="pt"
    )
    expected = reference.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(model.embed_text(TEXTS).vectors[:, 0], normalize(expected, dim=-1))


@torch.inference_mode()
def test_pe_av_gives_each_group_its_own_text_and_compares_media_too(pe_av, capsys):
    model = public_model(pe_av)
    assert "[ERROR]" not in capsys.readouterr().out
    assert model.groups == list(MEDIA_GROUPS)
    part = segment(frames=3, rate=8000)
    frames = torch.from_numpy(part.frames).permute(0, 3, 1, 2)
    frames = interpolate(frames, (16, 16), mode="bilinear", antialias=True) / 255 - 0.5
    frames = frames / torch.tensor([0.5, 0.5, 0.25])[:, None, None]
    tokens = AutoTokenizer.from_pretrained(pe_av)(TEXTS, padding=True, return_tensors="pt")
    reference = AutoModel.from_pretrained(pe_av).eval()(
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        pixel_values_videos=torch.stack([frames] * 2),
        input_values=torch.from_numpy(part.waveform).expand(2, 1, -1),
    )
    video, audio = (normalize(reference[f"{m}_embeds"], dim=-1)[:1] for m in ("video", "audio"))
    media, nothing = model.embed_media([part]), torch.zeros(1, 16)
    half = math.sqrt(0.5)
    expected = half * torch.cat([video, nothing, video], dim=1)
    torch.testing.assert_close(media[VISION].vectors[0, :, :-1], expected)
    expected = half * torch.cat([nothing, audio, audio], dim=1)
    torch.testing.assert_close(media[AUDIO].vectors[0, :, :-1], expected)
    torch.testing.assert_close(similarity(media[VISION], media[AUDIO]), video @ audio.T / 2)
    words = model.embed_text(TEXTS)
    for place, name in enumerate(("text_video_embeds", "text_audio_embeds")):
        text = normalize(reference[name], dim=-1)
        block = words.vectors[:, place, 16 * place : 16 * (place + 1)]
        torch.testing.assert_close(block[1] - block[0], text[1] - text[0], atol=1e-6, rtol=1e-3)


def test_pe_av_without_timm_is_one_clear_error(pe_av, monkeypatch):
    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    monkeypatch.undo()
    from transformers import PeVideoEncoderConfig, TimmWrapperConfig
    from transformers.configuration_utils import SubConfigSpec

    backbone = SubConfigSpec(config_class=TimmWrapperConfig)
    monkeypatch.setitem(PeVideoEncoderConfig.sub_configs_defaults, "vision_config", backbone)
    with pytest.raises(DependencyError, match="pip install timm"):
        load(pe_av)


class Words:
    """A space whose vectors are given: `frame` by the frame's first byte, texts by name."""

    def __init__(self, modality: Modality, scale: float, texts, media):
        self.modalities, self.scale, self.settings = modality, scale, ""
        self.plan = DecodePlan(num_frames=1, short_side_px=8, sample_rate_hz=8000)
        self.model = torch.nn.Identity()
        self.texts, self.media = texts, media

    def embed(self, modality, media):
        keys = [[int(x) for x in array.reshape(-1)] for array in media]
        return [torch.stack([self.media[key] for key in row]) for row in keys]

    def embed_text(self, texts):
        return torch.stack([self.texts.get(text, self.texts["any"]) for text in texts])


def seen_and_heard(seen: tuple[int, ...], heard: tuple[int, ...]) -> Segment:
    return Segment(
        path="", start_s=0, end_s=1, sample_rate_hz=8000,
        frames=np.array(seen, np.uint8).reshape(-1, 1, 1, 1) if seen else None,
        frame_times_s=None, waveform=np.array(heard, np.float32) if heard else None,
    )  # fmt: skip


def vector(cosine: float, *, along: int, dim: int = 4) -> torch.Tensor:
    """A unit vector with this cosine to axis 0, and the rest along another axis."""
    found = torch.zeros(dim)
    found[0], found[along] = cosine, math.sqrt(1 - cosine**2)
    return found


MATCH, NOTHING, AGAINST = 1, 2, 3
"""Media that fit the text `bell`, fit it as well as any text does, or worse than any."""


@pytest.fixture
def pair():
    """As CLIP and CLAP are: one space has an offset of its own, the other another scale."""
    text = {"any": vector(1.0, along=1), "bell": vector(0.8, along=1)}
    base = torch.eye(4)
    media = {
        MATCH: normalize(0.3 * base[0] + 0.25 * base[1] + base[2], dim=0),
        NOTHING: normalize(0.3 * base[0] + 0.1 * base[1] + base[2], dim=0),
        AGAINST: normalize(0.3 * base[0] - 0.1 * base[1] + base[2], dim=0),
    }
    sound_text = {"any": vector(0.0, along=1), "bell": vector(0.8, along=1)}
    sounds = {
        MATCH: normalize(0.7 * base[0] + base[2], dim=0),
        NOTHING: normalize(0.3 * base[1] + 0.15 * base[0] + base[2], dim=0),
        AGAINST: normalize(base[1], dim=0),
    }
    return PublicModel(
        "a+b", [Words(VISION, 100.0, text, media), Words(AUDIO, 20.0, sound_text, sounds)]
    )


def score(model: PublicModel, *parts: Segment, using: Modality = AUDIOVISUAL) -> list[float]:
    media = {m: e for m, e in model.embed_media(parts).items() if m in using}
    return similarity(model.embed_text(["bell"]), join(media, using))[0].tolist()


def logit(model: PublicModel, modality: Modality, key: int) -> float:
    """What the text's distance from ordinary texts says, on the larger scale."""
    space = model._spaces[modality == AUDIO]
    assert isinstance(space, Words)
    text = space.texts["bell"] - space.texts["any"]
    return float(space.scale / 100 * (text @ space.media[key]) / max(1, text.norm()))


def test_audiovisual_score_is_the_mean_of_both_logits(pair):
    both = (logit(pair, VISION, MATCH) + logit(pair, AUDIO, MATCH)) / 2
    assert both > 0.05
    one, many = seen_and_heard((MATCH,), (MATCH,)), seen_and_heard((MATCH,) * 8, (MATCH,))
    assert score(pair, one, many) == pytest.approx([both, both], abs=1e-6)
    found = pair.embed_text(["bell"]).vectors
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 2))


def test_media_of_different_spaces_have_nothing_to_do_with_each_other(pair):
    media = pair.embed_media([seen_and_heard((MATCH,), (MATCH,))])
    assert similarity(media[VISION], media[AUDIO]).item() == 0
    assert pair.groups == list(MEDIA_GROUPS)


def test_one_modality_keeps_the_order_of_its_model_even_below_zero(pair):
    for modality in (VISION, AUDIO):
        keys = (MATCH, NOTHING, AGAINST)
        order = [logit(pair, modality, key) for key in keys]
        assert order[0] > order[1] > order[2]
        assert order[2] < 0
        parts = [seen_and_heard((key,), (key,)) for key in keys]
        found = score(pair, *parts, using=modality)
        assert found == sorted(found, reverse=True)
        assert len(set(found)) == 3


def test_what_speaks_against_a_match_counts_as_silence_beside_another_modality(pair):
    against = score(pair, seen_and_heard((MATCH,), (AGAINST,)))
    assert against == pytest.approx([logit(pair, VISION, MATCH) / 2], abs=1e-6)


def test_files_with_one_modality_compete_fairly_with_those_that_have_both(pair):
    both, dark, silent, half, *unrelated = score(
        pair,
        seen_and_heard((MATCH,), (MATCH,)),
        seen_and_heard((), (MATCH,)),
        seen_and_heard((MATCH,), ()),
        seen_and_heard((MATCH,), (NOTHING,)),
        seen_and_heard((NOTHING,), (NOTHING,)),
        seen_and_heard((NOTHING,), ()),
        seen_and_heard((), (NOTHING,)),
    )
    assert both > max(dark, silent) >= min(dark, silent) > half > 0.01
    assert silent == pytest.approx(0.75 * logit(pair, VISION, MATCH), abs=1e-6)
    assert unrelated == pytest.approx([0.0] * 3, abs=1e-6)


def test_what_is_missing_is_absent(public):
    model = public_model(f"{public / 'siglip'}+{public / 'clap'}")
    parts = [segment(), segment(seconds=0), segment(frames=0), segment(frames=0, seconds=0)]
    media = model.embed_media(parts)
    assert media[VISION].present.tolist() == [True, True, False, False]
    assert media[AUDIO].present.tolist() == [True, False, True, False]
    assert model.embed_media(parts[3:]) == {}
    assert list(model.embed_media(parts[1:2])) == [VISION]
    assert model.embed_text(["bell", " "]).present.tolist() == [True, False]


def test_neighbours_and_repetition_change_no_vector(public, pe_av):
    parts = [segment(), segment(frames=5, seconds=2.5, seed=1), segment(frames=1, seed=2)]
    for source in (f"{public / 'clip'}+{public / 'clap'}", str(pe_av)):
        together = public_model(source).embed_media(parts)
        for row, part in enumerate(parts):
            for modality, alone in public_model(source).embed_media([part]).items():
                among = together[modality].select(torch.tensor([row]))
                valid = among.valid[0]
                torch.testing.assert_close(among.vectors[:, valid], alone.vectors)


def test_fingerprint_names_weights_preprocessing_and_layout(public, tmp_path):
    assert public_model(public / "clip").fingerprint == public_model(public / "clip").fingerprint
    moved = shutil.copytree(public / "clip", tmp_path / "moved")
    assert public_model(moved).fingerprint == public_model(public / "clip").fingerprint
    processor = moved / "preprocessor_config.json"
    values = json.loads(processor.read_text())
    processor.write_text(json.dumps(values | {"image_mean": [0.5, 0.5, 0.5]}))
    other = AutoModel.from_pretrained(public / "clip")
    other.logit_scale.data += 1
    retrained = shutil.copytree(public / "clip", tmp_path / "retrained")
    other.save_pretrained(retrained)
    sources = [public / "clip", public / "siglip", public / "clap", moved, retrained]
    sources += [f"{public / 'clip'}+{public / 'clap'}"]
    assert len({public_model(source).fingerprint for source in sources}) == len(sources)


def test_what_cannot_be_used_is_one_clear_error(public, tmp_path):
    for source, problem in (
        (f"{public / 'clap'}+{public / 'clip'}", r"expected VISION\+AUDIO"),
        (f"{public / 'clip'}+{tmp_path / 'nowhere'}", "nowhere"),
        ("nobody/no-such-model", "no such model folder, and the hub cannot be reached"),
    ):
        with pytest.raises(ModelError, match=problem) as caught:
            load(source)
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="of type 'bert'"):
        load(tmp_path)
    halved = shutil.copytree(public / "clip", tmp_path / "halved")
    weights = AutoModel.from_pretrained(halved).state_dict()
    del weights["visual_projection.weight"]
    AutoModel.from_pretrained(halved).save_pretrained(halved, state_dict=weights)
    with pytest.raises(ModelError, match=r"1 weights are missing, such as visual_projection"):
        load(halved)
    with pytest.raises(ModelError, match=r"clip: embeds, but neither captions nor answers"):
        load(public / "clip").caption("a.mp4")


def test_sentence_transformers_are_used_through_their_encode(public, world, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Transformer

    for name, modality in (("clip", VISION), ("clap", AUDIO)):
        reference = sentence_transformers.SentenceTransformer(
            modules=[Transformer(str(public / name))]
        )
        reference.save_pretrained(str(tmp_path / name))
        model = public_model(tmp_path / name)
        assert model.groups == [modality]
        part = model.read(str(world / "media/test-000000.mp4"), end_s=1.5)
        sound = {"array": part.waveform, "sampling_rate": part.sample_rate_hz}
        given = list(part.frames) if modality == VISION else [sound]
        expected = reference.encode(given, convert_to_tensor=True, normalize_embeddings=True)
        media = model.embed_media([part])[modality]
        torch.testing.assert_close(media.vectors[0], expected)
        expected = reference.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
        torch.testing.assert_close(model.embed_text(TEXTS).vectors[:, 0], expected)
        assert model.fingerprint != public_model(public / name).fingerprint
        assert model.embed_text(["http://x/a.png"]).vectors.shape == (1, 1, 12)


def test_evaluation_measures_what_an_embedder_can_do(public, world):
    model = public_model(f"{public / 'siglip'}+{public / 'clap'}")
    records = read_manifest(world, split="test")
    report = evaluate(model, records, collect(model, records))
    assert list(report["retrieval"]) == ["vision", "audio", "audiovisual"]
    assert report["captioning"] == report["answering"] == {}
    assert report["model"] == model.fingerprint
