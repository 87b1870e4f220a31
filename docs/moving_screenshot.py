"""Record the README's moving picture of the page: `python docs/moving_screenshot.py`.

Serves the demo's library, then types a search, opens the best hit, has it described and asks a
question, in Chromium. Needs `make demo` first, playwright of the extra dev, and `chromium`.
"""

import argparse
import contextlib
import io
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
QUERY = "a yellow bar moves left while a low drum sounds fast"
QUESTION = "what is heard"
SIZE = {"width": 1040, "height": 680}
MAX_BYTES = 2_000_000
_SHORTEST_MS = 60
_SLOWLY = """
const real = window.fetch;
window.fetch = async (...request) => {
  const response = await real(...request);
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) return response;
  const slow = new TransformStream({
    async transform(text, out) {
      for (const event of text.split(/(?<=\\n\\n)/)) {
        out.enqueue(event);
        await new Promise((go) => setTimeout(go, 140));
      }
    },
  });
  const decoded = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(slow);
  return new Response(decoded.pipeThrough(new TextEncoderStream()), response);
};
"""
"""Words come one by one, for screenshots are too slow to follow the model."""


class Film:
    """Screenshots, each shown for a while.

    Args:
        page: What is filmed.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[Image.Image] = []
        self._ms: list[int] = []

    def show(self, ms: int) -> None:
        """Show the page as it is now for so long."""
        picture = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
        if self._frames and picture.tobytes() == self._frames[-1].tobytes():
            self._ms[-1] += ms
        else:
            self._frames.append(picture)
            self._ms.append(ms)

    def follow(self, selector: str) -> None:
        """Film in real time until there is such an element."""
        while not self._page.query_selector(selector):
            begin_s = time.monotonic()
            self.show(_SHORTEST_MS)
            spent_ms = round(1000 * (time.monotonic() - begin_s))
            self._ms[-1] += max(0, min(spent_ms, 3 * _SHORTEST_MS) - _SHORTEST_MS)

    def type(self, selector: str, text: str) -> None:
        """Type a text, some letters at a time."""
        self._page.focus(selector)
        for begin in range(0, len(text), 3):
            self._page.keyboard.type(text[begin : begin + 3])
            self.show(110)

    def save(self, path: Path) -> None:
        """Write an animated WebP that goes on for ever."""
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *others = self._frames
        first.save(path, save_all=True, append_images=others, duration=self._ms, loop=0, quality=60)


def record(page: Page, film: Film) -> None:
    """Search, look, describe, ask."""
    page.wait_for_selector(".chip")
    film.show(900)
    film.type("#query", QUERY)
    film.show(400)
    page.keyboard.press("Enter")
    page.wait_for_selector("button.card")
    page.wait_for_function(
        "() => [...document.images].every((one) => one.classList.contains('ready') "
        "|| one.getBoundingClientRect().top > innerHeight)"
    )
    page.wait_for_timeout(500)
    film.show(1800)
    page.hover("button.card >> nth=0")
    page.wait_for_timeout(400)
    film.show(500)
    page.click("button.card >> nth=0")
    page.wait_for_function("() => document.querySelector('#player video')?.readyState >= 2")
    page.wait_for_function("() => document.querySelector('#player .track img')?.naturalWidth > 0")
    _play(page, film)
    page.click("#player button:has-text('Describe')")
    film.follow("#player .said[data-done]")
    film.show(1800)
    film.type("#player .ask input", QUESTION)
    page.keyboard.press("Enter")
    film.follow("#player article .said[data-done]")
    page.wait_for_timeout(300)
    film.show(3000)


def _play(page: Page, film: Film) -> None:
    """Move through the video by hand: screenshots are too slow to follow it."""
    video = page.locator("#player video")
    video.evaluate("(video) => { video.pause(); video.controls = false; }")
    for step in range(13):
        video.evaluate(
            "(video, at) => new Promise((go) => { video.onseeked = go; video.currentTime = at; })",
            step * 0.3,
        )
        page.wait_for_timeout(60)
        film.show(200)


@contextlib.contextmanager
def serving(library: Path) -> Iterator[str]:
    """Run `valor serve` on a free port; gives its address."""
    words = ["serve", str(library), "--no-open", "--port", "0"]
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "valor.cli.main", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        found = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
        if found is None:
            raise SystemExit(f"{library} cannot be served; run `make demo` first")
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Record, and check that the file is small enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path, nargs="?", default=ROOT / "runs/demo/library")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/page.webp")
    arguments = parser.parse_args()
    with serving(arguments.library) as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        page.set_default_timeout(120_000)
        page.add_init_script(_SLOWLY)
        page.goto(address)
        film = Film(page)
        record(page, film)
        browser.close()
    film.save(arguments.out)
    num_bytes = arguments.out.stat().st_size
    if num_bytes > MAX_BYTES:
        raise SystemExit(f"{arguments.out}: {num_bytes} bytes, more than {MAX_BYTES}")


if __name__ == "__main__":
    main()
