"""Where findings are written to: standard output, or a file that is replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from contextlib import suppress

from equiv.errors import EquivError
from equiv.text import quoted, shown

STDOUT = "-"
"""The target that stands for standard output.

Example:
    >>> STDOUT
    '-'
"""

_OUTPUTS = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_MOST_LINKS = 40  # as Linux itself


def is_stdout(target: object) -> bool:
    """Whether a target is standard output, by one of its names."""
    return target in _OUTPUTS


def check_target(target: str, *, option: str = "--json") -> None:
    """Find out before the work that a file can be written. Nothing is left behind, and a file that is there stays.

    Raises:
        EquivError: The path is a folder, is write-protected, or no file can be made beside it.

    Example:
        >>> check_target("-")  # standard output can always be written
    """
    if is_stdout(_checked(target, option)):
        return
    try:
        path = place_of(target)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.lexists(path) and not os.access(path, os.W_OK):  # not opened: a pipe's reader would see its end
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if is_special(path):
            os.stat(path)
            return
        if not os.path.lexists(path):
            _check_name(path)
        name, handle = _beside(path)
        os.close(handle)
        os.unlink(name)
    except (OSError, ValueError) as error:
        raise not_writable(option, target, error) from error


def write_text(text: str, target: str, *, option: str = "--json") -> None:
    """Write to standard output, into a pipe or device, or in the place of a file, whose permissions stay.

    A reader of a file finds the old text or the new one, never half of one, also where this process is killed.

    Raises:
        EquivError: It cannot be written.
    """
    if is_stdout(_checked(target, option)):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_bytes(text.encode(), target, option=option)


def write_bytes(contents: bytes, target: str, *, option: str) -> None:
    """As :func:`write_text`, to a pipe, a device or a file.

    Raises:
        EquivError: It cannot be written.
    """
    try:
        path = place_of(target)
        if is_special(path):
            with open(path, "wb") as file:
                file.write(contents)
        else:
            _replace(path, contents)
    except (OSError, ValueError) as error:
        raise not_writable(option, target, error) from error


def place_of(target: str) -> str:
    """The absolute path of what is written: a link is followed to a file, but not into the open files of a process."""
    path = os.path.abspath(target)
    for _ in range(_MOST_LINKS):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if path.startswith(("/dev/", "/proc/")) or not os.path.islink(path):
            return path
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def is_special(path: str) -> bool:
    """Whether a path is a pipe, a device or an open file of a process: what is written into and never replaced."""
    if path.startswith(("/dev/", "/proc/")) and not path.startswith("/dev/shm/"):
        return True
    return os.path.exists(path) and not os.path.isfile(path)


def not_writable(option: str, target: object, error: Exception) -> EquivError:
    """What to say of a target that cannot be written."""
    reason = (getattr(error, "strerror", None) or quoted(error, 100)).rstrip(".")
    advice = "name a file in an existing folder"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        advice = "free space there, or name another"
    return EquivError(
        f"{option}: expected a file that can be written, or - for standard output, got {shown(target)} ({reason}); "
        f"{advice}"
    )


def _checked(target: object, option: object) -> str:
    if not isinstance(option, str):
        raise EquivError(f"option: expected a string, got {shown(option)}; pass what messages call it")
    if not isinstance(target, str):
        expected = "expected the name of a file, or - for standard output"
        raise EquivError(f"{quoted(option)}: {expected}, got {shown(target)}; pass a string")
    return target


def _check_name(path: str) -> None:
    """A new file of this very name can be made: names have a longest length."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    os.unlink(path)


def _beside(path: str) -> tuple[str, int]:
    """A new file in the same folder, with the permissions that a new file gets there."""
    name = os.path.join(os.path.dirname(path), f".equiv-{secrets.token_hex(8)}.tmp")
    return name, os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _replace(path: str, contents: bytes) -> None:
    name, handle = _beside(path)
    try:
        with open(handle, "wb") as file:
            file.write(contents)
        with suppress(FileNotFoundError):
            os.chmod(name, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
