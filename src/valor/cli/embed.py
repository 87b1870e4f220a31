"""`valor embed`: write vectors of files to a Parquet file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, TrustCode, parse
from valor.cli.problems import say
from valor.errors import MediaError, ValorError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write one unit vector per segment and group of modalities."""

    model: tyro.conf.Positional[str]
    """Model folder, hub id or VISION+AUDIO."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Videos, sounds or pictures."""
    out: Path
    """Parquet file with columns path, start_s, end_s, group, vector."""
    trust_code: TrustCode = False
    json: Json = False
    """What was written, as a JSON object on stdout."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; a file that cannot be embedded is reported and makes the exit code 1."""
    arguments = parse(Arguments, argv, verb="embed")
    if not arguments.out.resolve().parent.is_dir():
        raise ValorError(f"--out {arguments.out}: its folder is not there; make it first")
    import pyarrow as pa
    from pyarrow import parquet

    from valor.inference import load
    from valor.models.verbs import need_embedder

    model = load(arguments.model, trust_code=arguments.trust_code)
    fingerprint = need_embedder(model).fingerprint
    rows, bad = [], []
    for path in arguments.files:
        try:
            for start_s, end_s, vectors in model.embed(path):
                for group, vector in vectors.items():
                    place = {"path": str(path), "start_s": start_s, "end_s": end_s}
                    rows.append({**place, "group": group.label, "vector": vector})
        except MediaError as error:
            say(error)
            bad.append(str(path))
    if not rows:
        raise MediaError(
            str(arguments.out),
            "nothing_usable",
            "not written, for no file gave a vector; give others",
        )
    partial = arguments.out.with_name(f"{arguments.out.name}.partial")
    table = pa.Table.from_pylist(rows)
    metadata = {"model": fingerprint}
    parquet.write_table(table.replace_schema_metadata(metadata), partial)
    partial.replace(arguments.out)
    summary = {"out": str(arguments.out), "num_vectors": len(rows), "bad": bad}
    line = f"{len(rows)} vectors of {len(arguments.files) - len(bad)} files in {arguments.out}"
    print(json.dumps(summary) if arguments.json else line)
    return 1 if bad else 0
