"""Every command and block of code in the documentation runs as it stands.

The names that pages use are made once: a rendered world, a model of a few steps, public models of
random weights, a released checkpoint, a server that speaks for a language model. Training is cut to
two steps. Blocks that need a hub, a cloud or a cluster say so in a comment before them,
`<!-- not run: hub -->`. The README runs after the demo itself, in `tests/e2e`.
"""

import itertools
import json
import re
import shutil
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from tests.checkpoints.conftest import (
    pe_av_without_timm,
    save_clap,
    save_pe_av,
    save_siglip2,
    save_tokenizer,
)
from tests.checkpoints.test_endpoint import Server
from tests.checkpoints.test_official import words_of
from tests.docs.blocks import (
    LANGUAGES,
    ROOT,
    RUN,
    Block,
    blocks,
    commands,
    count_run,
    pages,
    run_command,
)
from valor import recipes
from valor.config import evolve
from valor.data.building.annotations import Action, AnnotationStore
from valor.data.manifest import read_manifest
from valor.recipes.template_language import train_language_model

BLOCKS = [block for page in pages() for block in blocks(page)]
RUN_ELSEWHERE = ("README.md",)
LONG = ("benchmarks/README.md",)
MOST_NOT_RUN = 10
COMMAND = re.compile(r"(?:\$ )?(?:(?:valor|torchrun|python|pip|make|ray|curl) |[A-Z_]+=)")
PAGES = [
    pytest.param(page, marks=[pytest.mark.slow] if page in LONG else [])
    for page in sorted({block.page for block in BLOCKS if not block.reason} - {*RUN_ELSEWHERE})
]
VIDEOS = ("street.mp4", "film.mp4", "videos/one.mp4", "videos/video7010.mp4")
SOUNDS = ("knock.wav", "thunder.wav", "dog.wav")
GOLDEN = ROOT / "tests/golden/official/valor_base_like"


@pytest.fixture(scope="module")
def prepared(
    world: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder with everything that pages name and do not make."""
    folder = tmp_path_factory.mktemp("named")
    for name in ("videos", "recordings", "my", "set", "Videos"):
        shutil.copytree(world, folder / name)
    for name in VIDEOS:
        shutil.copy(world / "media/test-000000.mp4", folder / name)
    for name in SOUNDS:
        write_sound(folder / name)
    for name in ("demo", "quick"):
        shutil.copytree(model_folder, folder / "runs" / name / "model")
    shutil.copytree(world, folder / "runs/demo/world")
    train_language_model(
        read_manifest(world), folder / "path/or/hub-id/of/a/causal/model", num_steps=2
    )
    shutil.copytree(GOLDEN, folder / "VALOR-base")
    for name in ("benchmarks", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "VALOR-base/vocab.txt").write_text("\n".join(words_of(256)) + "\n")
    write_own_videos(folder / "my-videos", world / "media/test-000000.mp4")
    write_annotations(folder)
    write_predictions(folder)
    with pe_av_without_timm():
        write_public_models(folder)
        yield folder


def write_sound(path: Path) -> None:
    """A second of a tone."""
    tone = np.sin(np.arange(16_000) * 0.2) * 8000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(tone.astype(np.int16).tobytes())


def write_own_videos(folder: Path, video: Path) -> None:
    """Videos with their captions beside them, in two splits."""
    for split, name in itertools.product(("train", "test"), ("one", "two")):
        clip = folder / split / f"{split}-{name}.mp4"
        clip.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, clip)
        clip.with_suffix(".txt").write_text(f"a bell rings {name} times\n")


def write_predictions(folder: Path) -> None:
    """What `valor score` compares."""
    for name, content in (
        ("candidates", {"a": "a bell rings", "b": "a dog barks"}),
        ("references", {"a": ["a bell is ringing"], "b": ["the dog barks"]}),
        ("answers", {"1": "yes"}),
        ("right", [{"question_id": "1", "answer": "yes", "type": ["Audio", "Counting"]}]),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    np.save(folder / "scores.npy", np.random.default_rng(0).random((10, 2)).astype("float32"))


def write_public_models(folder: Path) -> None:
    """Random weights under the names of models of the hub."""
    for name, save in (
        ("google/siglip2-base-patch16-224", save_siglip2),
        ("laion/clap-htsat-unfused", save_clap),
        ("facebook/pe-av-small", save_pe_av),
    ):
        save(folder / name)
        save_tokenizer(folder / name)
    tower = folder / "MIT/ast-finetuned-audioset-10-10-0.4593"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_mel_bins": 32, "max_length": 64}
    ASTModel(ASTConfig(**sizes, intermediate_size=16)).save_pretrained(tower)
    ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(tower)


def write_annotations(folder: Path) -> None:
    """Lists of MSR-VTT and of words, and a store with one caption that has been accepted."""
    captions = [{"video_id": "video7010", "caption": "a bell rings"}]
    (folder / "MSRVTT_data.json").write_text(json.dumps({"sentences": captions, "videos": []}))
    lines = "key,vid_key,video_id,sentence\nret0,msr7010,video7010,a bell rings\n"
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(lines)
    for name in ("audio_concepts.txt", "sounds.txt"):
        (folder / name).write_text("bell\n")
    store = AnnotationStore(folder / "set/captions.sqlite")
    store.add(folder / "set/manifest.jsonl")
    number = store.take("ann", "write").slot.number
    store.act("ann", Action.WRITE, number, "a bell rings")
    store.take("ben", "check")
    store.act("ben", Action.ACCEPT, number)
    store.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch):
    """The address of a language model on this machine, which always says the same."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe, in two steps."""
    find = recipes.find_recipe
    shortened = {"num_steps": 2, "batch_size": 4}

    def find_short(name: str, **options: str):
        found = find(name, **options)
        epochs = {"num_epochs": 1} if getattr(found, "num_epochs", None) else {}
        return evolve(found, shortened | epochs)

    monkeypatch.setattr(recipes, "find_recipe", find_short)


def run_block(block: Block, names: dict, endpoint: str) -> None:
    if named := re.match(r"# (\w+\.py)\n", block.code):
        Path(named[1]).write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.code, block.where, "exec"), names)
    elif block.language == "json":
        Path("block.jsonl").write_text(block.code)
        assert read_manifest("block.jsonl")
    else:
        for words in commands(block.code):
            run_command(words, endpoint)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(
    page: str, prepared: Path, endpoint: str, short_training, tmp_path, monkeypatch, record_property
):
    folder = tmp_path / "reader"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.syspath_prepend(folder)
    names: dict = {}
    found = [block for block in blocks(page) if not block.reason]
    for block in found:
        run_block(block, names, endpoint)
    record_property(RUN, len(found))


