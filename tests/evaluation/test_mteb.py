"""MTEB runs a model folder on a local task of rendered media."""

import numpy as np
import pytest
import torch

from valor.data.manifest import read_manifest
from valor.evaluation.mteb import MtebEncoder
from valor.inference import load
from valor.metrics.retrieval import ndcg
from valor.models.fusion import join, pooled
from valor.types import AUDIOVISUAL, Modality

mteb = pytest.importorskip("mteb")


@pytest.fixture(scope="module")
def measured(world, model_folder):
    """The encoder, and the records with their segments."""
    model = load(model_folder)
    records = read_manifest(world, split="test")
    return MtebEncoder(str(model_folder), embedder=model), model, records


def row(segment) -> dict:
    return {
        "video": segment.frames.transpose(0, 3, 1, 2).tolist(),
        "audio": {"array": segment.waveform.tolist(), "sampling_rate": segment.sample_rate_hz},
    }


def local_task(records, segments):
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from mteb.abstasks.retrieval import AbsTaskRetrieval  # pyright: ignore[reportMissingImports]
    from mteb.abstasks.task_metadata import TaskMetadata  # pyright: ignore[reportMissingImports]

    class Rendered(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Rendered", description="Rendered recordings by their captions.",
            dataset={"path": "local", "revision": "1"}, type="Any2AnyRetrieval",
            category="t2va", modalities=["text", "video", "audio"], eval_splits=["test"],
            eval_langs=["eng-Latn"], main_score="ndcg_at_10", reference=None, date=None,
            domains=None, task_subtypes=None, license=None, annotations_creators=None,
            dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip

        def load_data(self, *args, **kwargs):
            ids = [record.id for record in records]
            captions = [record.captions[0].text for record in records]
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_list(
                            [{"id": id, **row(s)} for id, s in zip(ids, segments, strict=True)]
                        ),
                        "queries": Dataset.from_dict({"id": ids, "text": captions}),
                        "relevant_docs": {id: {id: 1} for id in ids},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return Rendered()


@pytest.mark.filterwarnings("ignore")
def test_a_model_folder_runs_on_a_local_task(measured):
    encoder, model, records = measured
    assert isinstance(encoder, mteb.models.EncoderProtocol)
    segments = [model.read(record.media) for record in records]
    task = local_task(records, segments)
    found = mteb.evaluate(
        encoder, task, cache=None, co2_tracker=False, show_progress_bar=False
    ).task_results[0]
    media = join(model.embed_media(segments), AUDIOVISUAL)
    texts = model.embed_text([record.captions[0].text for record in records])
    expected = ndcg((pooled(texts) @ pooled(media).T).numpy(), np.eye(len(records), dtype=bool))
    assert found.scores["test"][0]["ndcg_at_10"] == pytest.approx(expected, abs=1e-4)


def test_an_embedder_that_only_says_how_it_reads_is_enough(measured):
    encoder, model, records = measured

    class Other:
        """Like a public model, without a processor."""

        plan = None
        groups, segment_s, fingerprint = model.groups, model.segment_s, "other"
        read, embed_media, embed_text = model.read, model.embed_media, model.embed_text

    with pytest.raises(TypeError, match="plan"):
        MtebEncoder("other", embedder=Other())
    Other.plan = model.plan
    segments = [model.read(record.media) for record in records[:2]]
    found, wanted = (
        by.encode(torch.utils.data.DataLoader([row(segment) for segment in segments]))
        for by in (MtebEncoder("other", embedder=Other()), encoder)
    )
    np.testing.assert_array_equal(found, wanted)


def test_an_item_without_sound_is_embedded_from_its_pictures(measured):
    encoder, model, records = measured
    segment = model.read(records[0].media)
    loader = torch.utils.data.DataLoader([{"video": row(segment)["video"]}], batch_size=1)
    found = encoder.encode(loader)
    media = model.embed_media([segment])
    expected = pooled(media[Modality.VISION]).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
