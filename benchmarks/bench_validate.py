"""Checking a manifest of 100 000 records and the presence of their media, against parsing its JSON.

The limit: 20 s, whatever else it does with a line than Python's own parser.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from valor.data.validate import validate
from valor.evaluation.provenance import finish


def write_manifest(folder: Path, num: int) -> Path:
    """Records with five captions and a question each, on files that are there."""
    (folder / "media").mkdir()
    lines: list[str] = []
    for number in range(num):
        media = f"media/{number:06d}.mp4"
        (folder / media).touch()
        captions = [f"recording {number} in the words of person {n}" for n in range(5)]
        question = {"question": "what rings", "answers": ["a bell"], "needs": "audio"}
        row = {"id": str(number), "media": media, "captions": captions, "questions": [question]}
        lines.append(json.dumps(row) + "\n")
    path = folder / "manifest.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="5 000 records")
    arguments = parser.parse_args()
    num = 5_000 if arguments.quick else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = write_manifest(Path(folder), num)
        begin_s = time.perf_counter()
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)
        parsed_s = time.perf_counter() - begin_s
        begin_s = time.perf_counter()
        report = validate(path)
        validated_s = time.perf_counter() - begin_s
    figures = {
        "over_parsing": round(validated_s / parsed_s, 2),
        "validate_s": round(validated_s, 2),
        "num_records": report.num_records,
        "num_errors": len(report.errors),
    }
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
