"""Laws of `valor serve`: where the page is, and who gets to see its token."""

from types import SimpleNamespace

import pytest

from valor.cli.main import main
from valor.errors import ValorError
from valor.server import serving


@pytest.fixture
def opened(world, tmp_path, monkeypatch):
    """Serve a library by some options; returns the addresses that a browser is given."""
    library = str(tmp_path / "library")
    video = str(min((world / "media").glob("test-*.mp4")))
    assert main(["index", library, video, "--model", "tiny-world"]) == 0
    addresses: list[str] = []

    def is_ready(app, *, port, ready):
        ready(port)
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr(serving, "make_server", is_ready)
    monkeypatch.setattr("webbrowser.open", addresses.append)

    def serve(*options: str) -> list[str]:
        assert main(["serve", library, "--port", "7000", *options]) == 0
        return addresses

    return serve


def test_a_browser_is_given_the_token_of_the_command(opened, capsys):
    assert opened("--token", "a&b") == ["http://127.0.0.1:7000/?token=a%26b"]
    assert "1 segments at http://127.0.0.1:7000/?token=a%26b\n" in capsys.readouterr().out


def test_the_token_of_the_environment_is_neither_shown_nor_given_away(opened, capsys, monkeypatch):
    monkeypatch.setenv("VALOR_TOKEN", "secret")
    assert opened() == []
    assert "secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("port", [-1, 99_999])
def test_a_port_that_is_none_is_one_line(port):
    with pytest.raises(ValorError, match=f"port {port} is none; give one"):
        serving._listen("127.0.0.1", port)


def test_a_page_of_this_machine_alone_needs_no_token(opened):
    assert opened("--host", "::1") == ["http://[::1]:7000/"]
    assert opened("--no-open") == ["http://[::1]:7000/"]
