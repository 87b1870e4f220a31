"""Resident memory of one process that decodes 500 real and odd media files, one after the other.

The limit is 50 MB of growth after the first 50. The files are those of the folder that the
environment variable `VALOR_TEST_MEDIA` names, in a random order, all before any comes again.
"""

import argparse
import os
import random
import sys
from collections import Counter
from pathlib import Path

import torch

from valor.errors import MediaError
from valor.evaluation.provenance import finish
from valor.media.segments import decode_segment
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.tokenizer import Tokenizer

FOLDER = Path(os.environ.get("VALOR_TEST_MEDIA", Path(__file__).parents[2] / "shared" / "media"))
NUM_SETTLING = 50
LIMIT_MB = 50.0


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def files(num: int) -> list[Path]:
    found = [
        path for part in ("real", "odd") for path in sorted((FOLDER / part / "media").iterdir())
    ]
    shuffled = random.Random(0)
    rounds = [shuffled.sample(found, len(found)) for _ in range(-(-num // len(found)))]
    return [path for paths in rounds for path in paths][:num]


def decode(path: Path, processor: Processor) -> str:
    """Read the first ten seconds and prepare them; returns `ok` or the reason of the error."""
    try:
        processor.prepare(decode_segment(path, processor.plan, end_s=10.0))
    except MediaError as error:
        return error.reason
    return "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="150 decodes")
    arguments = parser.parse_args()
    if not FOLDER.is_dir():
        sys.exit(f"{FOLDER}: no test media; name their folder in VALOR_TEST_MEDIA")
    torch.set_num_threads(1)
    processor = Processor(ProcessorConfig(), Tokenizer.train(["a film"]))
    resident = []
    outcomes: Counter[str] = Counter()
    for path in files(150 if arguments.quick else 500):
        outcomes[decode(path, processor)] += 1
        resident.append(resident_mb())
    settled = resident[NUM_SETTLING - 1]
    figures = {
        "growth_mb": round(max(resident[NUM_SETTLING:]) - settled, 1),
        "growth_at_end_mb": round(resident[-1] - settled, 1),
        "limit_mb": LIMIT_MB,
        "settled_mb": round(settled, 1),
        "num_decodes": len(resident),
        **{f"num_{name}": count for name, count in outcomes.most_common()},
    }
    finish(figures, arguments.json)
    sys.exit(figures["growth_mb"] > LIMIT_MB)


if __name__ == "__main__":
    main()
