"""Where a failure comes from: the lines of the backend's own source, without those of equiv and Hypothesis."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import cast

from equiv.backends import Backend, TorchEager
from equiv.laws.call import Broken

_EQUIV = str(Path(__file__).resolve().parents[2]) + os.sep


def code_of(broken: Broken, backend: Backend) -> str:
    """The innermost line of the backend's own code that raised, else where the method that was called begins.

    Empty where it is torch's own, or has no source.
    """
    frames = _frames(broken.error)
    if frames:
        last = _own(frames)[-1]
        return f"{_short(last.filename)}:{last.lineno}, in {last.name}" + f": {last.line}" * bool(last.line)
    method = _called(broken, backend)
    if type(backend) is TorchEager or method is None:
        return ""
    function = inspect.unwrap(getattr(method, "__func__", method))
    code = getattr(function, "__code__", None)
    if code is None or code.co_filename.startswith(_EQUIV):
        return ""
    return f"{_short(code.co_filename)}:{code.co_firstlineno}, in {function.__qualname__}"


def _called(broken: Broken, backend: Backend) -> Callable[..., object] | None:
    """The method for a form; of a backend that was made of functions, the function itself."""
    functions = getattr(backend, "arguments", None)
    if isinstance(functions, dict) and broken.call is not None:
        name = "linear" if broken.form == "linear" else f"conv{broken.call.weight.ndim - 2}d"
        if callable(function := functions.get(name)):
            return cast("Callable[..., object]", function)
    method: Callable[..., object] | None = getattr(backend, "linear" if broken.form == "linear" else "conv", None)
    return method


def traceback_text(error: BaseException | None) -> str:
    """The frames of the backend from which an exception came, as Python shows them, and what it says."""
    frames = _frames(error)
    if error is None or not frames:
        return ""
    return "".join([*traceback.format_list(frames), *traceback.format_exception_only(error)]).rstrip()


def trimmed(error: BaseException | None) -> BaseException | None:
    """The same exception; its traceback begins where equiv called the backend."""
    found = None if error is None else _below(error.__traceback__)
    return error if error is None or found is None else error.with_traceback(found)


def _frames(error: BaseException | None) -> traceback.StackSummary:
    return traceback.extract_tb(None if error is None else _below(error.__traceback__))


def _below(found: TracebackType | None) -> TracebackType | None:
    """The part of a traceback below the last frame of equiv that calls what is none; None if there is no such part."""
    while found is not None and _is_ours(found):
        found = found.tb_next
    return found


def _is_ours(found: TracebackType) -> bool:
    return found.tb_frame.f_code.co_filename.startswith(_EQUIV)


def _own(frames: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """The frames that are in no installed package and not of equiv; all of them if there is none such."""
    outside = [frame for frame in frames if not frame.filename.startswith(_EQUIV)]
    return [frame for frame in outside if "site-packages" not in frame.filename] or outside or list(frames)


def _short(path: str) -> str:
    """Relative to where the process is, if it is below that."""
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    return path if relative.startswith("..") else relative
