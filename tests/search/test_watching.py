import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.search.conftest import write
from valor.search.watching import watch

SCENE = {"see": "red car"}


class Looks:
    """Counts the looks of a watch, does something at each, and stops it at the last."""

    def __init__(self, *actions) -> None:
        self._actions = iter(actions)

    def is_set(self) -> bool:
        action = next(self._actions, None)
        if action is not None:
            action()
        return action is None

    def wait(self, timeout: float) -> None:
        del timeout


def test_only_what_has_come_to_rest_is_added_and_only_once(library, write_file):
    folder = write_file("old.mp4", SCENE).parent
    growing = [lambda n=n: write_file("growing.mp4", *[SCENE] * n) for n in (1, 2, 3)]
    later = [lambda: write_file("old.mp4", SCENE, SCENE)]
    looks = Looks(*growing, *[lambda: None] * 3, *later, *[lambda: None] * 3)
    reports = list(watch([folder], library.add, every_s=0, stop=looks))
    assert [(report.added, report.num_segments) for report in reports] == [(1, 1), (1, 3), (1, 2)]
    assert len(library) == 5


def test_empty_and_bad_files_do_not_stop_it(library, tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("hello")
    reports = list(watch([folder], library.add, every_s=0, stop=Looks(*[lambda: None] * 5)))
    assert [[bad.reason for bad in report.bad] for report in reports] == [["unreadable"]]


def test_stop_ends_it_at_once(library, write_file):
    stop = threading.Event()
    stop.set()
    assert not list(watch([write_file("a.mp4", SCENE)], library.add, every_s=60, stop=stop))


WATCHED = """
import conftest
from valor.cli import index
from valor.search import ingest, library
ingest.probe = conftest.probe_words
library.Library._load = lambda self: conftest.WordModel()
import sys
sys.exit(index.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_interrupt_ends_the_verb_cleanly(tmp_path):
    write(tmp_path / "media/a.mp4", SCENE)
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path])}
    words = [str(tmp_path / "library"), str(tmp_path / "media"), "--watch", "--every", "0.1"]
    command = [sys.executable, "-c", WATCHED, *words]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert re.match("1 added", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert "Traceback" not in process.stderr.read()
