"""Released models: every recorded number, every arrangement, every kind of wrong input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from benchmarks import official_parity
from tests.tiny import texts
from valor.checkpoints.folder import load_model
from valor.checkpoints.official import convert
from valor.cli.main import main
from valor.errors import ModelError, ValorError
from valor.processing.spectrogram import SpectrogramConfig
from valor.types import AUDIOVISUAL, Batch, Modality, Tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "official"
FOLDERS = sorted(path.name for path in GOLDEN.iterdir())
STATE = "official_state_dict.safetensors"


@pytest.mark.parametrize("name", FOLDERS)
def test_every_recorded_number_is_reproduced(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["official_parity.py", str(GOLDEN / name)])
    assert official_parity.main() == 0, capsys.readouterr().out


def test_a_number_that_is_off_is_told(tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(GOLDEN / "valor_large_like", tmp_path / "off")
    io = load_file(folder / "io.safetensors")
    io["out.score_ta"] += 1e-3
    io["out.greedy_tokens_tv"] += 1
    save_file(io, folder / "io.safetensors")
    monkeypatch.setattr("sys.argv", ["official_parity.py", str(folder)])
    assert official_parity.main() == 1
    off = [line for line in capsys.readouterr().out.splitlines() if line.startswith("OFF")]
    assert [line.split()[2] for line in off] == ["out.greedy_tokens_tv", "out.score_ta"]


class Source:
    """A released model that a test may change before it is written."""

    def __init__(self, name="valor_large_like"):
        self.weights = load_file(GOLDEN / name / STATE)
        self.described = json.loads((GOLDEN / name / "config.json").read_text())

    @property
    def options(self):
        return self.described["options"]

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, folder / STATE)
        (folder / "config.json").write_text(json.dumps(self.described))
        return folder

    def loaded(self, folder):
        convert(self.write(folder / "source"), folder / "model")
        return load_model(folder / "model")[0]


def released_attention(weights, prefix, query, source):
    """The released cross-attention with residual and norm, computed from the released keys."""

    def linear(name, x):
        return F.linear(x, weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"])

    def heads(x):
        return x.unflatten(-1, (4, -1)).transpose(1, 2)

    q, k, v = (heads(linear(f"cross.{n}", x)) for n, x in
               (("query", query), ("key", source), ("value", source)))  # fmt: skip
    mixed = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
    out = linear("output.dense", mixed.transpose(1, 2).flatten(2)) + query
    norm = f"{prefix}output.LayerNorm."
    return F.layer_norm(out, (32,), weights[f"{norm}weight"], weights[f"{norm}bias"], 1e-12)


@pytest.mark.parametrize("kind", ["va_parallel", "video_audio", "audio_video"])
def test_two_cross_attentions_combine_as_released(kind, tmp_path):
    torch.manual_seed(0)
    source = Source()
    source.options["cross_attn_type"] = kind
    for key in [key for key in source.weights if "cross_attn." in key]:
        for side in ("v", "a"):
            new = key.replace("cross_attn.", f"cross_attn_{side}.")
            source.weights[new] = torch.randn_like(source.weights[key]) * 0.3
        del source.weights[key]
    for key in [key for key in source.weights if key.startswith("txt_encoder.")]:
        source.weights[key] = source.weights[key.replace("txt_", "multimodal_")].clone()
    model = source.loaded(tmp_path)
    media = {m: torch.randn(2, n, 32) for m, n in ((Modality.VISION, 5), (Modality.AUDIO, 3))}
    memory = model.decoder.text.remember(
        {m: Tokens(features=x, valid=torch.ones(x.shape[:2], dtype=bool)) for m, x in media.items()}
    )
    x = torch.randn(2, 4, 32)
    layer = model.decoder.text.layers[0]
    prefix = "multimodal_encoder.encoder.layer.0.cross_attn_"
    for group in (AUDIOVISUAL, Modality.VISION, Modality.AUDIO):
        with torch.no_grad():
            ours = layer._look(x, memory.seen_from(group)[0])
        order = [(s, m) for s, m in (("v", Modality.VISION), ("a", Modality.AUDIO)) if m in group]
        order = order[::-1] if kind == "audio_video" else order
        if kind == "va_parallel":
            wanted = sum(
                released_attention(source.weights, f"{prefix}{s}.", x, media[m]) for s, m in order
            )
        else:
            wanted = x
            for s, m in order:
                wanted = released_attention(source.weights, f"{prefix}{s}.", wanted, media[m])
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def test_a_text_encoder_of_its_own_is_not_the_decoder(tmp_path):
    source = Source("valor_base_like")
    source.options["share_txt_and_multimodal"] = False
    source.weights = {
        key: value + 0.1 if key.startswith("txt_encoder.") else value
        for key, value in source.weights.items()
        if not (key.startswith("txt_encoder.") and "cross_attn" in key)
    }
    model, same = source.loaded(tmp_path / "own"), Source("valor_base_like").loaded(tmp_path)
    words = texts(3, 6)
    assert model.text is not None and same.text is None
    with torch.no_grad():
        assert not torch.allclose(model.encode_text(words).vectors, same.encode_text(words).vectors)
    for name, weight in same.decoder.state_dict().items():
        assert torch.equal(weight, model.decoder.state_dict()[name])


def test_coarse_scores_of_vision_and_audio_add_up_in_late_fusion(tmp_path):
    source = Source("clip_text_coarse")
    source.options["late_fusion"] = True
    del source.weights["va_fusion.weight"], source.weights["va_fusion.bias"]
    model = source.loaded(tmp_path)
    io = load_file(GOLDEN / "clip_text_coarse" / "io.safetensors")
    pixels, sound = io["in.video_pixels"], io["in.audio_spectrograms"]
    batch = Batch(
        ids=list("abcd"),
        pixels=pixels,
        frame_valid=torch.ones(pixels.shape[:2], dtype=torch.bool),
        spectrograms=sound,
        window_valid=torch.ones(sound.shape[:2], dtype=torch.bool),
    )
    batch.window_valid[3] = False
    with torch.no_grad():
        media = model.embed_media(model.encode_media(batch))
    scores = io["out.feat_t"] @ media[AUDIOVISUAL].vectors[:, 0].T
    wanted = io["out.score_tv"] + io["out.score_ta"]
    wanted[:, 3] = io["out.score_tv"][:, 3]
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)


def test_clip_positions_are_resized_to_the_resolution(tmp_path):
    source = Source()
    source.options["video_resolution"] = 96
    position = source.loaded(tmp_path).state_dict()["vision.patch_position"]
    assert position.shape == (1 + 6 * 6, 64)
    small = source.weights["clip_model.visual.positional_embedding"]
    assert torch.equal(position[0], small[0])
    torch.testing.assert_close(position[1], small[1])  # A corner stays where it is.
    torch.testing.assert_close(position[1:].mean(0), small[1:].mean(0), atol=0.02, rtol=0)


def test_frames_beyond_those_of_training_take_the_last_embedding(tmp_path):
    source = Source()
    source.options["video_sample_num"] = 3
    position = source.loaded(tmp_path).state_dict()["memory_projections.vision.position"]
    released = source.weights["video_frame_embedding"][0]
    assert torch.equal(position[:3], released[:3])
    assert torch.equal(position[3:], released[2].expand(29, -1))


def words_of(size):
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    known = dict(enumerate(["describe", "the", "video", "with", "natural", "language"], start=110))
    return [{**special, **known}.get(index, f"word{index}") for index in range(size)]


@pytest.fixture
def released_folder(tmp_path, monkeypatch):
    """As the authors' training leaves it: `ckpt/`, `log/`, several steps."""
    # No `hps.json` says how many heads there are; real ones have 64 dimensions each.
    heads = {"vision": 1, "audio": 4, "bert": 4}
    monkeypatch.setattr(
        "valor.checkpoints.official.Release.heads", lambda _, part, dim: heads.get(part, 1)
    )
    source, folder = Source(), tmp_path / "released"
    (folder / "ckpt").mkdir(parents=True)
    (folder / "log").mkdir()
    source.options.update(video_sample_num=4, audio_sample_num=2, output_dir="x", fp16=True)
    (folder / "log" / "hps.json").write_text(json.dumps(source.options))
    (folder / "vocab.txt").write_text("\n".join(words_of(256)) + "\n")
    weights = {f"module.{name}": tensor for name, tensor in source.weights.items()}
    torch.save(weights, folder / "ckpt" / "model_step_900.pt")
    torch.save({"old": torch.zeros(1)}, folder / "ckpt" / "model_step_89.pt")
    torch.save({"state": 1}, folder / "ckpt" / "optimizer_step_900.pt")
    return folder


