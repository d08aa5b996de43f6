"""What a backend serves where it declares nothing: asked with tiny calls, once in a process, and kept.

Only ``NotImplementedError`` says that a call is not served; of gradients also what torch itself says where there are
none. Whatever else a backend raises or returns is left to the laws, which run into it and report it. What it refuses by
size shows in the calls of the laws themselves (``NotServed``).
"""

from __future__ import annotations

import inspect
import re
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from equiv.backends import FORMS, Backend, TorchEager, capabilities_of
from equiv.dtypes import dtype_name, is_inexact
from equiv.laws.call import is_control
from equiv.laws.capabilities import NotAsked, declared_answer, declared_dtype, reason_of
from equiv.laws.state import unchanged
from equiv.strategies import all_layouts

LAZY = ("conj", "neg")
"""The layouts that are views of torch's own, which no other library knows."""

_RANKS = (2, 1, 3)  # the commonest first


class _Refused(Exception):  # noqa: N818 - what it says is a reason
    """The backend does not serve what was asked; the message is why."""


@dataclass(frozen=True)
class _Asked:
    """A form of a backend in a dtype, and what is wanted of it: a rank or an order of gradients."""

    backend: Backend
    form: str
    dtype: torch.dtype
    wanted: Any = True

    def ones(self, *shape: int) -> Tensor:
        try:
            return torch.ones(shape, dtype=self.dtype, device=self.backend.device)
        except TypeError as error:  # a device without the dtype
            raise _Refused(reason_of(error)) from error

    def tensors(self, rank: int, *, rows: int = 1, n: int = 2, outputs: int = 2) -> tuple[Tensor, Tensor]:
        """Input and weight of a tiny call."""
        if self.form == "linear":
            return self.ones(rows, n), self.ones(outputs, n)
        size = (2 if self.form == "full" else 1,) * rank
        return self.ones(rows, n, *size), self.ones(outputs, n, *size)

    def call(self, x: Tensor, weight: Tensor, **steps: Any) -> Any:
        """What the backend returns; whatever else it raises than a refusal stands."""
        for listener in call_listeners:
            listener(self._words(x, weight, steps))
        with _refusals():
            if self.form == "linear":
                return self.backend.linear(x, weight, None)
            return self.backend.conv(x, weight, None, **{"stride": 1, "dilation": 1, **steps})

    def is_result(self, y: object) -> bool:
        """Whether this is a tensor as a call of :meth:`tensors` returns it, whatever its values."""
        shape = (1, 2) if self.form == "linear" else (1, 2, *(1,) * self.rank)
        if not isinstance(y, Tensor) or y.layout != torch.strided:
            return False
        return (tuple(y.shape), y.dtype, y.device.type) == (shape, self.dtype, torch.device(self.backend.device).type)

    def _words(self, x: Tensor, weight: Tensor, steps: dict[str, Any]) -> str:
        """The call as a line of a program that has a ``backend``."""
        ones = [f"torch.ones({tuple(t.shape)}, dtype={t.dtype}, device={str(t.device)!r})" for t in (x, weight)]
        given = [*ones, *(f"{name}={value!r}" for name, value in steps.items())]
        return f"backend.{'linear' if self.form == 'linear' else 'conv'}({', '.join(given)})"

    @property
    def rank(self) -> int:
        """A rank of maps that the form serves, as far as is known."""
        ranks = served_ranks(self.backend, (self.form,), self.dtype)
        return next((rank for rank in _RANKS if rank in ranks), _RANKS[0])


call_listeners: list[Callable[[str], None]] = []
"""Called with every call before it is made, as a line of a program: a worker process says what it is about to do."""


def refusal_of(backend: Backend, capability: str, form: str, dtype: torch.dtype, wanted: Any = True) -> NotAsked | None:
    """Why ``wanted`` is not to be asked of a form in a dtype; None where it is.

    Args:
        backend: Who is asked.
        capability: One of those of :class:`equiv.backends.Capabilities`.
        form: The form; empty for all, which refuse what each of them refuses.
        dtype: Of all tensors.
        wanted: An order of gradients, a rank of maps, a number of entries; for layouts also ``lazy``, torch's conjugate
            and negative views; True for a capability that is yes or no.
    """
    if capability == "dtypes":
        is_said, refused = declared_dtype(backend, form, dtype)
    else:
        is_said, refused = declared_answer(backend, capability, form, dtype, wanted)
    if is_said or capability not in _ASK or (type(backend) is TorchEager and not _is_open(backend, capability)):
        return refused
    if not form:
        each = (refusal_of(backend, capability, one, dtype, wanted) for one in FORMS)
        refusals = [one for one in each if one is not None]
        return replace(refusals[0], form="") if len(refusals) == len(FORMS) else None
    asked = _Asked(backend, form, dtype, wanted)
    reason = _remembered(backend, (capability, form, dtype, wanted), lambda: _answer(asked, capability))
    if reason is None:
        return None
    return NotAsked(capability, backend.name, form=form, dtype=dtype_name(dtype), reason=reason, how="found")