def test_few_blocks_are_not_run():
    skipped = [block for block in BLOCKS if block.reason]
    assert len(BLOCKS) - len(skipped) >= 15
    assert len(skipped) <= MOST_NOT_RUN, [block.where for block in skipped]


def fences(text: str) -> Iterator[tuple[str, list[str]]]:
    """Language and lines of each fence, by one look at every line."""
    language, inside, is_open = "", [], False
    for line in text.splitlines():
        if fence := re.match(r"\s*(?:```|~~~)(.*)", line):
            if is_open:
                yield language, inside
            language, inside, is_open = fence[1].strip(), [], not is_open
        elif is_open:
            inside.append(line)
    assert not is_open, "a fence has no end"


@pytest.mark.parametrize("page", pages())
def test_no_block_is_overlooked(page: str):
    """Those found are all that are fenced, and no command is fenced as something else."""
    fenced = list(fences((ROOT / page).read_text(encoding="utf-8")))
    seen = [(block.language, block.code.splitlines()) for block in blocks(page)]
    assert [fence for fence in fenced if fence[0] in LANGUAGES] == seen
    others = [line for language, lines in fenced if language not in LANGUAGES for line in lines]
    assert not [line for line in others if COMMAND.match(line)]


@pytest.mark.parametrize("line", ["valor serve x", "torchrun -m x", "$ TOKEN=a valor serve x"])
def test_a_command_is_known_by_its_beginning(line: str):
    assert COMMAND.match(line)
    assert not COMMAND.match(f"usage: {line}")


def test_a_mark_is_of_the_block_below_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    mark = "<!-- not run: hub -->"
    text = f"{mark}\n```sh\na\n```\n\n```sh\nb\n```\n\n{mark}\n```python\nc\n```\n"
    (tmp_path / "page.md").write_text(text)
    found = [(block.line, block.code, block.reason) for block in blocks("page.md")]
    assert found == [(2, "a\n", "hub"), (6, "b\n", None), (11, "c\n", "hub")]


def test_a_run_of_the_tests_tells_how_many_blocks_ran():
    reports = [
        pytest.TestReport("a", ("a", 0, "a"), {}, "passed", None, "call", user_properties=[told])
        for told in ((RUN, 3), (RUN, 4), ("other", 5))
    ]
    marked = sum(block.reason is not None for block in BLOCKS)
    assert count_run(reports) == f"7 blocks of README and docs run, {marked} marked as not run"
