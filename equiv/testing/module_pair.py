"""A kernel beside the module that it stands for: copies of both, inputs for them, and a judgement of one result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equiv.arguments import attribute_of, check_tensor, refusal
from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv
from equiv.testing.candidates import Candidate, as_tensor
from equiv.text import quoted
from equiv.verdict import Outcome, compare

Inputs = tuple[Any, ...]
_ROWS = 8
_NEIGHBOURS, _TIMES = 4, 64.0
"""Other inputs that show the reference's own error, and how often that a right kernel may be off.

Another order of summation or another form of the same formula stays below 10 in what was tried; factors in TF32 or
float16 are off by thousands, in bfloat16 by ten thousands.
"""


class Refused(Exception):  # noqa: N818 - what it says is why
    """The candidate raised an error."""


class Pair:
    """A candidate and its reference, as copies wherever they can be copied.

    Args:
        candidate: A module or function of the inputs; beside a Linear or a convolution also of input, weight and bias.
        reference: The module that is right.
        inputs: What both are called with, or a function without arguments that draws it.

    Attributes:
        has_own_parameters: Whether the candidate's parameters stand for the reference's, so that both can be changed.
    """

    def __init__(self, candidate: Any, reference: nn.Module, inputs: Sequence[Any] | Callable[[], Any] | None) -> None:
        self.reference = _evaluating(copy.deepcopy(reference))
        self.name = attribute_of(candidate, "__name__") or type(candidate).__name__
        self._draw = inputs
        self._shared = False
        self._module: nn.Module | None = None
        self._call = self._called(candidate)
        self.given = self._first()
        self.dtype = next((t.dtype for t in self.given if isinstance(t, Tensor)), torch.float32)

    def _called(self, candidate: Any) -> Callable[..., Any]:
        if isinstance(candidate, nn.Module):
            if any(map(is_lazy, candidate.parameters())):
                advice = "run it once on an example input first"
                raise refusal("candidate", "initialized parameters", f"a lazy {type(candidate).__name__}", advice)
            self._module = candidate
            with suppress(Exception):  # a handle of a compiled library has no copy
                self._module = copy.deepcopy(candidate)
            return _evaluating(self._module)
        if not callable(candidate) or isinstance(candidate, type):
            raise refusal("candidate", "a module or a function", candidate, "pass the function itself, or an instance")
        like = like_of(self.reference)
        if like is not None:
            layer: Any = self.reference
            with suppress(Exception):  # it is none of input and weight, or the layer is none that runs
                kernel = Candidate(candidate, like, layer.weight.device)
                kernel.settle(_input_of(layer), layer.weight.detach())
                self._shared = True
                return lambda x: kernel(x, layer.weight.detach(), _detached(layer.bias), **_options(layer, kernel))
        return candidate  # type: ignore[no-any-return]

    def _first(self) -> Inputs:
        try:
            found = self._drawn()
            given = tuple(found) if isinstance(found, list | tuple) else (found,)
            for value in given:
                if isinstance(value, Tensor):
                    check_tensor("inputs", value, advice="pass what the module is called with")
                    if not value.numel():
                        raise refusal("inputs", "tensors with entries", tuple(value.shape), "pass a batch of some rows")
            self.wanted(given)
        except EquivError:
            raise
        except Exception as error:
            got = f"{type(error).__name__}: {quoted(error, 160)}"
            raise EquivError(f"inputs: expected what the module in like= runs on, got {got}; correct them") from error
        return given

    def _drawn(self) -> Any:
        if self._draw is None:
            return [_input_of(self.reference)]
        if not callable(self._draw):
            return self._draw
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self._draw()

    @property
    def layer(self) -> nn.Module | None:
        """The reference, where it is a plain Linear or convolution, whose exact results are known."""
        return self.reference if like_of(self.reference) is not None else None

    def parameters(self) -> list[tuple[Tensor, Tensor | None]]:
        """Parameters of the reference with those of the candidate; none where these do not correspond."""
        mine = list(self.reference.named_parameters())
        if self._shared:
            return [(p, None) for _, p in mine]
        theirs = dict(self._module.named_parameters()) if self._module is not None else {}
        same = [(p, theirs.get(name)) for name, p in mine]
        if any(q is None or q.shape != p.shape for p, q in same) or len(theirs) != len(mine):
            return []
        return [(p, q) for p, q in same if q is not p]

    def set_parameters(self, change: Callable[[Tensor], Tensor]) -> None:
        """The same new values in both, at the same addresses as before."""
        with torch.no_grad():
            for p, q in self.parameters():
                new = change(p)
                p.copy_(new)
                if q is not None:
                    q.copy_(new)

    def run(self, given: Inputs) -> Any:
        """What the candidate returns.

        Raises:
            Refused: It raises an error.
        """
        try:
            with torch.no_grad():
                y = self._call(*given)
        except Exception as error:
            raise Refused(f"raises {type(error).__name__}: {quoted(error, 160)}") from error
        y = y[0] if isinstance(y, list | tuple) and len(y) == 1 else y
        return as_tensor(y, self.given[0].device if isinstance(self.given[0], Tensor) else torch.device("cpu"))

    def wanted(self, given: Inputs) -> Tensor:
        """What the reference returns."""
        with torch.no_grad():
            y = self.reference(*_copied(given))
        if not isinstance(y, Tensor):
            raise refusal("like", "a module that returns one tensor", y, "wrap it in one that does")
        return y

    def exact(self, given: Inputs) -> Tensor:
        """What the reference returns in float64."""
        with torch.no_grad():
            wide: Tensor = copy.deepcopy(self.reference).double()(*_doubled(given))
        return wide

    def problem(self, given: Inputs, y: Any) -> str:
        """What is wrong with the candidate's result for these inputs; empty if nothing."""
        wanted = self.wanted(given)
        wrong = _form_of(y, wanted)
        if wrong or not wanted.numel():
            return wrong
        if not is_inexact(wanted.dtype):
            return "" if torch.equal(y, wanted) else "returns other integers than the module"
        if self._rounds_nothing(wanted, given):
            return _exactly(y, wanted)
        if self.layer is None:
            return self._beside_its_own_error(given, y, wanted)
        verdict = compare(y.detach(), wanted, layer=self.layer, input=given[0].detach())
        return f"is DIFFERENT: {_sentence(verdict.explanation)}" if verdict.outcome is Outcome.DIFFERENT else ""

    def _beside_its_own_error(self, given: Inputs, y: Tensor, wanted: Tensor) -> str:
        """The error against float64 beside that of the reference, on these inputs and on others next to them."""
        exact = self.exact(given)
        mine, places = _error(y, exact), y.isfinite() == exact.isfinite()
        if not bool(places.all()):
            return (
                "" if bool((y.isfinite() == wanted.isfinite()).all()) else "is finite at other places than the module"
            )
        own = _error(wanted, exact)
        for number in range(_NEIGHBOURS):
            near = tuple(_nudged(value, number) for value in given)
            own = max(own, _error(self.wanted(near), self.exact(near)))
        finite = exact[exact.isfinite()]
        own = max(own, torch.finfo(y.dtype).eps / 2 * float(finite.abs().max()) if finite.numel() else 0.0)
        if mine <= _TIMES * own:
            return ""
        return f"is off by {mine:.3g} in its worst entry, where the module itself is off by {own:.3g} in its dtype"

    def _rounds_nothing(self, wanted: Tensor, given: Inputs) -> bool:
        """Whether the reference gives its exact results, so that nothing is left to a kernel."""
        if wanted.dtype in (torch.float64, torch.complex128):
            parts = torch.view_as_real(wanted) if wanted.is_complex() else wanted
            return bool((parts == parts.round()).all())
        return torch.equal(wanted.double(), self.exact(given))


