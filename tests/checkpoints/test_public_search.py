"""Public models from the command line: index, search and evaluate before anyone has trained."""

import json
import shutil
import wave
from pathlib import Path

import pytest
import torch
from PIL import Image

from valor.cli.main import main
from valor.inference import load
from valor.models.fusion import join, similarity
from valor.models.verbs import need_embedder
from valor.types import AUDIOVISUAL


@pytest.fixture
def media(world, tmp_path) -> Path:
    """Two videos, a picture and a sound."""
    folder = tmp_path / "media"
    folder.mkdir()
    for name in ("test-000000.mp4", "test-000003.mp4"):
        shutil.copy(world / "media" / name, folder)
    Image.new("RGB", (64, 48), "red").save(folder / "picture.png")
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes((torch.rand(16_000) * 9999).short().numpy().tobytes())
    return folder


@pytest.fixture
def run(capsys):
    """Run a command line; give exit code, standard output and standard error."""

    def run(*words: object) -> tuple[int, str, list[str]]:
        code = main(list(map(str, words)))
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("valor:")]
        return code, captured.out, errors

    return run


def test_two_public_models_index_and_search_from_anywhere(public, media, run, monkeypatch):
    library = media.parent / "library"
    monkeypatch.chdir(public)
    code, out, _ = run("index", library, media, "--model", "siglip+clap", "--json")
    assert (code, json.loads(out)["added"]) == (0, 4)
    monkeypatch.chdir(media)
    code, out, _ = run("search", library, "a red circle", "--using", "audiovisual", "--json")
    hits = json.loads(out)
    used = {Path(hit["path"]).name: hit["modalities_used"] for hit in hits}
    both = dict.fromkeys(("test-000000.mp4", "test-000003.mp4"), "audiovisual")
    assert used == {**both, "picture.png": "vision", "sound.wav": "audio"}
    assert code == 0
    model = need_embedder(load(f"{public / 'siglip'}+{public / 'clap'}"))
    for hit in hits:
        embedded = join(model.embed_media([model.read(hit["path"])]), AUDIOVISUAL)
        score = similarity(model.embed_text(["a red circle"]), embedded).item()
        assert hit["score"] == pytest.approx(score, abs=2e-3)
    assert hits == sorted(hits, key=lambda hit: -hit["score"])
    code, _, errors = run("search", library, "bell", "--model", public / "clip")
    assert (code, len(errors)) == (1, 1)
    assert "index again with `valor index --rebuild`" in errors[0]


def test_pe_av_finds_pictures_by_sound(pe_av, media, run):
    library = media.parent / "library"
    assert run("index", library, media, "--model", pe_av)[0] == 0
    words = ("search", library, media / "sound.wav", "--by", "audio", "--using", "vision", "--json")
    code, out, _ = run(*words)
    scores = {Path(hit["path"]).name: hit["score"] for hit in json.loads(out)}
    assert code == 0
    assert scores.keys() == {"test-000000.mp4", "test-000003.mp4", "picture.png"}
    assert len({round(score, 4) for score in scores.values()}) == 3


def test_what_a_model_cannot_do_is_one_clear_line(public, media, run):
    library, video = media.parent / "library", media / "test-000000.mp4"
    endpoint = "http://127.0.0.1:1/v1#none"
    for words, problem in (
        (("caption", public / "clip", video), "embeds, but neither captions nor answers"),
        (("ask", public / "clip", video, "what?"), "embeds, but neither captions nor answers"),
        (("embed", endpoint, video, "--out", media / "x.parquet"), "describes, but does not embed"),
        (("index", library, media, "--model", endpoint), "127.0.0.1:1/v1#none does not embed"),
        (
            ("index", library, media, "--model", public / "clip", "--describer", public / "clap"),
            "embeds, but neither captions nor answers",
        ),
    ):
        code, out, errors = run(*words)
        assert (code, out, len(errors)) == (1, "", 1)
        assert problem in errors[0]
    assert not library.exists()


def test_an_embedder_is_evaluated_and_embeds_by_group(public, world, media, run, tmp_path):
    out = tmp_path / "report"
    code, text, _ = run("evaluate", public / "clip", "--data", world, "--out", out, "--json")
    report = json.loads(text)
    assert (code, list(report["retrieval"]), report["captioning"]) == (0, ["vision"], {})
    assert report["by_caption"].keys() == {"vision", "audiovisual"}
    assert (out / "report.html").is_file()
    assert run("embed", public / "clip", *media.iterdir(), "--out", tmp_path / "x.parquet")[0] == 0
