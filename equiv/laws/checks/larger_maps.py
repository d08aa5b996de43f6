"""Laws about maps larger than the kernel: dense application, and where a 1x1 convolution is another function."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.drawing import exact_case_like, exact_cases, generator_of
from equiv.laws.checks.expected import (
    GRADIENT_NAMES,
    backward,
    goes_back,
    grad_as_taken,
    leaves_of,
    reference_of,
    whole,
)
from equiv.laws.reach import Reach, leaves, sizes
from equiv.laws.registry import law
from equiv.laws.trial import Trial, as_linear
from equiv.strategies import Case
from equiv.structure import counterexample

_DENSE_ENTRIES = 2**14  # of the flattened layer that a 1x1 convolution is
_INCOMING = 255  # entries of an incoming gradient of -1, 1: a sum of so many is exact in every dtype
_VALUES_WORK = 2**15  # terms of all windows: references in double-double cost some forty operations each
_on_windows = partial(exact_cases, max_rows=16, max_work=2**13, allow_empty=False)  # a map has hundreds of windows


_REACHES = (
    *map(sizes, ("channels", "kernel", "map", "positions", "stride")),
    sizes("samples", least=1, most=2),
    leaves("input and weight", "input, weight and bias"),
    Reach("gradients judged", tuple(f"{name} exactly" for name in GRADIENT_NAMES), needs=("gradient_order",)),
)


@law(12, "dense", draw=_on_windows, forms=("full", "pointwise"), reaches=_REACHES)
def dense(trial: Trial, case: Case) -> None:
    """On a larger map the full form is the layer applied to each window, the pointwise form to each position.

    Gradients are those of the windows, added where these overlap.
    """
    generator = generator_of(case)
    channels, *spatial = case.feature_shape
    dims, outputs = len(spatial), case.weight.shape[0]
    extra, stride = (torch.randint(low, high, (dims,), generator=generator).tolist() for low, high in ((0, 4), (1, 6)))
    size = [s + e for s, e in zip(spatial, extra, strict=True)]
    if case.seed % 2 and max(size) ** dims * channels <= _DENSE_ENTRIES:
        size = [max(size)] * dims  # square maps: an exchange of H and W does not change their shape
    # signs: every input is -1 or 1, so that each window keeps the sums exact, whatever it cuts out.
    rows = math.prod(case.batch_shape) if case.seed % 4 else 4
    _, weight, bias = exact_case_like(case, style="signs", rows=1)
    laid = case.layouts["x"].apply(_signs((rows, channels, *size), generator, case))
    for form in trial.forms:
        if form == "full":
            kernel, how = weight.view(outputs, channels, *spatial), "slid over"
        else:
            kernel, how = weight[:, :channels].reshape(outputs, channels, *(1,) * dims), "position-wise on"
        strides = (form == "full" or case.seed % 4 >= 2) and trial.asks("stride", form)
        steps = tuple(stride) if strides else (1,) * dims
        call = trial.taken(Call(form, laid, case.layouts["weight"].apply(kernel), bias, steps))
        if call is None:
            continue
        condition = f"{how} a map of {tuple(size)} with stride {steps}"
        sliding = _Sliding(trial, call, _windows_of(call), generator, condition)
        exact = whole(call.input.flatten(1)[:, sliding.windows].flatten(0, 1), call.weight.flatten(1), bias)
        expected = exact.reshape(rows, -1, outputs).transpose(1, 2)
        sliding.gives(call, expected)
        # Without a batch dimension kernels take another path.
        sliding.gives(replace(call, input=call.input[0]), expected[0], "without a batch dimension")
        if case.dtype.is_floating_point:
            sliding.copies()
            sliding.with_nan(expected)
            sliding.on_values()
            if goes_back(trial, form):
                sliding.gradients(case)


@dataclass(frozen=True)
class _Sliding:
    """A kernel on a larger map, and what must hold of it."""

    trial: Trial
    call: Call
    windows: Tensor  # which entries of a flattened map each position sees: (positions, C * prod(kernel))
    generator: torch.Generator
    condition: str  # the map and the stride in words

    def gives(self, call: Call, expected: Tensor, more: str = "") -> None:
        """The result must be ``expected``, ``(N, O, positions)`` or, without a batch dimension, ``(O, positions)``."""
        condition = f"{more}{more and ', '}{self.condition}"
        served = self.trial.taken(call)
        if served is None:
            return
        y = self.trial.output(served, condition)
        # One sample after another: (N, O, positions) as (N, O * positions).
        shape = (len(expected), -1) if expected.ndim == 3 else (-1,)
        self.trial.same(call, y.reshape(shape), expected.reshape(shape), condition)

    def copies(self) -> None:
        """A kernel with a single 1 copies one entry of each window, with all its bits."""
        call, outputs, n = self.call, self.call.weight.shape[0], self.call.weight[0].numel()
        taps = torch.randint(0, n, (outputs,), generator=self.generator).to(call.input.device)
        weight = torch.zeros_like(call.weight.flatten(1)).scatter_(1, taps[:, None], 1.0).view(call.weight.shape)
        x = self.normal(call.input)
        expected = x.flatten(1)[:, self.windows[:, taps].T]  # (N, O, positions)
        self.gives(replace(call, input=x, weight=weight, bias=None), expected, "a kernel that copies one entry")

    def with_nan(self, expected: Tensor) -> None:
        """A NaN in one place of the map reaches the windows that hold it, and no others.

        Not asked in bfloat16, where torch's kernels spread it: docs/findings/infinity-spreads-in-bfloat16-conv.md.
        """
        if self.call.input.dtype == torch.bfloat16:
            return
        x, sizes = self.call.input.clone(), (len(self.call.input), self.call.input[0].numel())
        sample, place = (int(torch.randint(0, size, (1,), generator=self.generator)) for size in sizes)
        x[(sample, *(int(i) for i in torch.unravel_index(torch.tensor(place), x.shape[1:])))] = torch.nan
        wanted = expected.clone()  # (N, O, positions)
        wanted[sample, :, (self.windows == place).any(1)] = torch.nan
        self.gives(replace(self.call, input=x), wanted, "with a NaN in one place of the map")

    def on_values(self) -> None:
        """On normal values each window's result lies in the envelope of the layer on that window."""
        outputs, n = self.call.weight.shape[0], self.call.weight[0].numel()
        if not 0 < len(self.call.input) * len(self.windows) * outputs * n <= _VALUES_WORK:
            return
        bias = None if self.call.bias is None else self.normal(self.call.bias)
        x, weight = self.normal(self.call.input), self.normal(self.call.weight)
        call = replace(self.call, input=x, weight=weight, bias=bias)
        reference = reference_of(x.flatten(1)[:, self.windows].flatten(0, 1), weight.flatten(1), bias)
        y = self.trial.output(call, self.condition).flatten(2).transpose(1, 2).reshape(-1, outputs)
        self.trial.judge(call, y, reference, f"one row for each window, on normal values, {self.condition}")

    def gradients(self, case: Case) -> None:
        """Backward on a larger map: each window's gradients, added where windows overlap.

        Weights of -1, 0, 1 and at most ``_INCOMING`` non-zero incoming entries keep every sum exact in 16 bits.
        """
        rows, outputs, positions = self.call.input.shape[0], self.call.weight.shape[0], len(self.windows)
        grad = torch.zeros(rows * outputs * positions)
        chosen = torch.randperm(len(grad), generator=self.generator)[:_INCOMING]
        grad[chosen] = torch.randint(0, 2, (len(chosen),), generator=self.generator) * 2.0 - 1.0
        call = self.trial.taken(replace(self.call, weight=case.layouts["weight"].apply(self.call.weight.sign())))
        if call is None:
            return
        leaves = leaves_of(call)
        y = self.trial.output(replace(call, **leaves), self.condition)
        plain = grad.to(y.dtype).to(y.device).view(y.shape)
        incoming = case.layouts["grad"].apply(plain)
        if int(incoming.count_nonzero()) > _INCOMING:  # broadcast entries: too many for exact sums
            incoming = plain
        incoming = grad_as_taken(self.trial, call.form, incoming)
        found = backward(self.trial, call, y, leaves, incoming, self.condition)
        grad = incoming.double().reshape(rows, outputs, positions)
        x, weight = call.input.flatten(1).double(), call.weight.flatten(1).double()
        per_window = torch.einsum("nop,oi->npi", grad, weight).flatten(1)
        expected = (
            torch.zeros_like(x).index_add(1, self.windows.flatten(), per_window).view(call.input.shape),
            torch.einsum("nop,npi->oi", grad, x[:, self.windows]).view(call.weight.shape),
            grad.sum((0, 2)),
        )
        for name, a, e in zip(GRADIENT_NAMES, found, expected, strict=False):
            self.trial.same(call, a, e.to(a.dtype), self.condition, gradient=(name, incoming))

    def normal(self, like: Tensor) -> Tensor:
        """Normal values in the shape, dtype and place of a tensor."""
        values = torch.randn(like.shape, generator=self.generator, dtype=torch.float64)
        return values.to(like.dtype).to(like.device)


