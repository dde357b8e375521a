"""atheris as a hunter: one target in this process, guided by the coverage of the library's code.

`python -m tests.fuzz.guided TARGET --folder FOLDER [--bug NUMBER] FLAGS-OF-LIBFUZZER` ends with 0, or with 77 at
the first broken promise.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import atheris

sys.dont_write_bytecode = True  # of the code that counts where it was

# Importing tells of each module; what goes wrong is raised.
with (
    contextlib.redirect_stderr(io.StringIO()),
    atheris.instrument_imports(include=["evercache"]),
    warnings.catch_warnings(),
):
    warnings.simplefilter("ignore")
    from tests.fuzz.targets import TARGETS

__all__ = ["hunt", "main"]


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def hunt(name: str, folder: Path, flags: Sequence[str], bug: int | None = None) -> None:
    """Write the seeds and the words where libFuzzer looks for them, and hunt; the process ends with that."""
    target = TARGETS[name]
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds + target.found):
        (corpus / f"seed-{number}").write_bytes(seed)
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    with contextlib.ExitStack() as stack:
        if bug is not None:
            change = target.bugs[bug].change()
            made: Any = getattr(change, "new", None)  # what stands in the place of the function, or of some data
            made = inspect.unwrap(getattr(made, "__func__", made))
            if inspect.isfunction(made):
                atheris.instrument_func(made)  # a copy that was not imported: nothing would guide the hunter in it
            stack.enter_context(change)
        atheris.Setup([sys.argv[0], str(corpus), f"-dict={words}", *flags], target.run)
        atheris.Fuzz()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--bug", type=int, help="with this slip made on purpose")
    parser.add_argument("--folder", type=Path, required=True)
    options, flags = parser.parse_known_args()
    hunt(options.target, options.folder, flags, options.bug)


if __name__ == "__main__":
    main()
