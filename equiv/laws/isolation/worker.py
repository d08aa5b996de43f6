"""One worker process as its parent sees it: how it starts, what it was asked, and in which words it died."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch

from equiv.errors import EquivError
from equiv.laws.isolation import child
from equiv.laws.isolation.child import CASE, Task
from equiv.laws.isolation.limits import Limits

_LATE = 0.5  # seconds after its time in which a worker writes down where it is
_START = 120.0  # seconds to start in
_LONGEST_FOLDER = 60  # characters of the temporary folder: the server's socket lies in it, by a name of at most 107
_HERE = str(Path(__file__).resolve().parents[2])
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>\S+)')


def start_method() -> str:
    """A server that has imported torch and forks for each worker, where there are such; else a fresh process."""
    present = "forkserver" in multiprocessing.get_all_start_methods()
    return "forkserver" if present and len(gettempdir()) <= _LONGEST_FOLDER else "spawn"


def end_server() -> None:
    """End the process that starts workers at once, in a program that ends: it may still be importing torch."""
    module: Any = sys.modules.get("multiprocessing.forkserver")
    server = getattr(module, "_forkserver", None)
    pid = getattr(server, "_forkserver_pid", None)
    if server is not None and pid is not None and hasattr(server, "_stop"):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            server._stop()


@contextmanager
def _main_out_of_sight() -> Iterator[None]:
    """Workers do not run the script that runs here once more, which multiprocessing would have them do."""
    names = vars(sys.modules["__main__"])
    before: dict[str, Any] = {name: names[name] for name in ("__spec__", "__file__") if name in names}
    names.pop("__file__", None)
    names["__spec__"] = None
    try:
        yield
    finally:
        names.update(before)


class Worker:
    """A process that runs items one by one. It is started here, and ready when this returns.

    Args:
        method: ``forkserver``, ``spawn``, or ``fork`` for backends without a pickle, which the process then inherits.
        needs_main: Whether a process that is not forked imports the script that runs here.
        alone: Whether torch may use as many threads in it as here: several workers would wait for each other's.

    Raises:
        EquivError: It did not start.
    """

    def __init__(self, method: str, *, needs_main: bool = False, alone: bool = True) -> None:
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["equiv.laws.isolation"])
        self.inherits = frozenset(child.inherited) if method == "fork" else frozenset()
        self.case = ""
        self._deadline: float | None = None
        self._limits = Limits(None, None)
        self._is_late = False
        # The threads of a pool do not survive a fork.
        threads = torch.get_num_threads() if alone and method != "fork" else 1
        self.link, link = context.Pipe()
        self._faults, faults = context.Pipe(duplex=False)
        self.process = context.Process(target=child.serve, args=(link, faults, threads), name="equiv-worker")
        try:
            with warnings.catch_warnings(), nullcontext() if needs_main else _main_out_of_sight():
                warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads, none of which is used
                self.process.start()
            link.close()
            faults.close()
            self._await_start()
        except (OSError, RuntimeError) as error:  # too many processes; or this is an import by such a process
            self.end()
            raise _not_started(getattr(error, "strerror", None) or type(error).__name__) from error
        except BaseException:
            self.end()
            raise

    def _await_start(self) -> None:
        if not self.link.poll(_START):
            raise _not_started(f"none in {_START:g} s")
        try:
            self.answer()
        except EOFError:
            self.process.join(5.0)
            raise _not_started(f"one that ended with code {self.process.exitcode}") from None

    def ask(self, task: Task) -> None:
        """Hand over a task; :meth:`answer` has what comes of it."""
        self.case, self._limits, self._is_late = "", task.limits, False
        self._deadline = None if task.limits.timeout is None else time.monotonic() + task.limits.timeout + _LATE
        with suppress(OSError):  # it has died meanwhile, which the answer says
            self.link.send(task)

    @property
    def seconds_left(self) -> float | None:
        """Until the item has had its time; None where it has no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def answer(self) -> tuple[str, Any] | None:
        """The message that is there, or None if there is none yet. A worker whose time is over is killed.

        Raises:
            EOFError: The process has died.
        """
        try:
            while self.link.poll():
                word, content = self.link.recv()
                if word != CASE:
                    self._deadline = None
                    return word, content
                self.case = content
        except EOFError:
            raise
        except Exception as error:  # half a message, or one that somebody else has written
            raise EOFError from error
        if not self.process.is_alive() and not self.link.poll():
            raise EOFError
        if self.seconds_left == 0.0:
            self._is_late = True
            self.process.kill()
            raise EOFError
        return None

    def how_it_died(self) -> tuple[str, str]:
        """The kind of a failure, and what the backend did: ``crashed with SIGSEGV at mine.py:12 in conv``."""
        self.process.join(5.0)
        time.sleep(_LATE / 5)  # a signal to all processes of a terminal may have killed it, and is on its way here
        code = self.process.exitcode
        place = self._place()
        if self._is_late or code == -getattr(signal, "SIGALRM", 0):
            return "timeout", f"{self._limits.words['timeout']}{place}"
        if code is None:
            return "exit", "closed its pipe to the parent process"
        if code >= 0:
            return "exit", f"exited with code {code}"
        name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
        if name == "SIGKILL":
            return "crash", "was killed with SIGKILL, as the system does when its memory runs out"
        return "crash", f"crashed with {name}{place}"

    def end(self) -> None:
        """End the process at once, and leave nothing of it."""
        if self.process.pid is not None:
            self.process.kill()
            self.process.join(5.0)
        for end in (self.link, self._faults):
            end.close()

    def _place(self) -> str:
        """Where the backend was, from the traceback that the process wrote last: its outermost frames."""
        if os.name != "posix" or not self._faults.poll():
            return ""
        written = os.read(self._faults.fileno(), 2**16).decode(errors="replace")
        thread = written[max(0, written.rfind("most recent call first")) :]
        if "Current thread" in written:
            thread = written.split("Current thread", 1)[1].split("\n\n")[0]
        frames = [found.groupdict() for found in _FRAME.finditer(thread)]
        theirs: list[dict[str, str]] = []
        for frame in frames:
            if frame["file"].startswith(_HERE):
                break
            theirs.append(frame)
        own = [frame for frame in theirs if not frame["file"].startswith((sys.prefix, sys.base_prefix))]
        if not own:
            return ""
        return f" at {Path(own[0]['file']).name}:{own[0]['line']} in {own[0]['name']}"


def _not_started(got: str) -> EquivError:
    return EquivError(
        f"isolate: expected a worker process to start, got {got}; in a script, put what runs the laws below "
        "`if __name__ == '__main__':`, as multiprocessing asks for"
    )
