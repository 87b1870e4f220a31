import torch

from valor.search import tables
from valor.types import Modality


def test_vectors_survive_the_table_in_half_precision(word_model):
    model = word_model()
    embeddings = model.embed_text(["one two three", "four"])
    rows = [{"key": 1, "path": "p", "start_s": float(i), "end_s": 5.0} for i in range(2)]
    media = {Modality.AUDIO: embeddings}
    table = tables.segment_table(rows, media)
    assert table["modalities"].to_pylist() == ["audio", "audio"]
    again = tables.embeddings_of(table.to_batches()[0], Modality.AUDIO)
    assert torch.equal(again.valid, embeddings.valid)
    assert torch.equal(again.vectors, embeddings.vectors.half())
    weights = torch.softmax(embeddings.weight_logits[:1], dim=1)
    seen, heard = torch.tensor(table["pooled"].to_pylist()[0]).chunk(2)
    assert not seen.any()
    assert torch.allclose(heard, (weights @ embeddings.vectors[0])[0], atol=1e-3)
