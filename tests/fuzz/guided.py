"""atheris as a hunter: one target in this process, guided by the coverage of the library's code.

`python -m tests.fuzz.guided TARGET --folder FOLDER [--bug NUMBER] FLAGS-OF-LIBFUZZER` ends with 0, or with 77 at
the first broken promise.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["evercache"]), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.fuzz.targets import TARGETS

__all__ = ["main"]


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> None:
    """Write the seeds and the words where libFuzzer looks for them, and hunt."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--bug", type=int, help="with this slip made on purpose")
    parser.add_argument("--folder", type=Path, required=True)
    options, flags = parser.parse_known_args()
    target = TARGETS[options.target]
    corpus, words = options.folder / "corpus", options.folder / "words"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds + target.found):
        (corpus / f"seed-{number}").write_bytes(seed)
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    with contextlib.ExitStack() as stack:
        if options.bug is not None:
            stack.enter_context(target.bugs[options.bug].change())
        for seed in target.seeds + target.found:
            if options.bug is None:
                target.run(seed)
        atheris.Setup([sys.argv[0], str(corpus), f"-dict={words}", *flags], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
