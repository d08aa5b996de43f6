"""Laws about maps larger than the kernel: dense application, and where a 1x1 convolution is another function."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.laws.call import Broken, Call, with_layout
from equiv.laws.checks.common import GRADIENT_NAMES, exact_cases, whole
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial, as_linear
from equiv.numerics import Reference, exact_case
from equiv.strategies import Case
from equiv.structure import counterexample

_DENSE_ENTRIES = 2**14  # of the flattened layer that a 1x1 convolution is
_INCOMING = 255  # entries of an incoming gradient of -1, 1: a sum of so many is exact in every dtype


_WINDOWS_WORK = 2**13  # of the layer; a map holds up to some hundred windows
_VALUES_WORK = 2**15


def _windows(context: Context) -> SearchStrategy[Case]:
    return exact_cases(context, max_rows=16, max_work=_WINDOWS_WORK, allow_empty=False)


@law(12, "dense", draw=_windows, forms=("full", "pointwise"))
def dense(trial: Trial, case: Case) -> None:
    """The full form slid over a larger map is the layer on each window; the pointwise form is position-wise.

    Gradients are those of the windows, added where these overlap.
    """
    generator = torch.Generator().manual_seed(case.seed % 2**63)
    channels, *spatial = case.feature_shape
    dims = len(spatial)
    extra, stride = (torch.randint(low, high, (dims,), generator=generator).tolist() for low, high in ((0, 4), (1, 6)))
    kernel = case.weight.shape[0], channels, *spatial
    size = [s + e for s, e in zip(spatial, extra, strict=True)]
    if case.seed % 2 and max(size) ** dims * channels <= _DENSE_ENTRIES:
        size = [max(size)] * dims  # square maps: an exchange of H and W does not change their shape
    # signs: every input is -1 or 1, so that each window keeps the sums exact, whatever it cuts out.
    n, rows = case.weight.shape[1], math.prod(case.batch_shape) if case.seed % 4 else 4
    _, weight, bias = exact_case(
        seed=case.seed,
        style="signs",
        rows=1,
        in_features=n,
        out_features=kernel[0],
        bias=case.bias is not None,
        dtype=case.dtype,
        device=case.device,
    )
    x = _signs((rows, channels, *size), generator, case)
    for form in trial.forms:
        laid = case.layouts["x"].apply(x)
        if form == "full":
            call = Call(form, laid, case.layouts["weight"].apply(weight.view(kernel)), bias, tuple(stride))
            note = f"slid over a map of {tuple(size)} with stride {tuple(stride)}"
        else:
            taps = weight[:, :channels].reshape(kernel[0], channels, *(1,) * dims)
            steps = tuple(stride) if case.seed % 4 >= 2 else (1,) * dims
            call = Call(form, laid, case.layouts["weight"].apply(taps), bias, steps)
            note = f"position-wise on a map of {tuple(size)} with stride {steps}"
        windows = _windows_of(call)
        wanted = whole(call.input.flatten(1)[:, windows].flatten(0, 1), call.weight.flatten(1), bias)
        expected = wanted.reshape(rows, -1, kernel[0]).transpose(1, 2)
        y = _slide(trial, call, note)
        # One sample after another: (N, O, positions) as (N, O*positions).
        trial.same(call, y.reshape(rows, -1), expected.reshape(rows, -1), note=note)
        one = replace(call, input=call.input[0])
        y = _slide(trial, one, f"without a batch dimension, {note}")
        trial.same(one, y.reshape(-1), expected[0].reshape(-1), note=f"without a batch dimension, {note}")
        _copies(trial, call, windows, generator, note)
        if case.dtype.is_floating_point:
            _with_nan(trial, call, windows, expected, generator, note)
            _on_values(trial, call, windows, generator, note)
        if case.dtype.is_floating_point:
            _gradients_on_windows(trial, call, windows, case, generator, note)


def _copies(trial: Trial, call: Call, windows: Tensor, generator: torch.Generator, note: str) -> None:
    """A kernel with a single 1 copies one entry of each window, with all its bits."""
    rows, outputs, n = call.input.shape[0], call.weight.shape[0], call.weight[0].numel()
    dtype = call.input.dtype
    if not dtype.is_floating_point:
        return
    taps = torch.randint(0, n, (outputs,), generator=generator).to(call.input.device)
    weight = torch.zeros_like(call.weight.flatten(1)).scatter_(1, taps[:, None], 1.0).view(call.weight.shape)
    x = torch.randn(call.input.shape, generator=generator, dtype=torch.float64).to(dtype).to(call.input.device)
    copying = replace(call, input=x, weight=weight, bias=None)
    wanted = x.flatten(1)[:, windows[:, taps].T]  # (N, O, positions)
    y = _slide(trial, copying, note)
    trial.same(copying, y.reshape(rows, -1), wanted.reshape(rows, -1), note=f"one entry of each window, {note}")


def _with_nan(
    trial: Trial, call: Call, windows: Tensor, expected: Tensor, generator: torch.Generator, note: str
) -> None:
    """A NaN in one place of the map reaches the windows that hold it, and no others.

    But in bfloat16: docs/findings/infinity-spreads-in-bfloat16-conv.md.
    """
    if call.input.dtype == torch.bfloat16:
        return
    x = call.input.clone()
    sample, place = (int(torch.randint(0, size, (1,), generator=generator)) for size in (len(x), x[0].numel()))
    x[(sample, *(int(i) for i in torch.unravel_index(torch.tensor(place), x.shape[1:])))] = torch.nan
    wanted = expected.clone()  # (N, O, positions)
    wanted[sample, :, (windows == place).any(1)] = torch.nan
    y = _slide(trial, replace(call, input=x), note)
    note = f"with a NaN in one place of the map, {note}"
    trial.same(replace(call, input=x), y.reshape(len(x), -1), wanted.reshape(len(x), -1), note=note)


def _on_values(trial: Trial, call: Call, windows: Tensor, generator: torch.Generator, note: str) -> None:
    """On normal values each window's result lies in the envelope of the layer on that window."""
    outputs, n = call.weight.shape[0], call.weight[0].numel()
    if not 0 < len(call.input) * len(windows) * outputs * n <= _VALUES_WORK:
        return

    def normal(like: Tensor) -> Tensor:
        values = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        return values.to(like.dtype).to(like.device)

    bias = None if call.bias is None else normal(call.bias)
    call = replace(call, input=normal(call.input), weight=normal(call.weight), bias=bias)
    rows = call.input.flatten(1)[:, windows].flatten(0, 1)
    reference = Reference(rows.cpu(), call.weight.flatten(1).cpu(), None if bias is None else bias.cpu())
    y = _slide(trial, call, note).flatten(2).transpose(1, 2).reshape(-1, outputs)
    try:
        trial.judge(call, y, reference, note=f"on normal values, {note}")
    except Broken as broken:  # its index is that of a window: the program runs the whole case instead
        raise Broken(broken.note, form=call.form, call=call, ratio=broken.ratio) from None


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


