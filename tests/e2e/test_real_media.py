"""Real recordings: everything that the demo's model offers runs over every one of them."""

import json
import os
from pathlib import Path

import pytest

from valor.inference import load
from valor.media.probe import probe
from valor.search.library import Library
from valor.types import Modality

MEDIA = (
    Path(os.environ.get("VALOR_TEST_MEDIA", Path(__file__).parents[3] / "shared" / "media"))
    / "real"
).resolve()

pytestmark = pytest.mark.skipif(
    not (MEDIA / "manifest.json").is_file(),
    reason=f"{MEDIA} is absent; name a folder of real media in VALOR_TEST_MEDIA",
)


@pytest.fixture(scope="module")
def expected():
    """Path and modalities that can be used, by the notes beside the files."""
    rows = json.loads((MEDIA / "manifest.json").read_text())["files"]
    modalities = {}
    for row in rows:
        audio, group = row["probe"]["audio"], Modality(0)
        if row["probe"]["video"]:
            group |= Modality.VISION
        if audio and (audio["max_db"] is None or audio["max_db"] > -80):
            group |= Modality.AUDIO
        modalities[MEDIA / row["file"]] = group
    return modalities


def test_every_file_is_indexed_captioned_and_answered(expected, model_folder, tmp_path):
    model = load(model_folder)
    library = Library(tmp_path / "real.library", model=model)
    report = library.add(list(expected))
    assert report.bad == []
    assert report.added == len(expected) == 58
    for path, group in expected.items():
        caption = model.caption(path)
        assert caption.modalities_used == group, path
        duration_s = probe(str(path)).duration_s
        for start_s, end_s in caption.segments:
            assert 0 <= start_s < end_s <= duration_s + 0.05
        assert model.ask(path, "what is heard").modalities_used == group
    for using in ("auto", "vision", "audio", "audiovisual"):
        hits = library.search("a dog barks", using=using, limit=500, merged=False)
        assert len(hits) > 100
        for hit in hits:
            assert 0 <= hit.start_s < hit.end_s <= probe(hit.path).duration_s + 0.05
            assert hit.modalities_used in expected[Path(hit.path)]
