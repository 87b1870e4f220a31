"""Laws of the protocols: every record is whole, and none names what is not there."""

import pytest

from valor.config import from_dict, to_dict
from valor.data.sources.formats import FORMATS
from valor.errors import UsageError
from valor.protocols import PROTOCOLS, Protocol, find_protocol
from valor.types import AUDIOVISUAL, Modality

METRICS = {
    "retrieval": {"r1", "r5", "r10"},
    "captioning": {"bleu4", "meteor", "rouge_l", "cider"},
    "answering": {"accuracy"},
}


def test_every_benchmark_of_the_paper_has_a_record_and_so_has_data_of_your_own():
    tasks = [protocol.task for protocol in PROTOCOLS]
    counts = {task: tasks.count(task) for task in METRICS}
    assert counts == {"retrieval": 11, "captioning": 8, "answering": 7}
    assert len({protocol.name for protocol in PROTOCOLS}) == len(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_a_record_is_whole_and_survives_json(protocol):
    assert from_dict(Protocol, to_dict(protocol)) == protocol
    assert find_protocol(protocol.name) is protocol
    assert protocol.groups
    assert protocol.format in FORMATS or protocol.format is None
    for row in (*protocol.published, *protocol.released):
        assert row.figures.keys() <= METRICS[protocol.task]
        assert all(0 < figure < 2 for figure in row.figures.values())
        recalls = [row.figures[name] for name in ("r1", "r5", "r10") if name in row.figures]
        assert recalls == sorted(recalls)


def test_the_first_row_is_the_one_that_the_author_confirmed():
    protocol = find_protocol("msrvtt-1ka")
    assert {row.group: row.figures for row in protocol.released} == {
        AUDIOVISUAL: {"r1": 0.43, "r5": 0.721, "r10": 0.821},
        Modality.VISION: {"r1": 0.399, "r5": 0.692, "r10": 0.788},
    }
    assert (protocol.num_test, protocol.captions_per_item) == (1000, 1)
    assert (protocol.training.frames, protocol.testing.frames) == (4, 8)


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown protocol 'msrvtt'; there is msrvtt-1ka"):
        find_protocol("msrvtt")
