"""Laws of executors: every task once, whatever happens to the workers."""

import os
import signal
import subprocess
import sys

import pytest

from valor.data.executors import LocalExecutor
from valor.errors import ValorError


def double(number: int) -> int:
    """A stage."""
    return 2 * number


def die_at_three(number: int) -> int:
    """A stage that kills its worker."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(number)


def fail(number: int) -> int:
    raise ValueError(number)


def test_every_task_has_its_result():
    results = dict(LocalExecutor(2).run(double, range(5)))
    assert results == {number: 2 * number for number in range(5)}


def test_a_worker_that_dies_takes_only_its_own_task_with_it():
    results = dict(LocalExecutor(2).run(die_at_three, range(7)))
    assert results == {number: None if number == 3 else 2 * number for number in range(7)}


def test_what_a_stage_raises_is_raised():
    with pytest.raises(ValueError, match="0"):
        list(LocalExecutor(1).run(fail, range(2)))
    with pytest.raises(ValorError, match="workers=0"):
        LocalExecutor(0)


def test_a_script_that_works_when_imported_is_told_so(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from valor.data.executors import LocalExecutor\n"
        "print([result for _, result in LocalExecutor(1).run(abs, [-1])])\n"
    )
    ran = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True)
    assert ran.stdout == "[None]\n"
    assert ran.stderr == 'put what your script does under `if __name__ == "__main__":`\n'
