"""Figures say where they come from."""

import datetime
import json
import subprocess

from valor.evaluation.provenance import commit, finish


def test_figures_are_followed_by_machine_commit_and_date(tmp_path):
    told = []
    finish({"ratio": 1.5000001, "ours_s": 2}, None, tell=told.append)
    assert told == ["ratio  1.5", "ours_s 2"]
    path = tmp_path / "one.json"
    finish({"ratio": 1.5, "ours_s": 2}, path, tell=told.append)
    assert told[2:] == told[:2]
    written = json.loads(path.read_text())
    assert list(written) == ["ratio", "ours_s", "machine", "commit", "date"]
    assert "processors" in written["machine"]
    assert (
        datetime.date.fromisoformat(written["date"]) <= datetime.datetime.now(datetime.UTC).date()
    )


def test_a_commit_is_named_with_whether_files_differ_from_it(tmp_path):
    def git(*words: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        told = ["git", "-C", str(tmp_path), *names, *words]
        return subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()

    assert commit(tmp_path).startswith("version ")
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "first")
    head = git("rev-parse", "--short=12", "HEAD")
    assert commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{head}, changed"
    (tmp_path / "ignored").mkdir()
    assert commit(tmp_path / "ignored").startswith("version ")
