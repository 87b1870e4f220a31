"""`valor serve`: the page and the HTTP interface over a library."""

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from valor.cli.arguments import TrustCode, access_token, parse
from valor.errors import DependencyError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Search, caption and question a library in the browser, or over HTTP."""

    library: tyro.conf.Positional[Path]
    """Library folder, from `valor index`."""
    model: str | None = None
    """The model, if it is not where the library remembers it."""
    trust_code: TrustCode = False
    describer: str | None = None
    """Model folder or endpoint URL#MODEL that captions and answers, if the model does not."""
    host: str = "127.0.0.1"
    """Where to listen; another address than loopback needs a token."""
    port: int = 7860
    """And at which port; 0 is any that is free."""
    token: str | None = None
    """Asked of every client; by default the environment variable VALOR_TOKEN, which other users of
    this machine do not see."""
    name: tuple[str, ...] = ()
    """Names by which a reverse proxy on this machine asks, such as videos.example.org."""
    root: tuple[Path, ...] = ()
    """Folders that may be indexed and shown; by default those of the library's files."""
    open: bool = True
    """Open the page in a browser; not with VALOR_TOKEN, which the browser's command would show."""


def main(argv: Sequence[str]) -> int:
    """Run the verb until it is interrupted."""
    arguments = parse(Arguments, argv, verb="serve")
    from valor.inference import load
    from valor.search.library import Library
    from valor.types import Describer

    try:
        from valor.server.app import create_app
        from valor.server.guard import GuardConfig
        from valor.server.serving import make_server, page_address
    except ImportError as error:
        raise DependencyError(
            f'serving needs the package {error.name}; run `pip install "valor-omni[serve]"`'
        ) from None
    token = access_token(arguments.token)
    guard = GuardConfig(host=arguments.host, token=token, names=arguments.name)
    library = Library(
        arguments.library, model=arguments.model, create=False, trust_code=arguments.trust_code
    )
    model = library.embedder
    describer = load(arguments.describer) if arguments.describer else model
    app = create_app(
        arguments.library,
        model,
        describer=describer if isinstance(describer, Describer) else None,
        roots=arguments.root,
        guard=guard,
    )

    def ready(port: int) -> None:
        address = page_address(arguments.host, port, arguments.token)
        print(f"{library.path.name}: {len(library)} segments at {address}", flush=True)
        if arguments.open and token == arguments.token:  # Others see the words of a command.
            webbrowser.open(address)

    make_server(app, port=arguments.port, ready=ready).run()
    return 0
