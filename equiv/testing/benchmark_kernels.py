"""Kernels where benchmarks for machine-written ones keep them: a backend of BackendBench, a problem of KernelBench."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from equiv.arguments import attribute_of, check_device, check_integer, refusal
from equiv.backends import Capabilities
from equiv.errors import EquivError
from equiv.testing.kernels import Kernels
from equiv.text import quoted, shown

_OPS = ("linear.default", "addmm.default", "mm.default", "convolution.default")


def backendbench_kernels(
    backend: Any, *, device: str | torch.device = "cpu", capabilities: Capabilities | None = None
) -> Kernels:
    """The operators of a BackendBench backend that are a layer, as a backend for :func:`equiv.testing.check_backend`.

    Rows go through ``aten.linear``, else through ``aten.addmm`` with a bias and ``aten.mm`` without one; maps of one to
    three dimensions through ``aten.convolution``. What is not there is not served.

    Args:
        backend: An object with ``backend[op]`` and ``op in backend`` for operators of ``torch.ops.aten``, as those of
            ``BackendBench.backends`` are. Or the folder of a ``DirectoryBackend``: in each folder named after an
            operator, such as ``addmm__default``, the first ``addmm__default_implementation*.py`` has a function
            ``addmm__default_kernel_impl``. Its code runs.
        device: Where inputs are put before they are handed over.
        capabilities: What else the operators serve, or do not.

    Raises:
        EquivError: An object that is no such backend, a folder without a kernel for one of these operators, or code
            that raises an error.

    Example:
        >>> class Aten:  # as BackendBench's own
        ...     def __getitem__(self, op): return op
        ...     def __contains__(self, op): return True
        >>> backendbench_kernels(Aten()).linear(torch.ones(1, 2), torch.ones(1, 2)).tolist()
        [[2.0]]
    """
    where = check_device("device", device)
    found = _of_folder(_path("backend", backend)) if isinstance(backend, str | Path) else _of_object(backend)
    if not found:
        raise refusal("backend", f"an operator among {', '.join(_OPS)}", backend, "none of them is there")
    functions: dict[str, Any] = {}
    if "linear.default" in found or "mm.default" in found or "addmm.default" in found:
        functions["linear"] = _rows(found)
    if "convolution.default" in found:
        functions |= {f"conv{rank}d": _maps(found["convolution.default"], rank) for rank in (1, 2, 3)}
    name = str(attribute_of(backend, "name", "")) or "directory"
    safe = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
    return Kernels(**functions, name=f"backendbench.{safe}", device=where, capabilities=capabilities)


def _of_object(backend: Any) -> dict[str, Callable[..., Any]]:
    has = attribute_of(backend, "__contains__"), attribute_of(backend, "__getitem__")
    if not all(map(callable, has)) or isinstance(backend, type):
        raise refusal("backend", "an object with backend[op] and op in backend, or a folder", backend, "pass either")
    found = {}
    for name in _OPS:
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload)
        try:
            if op in backend:
                found[name] = backend[op]
        except Exception as error:
            said = f"{type(error).__name__}: {quoted(error, 120)}"
            raise refusal("backend", f"an answer for aten.{name}", said, "correct the backend") from error
    return found


def _of_folder(folder: Path) -> dict[str, Callable[..., Any]]:
    if not folder.is_dir():
        raise refusal("backend", "a folder of operators", str(folder), "there is no such folder here")
    found = {}
    for name in _OPS:
        place = name.replace(".", "__")
        files = sorted((folder / place).glob(f"{place}_implementation*.py"))
        if files:
            found[name] = attribute_in(_run(files[0]), f"{place}_kernel_impl", files[0])
    return found


def _rows(found: dict[str, Callable[..., Any]]) -> Callable[..., Tensor]:
    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if "linear.default" in found:
            y: Tensor = found["linear.default"](input, weight, bias)
            return y
        which = "mm.default" if bias is None else "addmm.default"
        if which not in found:
            raise NotImplementedError(f"the backend has no aten.{which}")
        rows = input if input.ndim == 2 else input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
        y = found[which](*([] if bias is None else [bias]), rows, weight.t())
        return y.reshape(*input.shape[:-1], weight.shape[0]) if rows is not input and isinstance(y, Tensor) else y

    return linear


def _maps(convolution: Callable[..., Any], rank: int) -> Callable[..., Tensor]:
    def conv(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: tuple[int, ...] = (1,) * rank,
        padding: tuple[int, ...] = (0,) * rank,
        dilation: tuple[int, ...] = (1,) * rank,
        groups: int = 1,
    ) -> Tensor:
        x = input if input.ndim == rank + 2 else input[None]
        steps = [list(stride), list(padding), list(dilation)]
        y: Tensor = convolution(x, weight, bias, *steps, False, [0] * rank, groups)
        return y[0] if x is not input else y

    return conv


def kernelbench_problem(
    solution: str | Path, problem: str | Path | None = None, *, device: str | torch.device = "cpu", seed: int = 0
) -> tuple[nn.Module, nn.Module, Callable[[], list[Any]]]:
    """A solution of KernelBench, what it must compute, and its inputs: the arguments of :func:`check_kernel`.

    Both models are made after the same seed, and where their parameters have the same names and shapes, those of the
    solution are those of the problem. The code of both files runs. torch's random state is as it was before.

    Args:
        solution: A file with ``ModelNew``.
        problem: A file with ``Model``, ``get_inputs`` and ``get_init_inputs``; by default the same.
        device: Where models and inputs are put.
        seed: Of the models and the inputs.

    Raises:
        EquivError: A file that is not there, lacks one of these names, or whose code raises an error.

    Example:
        >>> new, old, inputs = kernelbench_problem("level1/1_solution.py")  # doctest: +SKIP
        >>> check_kernel(new, like=old, inputs=inputs).holds  # doctest: +SKIP
        True
    """
    where = check_device("device", device)
    check_integer("seed", seed, least=0)
    of_solution = _path("solution", solution)
    of_problem = of_solution if problem is None else _path("problem", problem)
    mine = _run(of_solution)
    theirs = mine if of_problem == of_solution else _run(of_problem)
    make, old_make = attribute_in(mine, "ModelNew", of_solution), attribute_in(theirs, "Model", of_problem)
    get_inputs, get_init = (attribute_in(theirs, name, of_problem) for name in ("get_inputs", "get_init_inputs"))

    def drawn(function: Callable[..., Any], *given: Any, more: int = 0) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed + more)
            return function(*given)

    try:
        given = drawn(get_init)
        models = [drawn(one, *given) for one in (old_make, make)]
    except Exception as error:
        said = f"{type(error).__name__}: {quoted(error, 160)}"
        raise refusal("solution", "models that can be made", said, "correct the file") from error
    for one in models:
        if not isinstance(one, nn.Module):
            raise refusal("solution", "Model and ModelNew that are modules", one, "derive them from torch.nn.Module")
    reference, candidate = (one.to(where) for one in models)
    states = reference.state_dict(), candidate.state_dict()
    if {k: v.shape for k, v in states[0].items()} == {k: v.shape for k, v in states[1].items()}:
        candidate.load_state_dict(states[0])

    def inputs() -> list[Any]:
        return [x.to(where) if isinstance(x, Tensor) else x for x in drawn(get_inputs, more=1)]

    return candidate, reference, inputs


_LOADED = itertools.count()


def _run(path: Path) -> ModuleType:
    """The code of a file, in a module of its own name: files of benchmarks have the same names."""
    if not path.is_file():
        raise refusal("solution", "a file of Python code", str(path), "there is no such file")
    name = f"equiv_kernels_{next(_LOADED)}_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise refusal("solution", "a file of Python code", str(path), "give it a name that ends with .py")
    module = sys.modules[name] = module_from_spec(spec)  # where Triton and dataclasses look
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        said = f"{type(error).__name__}: {quoted(error, 160)}"
        raise EquivError(f"solution: expected code that runs, got {shown(str(path))}, which raises {said}") from error
    return module


def _path(argument: str, value: object) -> Path:
    """A path, if it is one that can be there."""
    if not isinstance(value, str | Path):
        raise refusal(argument, "the name of a file or folder", value, "pass it as a string or a Path")
    try:
        Path(value).exists()
    except (OSError, ValueError) as error:  # a name that is too long, or that no file can have
        raise refusal(argument, "the name of a file or folder", str(value), quoted(error, 80)) from error
    return Path(value)


def attribute_in(module: ModuleType, name: str, path: Path) -> Any:
    """A name of a file.

    Raises:
        EquivError: The file does not have it.
    """
    if not hasattr(module, name):
        raise refusal("solution", f"a file that has {name}", path.name, "name another file, or add it")
    return getattr(module, name)
