"""`valor data annotate`: a page where people write captions and check each other's."""

import dataclasses
import json
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import Json, access_token
from valor.cli.tables import table
from valor.data.building.agreement import export_manifest, export_valor, report
from valor.data.building.annotations import AnnotationStore
from valor.data.stats import read_concepts
from valor.errors import DependencyError, UsageError


@dataclass(frozen=True, kw_only=True)
class Annotate:
    """Open a page where people write captions, and others check them; export what they accepted.

    With a manifest, the page is served until Ctrl-C; without one, the numbers are printed. Every
    action is in the store at once: the same command again goes on.
    """

    manifest: tyro.conf.Positional[Path | None] = None
    """A JSONL file, or the folder that holds manifest.jsonl; its captions are the drafts, the texts
    in `extra.hints` the hints. Left out for numbers and exports."""
    store: Path
    """SQLite file of all that annotators do; made if needed."""
    export: Path | None = None
    """Write the accepted captions: a manifest as .jsonl, VALOR-32K's layout as .json."""
    captions_per_item: int = 1
    """How many people write a caption of the same item."""
    concepts: Path | None = None
    """Audio concepts, one per line, to be counted in the accepted captions."""
    host: str = "127.0.0.1"
    """Where to listen; other machines can reach anything but a loopback address."""
    port: int = 7861
    """0 is any that is free."""
    token: str | None = None
    """Whoever does not know it is refused; needed where others can reach the page. By default the
    environment variable VALOR_TOKEN, which other users of this machine do not see."""
    json: Json = False
    """The numbers, or the page's address, as a JSON object on stdout."""

    def run(self) -> int:
        """Serve the page, or print the numbers."""
        if self.captions_per_item < 1:
            raise UsageError(f"--captions-per-item {self.captions_per_item}: expected at least 1")
        if self.manifest is not None and self.export is not None:
            raise UsageError("--export goes without a manifest: the store knows its items")
        concepts = None if self.concepts is None else read_concepts(self.concepts)
        if self.manifest is not None:
            return self._serve(self.manifest, concepts)
        return self._report(concepts)

    def _report(self, concepts: list[str] | None) -> int:
        if not self.store.is_file():
            raise UsageError(f"--store {self.store}: no such file; give a manifest to begin one")
        writers = {".jsonl": export_manifest, ".json": export_valor}
        if self.export is not None and self.export.suffix not in writers:
            raise UsageError(f"--export {self.export}: expected a name with .jsonl or .json")
        with closing(AnnotationStore(self.store)) as store:
            files = writers[self.export.suffix](store, self.export) if self.export else []
            row = dataclasses.asdict(report(store, concepts))
        if self.json:
            print(json.dumps({**row, "files": list(map(str, files))}))
            return 0
        for file in files:
            print(f"wrote {file}")
        people = {f"  {name}": did for name, did in row.pop("annotators").items()}
        print(table({**row, "annotators": len(people), **people}))
        return 0

    def _serve(self, manifest: Path, concepts: list[str] | None) -> int:
        try:
            from valor.server.annotate import create_app
            from valor.server.guard import GuardConfig
            from valor.server.serving import make_server, page_address
        except ImportError as error:
            raise DependencyError(
                f'the page needs the package {error.name}; run `pip install "valor-omni[serve]"`'
            ) from None
        guard = GuardConfig(host=self.host, token=access_token(self.token))
        with closing(AnnotationStore(self.store)) as store:
            num_new = store.add(manifest, captions_per_item=self.captions_per_item)

            def ready(port: int) -> None:
                address = page_address(self.host, port, self.token)
                row = {"address": address, "num_new": num_new, **store.counts()}
                print(json.dumps(row) if self.json else f"annotate at {address}", flush=True)
                print("every action is saved at once; Ctrl-C ends the page", file=sys.stderr)

            app = create_app(store, guard=guard, concepts=concepts)
            make_server(app, port=self.port, ready=ready).run()
        return 0
