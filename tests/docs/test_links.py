"""What pages point to is there: other pages, their headings, files of the repository."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages

ALL = [*pages(), "SECURITY.md", "CHANGELOG.md"]
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
_FILE = re.compile(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|md|json|toml))`")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_MADE = ("log/", "runs/", "my/", "set/", "own-set/", "film.masks/")
"""Beginnings of paths that commands on the pages make, or that others publish."""


def text_of(page: Path) -> str:
    return _CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", ALL)
def test_links_inside_lead_somewhere(page: str):
    here = ROOT / page
    for target, anchor in _LINK.findall(text_of(here)):
        found = (here.parent / target).resolve() if target else here
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


@pytest.mark.parametrize("page", ALL)
def test_files_that_pages_name_exist(page: str):
    for name in set(_FILE.findall(text_of(ROOT / page))):
        places = (ROOT, ROOT / "src", ROOT / "src/valor", (ROOT / page).parent)
        assert name.startswith(_MADE) or any((place / name).exists() for place in places), name
