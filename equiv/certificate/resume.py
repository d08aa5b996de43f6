"""What it takes to go on with a certificate that is not finished: its state, what that belongs to, and a file for it.

A state is a dict of numbers, strings and tensors: ``torch.save`` writes it, ``torch.load(weights_only=True)`` reads it.
Two SHA-256 hashes in it are checked before anything else is used:

- ``origin`` stands for all that the results of the two sides depend on, code aside: types, attributes and training mode
  of every module; names, dtypes, shapes, strides and bytes of every parameter and buffer; torch's version and settings.
  What a function reads is out of reach: `is_covered` says whether the hash stands for a side.
- ``digest`` stands for all the rest of the state. It stops accidents, such as a bit that a disk or a network changed.
  It stops nobody who changes a state on purpose: the digest of other contents is as easy to compute.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equiv.arguments import refusal
from equiv.certificate.progress import Progress
from equiv.certificate.sides import Side
from equiv.dtypes import is_inexact
from equiv.errors import EquivError
from equiv.numerics import declared
from equiv.text import shown

State = Mapping[str, Any]
_VERSION = 3
_EVERY = 1.0  # seconds between two writes
_PIECE = 2**20  # entries that are hashed at once
_INTERNAL = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class StateRefusedError(EquivError):
    """A state that is damaged, or that belongs to something else."""


def sealed(method: str, origin: str, done: int, **contents: Any) -> dict[str, Any]:
    """A state after ``done`` columns or draws, with its digest."""
    state = {"version": _VERSION, "method": method, "origin": origin, "next": done, **contents}
    return {**state, "digest": digest(state)}


def check_state(state: object) -> State:
    """``state`` if it is one, of this version and undamaged."""
    if not isinstance(state, Mapping) or "version" not in state:
        raise _refused("the state of a certificate", shown(state, 60), "pass the state of a certificate or of progress")
    if repr(state["version"]) != repr(_VERSION):
        raise _refused(f"a state of version {_VERSION}", f"one of version {shown(state['version'], 60)}")
    with suppress(Exception):  # a damaged state may hold anything, also what cannot be hashed
        if digest({key: value for key, value in state.items() if key != "digest"}) == state["digest"]:
            return state
    raise _refused("a state as it was made", "one whose contents do not match its digest: it is damaged")


def check_origin(state: State, method: str, origin: str) -> None:
    """Refuse a state of another method, or of other layers or settings."""
    if state["method"] != method:
        got = f"one of the {state['method']} method"
        raise _refused(f"a state of the {method} method", got, "pass the method that it was made with")
    if state["origin"] != origin:
        expected = "a state of these very layers, dtype, error probability, seed and settings of torch"
        raise _refused(f"{expected} ({origin:.12})", f"one of others ({state['origin']:.12})")


def _refused(expected: str, got: str, advice: str = "start again without resume=") -> StateRefusedError:
    return StateRefusedError(f"resume: expected {expected}, got {got}; {advice}")


class Checkpoint:
    """The file that keeps a state while work is done: ``with checkpoint: ...``.

    It is written about once a second and where the work is interrupted or stopped, and removed where it is complete. A
    reader finds the old state or the new one, never half of one: a state is written to a new file of an unpredictable
    name in the same folder, which then takes the other's place.
    """

    def __init__(self, path: object) -> None:
        if not isinstance(path, str | os.PathLike):
            raise refusal("checkpoint", "the path of a file", path, "pass such as 'layer.pt'")
        self.path = Path(os.fsdecode(path))
        self._prefix = f".{self.path.name}."
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise refusal("checkpoint", "a file", str(self.path), "name a file in a folder that can be written to")
        with self._writing(), tempfile.NamedTemporaryFile(prefix=self._prefix, dir=self.path.parent):
            pass  # what takes no file is refused before the work, not after it
        self._state: State | None = None
        self._written = time.monotonic()
        self._stopped = False

    def read(self) -> State | None:
        """The state in the file; None if there is no file yet."""
        try:
            return check_state(torch.load(self.path, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            return None
        except Exception as error:  # what a damaged file makes torch.load raise is of many types
            raise self._foreign() from error

    def _foreign(self) -> EquivError:
        return EquivError(
            f"checkpoint: expected the undamaged state of a certificate of these very layers, method and seed in "
            f"{str(self.path)!r}, got something else; name another file, or remove this one to start again"
        )

    def watching(self, progress: Progress | None) -> Progress:
        """``progress`` that keeps every state on its way."""

        def kept(done: int, total: int, state: dict[str, Any]) -> object:
            self._state = state
            if time.monotonic() - self._written >= _EVERY:
                self._write()
            answer = None if progress is None else progress(done, total, state)
            self._stopped = answer is False and done < total
            return answer

        return kept

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, StateRefusedError):
            raise self._foreign() from error
        if self._stopped or not isinstance(error, EquivError | None):  # an interrupt too
            self._write()
        elif error is None:
            with self._writing():
                self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._state is None:
            return
        with self._writing():
            handle, name = tempfile.mkstemp(prefix=self._prefix, dir=self.path.parent)
            try:
                with open(handle, "wb") as file:
                    torch.save(self._state, file)
                os.replace(name, self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        self._written = time.monotonic()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # of a path that no file can have; torch's own
            raise EquivError(
                f"checkpoint: expected to write {str(self.path)!r:.200}, got {type(error).__name__}: "
                f"{getattr(error, 'strerror', None) or error}; name a file in a folder that can be written to"
            ) from error


def origin_of(sides: Iterable[Side], dtype: torch.dtype, device: torch.device, *facts: object, values: bool) -> str:
    """A hash of two sides, of where they run, and of ``facts``.

    ``values=False`` leaves out the entries of parameters and buffers, for a method that compares them anew each time.
    """
    arithmetic = declared(dtype, device) if is_inexact(dtype) else None
    capability = torch.backends.cpu.get_cpu_capability()
    settings = (torch.__version__, torch.get_num_threads(), torch.backends.mkldnn.enabled, capability, arithmetic)
    return digest([settings, dtype, device, facts, [_facts_of(side, values) for side in sides]])


def is_covered(side: Side) -> bool:
    """Whether a side is a module whose results depend on what `origin_of` takes in, and on code, alone.

    False for functions, compiled and traced modules, modules with hooks, a forward of their own, attributes that are
    neither numbers, strings nor tensors, or with sparse or quantized tensors.
    """
    if side.layer is not None or not isinstance(side.call, nn.Module):
        return side.layer is not None
    for module in side.call.modules():
        traced = isinstance(module, torch.jit.ScriptModule) or hasattr(module, "graph")
        if traced or any(getattr(module, hooks) for hooks in _HOOKS):
            return False
        own = _own(module).values()
        if not all(_is_dense(value) if isinstance(value, Tensor) else _is_plain(value) for value in own):
            return False
    return all(map(_is_dense, (*side.call.parameters(), *side.call.buffers())))


def digest(value: object) -> str:
    """A hash of nested dicts and lists of tensors and of what has a lasting ``repr``."""
    found = hashlib.sha256()
    _note(found, value)
    return found.hexdigest()


def _note(found: Any, value: Any) -> None:
    """Every value with its length before it, so that no two read alike."""
    if isinstance(value, Mapping):
        value = ["dict", *(list(item) for item in sorted(value.items()))]
    if isinstance(value, Tensor):
        _note(found, _facts_of_tensor(value))
        for piece in _pieces(value) if _is_dense(value) else ():
            found.update(piece)
    elif isinstance(value, list):
        _note(found, len(value))
        for item in value:
            _note(found, item)
    else:
        text = repr(value).encode()
        found.update(f"{len(text)}:".encode() + text)


def _facts_of(side: Side, values: bool) -> list[object]:
    found: list[object] = [side.name, side.shape, side.layer is not None]
    if isinstance(side.call, nn.Module):
        whole = side.call
        tensors: list[tuple[str, Tensor]] = [*whole.named_parameters(remove_duplicate=False)]
        tensors += whole.named_buffers(remove_duplicate=False)
        for name, module in whole.named_modules(remove_duplicate=False):
            own = _own(module)
            plain = {key: value for key, value in own.items() if _is_plain(value)}
            found.append([name, type(module).__module__, type(module).__qualname__, module.training, plain])
            tensors += [(f"{name}.{key}", value) for key, value in own.items() if isinstance(value, Tensor)]
        found += [[name, tensor if values else _facts_of_tensor(tensor)] for name, tensor in tensors]
    return found


def _own(module: nn.Module) -> dict[str, Any]:
    """Attributes beyond parameters, buffers, parts and hooks, which are looked at one by one."""
    return {key: value for key, value in vars(module).items() if key not in _INTERNAL}


def _facts_of_tensor(tensor: Tensor) -> tuple[object, ...]:
    if not _is_dense(tensor):
        return tensor.dtype, tuple(tensor.shape), type(tensor).__qualname__
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg()


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, complex, str, torch.dtype, torch.device))


def _is_dense(tensor: Tensor) -> bool:
    strided = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized)
    return strided and type(tensor).__module__.partition(".")[0] == "torch"


def _pieces(tensor: Tensor) -> Iterator[bytes]:
    """The bytes of a tensor in the order of its indices, a piece at a time, so that nothing of its size is copied."""
    tensor = tensor.detach()
    contiguous = tensor.is_contiguous()
    whole = tensor.reshape(-1) if contiguous else tensor
    for piece in torch.split(whole, _PIECE if contiguous else max(1, _PIECE * len(tensor) // tensor.numel())):
        values = piece.resolve_conj().resolve_neg()
        flat = (torch.view_as_real(values) if values.is_complex() else values).cpu().contiguous().reshape(-1)
        yield ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size())