def _windows_of(call: Call) -> Tensor:
    """Which entries of a flattened map each position sees: ``(positions, C * prod(kernel))``."""
    channels, *size = call.input.shape[1:]
    kernel = call.weight.shape[2:]
    dims = len(size)
    places = torch.arange(channels * math.prod(size), device=call.input.device).view(channels, *size)
    for d in range(dims):
        places = places.unfold(1 + d, kernel[d], call.stride[d])
    # (C, *positions, *kernel) -> (*positions, C, *kernel)
    return places.permute(*range(1, 1 + dims), 0, *range(1 + dims, 1 + 2 * dims)).reshape(
        -1, channels * math.prod(kernel)
    )


def _signs(shape: tuple[int, ...], generator: torch.Generator, case: Case) -> Tensor:
    low = 0 if not case.dtype.is_signed else -1
    values = torch.randint(low, 2, shape, generator=generator).double()
    if case.dtype.is_complex:
        values = torch.complex(values, torch.zeros_like(values))
    return values.to(case.dtype).to(case.device)


_on_larger_maps = partial(
    exact_cases, min_positions=2, max_features=96, max_out=24, max_rows=8, allow_empty=False, layouts=False
)


@law(
    13, "not equivalent", draw=_on_larger_maps, forms=("pointwise",), weight=0.7, reaches=[sizes("positions", least=2)]
)
def not_equivalent(trial: Trial, case: Case) -> None:
    """On a map with H*W > 1 a 1x1 convolution is not the flattened layer, unless the layer's weight is kron(K, I).

    One non-zero input shows it.
    """
    channels, *spatial = case.feature_shape
    positions = math.prod(spatial)
    outputs = max(1, min(case.weight.shape[0], _DENSE_ENTRIES // (channels * positions**2) or 1))
    # signs: maps of -1 and 1 keep every sum exact.
    _, kernel, bias = exact_case_like(case, style="signs", rows=1, in_features=channels, out_features=outputs)
    flattened = torch.kron(kernel, torch.eye(positions, dtype=case.dtype, device=case.device))
    spread = None if bias is None else bias.repeat_interleave(positions)
    maps = _signs((3, *case.feature_shape), generator_of(case), case)
    conv = trial.taken(Call("pointwise", maps, kernel.reshape(outputs, channels, *(1,) * len(spatial)), bias))
    if conv is None:
        return

    def holds(fact: bool, otherwise: str) -> None:
        trial.holds(fact, "pointwise", otherwise, conv)

    same = counterexample(as_linear(flattened, spread), case.feature_shape, readout="positions")
    holds(same.equivalent, "is not recognised by equiv.counterexample in the layer with weight kron(K, I)")
    is_kernel = torch.equal(same.conv.weight.reshape(kernel.shape), kernel)
    holds(is_kernel, "has another kernel than K in the layer with weight kron(K, I)")
    y = trial.output(conv, "on a map").reshape(3, -1)
    wanted = whole(maps.reshape(3, -1), flattened, spread)
    trial.same(conv, y, wanted, "compared with the layer that it is, with weight kron(K, I)")

    # Any one entry changed is enough to make it another function, and one non-zero input shows it.
    generator = generator_of(case, 1)
    row, column = (int(torch.randint(0, size, (1,), generator=generator)) for size in flattened.shape)
    changed = flattened.clone()
    changed[row, column] += 1
    if torch.equal(changed, flattened):
        return  # the entry is so large that it swallows 1
    found = counterexample(as_linear(changed, spread), case.feature_shape, readout="positions")
    holds(not found.equivalent, f"is taken for a layer whose weight differs from kron(K, I) at [{row}, {column}]")
    witness = found.witness
    assert witness is not None
    holds(int((witness != 0).sum()) <= 1, "differs from the layer at a witness with more than one non-zero entry")
    shown = witness.reshape(1, *case.feature_shape).to(case.dtype).to(case.device)
    closest = found.conv
    # In this dtype adding the bias may swallow the difference; the witness then shows the difference without the bias.
    kept = None if found.without_bias or closest.bias is None else closest.bias.detach()
    call = trial.taken(Call("pointwise", shown, closest.weight.detach(), kept))
    if call is None:
        return
    left = trial.output(call, "at the witness").reshape(-1)
    right = whole(shown.reshape(1, -1), changed, None if found.without_bias else spread).reshape(-1)
    trial.holds(not torch.equal(left, right), "pointwise", "gives what the layer gives at the witness", call)
