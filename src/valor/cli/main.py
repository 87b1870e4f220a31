"""Entry point of `valor`: find the verb, run it, turn errors into one line and an exit code."""

import importlib
import os
import sys
from collections.abc import Sequence

from valor.cli.problems import say
from valor.errors import UsageError, ValorError

VERBS = {
    "demo": "the whole story: render a world, train on it, evaluate, search",
    "world": "render the audible world: real mp4 files with known truth",
    "data": "sets of media: import, validate, stats, segment, caption, shard, annotate",
    "train": "run a recipe; the same command again goes on where it stopped",
    "report": "training runs side by side on one page",
    "evaluate": "retrieval, captioning and answering by group of modalities",
    "compare": "models on the same data, with significance, item by item",
    "ablate": "the paper's ablations on the rendered world, and what agrees",
    "reproduce": "compare a released checkpoint with what was published for it",
    "caption": "describe files by what is seen and heard",
    "masks": "decide what every pixel of a video shows",
    "ask": "answer a question about a file",
    "embed": "write vectors of files to a Parquet file",
    "index": "make a folder of recordings searchable",
    "library": "remove, refresh, compact or export what is indexed; list bad files",
    "search": "find moments by text, sound, image or video",
    "serve": "the page: search, watch, caption and ask in the browser",
    "convert": "a released checkpoint as a model folder",
    "score": "captions, retrieval or answers in files, without a model",
    "doctor": "check versions, devices, codecs, room, extras and speed",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after `valor`; the process's own by default.

    Returns:
        0 if all went well, 1 for an error in the input, 2 for wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except ValorError as error:
        say(error)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # Whoever reads has enough; Python must not complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"valor: {error}; check that path and who may use it", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("valor: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(importlib.import_module("valor").__version__)
        return 0
    verb, argv = words[0], words[1:]
    if verb not in VERBS:
        raise UsageError(f"unknown verb {verb!r}; there is {', '.join(VERBS)}")
    return importlib.import_module(f"valor.cli.{verb}").main(argv)


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {text}" for verb, text in VERBS.items())
    return (
        "usage: valor VERB ...\n\nUnderstand audible video: search, caption and question recordings"
        f" by what is seen and heard.\n\n{verbs}\n\n`valor VERB --help` explains a verb."
    )


if __name__ == "__main__":
    sys.exit(main())
