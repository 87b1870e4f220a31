"""Laws of the two-stage recipe and of the model folder that it leaves."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from valor.checkpoints.folder import load_model, weights_of
from valor.cli.main import main
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.data.reading import FileSource
from valor.errors import ConfigError, LibraryError, ModelError
from valor.evaluation.run import evaluate
from valor.inference import load
from valor.processing.tokenizer import Tokenizer
from valor.recipes.bridge import (
    TINY_PROCESSOR,
    BridgeParts,
    assemble,
    bridge_captions,
    bridge_encoders,
    train_bridge,
)
from valor.recipes.template_language import train_language_model
from valor.search.library import Library
from valor.training.adapt import merged
from valor.training.probe import HeldOut, ProbeConfig
from valor.training.run import run
from valor.types import AUDIOVISUAL, Describer, Embedder, Modality

PARTS = evolve(
    BridgeParts(),
    {
        **{f"{part}.num_layers": 1 for part in ("vision", "audio", "qformer")},
        **{"qformer.num_vision_queries": 2, "qformer.num_audio_queries": 2},
    },
)


@pytest.fixture(scope="module")
def language_model(world, tmp_path_factory):
    """Trained for a moment on the world's texts; a folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("hub") / "small"
    return train_language_model(read_manifest(world), folder, num_steps=12)


@pytest.fixture(scope="module")
def trained(world, language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridge")
    start = assemble(language_model, folder / "start", parts=PARTS)
    records = read_manifest(world, split="train")
    return start, train_bridge(start, records, folder, num_steps=(2, 2))


def test_a_run_over_a_language_model_whose_words_are_tied_can_be_looked_at(trained, world):
    model, processor, _ = load_model(trained[0])
    assert any("lm_head" in name for name in model.state_dict().keys() - weights_of(model))
    objectives = [bridge_captions().objectives]
    source = FileSource(read_manifest(world, split="test")[:3])
    look = HeldOut(model, processor, source, objectives, ProbeConfig(every=1))
    assert "probe/cider/audiovisual" in look(merged(model, {}))


def test_the_language_model_learns_from_texts_without_any_media(language_model, world):
    own = AutoModelForCausalLM.from_pretrained(language_model)
    tokenizer = Tokenizer.for_language_model(language_model)
    texts = [c.text for record in read_manifest(world) for c in record.captions]
    batch = tokenizer.encode(texts, max_length=64)
    assert (batch.token_ids[:, 0] == tokenizer.special.start).all()
    labels = batch.token_ids.masked_fill(~batch.valid, -100)
    loss = own(batch.token_ids, attention_mask=batch.valid.long(), labels=labels).loss
    assert loss < 0.9 * math.log(tokenizer.vocab_size)
    assert tokenizer.decode(batch.token_ids[:1]) == texts[:1]


def test_both_stages_train_and_the_language_model_is_the_one_that_came(trained, language_model):
    model = trained[1]
    before, after = (load_file(folder / "model.safetensors") for folder in trained)
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) is name.startswith("decoder."), name
    own = dict(AutoModelForCausalLM.from_pretrained(language_model).named_parameters())
    prefix = "decoder.tower.model."
    for name, weight in own.items():
        assert torch.equal(after[prefix + name], weight), name
    captions = (model.parents[1] / "captions/metrics.jsonl").read_text().splitlines()
    assert "answer/audiovisual" not in json.loads(captions[0])
    answers = (model.parents[1] / "answers/metrics.jsonl").read_text().splitlines()
    assert {"answer/audiovisual", "caption/audiovisual"} <= json.loads(answers[0]).keys()


def test_a_loaded_bridge_describes_and_does_not_embed(trained, world, capsys, tmp_path):
    model = load(trained[1])
    assert isinstance(model, Describer)
    assert not isinstance(model, Embedder)
    video = next((world / "media").glob("test-*.mp4"))
    assert model.caption(video).modalities_used == AUDIOVISUAL
    assert model.ask(video, "what is heard", using=Modality.AUDIO).modalities_used == Modality.AUDIO
    with pytest.raises(ModelError, match="does not embed"):
        model.embed(video)
    assert main(["caption", str(trained[1]), str(video), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modalities_used"] == "audiovisual"
    assert main(["ask", str(trained[1]), str(video), "what is heard"]) == 0
    report = evaluate(model, read_manifest(world, split="test")[:2])
    assert report["retrieval"] == {}
    assert report["answering"]["audiovisual"]["num"] > 0
    with pytest.raises(LibraryError, match="does not embed"):
        Library(tmp_path / "library", model=model)


def test_the_folder_is_read_as_strictly_as_any_other(trained, tmp_path):
    system, processor, fingerprint = load_model(trained[1])
    assert system.config.kind == "bridge"
    assert processor.tokenizer.vocab_size == system.config.vocab_size
    assert load_model(trained[1])[2] == fingerprint != load_model(trained[0])[2]
    values = json.loads((trained[1] / "config.json").read_text())
    values["valor"]["qformer"]["num_layer"] = 3
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in trained[1].iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"qformer\.num_layer: unknown key"):
        load_model(copied)


def test_low_rank_updates_are_merged_into_the_folder(trained, world, tmp_path):
    records = read_manifest(world, split="train")
    changes = {"model.path": str(trained[0]), "num_steps": 1, "adapt.lora_rank": 2}
    model = run(evolve(bridge_captions(), changes), records, tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (trained[0], model))
    assert before.keys() == after.keys()
    changed = {n for n in before if n.startswith("decoder.") and not before[n].equal(after[n])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}


def test_preprocessing_that_does_not_fit_the_folders_model_is_refused(trained, world, tmp_path):
    changes = {"model.path": str(trained[0]), "processor.frames.image_px": 64}
    with pytest.raises(ConfigError, match="image_px=64"):
        run(evolve(bridge_captions(), changes), read_manifest(world), tmp_path / "run")


def test_a_missing_language_model_is_one_clear_error(tmp_path):
    with pytest.raises(ModelError, match="no language model can be loaded"):
        assemble(tmp_path / "nothing", tmp_path / "out")


def test_the_encoders_of_a_valor_model_are_taken_over(world, language_model, tmp_path):
    changes = {"num_steps": 1, **{f"model.{part}.num_layers": 1 for part in ("vision", "audio")}}
    records = read_manifest(world, split="train")
    encoders = run(evolve(bridge_encoders(), changes), records, tmp_path / "contrast")
    bridge, processor, _ = load_model(
        assemble(language_model, tmp_path / "start", encoders=encoders, parts=PARTS)
    )
    valor, own, _ = load_model(encoders)
    for part in ("vision", "audio"):
        taken = getattr(bridge, part).state_dict()
        wanted = getattr(valor, part).state_dict()
        assert taken.keys() == wanted.keys()
        assert all(torch.equal(taken[key], wanted[key]) for key in wanted)
    assert processor.config == own.config
    other = evolve(TINY_PROCESSOR, {"frames.image_px": 64})
    with pytest.raises(ConfigError, match="image_px"):
        assemble(language_model, tmp_path / "no", encoders=encoders, processing=other)