def _error(y: Tensor, exact: Tensor) -> float:
    """The largest error of a finite entry."""
    both = y.isfinite() & exact.isfinite()
    return float((y[both].to(exact.dtype) - exact[both]).abs().max()) if bool(both.any()) else 0.0


def _nudged(value: Any, number: int) -> Any:
    """The same input up to a relative 2^-6: sums as large, rounded otherwise."""
    if not isinstance(value, Tensor) or not is_inexact(value.dtype):
        return value
    generator = torch.Generator().manual_seed(number)
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float32).to(value.device)
    return (value * (1 + 2.0**-6 * noise)).to(value.dtype)


def _sentence(text: str) -> str:
    return " ".join(text.split())[:300]


def _exactly(y: Tensor, wanted: Tensor) -> str:
    wrong = ~((y == wanted) | (y.isnan() & wanted.isnan()))
    if not bool(wrong.any()):
        return ""
    at = tuple(int(i) for i in wrong.nonzero()[0])
    return f"returns {y[at].item()}, exact is {wanted[at].item()}, at {list(at)}"


def _form_of(y: Any, wanted: Tensor) -> str:
    """What is wrong with a result apart from its values."""
    if not isinstance(y, Tensor):
        return f"returns {type(y).__name__}, not a tensor"
    if type(y) not in (Tensor, nn.Parameter):
        return f"returns a {type(y).__name__}, a subclass of Tensor"
    if (tuple(y.shape), y.dtype, y.device) == (tuple(wanted.shape), wanted.dtype, wanted.device):
        return ""
    mine, theirs = (f"{dtype_name(t.dtype)} of shape {tuple(t.shape)} on {t.device}" for t in (y, wanted))
    return f"returns {mine}, expected {theirs}"


