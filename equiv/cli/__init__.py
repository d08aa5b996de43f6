"""The command ``equiv``. Here is only what must work before its packages are known to be installed.

Exit codes: 0 all holds, 1 a law is broken or two models are not shown to be the same, 2 usage or environment,
130 interrupted, 141 a closed pipe, 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from io import TextIOWrapper
from tempfile import TemporaryDirectory

_NEEDED = ("typer", "rich", "hypothesis", "torch")

OK, BROKEN, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
_PIPE_CLOSED = 141  # what a shell reports for a program that a closed pipe ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Errors are one message on standard error, never a traceback.

    Python's own exit code for an exception is 1, which here says that a law is broken: so none gets out.

    Args:
        arguments: What follows ``equiv`` on the command line; by default ``sys.argv[1:]``.
    """
    try:
        with _terminable():
            return _run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:
        code = _PIPE_CLOSED
    except KeyboardInterrupt:
        code = stopped(code_of_stop())
    except OSError as error:
        from equiv.text import shown

        reason = error.strerror or type(error).__name__
        what = "an output" if error.filename is None else shown(error.filename)
        code = fail(f"equiv: expected {what} that can be used, got: {reason}; free space there, or name another")
    _discard_output()
    return code


def _run(arguments: list[str]) -> int:
    missing = next((name for name in _NEEDED if find_spec(name) is None), None)
    if missing is not None:
        return fail(f'equiv: the package {missing} is not installed; run: pip install "torch-equiv[report]"')
    _open_closed_streams()
    if sys.stdout is None:
        return fail("equiv: expected an open standard output, got a closed one; write to a file, or to /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what an encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    with _scratch_for_hypothesis() as usable:
        if not usable:
            return fail("equiv: expected a temporary folder that can be written, got none; set TMPDIR to such a folder")
        from equiv.cli.app import run

        code = run(arguments)
    sys.stdout.flush()  # here, where a failure has a message, and not when Python exits
    return code


def _open_closed_streams() -> None:
    """Where a standard stream is closed (``2>&-``), the next file that is opened would take its place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            while os.open(os.devnull, os.O_RDWR) < number:
                pass


def _discard_output() -> None:
    """Python flushes both streams once more on exit: give what is left somewhere to go."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
            continue
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _scratch_for_hypothesis() -> Iterator[bool]:
    """Hypothesis keeps notes about modules in ``.hypothesis/``: not in the folder that a command happens to run in.

    False where there is no folder for them.
    """
    name = "HYPOTHESIS_STORAGE_DIRECTORY"
    if name in os.environ:
        yield True
        return
    try:
        with _undisturbed():
            scratch = TemporaryDirectory(prefix="equiv-", ignore_cleanup_errors=True)
    except OSError:
        yield False
        return
    try:
        os.environ[name] = scratch.name
        yield True
    finally:
        with _undisturbed():
            scratch.cleanup()
            os.environ.pop(name, None)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that stop a run have to wait, where they can: nothing is left half made or half removed."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fail(message: str) -> int:
    """One message on standard error, if that is open; the exit code of a misuse."""
    with suppress(AttributeError, OSError, ValueError):  # closed, or full
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    return USAGE


_stopped_by: list[int] = []  # signals other than that of Ctrl-C


def code_of_stop() -> int:
    """The exit code after Ctrl-C or SIGTERM, as a shell has it. The exception may be another by then."""
    return TERMINATED if _stopped_by else INTERRUPTED


def stop_if_told() -> None:
    """Stop where the exception of a signal has been lost, as those are that reach Python in a callback."""
    if _stopped_by:
        raise KeyboardInterrupt


def stopped(code: int) -> int:
    """The message for an exit code of :func:`code_of_stop`; the code."""
    fail("equiv: terminated" if code == TERMINATED else "equiv: interrupted")
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """The first SIGTERM stops a run as Ctrl-C does, so that what is finished is kept and nothing is left behind."""
    _stopped_by.clear()

    def terminate(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        _stopped_by.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
