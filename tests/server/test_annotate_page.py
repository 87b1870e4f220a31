"""The annotation page in a browser: two people, from the first caption to the export."""

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from valor.data.building.agreement import export_manifest
from valor.data.building.annotations import Action
from valor.data.manifest import read_manifest

pytestmark = pytest.mark.media

CHROMIUM = shutil.which("chromium")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
TIMEOUT_MS = 15_000


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Debian's Chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("needs the program chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens the page in a browser of its own; at the end no page may have met an error."""
    contexts, errors = [], []

    def visit(address, name="", viewport=WIDE, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: check_origin(request.url, address, errors))
        page.goto(address)
        if name:
            page.get_by_label("Your name").fill(name)
            page.get_by_role("button", name="Start").click()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == []


def check_origin(url, address, errors):
    """The page works without the internet: it asks its own server alone."""
    if urlsplit(url).netloc not in ("", urlsplit(address).netloc):
        errors.append(f"asked for {url}")


def test_two_people_make_a_caption(visit, serving, store, tmp_path):
    address = serving(store, concepts=["bell"])
    ann, ben = visit(address, "Ann"), visit(address + "/#check", "Ben")
    ann.get_by_text("Bell", exact=True).wait_for()
    assert ann.locator("#text").input_value() == ""
    ann.locator(".draft").first.get_by_role("button", name="Use").click()
    assert ann.locator("#text").input_value() == store.record(1).captions[0].text
    ann.locator("#text").fill("a bell rings")
    ann.screenshot(path=tmp_path / "write.png")
    ann.keyboard.press("Control+Enter")
    ann.get_by_text("Saved.").wait_for()
    assert store.slots()[0].text == "a bell rings"

    ben.get_by_role("button", name="Look again").click()
    ben.locator("#caption", has_text="a bell rings").wait_for()
    ben.screenshot(path=tmp_path / "check.png")
    ben.keyboard.press("r")
    ben.keyboard.type("Say what one sees.")
    ben.keyboard.press("Control+Enter")
    ben.get_by_text("Nothing to check now").wait_for()
    ben.screenshot(path=tmp_path / "empty.png")

    ann.locator("#text").fill("second")
    ann.get_by_role("button", name="Save").click()
    ann.get_by_text("ben returned this: Say what one sees.").wait_for()
    assert ann.locator("#text").input_value() == "a bell rings"
    ann.screenshot(path=tmp_path / "returned.png")
    ann.locator("#text").fill("a red circle moves while a bell rings")
    ann.get_by_role("button", name="Save").click()
    ann.get_by_text("Nothing to write now").wait_for()

    ben.get_by_role("button", name="Look again").click()
    ben.locator("#caption", has_text="a red circle").wait_for()
    ben.get_by_text("Returned before: Say what one sees.").wait_for()
    ben.keyboard.press("a")
    ben.locator("#caption", has_text="second").wait_for()
    ben.get_by_role("link", name="Progress").click()
    ben.get_by_text("Captions that name a sound").wait_for()
    ben.screenshot(path=tmp_path / "progress.png")
    (record,) = read_manifest(export_manifest(store, tmp_path / "out.jsonl")[0])
    assert [caption.text for caption in record.captions] == [
        "a red circle moves while a bell rings"
    ]


def test_only_the_segment_is_played_and_loops_on_demand(visit, serving, store):
    page = visit(serving(store), "Ann")
    page.locator("#time", has_text="1.0 / 1.0 s").wait_for()
    page.locator("#play", has_text="Play").wait_for()
    assert 1.45 <= page.evaluate("document.querySelector('video').currentTime") < 1.8
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.locator("#time", has_text="0.0 / 1.0 s").wait_for()
    assert page.evaluate("document.querySelector('video').currentTime") == 0.5
    page.keyboard.press("l")
    back = """new Promise((done) => document.querySelector("video").addEventListener("seeking",
        (event) => done(event.target.currentTime), { once: true }))"""
    assert [page.evaluate(back), page.evaluate(back)] == [0.5, 0.5]
    page.keyboard.press(" ")
    page.locator("#play", has_text="Play").wait_for()


def test_typed_text_outlives_the_page_and_a_server_that_is_gone(visit, serving, store):
    page = visit(serving(store), "Ann")
    page.locator("#text").fill("half a capt")
    page.reload()
    page.get_by_text("3 words").wait_for()
    assert page.locator("#text").input_value() == "half a capt"
    page.context.set_offline(True)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("The server does not answer. What you typed is kept.").wait_for()
    assert page.locator("#text").input_value() == "half a capt"
    page.context.set_offline(False)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()
    assert store.slots()[0].text == "half a capt"


def test_a_file_that_does_not_play_is_said_and_can_be_skipped(visit, serving, store):
    path = store.record(1).media
    shutil.copy(path, f"{path}.kept")
    try:
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"nothing that plays")
        page = visit(serving(store), "Ann")
        page.get_by_text("This browser cannot play the file").wait_for()
        page.get_by_role("button", name="Cannot be described").click()
        page.get_by_label("Reason").fill("does not play")
        page.get_by_role("button", name="Skip it").click()
        page.get_by_text("Skipped.").wait_for()
    finally:
        shutil.move(f"{path}.kept", path)
    assert [e.text for e in store.history() if e.action == Action.SKIP] == ["does not play"]


def test_a_token_is_asked_for(visit, serving, store):
    page = visit(serving(store, token="secret"), "Ann")
    page.get_by_label("Token", exact=True).fill("secret")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("Bell", exact=True).wait_for()
    assert "secret" not in page.url


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(visit, serving, store, viewport, scheme, tmp_path):
    store.act("zoe", Action.WRITE, store.take("zoe", "write").slot.number, "a bell " * 30)
    page = visit(serving(store), "Ann", viewport, scheme)
    for view, part in (("Write", "#writing"), ("Check", "#checking"), ("Progress", "#progress")):
        page.get_by_role("link", name=view).click()
        page.locator(part).wait_for()
        width = page.evaluate("document.documentElement.scrollWidth")
        page.screenshot(path=tmp_path / f"{view}.png", full_page=True)
        assert width <= viewport["width"]
