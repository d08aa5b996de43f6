"""What one item may take: seconds, and bytes beyond what its process held before it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from equiv.arguments import check_number, refusal
from equiv.parsing import parse_integer

_GIB = 2**30
_ADVICE = "pass None for no limit"
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Limits:
    """Limits of one item in a worker process. Both are meant for what never ends, not to measure speed.

    Attributes:
        timeout: Seconds, or None for no limit.
        memory: GiB that an item may add to the worker's own memory, or None for no limit. It holds on Linux, and for
            the memory of the CPU alone.

    Raises:
        EquivError: A limit that is no positive number.

    Example:
        >>> Limits(timeout=60, memory=4).words
        {'timeout': 'took longer than 60 s', 'memory': 'used more than 4 GiB'}
    """

    timeout: float | None = 600.0
    memory: float | None = 4.0

    def __post_init__(self) -> None:
        for name in ("timeout", "memory"):
            value = getattr(self, name)
            if value is not None and check_number(name, value, advice=_ADVICE) == 0:
                raise refusal(name, "a number above 0", value, _ADVICE)

    @property
    def words(self) -> dict[str, str]:
        """What is said of an item that went beyond a limit, by the kind of its failure."""
        return {
            "timeout": "" if self.timeout is None else f"took longer than {self.timeout:g} s",
            "memory": "" if self.memory is None else f"used more than {self.memory:g} GiB",
        }

    @property
    def options(self) -> str:
        """As they are typed on a command line, where they are not the defaults: ``--isolate --timeout 60``."""
        plain, names = Limits(), ("timeout", "memory")
        given = [f"--{name} {getattr(self, name):g}" for name in names if getattr(self, name) != getattr(plain, name)]
        return " ".join(["--isolate", *given])

    def hold_memory(self) -> None:
        """Let this process have no more than ``memory`` beyond what it has now, where the system can do that."""
        held = None if self.memory is None else _private_bytes()
        if held is not None and self.memory is not None:
            _set_limit(held + int(self.memory * _GIB))


def limits_of(given: Mapping[str, str | None], *, isolate: bool, switch: str) -> Limits | None:
    """The limits that were typed as whole numbers, by option (``--timeout``, ``--memory``); None without ``isolate``.

    Raises:
        EquivError: No such number, or a limit without ``switch``.

    Example:
        >>> limits_of({"--timeout": "30", "--memory": None}, isolate=True, switch="--isolate")
        Limits(timeout=30, memory=4.0)
    """
    numbers = {
        option.rpartition("-")[2]: parse_integer(option, text, least=1)
        for option, text in given.items()
        if text is not None
    }
    if isolate:
        return Limits(**numbers)
    for option, text in given.items():
        if text is not None:
            raise refusal(option, f"to be given with {switch}", text, f"add {switch}, or leave it out")
    return None


def let_memory_go() -> None:
    """Take the limit away again."""
    if _private_bytes() is not None:
        _set_limit(None)


def _private_bytes() -> int | None:
    """What counts for the limit: private memory that this process may write to; None where it cannot be known."""
    if sys.platform != "linux" or not _STATUS.exists():
        return None
    found = re.search(r"^VmData:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


def _set_limit(size: int | None) -> None:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    soft = most if size is None else size if most == resource.RLIM_INFINITY else min(size, most)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, most))
