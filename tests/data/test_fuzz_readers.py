"""Whatever is wrong with a file that readers read: it is read or refused in one line.

`benchmarks/fuzz_readers.py` tries many more, guided by coverage; what it has found stays here.
"""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_readers import PARTS, READERS, mutated, seeds, tried

SEEDS = {reader: seeds(reader) for reader in READERS}
RECORD = {"id": "one", "media": "one.mp4"}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_sound_is_read(reader):
    assert {tried(READERS[reader], content) for content in SEEDS[reader]} == {"read"}


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(number=st.integers(0, 2**32), rounds=st.integers(1, 3))
def test_values_of_any_kind_are_read_or_refused(reader, number, rounds):
    rng = random.Random(number)
    content = rng.choice(SEEDS[reader])
    for _ in range(rounds):
        content = mutated(rng, content) or content
    assert tried(READERS[reader], content) in ("read", "refused"), content


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_bytes_of_any_kind_are_read_or_refused(reader, data):
    content = bytearray(SEEDS[reader][-1])
    at = data.draw(st.integers(0, len(content)))
    content[at : at + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=20))
    assert tried(READERS[reader], bytes(content)) in ("read", "refused"), bytes(content)


def line(**values) -> bytes:
    return json.dumps({**RECORD, **values}).encode()


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        pytest.param(b"[" * 100_000, "refused", id="nested"),
        pytest.param(b'{"id": ' + b"9" * 5000 + b"}", "refused", id="digits"),
        pytest.param(line(start_s=10**400), "refused", id="huge-seconds"),
        pytest.param(line(captions=["\ud800"]), "refused", id="half-a-character"),
        pytest.param(line(captions=["\U0001f514"]), "read", id="two-halves"),
        pytest.param(line(**{"a\nb\x1b[2J": 1}), "refused", id="name-of-two-lines"),
        pytest.param(line(media="//bucket/one.mp4"), "read", id="two-slashes"),
    ],
)
def test_found_in_manifests(content, outcome):
    assert tried(READERS["manifest"], content) == outcome


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("TrainConfig", {"processor": {"spectrogram": True}}),
        ("TrainConfig", {"model": {"vision": {"kind": "vit", "patch_px": 0}}}),
        ("TrainConfig", {"model": {"vision": {"kind": "vit", "frames_per_patch": 0}}}),
        ("TrainConfig", {"model": {"audio": {"kind": "ast", "patch_mels": 0}}}),
        ("TrainConfig", {"model": {"audio": {"kind": "ast", "patch_hops": 0}}}),
        ("TrainConfig", {"processor": {"spectrogram": {"kind": 0.2}}}),
        ("ShardConfig", {"fps": float("nan")}),
        ("ProcessorConfig", []),
    ],
)
def test_found_in_configurations(kind, values):
    content = kind.encode() + PARTS + json.dumps(values).encode()
    assert tried(READERS["config"], content) == "refused"


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        (0, b'"name": "shard-000000"', b'"name": "../shard-000000"'),
        (0, b'"num_samples": 1', b'"num_samples": 2'),
        (0, b'"num_samples": 1', b'"num_samples": -1'),
        (0, b'"num_samples": 1', b'"num_samples": 1e99'),
        (0, b'"shards"', b'"shard"'),
        (1, b'["flac"', b'["/../../flac"'),
        (1, b'["json"', b'["text"'),
        (1, b'["0000.jpg"', b'["flac"'),
        (1, b'"offset":0', b'"offset":-512'),
        (1, b'"offset":0', b'"offset":100000000000000000000'),
        (1, b'"size":', b'"size":1'),
        (2, b"extra", b"other"),
        (2, b"ustar", b""),
    ],
)
def test_forged_shards_are_refused(part, old, new):
    parts = SEEDS["shards"][0].split(PARTS, 2)
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new)
    if old == b"ustar":
        parts[part] = parts[part][:700]
    assert tried(READERS["shards"], PARTS.join(parts)) == "refused"
