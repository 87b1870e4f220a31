"""The page in a real browser. Screenshots of every state are kept in `runs/screenshots`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import running
from valor.search.library import Library
from valor.server.app import create_app

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs chromium: `apt-get install chromium`", allow_module_level=True)

VIDEO = "test-000003.mp4"
SCREENSHOTS = Path("runs/screenshots")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def complaints() -> list[str]:
    """What pages wrote down as errors."""
    return []


@pytest.fixture
def visit(browser, complaints):
    """Opens an address; at the end the page must not have complained about anything."""
    contexts = []

    def open_page(address: str, *, size=WIDE, dark: bool = False):
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def shoot(page, name: str) -> None:
    """Keep a screenshot, with all pictures that are in view."""
    page.wait_for_function(
        "() => [...document.images].every((one) => one.complete "
        "|| one.getBoundingClientRect().top > innerHeight)"
    )
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def search(page, words: str) -> None:
    page.fill("#query", words)
    page.press("#query", "Enter")
    page.wait_for_selector("button.card")


def open_hit(page, name: str) -> None:
    page.click(f"button.card[aria-label^='{name}']")
    page.wait_for_selector("#player .watch")


def test_search_by_keyboard_and_play_at_the_moment(served, visit):
    page = visit(served.url)
    page.wait_for_selector(".chip")
    shoot(page, "start")
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("a red circle")
    assert page.input_value("#query") == "a red circle"
    page.keyboard.press("Enter")
    page.wait_for_selector("button.card")
    assert "moments in" in page.inner_text("#status")
    assert page.inner_text("button.card >> nth=0").startswith("0:0")
    shoot(page, "results")
    page.press("#query", "ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_selector("#player .range.current", state="attached")
    page.keyboard.press("Escape")
    page.wait_for_selector("#player", state="hidden")


def test_the_player_shows_hits_sound_captions_and_answers(served, visit):
    page = visit(f"{served.url}#q=a bell")
    page.wait_for_selector("button.card")
    open_hit(page, VIDEO)
    page.wait_for_function("() => document.querySelector('#player video').readyState >= 2")
    assert page.locator("#player .range.current").count() == 1
    drawn = "() => document.querySelector('#player .track img')?.naturalWidth > 0"
    page.wait_for_function(drawn)
    page.click("#player button:has-text('Describe')")
    page.wait_for_selector("#player .said[data-done]")
    assert page.inner_text("#player .said .text") == "audiovisual from 0 s"
    assert "picture and sound" in page.inner_text("#player .used")
    page.click("#player button:has-text('Heard')")
    page.fill("#player .ask input", "what is heard")
    page.press("#player .ask input", "Enter")
    page.wait_for_selector("#player article .said[data-done]")
    assert "from sound" in page.inner_text("#player article .used")
    assert page.inner_text("#player article .text") == "what is heard: audio from 0 s"
    shoot(page, "player")
    page.click("#player .track", position={"x": 10, "y": 10})
    page.wait_for_function("() => document.querySelector('#player video').currentTime < 1")


def test_words_are_shown_as_they_come_and_closing_ends_them(served, visit):
    page = visit(f"{served.url}#q=a bell")
    page.wait_for_selector("button.card")
    open_hit(page, VIDEO)
    page.fill("#player .ask input", "for ever")
    page.press("#player .ask input", "Enter")
    page.wait_for_selector("#player article .used:has-text('picture and sound')")
    assert page.inner_text("#player article .text.typing") == "..."
    shoot(page, "answering")
    page.keyboard.press("Escape")
    search(page, "a circle")  # The model is free again.
    page.wait_for_function("() => !document.querySelector('#player').open")


def test_more_like_this_and_search_by_a_file(served, visit):
    page = visit(f"{served.url}#q=a bell")
    page.wait_for_selector("button.card")
    open_hit(page, VIDEO)
    page.click("#player button:has-text('Sounds alike')")
    page.wait_for_selector("#token:has-text('sounds like')")
    page.wait_for_selector("button.card")
    page.set_input_files("#file", served.media / "tone.wav")
    page.wait_for_selector("#token:has-text('tone.wav')")
    page.wait_for_selector("button.card[aria-label^='tone.wav']")
    assert page.get_attribute("button.card >> nth=0", "aria-label").startswith("tone.wav")
    shoot(page, "search-by-sound")


def test_what_the_browser_cannot_play_is_shown_as_a_preview(served, visit):
    page = visit(f"{served.url}#q=grey")
    page.wait_for_selector("button.card")
    open_hit(page, "tape.mxf")
    page.wait_for_function("() => document.querySelector('#player video').readyState >= 2")
    assert "/preview?part=0" in page.get_attribute("#player video", "src")
    assert "preview" in page.inner_text("#player .facts-line")


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_page_fits_in_both_themes(served, visit, dark):
    page = visit(f"{served.url}#q=a bell", size=NARROW, dark=dark)
    theme = "dark" if dark else "light"
    page.wait_for_selector("button.card")
    wide = "() => document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    shoot(page, f"narrow-{theme}")
    open_hit(page, VIDEO)
    page.wait_for_function("() => document.querySelector('#player video').readyState >= 2")
    player = "document.querySelector('#player')"
    assert not page.evaluate(f"() => {player}.scrollWidth > {player}.clientWidth")
    panel = "document.querySelector('#player .panel')"  # It must not scroll in what scrolls.
    assert not page.evaluate(f"() => {panel}.scrollHeight > {panel}.clientHeight")
    shoot(page, f"narrow-player-{theme}")
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in colour[4:-1].split(","))
    assert (brightness < 200) == dark


def test_an_error_says_what_to_do_and_can_be_tried_again(served, visit, complaints):
    page = visit(served.url)
    page.wait_for_selector(".chip")
    problem = {"type": "about:blank", "title": "x", "status": 422, "detail": "no such thing"}
    page.route("**/search", lambda route: route.fulfill(status=422, json=problem))
    page.fill("#query", "a bell")
    page.press("#query", "Enter")
    page.wait_for_selector(".notice.error:has-text('no such thing')")
    shoot(page, "error")
    page.unroute("**/search")
    page.click("button:has-text('Try again')")
    page.wait_for_selector("button.card")
    assert complaints
    complaints.clear()  # Chromium itself writes down failed requests.


def test_while_a_search_runs_its_place_is_kept(served, visit):
    page = visit(served.url)
    page.wait_for_selector(".chip")
    held = []

    def hold(route) -> None:
        held.append(route)

    page.route("**/search", hold)
    page.click(".chip >> nth=0")
    page.wait_for_selector(".skeleton")
    assert page.get_attribute("#results", "aria-busy") == "true"
    assert page.inner_text("#status") == "Searching…"
    shoot(page, "loading")
    held[0].continue_()
    page.wait_for_selector("button.card")
    assert page.locator(".skeleton").count() == 0
    assert page.get_attribute("#results", "aria-busy") is None


def test_a_running_job_shows_how_far_it_is_and_can_be_stopped(served, visit):
    job = {"id": "x", "kind": "index", "title": "recordings", "state": "running", "result": None}
    job |= {
        "done_fraction": 0.4,
        "message": "film.mp4, 31x real time",
        "elapsed_s": 9,
        "left_s": 100,
    }
    page, asked = visit(served.url), []
    page.route("**/jobs", lambda route: route.fulfill(json=[job]))

    def stop(route) -> None:
        asked.append(route.request.method)
        job.update(state="stopped", message="stopped")
        route.fulfill(json=job, status=202)

    page.route("**/jobs/x", stop)
    page.click("#open-library")
    page.wait_for_selector("#library .job.running")
    assert page.evaluate("() => document.querySelector('#library progress').value") == 0.4
    said = page.inner_text("#library .job.running")
    assert all(words in said for words in ("40 %", "2\u00a0min left", "31x real time"))
    assert page.locator("#busy").is_visible()
    shoot(page, "progress")
    page.click("#library .job button:has-text('Stop')")
    page.wait_for_selector("#library .job.stopped")
    assert asked == ["DELETE"]


def test_an_empty_library_is_filled_from_the_page(world, model, describer, tmp_path, visit):
    media = tmp_path / "recordings"
    media.mkdir()
    for number in range(3):
        shutil.copy(world / f"media/test-{number:06d}.mp4", media)
    (media / "broken.mp4").write_text("no video")
    Library(tmp_path / "library", model=model)
    app = create_app(tmp_path / "library", model, describer=describer, roots=[media])
    with running(app) as client:
        page = visit(str(client.base_url))
        page.wait_for_selector(".notice:has-text('The library is empty')")
        shoot(page, "empty")
        page.click("button:has-text('Index a folder')")
        page.click("#library button:has-text('Index')")
        page.wait_for_selector("#library .job.done")
        assert "3 recordings added" in page.inner_text("#library .job.done")
        page.click("#library summary")
        assert "broken.mp4" in page.inner_text("#library .job details")
        page.wait_for_selector("#library:has-text('3 recordings, 3 moments')")
        shoot(page, "library")
        page.keyboard.press("Escape")
        page.wait_for_selector("#facts:has-text('3 recordings')")
        search(page, "a circle")
        page.context.close()