def served_forms(
    backend: Backend, forms: tuple[str, ...], dtype: torch.dtype
) -> tuple[tuple[str, ...], list[NotAsked]]:
    """The forms that run in a dtype, and why the others are not asked. Where any raises what is no refusal, it runs."""
    found = {form: refusal_of(backend, "dtypes", form, dtype, dtype) for form in forms}
    return tuple(form for form in forms if found[form] is None), [one for one in found.values() if one is not None]


def served_ranks(backend: Backend, forms: tuple[str, ...], dtype: torch.dtype) -> tuple[int, ...]:
    """The ranks of maps that some of these forms serve in a dtype; all of them where none is a convolution."""
    convolutions = [form for form in forms if form != "linear"]
    refused = {
        rank: [refusal_of(backend, "spatial_ranks", form, dtype, rank) for form in convolutions] for rank in (1, 2, 3)
    }
    found = tuple(rank for rank, reasons in refused.items() if None in reasons)
    return found or (1, 2, 3)


def _is_open(backend: Backend, capability: str) -> bool:
    """Whether torch itself may refuse this: integers have no dilation, and accelerators not every dtype."""
    return capability == "dilation" or (capability == "dtypes" and torch.device(backend.device).type != "cpu")


def _answer(asked: _Asked, capability: str) -> str | None:
    """Why it is refused; None where it is served, or where the answer is an exception of another kind."""
    with unchanged():  # what it leaves changed, the laws say
        try:
            _ASK[capability](asked)
        except _Refused as refused:
            return str(refused)
        except BaseException as error:  # no refusal: the laws run into it, and say what it is
            if is_control(error):
                raise
    return None


@contextmanager
def _refusals() -> Iterator[None]:
    """NotImplementedError, which torch before 2.7 raises as a RuntimeError, is a refusal."""
    try:
        yield
    except NotImplementedError as error:
        raise _Refused(reason_of(error)) from error
    except RuntimeError as error:
        if "\" not implemented for '" in str(error):
            raise _Refused(reason_of(error)) from error
        raise


_OF_TORCH = (
    "once_differentiable",
    "Can't call numpy() on Tensor that",  # requires grad, has the conjugate or the negative bit set
    "Can't export tensors that require gradient",
    "Can't export tensors with the conjugate bit set",
)


@contextmanager
def _torchs_refusals() -> Iterator[None]:
    """What torch itself raises where there is no formula, or where a backend hands a tensor to another library."""
    try:
        with _refusals():
            yield
    except (RuntimeError, BufferError) as error:
        if any(words in str(error) for words in _OF_TORCH):
            raise _Refused(reason_of(error)) from error
        raise


# --- one question for each capability ---------------------------------------------------------------------------------


def _dtypes(asked: _Asked) -> None:
    """A form is refused where every rank of maps is."""
    declared = capabilities_of(asked.backend).spatial_ranks
    ranks = [rank for rank in _RANKS if declared is None or rank in declared] if asked.form != "linear" else [0]
    refused: list[_Refused] = []
    for rank in ranks:
        try:
            asked.call(*asked.tensors(rank))
        except _Refused as error:
            refused.append(error)
            continue
        return
    raise refused[0] if refused else _Refused("it has no convolutions")


def _spatial_ranks(asked: _Asked) -> None:
    asked.call(*asked.tensors(asked.wanted))


def _empty_batches(asked: _Asked) -> None:
    asked.call(*asked.tensors(asked.rank, rows=0))


def _empty_layers(asked: _Asked) -> None:
    """Few kernels serve them: whatever is raised is a refusal."""
    if asked.form != "linear":
        raise _Refused("convolutions have channels")
    try:
        asked.call(asked.ones(2, 0), asked.ones(2, 0))
        asked.call(asked.ones(2, 2), asked.ones(0, 2))
    except Exception as error:
        raise error if isinstance(error, _Refused) else _Refused(reason_of(error)) from error


def _single_samples(asked: _Asked) -> None:
    x, weight = asked.tensors(asked.rank)
    asked.call(x[0], weight)


def _layouts(asked: _Asked) -> None:
    """Each kind of layout, first of the input and then of the weight; torch's lazy views where these are wanted."""
    x, weight = asked.tensors(asked.rank, rows=2)
    of_kinds = [
        laid for laid in all_layouts(x.ndim, asked.dtype)[1:] if (laid.kind in LAZY) is (asked.wanted == "lazy")
    ]
    with _torchs_refusals():
        for laid in of_kinds:
            asked.call(laid.apply(x), weight)
            asked.call(x, laid.apply(weight))