def _gradients_on_windows(
    trial: Trial, call: Call, windows: Tensor, case: Case, generator: torch.Generator, note: str
) -> None:
    """Backward on a larger map: each window's gradients, added where windows overlap.

    Weights of -1, 0, 1 and at most ``_INCOMING`` non-zero incoming entries keep every sum exact in 16 bits.
    """
    rows, outputs, positions = call.input.shape[0], call.weight.shape[0], len(windows)
    grad = torch.zeros(rows * outputs * positions)
    chosen = torch.randperm(len(grad), generator=generator)[:_INCOMING]
    grad[chosen] = torch.randint(0, 2, (len(chosen),), generator=generator) * 2.0 - 1.0
    call = replace(call, weight=case.layouts["weight"].apply(call.weight.sign()))
    leaves = [t.detach().requires_grad_() for t in (call.input, call.weight, call.bias) if t is not None]
    y = _slide(trial, with_layout(call, **dict(zip(GRADIENT_NAMES, leaves, strict=False))), note)
    if trial.is_known_to_corrupt(call, y):
        return
    plain = grad.to(y.dtype).to(y.device).view(y.shape)
    incoming = case.layouts["grad"].apply(plain)
    if int(incoming.count_nonzero()) > _INCOMING:  # broadcast: more of them than keep the sums exact
        incoming = plain
    try:
        found = torch.autograd.grad(y, leaves, incoming)
    except Exception as error:
        if trial.is_known_refusal(call, error):
            return
        raise Broken(f"backward raised {type(error).__name__}: {error}, {note}", form=call.form, call=call) from error
    grad = incoming.double().reshape(rows, outputs, positions)
    x, weight = call.input.flatten(1).double(), call.weight.flatten(1).double()
    per_window = torch.einsum("nop,oi->npi", grad, weight).flatten(1)
    expected = (
        torch.zeros_like(x).index_add(1, windows.flatten(), per_window).view(call.input.shape),
        torch.einsum("nop,npi->oi", grad, x[:, windows]).view(call.weight.shape),
        grad.sum((0, 2)),
    )
    for name, a, e in zip(GRADIENT_NAMES, found, expected, strict=False):
        words = f"gradient of the {name}, {note}"
        trial.same(call, a, e.to(a.dtype), note=words, gradient=(name, incoming))


