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
    backward,
    goes_back,
    grad_as_taken,
    integers_like,
    largest_exact,
    leaves_of,
    reference_of,
    whole,
)
from equiv.laws.checks.maps import entries, of_networks, windows_of, with_one_special
from equiv.laws.reach import EXACT_GRADIENTS, Reach, sizes
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
    *EXACT_GRADIENTS,
    Reach("sliding", ("channels", "samples")),
    Reach("sliding", ("dilated", "image"), forms=("full",), needs=("stride", "dilation", "spatial_ranks")),
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
    rows = math.prod(case.batch_shape) if case.seed % 4 else 4
    _, weight, bias = exact_case_like(case, style="signs", rows=1)
    laid = case.layouts["x"].apply(entries((rows, channels, *size), generator, case))
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
        sliding = _Sliding(trial, call, windows_of(call), generator, condition)
        expected = sliding.exact()
        sliding.gives(call, expected)
        # Without a batch dimension kernels take another path.
        sliding.gives(replace(call, input=call.input[0]), expected[0], "without a batch dimension")
        if case.dtype.is_floating_point:
            sliding.copies()
            sliding.with_one_special(expected, case.seed)
            sliding.on_values()
            if goes_back(trial, form):
                sliding.gradients(case)
    _of_networks(trial, case, trial.forms[case.seed // 16 % len(trial.forms)])


def _of_networks(trial: Trial, case: Case, form: str) -> None:
    """The same on a convolution of a size that networks have."""
    found = of_networks(trial, case, form)
    if found is None:
        return
    kind, call = found
    condition = f"on a map of {tuple(call.input.shape[2:])} with stride {call.steps[0]} and dilation {call.steps[1]}"
    sliding = _Sliding(trial, call, windows_of(call), generator_of(case, 31), condition)
    expected = sliding.exact()
    sliding.gives(call, expected)
    if case.dtype.is_floating_point and kind != "samples":
        sliding.with_one_special(expected, case.seed + 1)


@dataclass(frozen=True)
class _Sliding:
    """A kernel on a larger map, and what must hold of it."""

    trial: Trial
    call: Call
    windows: Tensor  # which entries of a flattened map each position sees: (positions, C * prod(kernel))
    generator: torch.Generator
    condition: str  # the map and the stride in words

    def exact(self) -> Tensor:
        """The result ``(N, O, positions)`` of integers."""
        call = self.call
        rows = call.input.flatten(1)[:, self.windows].flatten(0, 1)  # (N * positions, n)
        y = whole(rows, call.weight.flatten(1), call.bias)
        return y.reshape(len(call.input), -1, len(call.weight)).transpose(1, 2)

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

    def with_one_special(self, expected: Tensor, seed: int) -> None:
        """NaN or an infinity in one place of input, weight or bias reaches the results that it is part of, alone.

        Not asked in bfloat16, where torch's kernels spread it: docs/findings/infinity-spreads-in-bfloat16-conv.md.
        """
        if self.call.input.dtype == torch.bfloat16:
            return
        words, call, wanted = with_one_special(self.call, expected, self.windows, seed % 2**63)
        self.gives(call, wanted, words)

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

        One of weight, input and incoming gradient holds integers as large as exact sums allow, the others -1, 0, 1,
        with at most ``_INCOMING`` non-zero incoming entries. Which tensors need gradients, the seed chooses.
        """
        rows, outputs, positions = self.call.input.shape[0], self.call.weight.shape[0], len(self.windows)
        incoming = torch.zeros(rows * outputs * positions, dtype=torch.float64)
        chosen = torch.randperm(len(incoming), generator=self.generator)[: (_INCOMING, 15)[case.seed // 3 % 2]]
        incoming[chosen] = torch.randint(0, 2, (len(chosen),), generator=self.generator).double() * 2.0 - 1.0
        large = ("incoming gradient", "input", "weight")[case.seed % 3]
        largest = largest_exact(case.dtype) // max(len(chosen) + 1, self.call.weight[0].numel() + 1)
        x, weight = self.call.input.sign(), self.call.weight.sign()
        if largest < 2:
            large = "no tensor"
        elif large == "incoming gradient":
            incoming = incoming * torch.randint(1, largest + 1, incoming.shape, generator=self.generator)
        elif large == "input":
            x = integers_like(x, largest, self.generator)
        else:
            weight = integers_like(weight, largest, self.generator)
        self.trial.cover("gradient probe", f"large integers in the {large}, sliding")
        bias = None if self.call.bias is None else self.call.bias.sign()
        laid = case.layouts["x"].apply(x), case.layouts["weight"].apply(weight)
        call = self.trial.taken(replace(self.call, input=laid[0], weight=laid[1], bias=bias))
        if call is None:
            return
        self._back(call, incoming, case)

    def _back(self, call: Call, incoming: Tensor, case: Case) -> None:
        """Result and gradients of some or all leaves for an incoming gradient."""
        rows, outputs, positions = call.input.shape[0], call.weight.shape[0], len(self.windows)
        leaves = leaves_of(call)
        which = case.seed // 6 % (2 ** len(leaves))
        some = {name: leaf for bit, (name, leaf) in enumerate(leaves.items()) if which >> bit & 1} or leaves
        condition = f"asked for gradients of {' and '.join(some)} alone, {self.condition}"
        condition = self.condition if len(some) == len(leaves) else condition
        x, weight = call.input.flatten(1).double(), call.weight.flatten(1).double()
        y = self.trial.output(replace(call, **some), condition)
        windows = x[:, self.windows]  # (N, positions, n)
        expected = windows @ weight.T if call.bias is None else windows @ weight.T + call.bias.double()
        recorded = f"while gradients are recorded, {condition}"
        self.trial.same(call, y.reshape(rows, outputs, -1), expected.mT.to(y.dtype), recorded)
        plain = incoming.to(y.dtype).to(y.device).view(y.shape)
        sent = case.layouts["grad"].apply(plain)
        if int(sent.count_nonzero()) > int(plain.count_nonzero()):  # broadcast entries: too many for exact sums
            sent = plain
        sent = grad_as_taken(self.trial, call.form, sent)
        found = backward(self.trial, call, y, some, sent, condition)
        grad = sent.double().reshape(rows, outputs, positions)
        for name, a in zip(some, found, strict=False):
            if name == "input":
                per_window = (grad.mT @ weight).flatten(1)
                wanted = torch.zeros_like(x).index_add(1, self.windows.flatten(), per_window)
            elif name == "weight":
                wanted = (grad @ windows).sum(0)
            else:
                wanted = grad.sum((0, 2))
            self.trial.same(call, a, wanted.view(a.shape).to(a.dtype), condition, gradient=(name, sent))

    def normal(self, like: Tensor) -> Tensor:
        """Normal values in the shape, dtype and place of a tensor."""
        values = torch.randn(like.shape, generator=self.generator, dtype=torch.float64)
        return values.to(like.dtype).to(like.device)


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
    _, kernel, bias = exact_case_like(case, style="signs", rows=1, in_features=channels, out_features=outputs)
    flattened = torch.kron(kernel, torch.eye(positions, dtype=case.dtype, device=case.device))
    spread = None if bias is None else bias.repeat_interleave(positions)
    maps = entries((3, *case.feature_shape), generator_of(case), case)
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
