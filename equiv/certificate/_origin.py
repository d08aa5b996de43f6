"""What a state belongs to: all that the answers of two sides can depend on, as one hash.

SHA-256 over the types, attributes and training mode of every module, the names, dtypes, shapes, strides and bytes of
every parameter and buffer, and over torch's version and settings. What a function reads is out of reach: ``is_told``
says whether a side is a module that has no such parts, so that its hash stands for its columns.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from equiv.certificate.sides import Side
from equiv.numerics import declared

_PIECE = 2**20  # entries that are hashed at once
_INTERNAL = frozenset(vars(nn.Module()))  # parameters, buffers, parts and hooks: looked at one by one
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def origin(sides: Iterable[Side], dtype: torch.dtype, device: torch.device, *facts: object, values: bool) -> str:
    """A hash of two sides, of where they run, and of ``facts`` with a lasting ``repr``.

    ``values=False`` leaves out the entries of parameters and buffers, for a method that compares them anew each time.
    """
    found = hashlib.sha256()
    arithmetic = declared(dtype, device) if dtype.is_floating_point or dtype.is_complex else None
    capability = torch.backends.cpu.get_cpu_capability()
    _note(found, torch.__version__, torch.get_num_threads(), torch.backends.mkldnn.enabled, capability, arithmetic)
    _note(found, dtype, device, *facts)
    for side in sides:
        _note(found, side.name, side.shape, side.layer is not None)
        if isinstance(side.call, nn.Module):
            _note_module(found, side.call, values)
    return found.hexdigest()


def digest(values: Tensor) -> str:
    """A hash of a tensor: dtype, shape and every bit, whatever its strides."""
    found = hashlib.sha256()
    _note(found, values.dtype, tuple(values.shape))
    for piece in _pieces(values):
        found.update(piece)
    return found.hexdigest()


def is_told(side: Side) -> bool:
    """Whether a side is a module whose answers depend on what :func:`origin` takes in, and on code, alone.

    False for functions, compiled and traced modules, modules with hooks, a forward of their own, attributes that are
    neither numbers, texts nor tensors, or with sparse or quantized tensors.
    """
    if side.layer is not None:
        return True
    if not isinstance(side.call, nn.Module):
        return False
    for module in side.call.modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "graph"):
            return False
        if any(getattr(module, hooks) for hooks in _HOOKS):
            return False
        own = (value for name, value in vars(module).items() if name not in _INTERNAL)
        if not all(_is_plain(value) or (isinstance(value, Tensor) and _is_dense(value)) for value in own):
            return False
    return all(map(_is_dense, (*side.call.parameters(), *side.call.buffers())))


def _note(found: Any, *facts: object) -> None:
    """Facts with their length before them, so that no two lists of them read alike."""
    text = repr(facts).encode()
    found.update(f"{len(text)}:".encode() + text)


def _note_module(found: Any, whole: nn.Module, values: bool) -> None:
    for name, module in whole.named_modules(remove_duplicate=False):
        own = {key: value for key, value in vars(module).items() if key not in _INTERNAL}
        plain = sorted((key, value) for key, value in own.items() if _is_plain(value))
        _note(found, name, type(module).__module__, type(module).__qualname__, module.training, plain)
        _note_tensors(found, ((key, value) for key, value in own.items() if isinstance(value, Tensor)), values)
    _note_tensors(found, whole.named_parameters(remove_duplicate=False), values)
    _note_tensors(found, whole.named_buffers(remove_duplicate=False), values)


def _note_tensors(found: Any, named: Iterable[tuple[str, Tensor]], values: bool) -> None:
    for name, tensor in named:
        if not _is_dense(tensor):
            _note(found, name, tensor.dtype, tuple(tensor.shape), type(tensor).__qualname__)
            continue
        _note(found, name, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())
        if values:
            for piece in _pieces(tensor):
                found.update(piece)


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
    if tensor.is_contiguous():
        flat = tensor.reshape(-1)
        for start in range(0, len(flat), _PIECE):
            yield _bytes(flat[start : start + _PIECE])
    elif tensor.numel():
        step = max(1, _PIECE * len(tensor) // tensor.numel())
        for start in range(0, len(tensor), step):
            yield _bytes(tensor[start : start + step])


def _bytes(values: Tensor) -> bytes:
    values = values.resolve_conj().resolve_neg()
    values = torch.view_as_real(values) if values.is_complex() else values
    flat = values.cpu().contiguous().reshape(-1).view(torch.uint8)
    return ctypes.string_at(flat.data_ptr(), flat.numel())