def _slide(trial: Trial, call: Call, note: str) -> Tensor:
    dims = call.weight.ndim - 2
    try:
        return trial.backend.conv(
            call.input, call.weight, call.bias, stride=call.stride or (1,) * dims, dilation=(1,) * dims
        )
    except Exception as error:
        raise Broken(f"raised {type(error).__name__}: {error}, {note}", form=call.form, call=call) from error


def _signs(shape: tuple[int, ...], generator: torch.Generator, case: Case) -> Tensor:
    low = 0 if case.dtype == torch.uint8 else -1
    values = torch.randint(low, 2, shape, generator=generator).double()
    if case.dtype.is_complex:
        values = torch.complex(values, torch.zeros_like(values))
    return values.to(case.dtype).to(case.device)


def _on_maps(context: Context) -> SearchStrategy[Case]:
    return exact_cases(
        context, min_positions=2, max_features=96, max_out=24, max_rows=8, allow_empty=False, bias=None, layouts=False
    )


@law(13, "not equivalent", draw=_on_maps, forms=("pointwise",), weight=0.7)
def not_equivalent(trial: Trial, case: Case) -> None:
    """For H*W > 1 a 1x1 convolution is not the flattened layer unless that is K (x) I; the witness is minimal."""
    channels, *spatial = case.feature_shape
    positions = math.prod(spatial)
    outputs = max(1, min(case.weight.shape[0], _DENSE_ENTRIES // (channels * positions**2) or 1))
    # signs: maps of -1 and 1 keep every sum exact.
    _, kernel, bias = exact_case(
        seed=case.seed,
        style="signs",
        rows=1,
        in_features=channels,
        out_features=outputs,
        bias=case.bias is not None,
        dtype=case.dtype,
        device=case.device,
    )
    flattened = torch.kron(kernel, torch.eye(positions, dtype=case.dtype, device=case.device))
    spread = None if bias is None else bias.repeat_interleave(positions)
    dims = len(spatial)
    maps = _signs((3, *case.feature_shape), torch.Generator().manual_seed(case.seed % 2**63), case)
    conv = Call("pointwise", maps, kernel.reshape(outputs, channels, *(1,) * dims), bias)

    # It is K (x) I, and the layer with that weight is the same function.
    same = counterexample(as_linear(flattened, spread), case.feature_shape, readout="positions")
    trial.holds(same.equivalent, "pointwise", "the layer K (x) I was not recognised as a 1x1 convolution", conv)
    trial.holds(
        torch.equal(same.conv.weight.reshape(kernel.shape), kernel),
        "pointwise",
        "the 1x1 convolution found for K (x) I is not K",
        conv,
    )
    y = _slide(trial, conv, "on a map").reshape(3, -1)
    wanted = whole(maps.reshape(3, -1), flattened, spread)
    trial.same(conv, y, wanted, note="the layer that a 1x1 convolution really is, K (x) I")

    # Any one entry changed is enough to make it another function, and one non-zero input shows it.
    generator = torch.Generator().manual_seed(case.seed % 2**63 + 1)
    row, column = (int(torch.randint(0, size, (1,), generator=generator)) for size in flattened.shape)
    changed = flattened.clone()
    changed[row, column] += 1
    if torch.equal(changed, flattened):
        return  # the entry is so large that it swallows 1
    found = counterexample(as_linear(changed, spread), case.feature_shape, readout="positions")
    trial.holds(
        not found.equivalent,
        "pointwise",
        f"a layer that differs from K (x) I at [{row}, {column}] was taken for one",
        conv,
    )
    witness = found.witness
    assert witness is not None
    trial.holds(int((witness != 0).sum()) <= 1, "pointwise", "the witness has more than one non-zero entry", conv)
    shown = witness.reshape(1, *case.feature_shape).to(case.dtype)
    closest = found.conv
    # In this dtype adding the bias may swallow the difference; the witness is then one of the weights alone.
    kept = None if found.without_bias or closest.bias is None else closest.bias.detach()
    call = Call("pointwise", shown, closest.weight.detach(), kept)
    left = _slide(trial, call, "at the witness").reshape(-1)
    right = whole(shown.reshape(1, -1), changed, None if found.without_bias else spread).reshape(-1)
    trial.holds(
        not torch.equal(left, right), "pointwise", "at the witness the 1x1 convolution gives what the layer gives", call
    )
