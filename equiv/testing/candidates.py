"""Somebody's kernel as a backend: called as it wants to be, asked for what it does not refuse.

Kernels are written for benchmarks in many ways: on tensors or NumPy arrays, with or without a bias, as a product of
matrices, for one dtype. What a candidate refuses aloud is no wrong result: where it raises anything on a tiny layer, it
is not asked for that. Of its results nothing is forgiven.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from equiv.arguments import attribute_of, check_choice, check_device, check_several, refusal
from equiv.backends import Capabilities
from equiv.dtypes import BY_NAME, DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.laws import refusal_of
from equiv.testing.kernels import Kernels
from equiv.text import quoted

LIKES = ("linear", "matmul", "conv1d", "conv2d", "conv3d")
"""What a kernel may be like: ``linear(input, weight, bias)``, ``matmul(a, b)``, or a convolution of ``Kernels``."""

_KEYWORDS = ("stride", "padding", "dilation", "groups")
_ASKED = ("empty_batches", "empty_layers", "single_samples", "layouts", *_KEYWORDS, "forward_mode")
_USUAL = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def as_name(text: str, otherwise: str) -> str:
    """A name that ids of items can hold; ``otherwise`` where nothing of the text can be in one.

    Example:
        >>> as_name("<lambda>", "linear"), as_name("()", "linear")
        ('lambda', 'linear')
    """
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in text).strip("_") or otherwise


class Candidate:
    """A kernel as a function of ``(input, weight, bias, **options)`` on tensors.

    Args:
        kernel: What was given.
        like: One of ``LIKES``.
        device: Of all tensors.
    """

    def __init__(self, kernel: Callable[..., Any], like: str, device: torch.device) -> None:
        self.kernel, self.like, self.device = kernel, like, device
        self.takes_bias, self.keywords = _signature(kernel, like)
        self._as_arrays = self._in_rows = False

    def tiny(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Input and weight of a small layer; 16 of all sizes where ``like`` is a product."""
        kernel = () if self.like in ("linear", "matmul") else (2,) * int(self.like[4])
        x = torch.ones(*(2, 2) if kernel else (16, 16), *kernel, dtype=dtype, device=self.device)
        return x, x.clone()

    def settle(self, x: Tensor, weight: Tensor) -> Exception | None:
        """Find out whether it wants tensors or arrays, and rows alone; why it runs with neither, if so."""
        first: Exception | None = None
        self._in_rows = self.like == "matmul"
        for self._as_arrays in (False, True):
            try:
                self(x, weight)
            except Exception as error:
                first = first or error
                continue
            if self.like == "linear":
                self._in_rows = self._refuses(x[None], weight)
            return None
        self._as_arrays = False
        return first

    def _refuses(self, x: Tensor, weight: Tensor) -> bool:
        """Whether it takes no batch of this rank: then all rows are handed over as one matrix."""
        try:
            self(x, weight)
        except Exception:
            return True
        return False

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Any:
        """What the kernel returns, as a tensor where it is an array."""
        if bias is not None and not self.takes_bias:
            raise NotImplementedError("the kernel takes no bias")
        x = input.reshape(math.prod(input.shape[:-1]), input.shape[-1]) if self._in_rows and input.ndim != 2 else input
        if self.like == "matmul":
            y = self._called(x, weight.t())
        else:
            y = self._called(x, weight, *([bias] if self.takes_bias else []), **options)
        if x is input or not isinstance(y, Tensor) or y.shape != (*x.shape[:-1], weight.shape[0]):
            return y
        return y.reshape(*input.shape[:-1], weight.shape[0])

    def _called(self, *given: Tensor | None, **options: Any) -> Any:
        if not self._as_arrays:
            return as_tensor(self.kernel(*given, **options), self.device)
        import numpy  # it is there: the kernel works on its arrays

        with numpy.errstate(all="ignore"):  # what overflows, the laws judge
            return as_tensor(self.kernel(*map(_array, given), **options), self.device)


def _array(t: Tensor | None) -> Any:
    if t is None:
        return None
    if t.dtype == torch.bfloat16:
        raise NotImplementedError("NumPy has no bfloat16")
    return t.detach().resolve_conj().resolve_neg().cpu().numpy()


def as_tensor(y: Any, device: torch.device) -> Any:
    """A result of another library as a tensor on the same memory; anything else as it is, for the laws to judge."""
    if isinstance(y, Tensor):
        return y
    if hasattr(y, "__dlpack__"):
        try:
            return from_dlpack(y).to(device)
        except Exception:  # a read-only array, or one with strides that torch does not know
            return torch.tensor(y).to(device)
    return y


