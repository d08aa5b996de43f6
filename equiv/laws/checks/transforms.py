"""The law about torch's own program transformations: vmap, jvp, functional_call, compile, autocast, meta."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from equiv.dtypes import dtype_name, is_inexact
from equiv.laws.call import Call, raised
from equiv.laws.checks.drawing import exact_case_like, exact_cases, integer_grad, rows_of
from equiv.laws.checks.expected import GRADIENT_NAMES, exact_gradients, goes_back, stays_exact, whole
from equiv.laws.checks.own_module import OwnModule, is_own
from equiv.laws.checks.round_trips import mapped, shaped
from equiv.laws.checks.tracing import recorded_by_fx, traced_by_jit
from equiv.laws.reach import Reach
from equiv.laws.registry import law
from equiv.laws.trial import Trial, as_linear
from equiv.strategies import Case

_COMPILED = 12  # torch.compile takes most of a second: one in so many cases, chosen by the seed so that it fails again
_MANY = 33  # rows that half of the compiled programs, and those of as many outputs, get at least: the case's own again
_VMAPS = ("vmap over both", "vmap over rows", "vmap over weights")
_REACHES = (
    Reach("transform", ("functional_call", "no_grad", "inference_mode", *_VMAPS, "compile", "meta")),
    Reach("transform", ("jvp", "jvp of parameters"), kinds=("float",), needs=("forward_mode",)),
    Reach("transform", ("autocast to bfloat16", "autocast to float16"), dtypes=("float32",)),
)
_draw = partial(exact_cases, layouts=False, max_features=128, max_out=64, max_rows=32)


@law(11, "transforms", draw=_draw, needs_torch=True, reaches=_REACHES)
def transforms(trial: Trial, case: Case) -> None:
    """vmap, jvp, functional_call, compile, autocast and the meta device agree with the plain call."""
    if not trial.asks("transforms"):
        return
    x = rows_of(case)
    expected = whole(x, case.weight, case.bias)
    layer = as_linear(case.weight, case.bias)
    for call in trial.calls(x, case.weight, case.bias, case.feature_shape):
        module = _as_run(trial, call.form, mapped(call.form, layer, case.feature_shape))
        this = _Module(call.form, module, x, case.feature_shape)
        _on_meta(trial, call, this)
        for name, way in (_ALWAYS | (_WITH_ROWS if len(x) else {})).items():
            _agrees(trial, call, name, partial(way, this), expected)
        _as_programs(trial, case, call, this, expected)
        turn = case.seed + trial.forms.index(call.form)
        if len(x) and turn % 2 and goes_back(trial, call.form):
            _gradient(trial, call, this, case, turn // 2)
        elif len(x):
            name, more = _IN_TURN[turn // 2 % len(_IN_TURN)]
            _agrees(trial, call, name, partial(more, this), expected)
        if is_inexact(case.dtype) and len(x) and trial.asks("forward_mode", call.form):
            _jvp(trial, call, this, case, turn)
        if case.dtype == torch.float32:
            for lower in (torch.bfloat16, torch.float16):
                _autocast(trial, case, call.form, lower, recording=bool(turn % 2) and goes_back(trial, call.form))


def _as_run(trial: Trial, form: str, module: nn.Module) -> nn.Module:
    """A module of torch for torch itself, the backend's own function on its parameters for any other."""
    return OwnModule(trial.backend, form, module) if is_own(trial.backend) else module


