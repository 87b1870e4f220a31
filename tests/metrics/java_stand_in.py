#!/usr/bin/env python3
"""Speaks as the programs of METEOR and SPICE do: scores are shares of common words."""

import json
import sys
from pathlib import Path


def shared(candidate: str, references: list[str]) -> float:
    words = set(candidate.split())
    return max(len(words & set(text.split())) / max(1, len(words)) for text in references)


def answer(numbers: list[float]) -> None:
    sys.stdout.writelines(f"{number}\n" for number in numbers)
    sys.stdout.flush()


def meteor() -> None:
    for line in sys.stdin:
        verb, *parts = line.strip().split(" ||| ")
        if verb == "SCORE":
            answer([shared(parts[-1], parts[:-1])])
        else:
            items = list(map(float, parts))
            answer([*items, max(items)])


def spice(given: Path, out: Path) -> None:
    rows = [
        {"image_id": row["image_id"], "scores": {"All": {"f": shared(row["test"], row["refs"])}}}
        for row in json.loads(given.read_text())
    ]
    out.write_text(json.dumps(rows))


if __name__ == "__main__":
    if "-stdio" in sys.argv:
        meteor()
    else:
        place = sys.argv.index("spice-1.0.jar")
        spice(Path(sys.argv[place + 1]), Path(sys.argv[sys.argv.index("-out") + 1]))
