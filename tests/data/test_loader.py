"""Laws of reading for training: every step is arithmetic, whoever reads it, from wherever on."""

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from valor.config import evolve
from valor.data.executors import LocalExecutor
from valor.data.loader import Loader, ReadingConfig
from valor.data.manifest import Record, read_manifest
from valor.data.mixture import Mixture
from valor.data.reading import Draw, FileSource, ShardSource, Source
from valor.data.sharding import ShardConfig, shard
from valor.data.shards import Shards
from valor.errors import ValorError
from valor.processing.augment import AugmentConfig
from valor.processing.processor import Processor
from valor.recipes.tiny import tiny
from valor.types import Sample

SMALL = {"frames.image_px": 32, "spectrogram.hops_per_window": 100, "spectrogram.num_windows": 2}
PROCESSOR = Processor(evolve(tiny().processor, SMALL), None)
STEPS = 30


@pytest.fixture(scope="module")
def sources(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """The same world as shards and as files."""
    records = read_manifest(world)[:10]
    out = tmp_path_factory.mktemp("sharded") / "shards"
    config = ShardConfig(records_per_shard=4, short_side_px=40, fps=8.0)
    assert shard(records, out, config, LocalExecutor(1))
    return [ShardSource(Shards(out)), FileSource(records[:3])]


def loader(sources: list[Source], *, rank: int = 0, num_ranks: int = 1, **config) -> Loader:
    mixture = Mixture([len(s) for s in sources], batch_size=4, seed=5, weights=[5.0, 1.0])
    reading = ReadingConfig(augment=AugmentConfig(flip=0.5), **config)
    return Loader(
        sources=sources,
        mixture=mixture,
        processor=PROCESSOR,
        config=reading,
        seed=5,
        rank=rank,
        num_ranks=num_ranks,
    )


def digest(sample: Sample) -> str:
    """A hash of everything that the model sees of it."""
    arrays = (sample.pixels, sample.spectrograms)
    content = b"".join(a.tobytes() for a in arrays if a is not None)
    return f"{sample.id} {hashlib.sha256(content).hexdigest()}"


def seen(reader: Loader, first: int, end: int) -> Iterator[list[str]]:
    with closing(reader):
        for step in reader.steps(first, end):
            yield [digest(sample) for sample in step.samples]


@pytest.fixture(scope="module")
def undisturbed(sources: list[Source]) -> list[list[str]]:
    return list(seen(loader(sources), 0, STEPS))


def test_resuming_at_any_step_gives_the_same_samples_for_any_workers_and_ranks(
    sources, undisturbed
):
    """20 random steps; readers alternate between 0, 1, 2 workers and 1, 2 ranks."""
    rng = np.random.default_rng(0)
    readers = [{"workers": 0}, {"workers": 1}, {"workers": 2}]
    for number, first in enumerate(rng.choice(STEPS - 2, 20, replace=False)):
        workers, num_ranks = readers[number % 3], 1 + number // 3 % 2
        shares = [
            list(seen(loader(sources, rank=rank, num_ranks=num_ranks, **workers), first, first + 2))
            for rank in range(num_ranks)
        ]
        for place, whole in enumerate(undisturbed[first : first + 2]):
            for rank, share in enumerate(shares):
                assert share[place] == whole[rank::num_ranks]


def test_processes_read_what_one_thread_reads(sources, undisturbed):
    reader = loader(sources, rank=1, num_ranks=2, workers=2, worker_kind="process")
    assert list(seen(reader, 11, 15)) == [whole[1::2] for whole in undisturbed[11:15]]


def test_samples_change_from_step_to_step_and_with_the_seed(sources):
    views = {
        digest(sources[0].load(3, PROCESSOR, Draw(seed=seed, step=step))[1])
        for seed, step in ((0, 0), (0, 1), (1, 0))
    }
    assert len(views) == 3


@pytest.mark.parametrize("record", range(3))
def test_shards_show_what_files_show(sources, record):
    """Both as inference sees it and in a draw, up to JPEG and 16 bits."""
    stored, decoded = sources
    for draw in (None, Draw(seed=1, step=2)):
        (left, shown), (right, wanted) = (
            s.load(record, PROCESSOR, draw) for s in (stored, decoded)
        )
        assert left == right
        assert shown.pixels.shape == wanted.pixels.shape
        assert np.abs(shown.pixels.astype(int) - wanted.pixels).mean() < (12 if draw else 4)
        assert (shown.spectrograms is None) == (wanted.spectrograms is None)
        if wanted.spectrograms is not None:
            assert shown.spectrograms.shape == wanted.spectrograms.shape
            assert np.abs(shown.spectrograms - wanted.spectrograms).mean() < 0.05


class Bad:
    """A source of which some rows fail, one kills its process."""

    def __init__(self, source: Source, rows: dict[int, str]) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int, processor: Processor, draw: Draw | None) -> tuple[Record, Sample]:
        if self.rows.get(index) == "crashed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.rows:
            raise OSError(self.rows[index])
        return self.source.load(index, processor, draw)


def test_what_fails_is_left_out_and_counted_and_nothing_takes_its_place(sources, undisturbed):
    bad = [Bad(sources[0], {2: "no such file"}), sources[1]]
    reader = loader(bad, workers=2, max_bad_fraction=0.5)
    steps = list(seen(reader, 0, 10))
    num_failed = 0
    for step, (left, whole) in enumerate(zip(steps, undisturbed, strict=False)):
        source, rows = reader.mixture.rows(step)
        assert left == [text for text, row in zip(whole, rows, strict=True) if source or row != 2]
        num_failed += len(whole) - len(left)
    assert reader.bad == {"failed": num_failed}
    assert num_failed > 0


def test_a_file_that_kills_its_process_is_one_that_cannot_be_read(sources):
    bad = [Bad(sources[0], {2: "crashed"}), sources[1]]
    reader = loader(bad, workers=1, worker_kind="process", max_bad_fraction=0.5)
    steps = [reader.mixture.rows(step) for step in range(3)]
    expected = [4 - int((rows == 2).sum()) * (source == 0) for source, rows in steps]
    assert [len(step) for step in seen(reader, 0, 3)] == expected
    assert reader.bad == {"crashed": 12 - sum(expected)}
    assert sum(expected) < 12


def test_too_many_bad_records_stop_the_run(sources):
    bad = [Bad(sources[0], {row: "gone" for row in range(10)}), sources[1]]
    with pytest.raises(ValorError, match=r"2 of \d+ .*failed 2.*max_bad_fraction=0.01.*gone"):
        list(seen(loader(bad), 0, 10))