def _as_programs(trial: Trial, case: Case, call: Call, this: _Module, expected: Tensor) -> None:
    """Traced in some cases, compiled in others, which the seed picks."""
    if case.seed % _TRACED == 0:
        name, record = _RECORDED[case.seed // _TRACED % len(_RECORDED)]
        _agrees(trial, call, name, partial(_recorded, this, record), expected)
    if len(this.x) and case.seed % _COMPILED == 0:
        large = case.seed % (2 * _COMPILED) == 0 or case.weight.shape[0] >= _MANY
        times = -(-_MANY // len(this.x)) if large else 1
        recording = is_inexact(case.dtype) and case.seed // (2 * _COMPILED) % 2 == 1
        many = replace(call, input=torch.cat([call.input] * times))
        compiled = partial(_compiled, replace(this, x=torch.cat([this.x] * times)), recording=recording)
        _agrees(trial, many, "compile", compiled, expected.repeat(times, 1))


@dataclass(frozen=True)
class _Module:
    """One form as a module, and the rows ``(N, n)`` that it is called on."""

    form: str
    module: nn.Module
    x: Tensor
    feature_shape: tuple[int, ...]

    @property
    def input(self) -> Tensor:
        """The rows as the module takes them."""
        return shaped(self.form, self.x, self.feature_shape)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """By name."""
        return {name: value.detach() for name, value in self.module.named_parameters()}

    def called(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """The module called with other parameters."""
        y: Tensor = torch.func.functional_call(self.module, parameters, (x,))
        return y

    def as_rows(self, y: Tensor) -> Tensor:
        """A result as ``(N, O)``."""
        return y.reshape(len(self.x), -1) if len(self.x) else y.reshape(0, y.shape[1])


def _agrees(trial: Trial, call: Call, name: str, way: Callable[[], Tensor], expected: Tensor) -> None:
    """What a transformation returns is exact, unless torch has no rule for it."""
    if name in _OF_SAMPLES and not trial.asks("single_samples", call.form):
        return
    trial.cover("transform", name)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "There is a performance drop"
            )  # torch has no rule of its own: slow, right
            y = way()
    except Exception as error:
        if _is_opaque(error):
            trial.cover("transform not served", name)
            return
        raise raised(error, call, where=f"under {name}") from error
    trial.same(call, y, expected, f"under {name}")


def _is_opaque(error: Exception) -> bool:
    """Whether a kernel is an ``autograd.Function`` that gave torch no rule for the transform: refused, not wrong."""
    return "autograd.Function" in str(error) or type(error).__name__ == "Unsupported"


def _functional(this: _Module) -> Tensor:
    parameters = {name: value.clone() for name, value in this.parameters.items()}
    blank = replace(this, module=copy.deepcopy(this.module).to("meta"))
    return this.as_rows(blank.called(parameters, this.input))


def _without_gradients(mode: Callable[[], Any], this: _Module) -> Tensor:
    with mode():
        return this.as_rows(this.module(this.input)).clone()


def _over_rows(this: _Module) -> Tensor:
    y: Tensor = torch.func.vmap(lambda row: this.module(shaped(this.form, row, this.feature_shape)))(this.x)
    return this.as_rows(y)


def _over_weights(this: _Module, *, inputs: bool) -> Tensor:
    """Two layers, each on an input of its own or both on one; the second's doubled weights must not matter."""
    doubled = {name: torch.stack([value, value * 2]) for name, value in this.parameters.items()}
    given = torch.stack([this.input, this.input]) if inputs else this.input
    return this.as_rows(torch.func.vmap(this.called, in_dims=(0, 0 if inputs else None))(doubled, given)[0])


_ALWAYS: dict[str, Callable[[_Module], Tensor]] = {
    "functional_call": _functional,
    "no_grad": partial(_without_gradients, torch.no_grad),
    "inference_mode": partial(_without_gradients, torch.inference_mode),
}
_WITH_ROWS: dict[str, Callable[[_Module], Tensor]] = {
    "vmap over both": partial(_over_weights, inputs=True),
    "vmap over rows": _over_rows,
    "vmap over weights": partial(_over_weights, inputs=False),
}


def _recorded(this: _Module, record: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
    return this.as_rows(record(this.module, this.input).detach())


_TRACED = 3  # one case in so many
_RECORDED = (("torch.jit.trace", traced_by_jit), ("make_fx", recorded_by_fx))


def _nested(this: _Module) -> Tensor:
    """Two batches of rows, vmapped over both dimensions; the second's doubled rows must not matter."""
    over_rows = torch.func.vmap(lambda row: this.module(shaped(this.form, row, this.feature_shape)))
    y: Tensor = torch.func.vmap(over_rows)(torch.stack([this.x, this.x * 2]))
    return this.as_rows(y[0])


def _over_last(this: _Module) -> Tensor:
    """Rows along the last dimension."""
    over_rows = torch.func.vmap(lambda row: this.module(shaped(this.form, row, this.feature_shape)), in_dims=-1)
    y: Tensor = over_rows(this.x.T.contiguous())
    return this.as_rows(y)


def _weights_over_last(this: _Module) -> Tensor:
    """Two layers along the last dimension of the parameters."""
    doubled = {name: torch.stack([value, value * 2], -1) for name, value in this.parameters.items()}
    y: Tensor = torch.func.vmap(this.called, in_dims=(-1, None), out_dims=-1)(doubled, this.input)
    return this.as_rows(y[..., 0])


_OF_SAMPLES = ("vmap over rows", "vmap inside of vmap", "vmap over the last dimension of rows")
"""Those in which the layer gets inputs without a batch dimension."""
_IN_TURN: tuple[tuple[str, Callable[[_Module], Tensor]], ...] = (
    ("vmap inside of vmap", _nested),
    ("vmap over the last dimension of rows", _over_last),
    ("vmap over the last dimension of weights", _weights_over_last),
)


def _compiled(this: _Module, *, recording: bool = False) -> Tensor:
    torch.compiler.reset()
    if recording:
        this = replace(this, module=copy.deepcopy(this.module).requires_grad_())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's and functorch's own deprecations
        compiled = torch.compile(this.module, backend="aot_eager", fullgraph=True, dynamic=False)
        y: Tensor = compiled(this.input)
    return this.as_rows(y.detach())


def _on_meta(trial: Trial, call: Call, this: _Module) -> None:
    trial.cover("transform", "meta")
    shape = (len(this.x), call.weight.shape[0], *(1,) * max(0, call.dims))
    try:
        y = copy.deepcopy(this.module).to("meta")(this.input.to("meta"))
    except Exception as error:
        raise raised(error, call, where="on the meta device") from error
    found = f"{dtype_name(y.dtype)} of shape {tuple(y.shape)} on the meta device"
    expected = f"{dtype_name(trial.dtype)} of shape {shape}"
    is_right = tuple(y.shape) == shape and y.dtype == trial.dtype
    trial.holds(is_right, call.form, f"returns {found}, expected {expected}", call)


def _gradient(trial: Trial, call: Call, this: _Module, case: Case, turn: int) -> None:
    """Gradients by torch.func, of the input, of parameters and of those for each sample: one of them in turn."""
    rows, outputs = len(this.x), case.weight.shape[0]
    grad = integer_grad(case)
    if not stays_exact(this.x, case.weight, case.bias, grad):
        place = grad.new_ones(()).expand(1)
        grad = torch.zeros_like(grad).index_put((torch.tensor([rows - 1]), torch.tensor([outputs - 1])), place)
    exact = exact_gradients(this.x, case.weight, grad, bias=False)

    def back(parameters: dict[str, Tensor], x: Tensor, incoming: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The vector-Jacobian product, by grad where that is defined."""
        if x.is_complex():
            pulled: Any = torch.func.vjp(this.called, parameters, x)
            y, pull = pulled
            found: tuple[dict[str, Tensor], Tensor] = pull(incoming.reshape(y.shape))
            return found
        weighted = lambda p, t: (this.called(p, t).flatten() * incoming.flatten()).sum()  # noqa: E731
        of_both: tuple[dict[str, Tensor], Tensor] = torch.func.grad(weighted, argnums=(0, 1))(parameters, x)
        return of_both

    def of_input() -> Tensor:
        if this.x.is_complex():
            return back(this.parameters, this.input, grad)[1].reshape(rows, -1)
        weighted = lambda t: (this.module(t).flatten() * grad.flatten()).sum()  # noqa: E731
        found: Tensor = torch.func.grad(weighted)(this.input)
        return found.reshape(rows, -1)

    def of_weight() -> Tensor:
        if this.x.is_complex():
            return back(this.parameters, this.input, grad)[0]["weight"].reshape(outputs, -1)
        weighted = lambda p: (this.called(p, this.input).flatten() * grad.flatten()).sum()  # noqa: E731
        found: dict[str, Tensor] = torch.func.grad(weighted)(this.parameters)
        return found["weight"].reshape(outputs, -1)

    def of_each_sample() -> Tensor:
        each = torch.func.vmap(
            lambda row, g: back(this.parameters, shaped(this.form, row, this.feature_shape), g)[0]["weight"]
        )
        return each(this.x, grad).reshape(rows, -1)

    of_samples = (grad[:, :, None] * this.x.conj()[:, None, :]).reshape(rows, -1)
    name, way, wanted = (
        ("torch.func.grad of the input", of_input, exact[0]),
        ("torch.func.grad of the parameters", of_weight, exact[1]),
        ("vmap over torch.func.grad", of_each_sample, of_samples),
    )[turn % 3]
    _agrees(trial, call, name, way, wanted)


def _jvp(trial: Trial, call: Call, this: _Module, case: Case, turn: int) -> None:
    """The layer changes along any direction of its input as its linear part says; of its parameters, as itself.

    Of both together with the direction of the weight reversed, as its bias: the two parts of the product cancel.
    """

    def along_input() -> Tensor:
        return this.as_rows(torch.func.jvp(this.module, (this.input,), (this.input.clone(),))[1])

    def along_parameters() -> Tensor:
        direction = {name: t.clone() for name, t in this.parameters.items()}
        return this.as_rows(torch.func.jvp(lambda p: this.called(p, this.input), (this.parameters,), (direction,))[1])

    def along_both() -> Tensor:
        direction = {name: -t if name == "weight" else t.clone() for name, t in this.parameters.items()}
        given = (this.parameters, this.input), (direction, this.input.clone())
        return this.as_rows(torch.func.jvp(this.called, *given)[1])

    kind = turn // 9 % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.func's own deprecations
        expected = whole(this.x, case.weight, None if kind == 0 else case.bias)
        if kind == 2:
            expected = torch.zeros_like(expected) if case.bias is None else case.bias.expand(expected.shape)
        ways = (("jvp", along_input), ("jvp of parameters", along_parameters), ("jvp of both", along_both))
        _agrees(trial, call, *ways[kind], expected)


def _autocast(trial: Trial, case: Case, form: str, lower: torch.dtype, *, recording: bool) -> None:
    """Autocast computes a float32 layer in 16 bits: on integers that those sum exactly, the values are exact.

    The dtype of the result is that of the autocast, or float32 from a kernel that autocast does not know.
    While gradients are recorded it is the same, and the gradient of one output is the row of input and weight that
    it is made of.
    """
    x, weight, bias = exact_case_like(case, dtype=lower)
    wide = x.float(), weight.float(), None if bias is None else bias.float()
    call = trial.arrange(form, *wide, case.feature_shape)
    module: Any = _as_run(trial, form, mapped(form, as_linear(wide[1], wide[2]), case.feature_shape))
    given = shaped(form, wide[0], case.feature_shape)
    if recording:
        module, given = module.requires_grad_(), given.detach().requires_grad_()
    under = f"under autocast to {dtype_name(lower)}{', while gradients are recorded' if recording else ''}"
    try:
        with torch.autocast(case.device.type, dtype=lower):
            y = module(given)
    except Exception as error:
        raise raised(error, call, where=under) from error
    trial.cover("transform", under.removeprefix("under "))
    trial.holds(y.dtype in (lower, torch.float32), form, f"returns {dtype_name(y.dtype)} {under}", call)
    trial.same(call, y.reshape(len(x), len(weight)).float(), whole(x, weight, bias).float(), under)
    if recording and len(x):
        try:
            found = torch.autograd.grad(y.reshape(len(x), -1)[-1, -1], (given, module.weight))
        except Exception as error:
            raise raised(error, call, where=f"in the backward pass {under}") from error
        for name, actual, wanted in zip(GRADIENT_NAMES, found, (wide[1][-1], wide[0][-1]), strict=False):
            last = actual.reshape(len(x) if name == "input" else len(weight), -1)[-1]
            trial.same(call, last, wanted, under, gradient=(name, y.detach()))