def test_a_released_folder_is_converted_as_it_is(released_folder, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["convert", str(released_folder), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["has_words"]
    model, processor, _ = load_model(out)
    assert model.config.prompts.caption == (101, 110, 111, 112, 113, 114, 115, 102)
    sound, frames = processor.config.spectrogram, processor.config.frames
    assert isinstance(sound, SpectrogramConfig)
    assert (sound.sample_rate_hz, sound.window, sound.num_windows) == (22_050, "hann", 2)
    assert (sound.mean, sound.deviation, sound.beyond) == (-4.2677393, 4.5689974, 0.0)
    assert (frames.num_bursts, frames.normalise, frames.crop) == (4, "clip", "stretch")
    ids = processor.encode_texts(["The video, with natural-language!"]).token_ids
    assert ids[0].tolist() == [101, 111, 112, 113, 100, 102]  # "naturallanguage" is no word.


def test_without_words_media_are_embedded_and_texts_refused(tmp_path):
    Source().loaded(tmp_path)
    _, processor, _ = load_model(tmp_path / "model")
    with pytest.raises(ModelError, match=r"vocab\.txt"):
        processor.encode_texts(["a bell rings"])


def wrong_vocabulary(folder):
    (folder / "vocab.txt").write_text("\n".join(words_of(255)))


def truncated(folder):
    path = folder / "ckpt" / "model_step_900.pt"
    path.write_bytes(path.read_bytes()[:5000])


def code_inside(folder):
    torch.save({"a": Path("x")}, folder / "ckpt" / "model_step_900.pt")


def another_model(folder):
    torch.save({"layer.weight": torch.zeros(2)}, folder / "ckpt" / "model_step_900.pt")


def broken_options(folder):
    (folder / "log" / "hps.json").write_text('{"video_resolution": 48,')


def no_weights(folder):
    shutil.rmtree(folder / "ckpt")


def changed(**options):
    def change(folder):
        path = folder / "log" / "hps.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | options))

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_vocabulary, "255 words, but the checkpoint has 256"),
        (truncated, "cannot be read"),
        (code_inside, "could run code"),
        (another_model, "no weight 'multimodal_encoder"),
        (broken_options, "not JSON"),
        (no_weights, "found none"),
        (changed(video_encoder_type="videoswin_base_k600_22k"), "video_encoder"),
        (changed(video_encoder_type="beit"), "wanted clip_vit"),
        (changed(contra_type="coarse"), r"missing \['va_fusion.bias', 'va_fusion.weight'\]"),
        (changed(cross_attn_type="va_parallel"), "cross_attn_a.cross.key.bias"),
        (changed(share_txt_and_multimodal=False), r"left over \['txt_encoder.*cross_attn"),
        (changed(txt_encoder_type="clip_vit_base_16"), "left over"),
        (changed(audio_target_length=512), r"audio\.position \[17, 32\] instead of \[129, 32\]"),
        (changed(late_fusion=True), "late_fusion=True adds coarse scores alone"),
        (changed(caption_type="mlm"), "caption_type='mlm', wanted one of unimlm, lm"),
    ],
)
def test_a_wrong_input_is_one_clear_error_and_writes_nothing(
    spoil, message, released_folder, tmp_path
):
    spoil(released_folder)
    with pytest.raises(ValorError, match=message):
        convert(released_folder, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match="no model folder"):
        convert(GOLDEN / "valor_base_like", tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "mine"
