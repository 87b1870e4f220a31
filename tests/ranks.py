"""Two processes that know each other, for tests of what ranks do together.

`torchrun` starts them: it holds its port from the beginning, and ends both when one fails.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

_LONGEST_S = 600.0
_TORCHRUN = ("torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1")


def run_two_ranks(function: Callable[..., None], *arguments: object) -> None:
    """Call a function of a module in both processes with the arguments as text; both must succeed.

    Neither is left when this returns; if one fails, its traceback is in the message.
    """
    command = [sys.executable, "-m", *_TORCHRUN, "--nproc-per-node", "2", "--module", "--"]
    command += ["tests.ranks", function.__module__, function.__name__, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as told:
        root = Path(__file__).parents[1]
        with subprocess.Popen(command, cwd=root, stdout=told, stderr=told) as process:
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LONGEST_S)
            finally:
                process.terminate()
        told.seek(0)
        assert process.returncode == 0, told.read()


if __name__ == "__main__":
    module, name, *given = sys.argv[1:]
    getattr(import_module(module), name)(*given)