def like_of(module: nn.Module) -> str | None:
    """What a kernel for a plain layer is like; None for a module of any other kind."""
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or not isinstance(getattr(module, "weight", None), nn.Parameter)
    ):
        return None
    if type(module) is nn.Linear:
        return "linear"
    kinds: dict[type, str] = {nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d"}
    return kinds.get(type(module)) if getattr(module, "padding_mode", "zeros") == "zeros" else None


def _options(layer: Any, kernel: Candidate) -> dict[str, Any]:
    """The keywords of a convolution that are not the default, all of which the kernel must then have."""
    if not isinstance(layer, Conv):
        return {}
    given = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    default = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return {
        name: value
        for name, value in given.items()
        if name in kernel.keywords or {*([value] if isinstance(value, int | str) else value)} != {default[name]}
    }


def _detached(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach()


def _evaluating(module: nn.Module) -> nn.Module:
    return module.eval() if module.training else module


def _input_of(module: nn.Module) -> Tensor:
    """Rows for a Linear, maps with some positions for a convolution."""
    generator = torch.Generator().manual_seed(0)
    if like_of(module) is None:
        expected = "tensors to call the module with, since it is neither a Linear nor a convolution"
        raise refusal("inputs", expected, None, "pass inputs=[...] or a function that draws them")
    layer: Any = module
    if isinstance(module, nn.Linear):
        shape: tuple[int, ...] = (_ROWS, module.in_features)
    else:
        sizes = (
            (k - 1) * d + 2 + 2 * s for k, d, s in zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
        )
        shape = (2, layer.in_channels, *sizes)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(layer.weight.device, layer.weight.dtype)


def _copied(given: Inputs) -> Inputs:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in given)


def _doubled(given: Inputs) -> Inputs:
    return tuple(
        value.double() if isinstance(value, Tensor) and value.is_floating_point() else value for value in _copied(given)
    )


def padded_rows(t: Tensor, rows: int) -> Tensor:
    """As many rows as are asked for: the first ones, repeated where there are not enough."""
    return t[torch.arange(rows, device=t.device) % len(t)]
