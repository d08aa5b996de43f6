"""The command ``equiv``. Here is only what must work before its packages are known to be installed.

Exit codes: 0 all holds, 1 a law is broken, 2 usage or environment, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory

_NEEDED = ("typer", "rich", "hypothesis", "torch")

OK, BROKEN, USAGE, INTERRUPTED = 0, 1, 2, 130
_PIPE_CLOSED = 141  # what a shell reports for a program that a closed pipe ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. User errors are one message on standard error, never a traceback.

    Args:
        arguments: What follows ``equiv`` on the command line; by default ``sys.argv[1:]``.
    """
    missing = next((name for name in _NEEDED if find_spec(name) is None), None)
    if missing is not None:
        return fail(f'equiv: the package {missing} is not installed; run: pip install "torch-equiv[report]"')
    from equiv.cli.app import run

    try:
        with _scratch_for_hypothesis():
            return run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:
        # Python flushes standard output once more on exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED


@contextmanager
def _scratch_for_hypothesis() -> Iterator[None]:
    """Hypothesis keeps notes about modules in ``.hypothesis/``: not in the folder that a command happens to run in."""
    name = "HYPOTHESIS_STORAGE_DIRECTORY"
    if name in os.environ:
        yield
        return
    with TemporaryDirectory(prefix="equiv-", ignore_cleanup_errors=True) as scratch:
        os.environ[name] = scratch
        try:
            yield
        finally:
            del os.environ[name]


def fail(message: str) -> int:
    """One message on standard error; the exit code of a misuse."""
    sys.stderr.write(message + "\n")
    return USAGE