def _stride(asked: _Asked) -> None:
    x, weight = asked.tensors(asked.rank)
    wider = asked.ones(*x.shape[:2], *(size + 2 for size in x.shape[2:]))
    asked.call(wider, weight, stride=2)
    asked.call(x, weight, stride=2)


def _dilation(asked: _Asked) -> None:
    rank = asked.rank
    one = asked.ones(1, 2, *(1,) * rank)
    asked.call(one, one, dilation=2)


def _padding(asked: _Asked) -> None:
    _look_for(asked, "padding")
    x, weight = asked.tensors(asked.rank)
    with _no_keyword("padding"):
        asked.call(x, weight, padding=(1,) * asked.rank)


def _groups(asked: _Asked) -> None:
    _look_for(asked, "groups")
    x, weight = asked.tensors(asked.rank)
    with _no_keyword("groups"):
        asked.call(x, weight[:, :1], groups=2)


def _look_for(asked: _Asked, keyword: str) -> None:
    """Refuse a keyword that the signature of ``conv``, where it has one, does not take."""
    try:
        parameters = inspect.signature(asked.backend.conv).parameters.values()
    except (TypeError, ValueError):  # a builtin has none
        return
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    has_it = any(p.name == keyword and p.kind in by_name for p in parameters)
    if not has_it and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        raise _Refused(f"its conv has no keyword {keyword}")


@contextmanager
def _no_keyword(keyword: str) -> Iterator[None]:
    """What Python raises for an unknown keyword, further in than the signature shows, is a refusal."""
    try:
        yield
    except TypeError as error:
        if re.search(rf"\b{keyword}\b", str(error)):
            raise _Refused(reason_of(error)) from error
        raise


def _gradient_order(asked: _Asked) -> None:
    """First order: the result carries gradients, and torch finds their formula. Second: these carry them again."""
    if not is_inexact(asked.dtype):
        return
    leaves = [t.requires_grad_() for t in asked.tensors(asked.rank)]
    with _torchs_refusals():
        y = asked.call(*leaves)
        if not asked.is_result(y):
            return  # the laws say what is wrong with it
        if not y.requires_grad:
            raise _Refused("its results carry no gradients")
        again = asked.wanted > 1
        first = torch.autograd.grad(y, leaves, torch.ones_like(y), create_graph=again)
        if not again:
            return
        if not all(gradient.requires_grad for gradient in first):
            raise _Refused("its gradients carry no gradients")
        for gradient, other in zip(first, reversed(leaves), strict=True):
            torch.autograd.grad(gradient, other, torch.ones_like(gradient), retain_graph=True)


def _forward_mode(asked: _Asked) -> None:
    if not is_inexact(asked.dtype):
        return
    forward: Any = torch.autograd.forward_ad
    with _torchs_refusals(), warnings.catch_warnings(), forward.dual_level():
        warnings.simplefilter("ignore")  # torch's own deprecations
        x, weight = asked.tensors(asked.rank)
        y = asked.call(forward.make_dual(x, x.clone()), weight)
        if isinstance(y, Tensor) and forward.unpack_dual(y).tangent is None:
            raise _Refused("its results carry no tangents")


_ASK: dict[str, Callable[[_Asked], None]] = {
    "dtypes": _dtypes,
    "spatial_ranks": _spatial_ranks,
    "empty_batches": _empty_batches,
    "empty_layers": _empty_layers,
    "single_samples": _single_samples,
    "layouts": _layouts,
    "stride": _stride,
    "dilation": _dilation,
    "padding": _padding,
    "groups": _groups,
    "gradient_order": _gradient_order,
    "forward_mode": _forward_mode,
}


# --- what was answered ------------------------------------------------------------------------------------------------


@dataclass
class _Answers:
    """What one backend answered, as long as it lives and calls the same functions."""

    backend: Callable[[], object]
    functions: tuple[object, ...]
    by_question: dict[Hashable, str | None] = field(default_factory=dict)


_ANSWERS: dict[int, _Answers] = {}


def _remembered(backend: Backend, question: Hashable, ask: Callable[[], str | None]) -> str | None:
    functions = (
        *(getattr(method, "__func__", method) for method in (backend.linear, backend.conv)),
        *(getattr(functional, name) for name in ("linear", "conv1d", "conv2d", "conv3d")),
    )
    key = id(backend)
    held = _ANSWERS.get(key)
    if held is None or held.backend() is not backend or held.functions != functions:
        held = _ANSWERS[key] = _Answers(_reference(backend, key), functions)
    if question not in held.by_question:
        held.by_question[question] = ask()
    return held.by_question[question]


def _reference(backend: Backend, key: int) -> Callable[[], object]:
    """The backend while it lives, then nothing; one that has no weak references is kept."""
    try:
        return weakref.ref(backend, lambda _: _ANSWERS.pop(key, None))
    except TypeError:
        return lambda: backend
