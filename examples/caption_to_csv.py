"""Caption every recording below a folder, into a table.

    python examples/caption_to_csv.py MODEL FOLDER OUT.csv

MODEL is a model folder, or an endpoint as http://localhost:8000/v1#NAME. A file without sound is
described from its picture, and the table says so; a file that cannot be read has its reason there.
"""

import csv
import sys
from pathlib import Path

import valor
from valor.errors import MediaError
from valor.search.ingest import find_files


def main(model: str, folder: str, out: str) -> None:
    """Write one row per file: path, caption, what it was made from, and what went wrong."""
    describer = valor.load(model)
    with Path(out).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption", "from", "problem"])
        for path in find_files([folder]):
            try:
                caption = describer.caption(path)
                writer.writerow([path, caption.text, caption.modalities_used.label, ""])
            except MediaError as error:
                writer.writerow([path, "", "", error.detail])


if __name__ == "__main__":
    main(*sys.argv[1:])