def _signature(kernel: Callable[..., Any], like: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a kernel takes a bias, and which keywords of a convolution."""
    if like == "matmul":
        return False, ()
    try:
        signature = inspect.signature(kernel)
    except (TypeError, ValueError):  # a builtin has none
        return True, _KEYWORDS if like != "linear" else ()
    kinds = inspect.Parameter
    named = {
        name
        for name, one in signature.parameters.items()
        if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    every = any(one.kind is kinds.VAR_KEYWORD for one in signature.parameters.values())
    keywords = tuple(word for word in _KEYWORDS if like != "linear" and (every or word in named))
    for count in (3, 2):
        try:
            signature.bind(*range(count), **dict.fromkeys(keywords, 1))
        except TypeError:
            continue
        third = [name for name, one in signature.parameters.items() if one.kind is not kinds.KEYWORD_ONLY][2:3]
        return count == 3 and third not in ([word] for word in _KEYWORDS), keywords
    got = f"{attribute_of(kernel, '__name__', 'one')}{signature}"
    raise refusal("candidate", f"a function of input, weight and bias, like {like}", got, "make it take these")


def kernel_backend(
    candidate: Callable[..., Any],
    like: str = "linear",
    *,
    device: str | torch.device = "cpu",
    dtypes: Sequence[torch.dtype | str] | None = None,
    capabilities: Capabilities | None = None,
) -> tuple[Kernels, list[torch.dtype | str]]:
    """A candidate as the backend that :func:`check_kernel` asks, and the dtypes in which.

    Args:
        candidate: The function.
        like: One of ``LIKES``.
        device: Where inputs are put before they are handed over.
        dtypes: Those to ask, all of which are then demanded; None for float32, or else the first that runs.
        capabilities: What is declared; what it leaves open is found out.

    Raises:
        EquivError: Something that cannot be called so, or runs in no dtype.

    Example:
        >>> backend, dtypes = kernel_backend(lambda a, b: a @ b, "matmul")
        >>> backend.capabilities.spatial_ranks, dtypes
        ((), [torch.float32])
    """
    check_choice("like", like, LIKES)
    where = check_device("device", device)
    if not callable(candidate) or isinstance(candidate, type):
        raise refusal("candidate", "a function", candidate, "pass the function itself")
    if not isinstance(capabilities, Capabilities | None):
        raise refusal("capabilities", "an equiv.backends.Capabilities", capabilities, "see its attributes")
    kernel = Candidate(candidate, like, where)
    asked = _served(kernel) if dtypes is None else _named(dtypes)
    if dtypes is not None:
        kernel.settle(*kernel.tiny(next((d for d in _USUAL if d in asked or dtype_name(d) in asked), torch.float32)))
    declared = capabilities or Capabilities()
    name = attribute_of(candidate, "__name__") or type(candidate).__name__
    place = "linear" if like in ("linear", "matmul") else like

    def made(function: Callable[..., Any], found: Capabilities) -> Kernels:
        functions: dict[str, Any] = {place: _with_keywords(function, kernel.keywords)}
        return Kernels(**functions, name=as_name(name, like), device=where, capabilities=found)

    found = _found_out(made(_lenient(kernel), declared), declared, place, asked)
    backend = made(kernel, found)
    return backend, asked


def _with_keywords(function: Callable[..., Any], keywords: tuple[str, ...]) -> Callable[..., Any]:
    """A function whose signature has these keywords of a convolution and no other."""

    def kernel(input: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Any:
        return function(input, weight, bias, **options)

    kinds = inspect.Parameter
    plain = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("input", "weight")]
    plain.append(kinds("bias", kinds.POSITIONAL_OR_KEYWORD, default=None))
    more = [kinds(word, kinds.KEYWORD_ONLY, default=None) for word in keywords]
    setattr(kernel, "__signature__", inspect.Signature([*plain, *more]))  # noqa: B010 - mypy knows no such attribute
    return kernel


def _named(dtypes: Any) -> list[torch.dtype | str]:
    """Dtypes or their names, at least one."""
    expected, advice = "a list of dtypes or their names", "pass such as dtypes=['float32']"
    found = check_several("dtypes", dtypes, expected, advice)
    for one in found:
        if one not in DTYPES if isinstance(one, torch.dtype) else not (isinstance(one, str) and one in BY_NAME):
            raise refusal("dtypes", expected, one, advice)
    if not found:
        raise refusal("dtypes", expected, dtypes, advice)
    return found


def _served(kernel: Candidate) -> list[torch.dtype | str]:
    errors = []
    for dtype in _USUAL:
        errors.append(kernel.settle(*kernel.tiny(dtype)))
        if errors[-1] is None:
            return [dtype]
    first = errors[0]
    assert first is not None
    raise EquivError(
        f"candidate: expected a kernel that runs on a layer of ones in float32, like {kernel.like} on {kernel.device}, "
        f"got {type(first).__name__}: {quoted(first, 200)}; correct it, or pass device= or dtypes="
    ) from first


def _lenient(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, whose every error says that it does not serve the call."""

    def lenient(*given: Any, **options: Any) -> Any:
        try:
            return kernel(*given, **options)
        except Exception as error:
            raise NotImplementedError(f"{type(error).__name__}: {quoted(error, 160)}") from error

    return lenient


def _found_out(
    lenient: Kernels, declared: Capabilities, place: str, asked: Sequence[torch.dtype | str]
) -> Capabilities:
    """What is declared, and no to what the candidate refuses in the first dtype that is asked."""
    first = asked[0]
    dtype: torch.dtype = getattr(torch, first.removeprefix("torch.")) if isinstance(first, str) else first
    forms = ("linear",) if place == "linear" else ("full", "pointwise")
    found: dict[str, Any] = {"concurrent": False} if declared.concurrent is None else {}
    for capability in _ASKED:
        if getattr(declared, capability) is None and all(
            refusal_of(lenient, capability, form, dtype) is not None for form in forms
        ):
            found[capability] = False
    if declared.gradient_order is None:
        refused = [
            order for order in (1, 2) if all(refusal_of(lenient, "gradient_order", f, dtype, order) for f in forms)
        ]
        found |= {"gradient_order": refused[0] - 1} if refused else {}
    return replace(declared, **found)
