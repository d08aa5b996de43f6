"""Every mistake that has a name, planted in generated cases: how, in which of them, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from generated_causes import (
    FORMS,
    LAYERS,
    RESULTS,
    Case,
    Plant,
    Wrong,
    as_map,
    moved,
    of_bias,
    of_kernel,
    of_parameters,
    of_results,
    of_weight,
    of_window,
    spatial_axes,
)
from profile_kernels import BRAIN, HALF, int8, int8_by_row, low_sums, same, steps, tf32, tf32_away, tf32_cut, uint8
from torch import Tensor
from torch.nn.functional import linear

FULL = ("linear", "full")
FUNCTIONS = (*RESULTS, "certify", "certify exchanged")
SINGLE, WIDE = (torch.float32,), (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Mistake:
    """A mistake: how it is planted, its name, its name where results alone show it (None: they cannot), and where."""

    plant: Plant
    name: str
    in_results: str | None = ""
    forms: tuple[str, ...] = FORMS
    dtypes: tuple[torch.dtype, ...] = WIDE
    square: bool = False
    bias: bool | None = None  # None: either
    ways: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    fits: Callable[[Case], bool] = lambda case: True
    also: tuple[str, ...] = ()  # other names for it: of the same values, and of the layers exchanged

    @property
    def seen_in(self) -> tuple[str, ...]:
        """The ways in which it is looked for."""
        return self.ways or (LAYERS if self.in_results is None else (*LAYERS, *RESULTS))

    def called(self, way: str) -> tuple[str, ...]:
        """Its names where it is seen in this way."""
        return (self.in_results if self.in_results and way.startswith("results") else self.name, *self.also)


def _permuted(w: Tensor, case: Case, order: tuple[int, ...], *, back: bool) -> Tensor:
    """A weight whose map is read in another order of its axes, or written in it."""
    if not back:
        return as_map(w, case).permute(0, *(axis + 1 for axis in order)).reshape(w.shape)
    sizes = [case.kernel[axis] for axis in order]
    inverse = [order.index(axis) + 1 for axis in range(len(order))]
    return w.reshape(len(w), *sizes).permute(0, *inverse).reshape(w.shape)


def _hwc(w: Tensor, case: Case) -> Tensor:
    order = (*range(1, len(case.kernel)), 0)
    return _permuted(w, case, order, back=case.draw.random() < 0.5)


def _exchanged(w: Tensor, case: Case) -> Tensor:
    rank = len(case.kernel)
    order = list(range(rank))
    order[-1], order[-2] = order[-2], order[-1]
    return _permuted(w, case, tuple(order), back=case.draw.random() < 0.5)


def _axes(w: Tensor, case: Case) -> Tensor:
    rank = len(case.kernel)
    return _permuted(w, case, (1, 0, *range(2, rank)), back=case.draw.random() < 0.5)


def _channels(w: Tensor, case: Case) -> Tensor:
    return as_map(w, case)[:, moved(case.kernel[0], case)].reshape(w.shape)


def _outputs(case: Case) -> Wrong:
    order, bias = moved(len(case.layer.weight), case), case.layer.bias
    return Wrong(case.with_parameters(case.layer.weight.flatten(1)[order], None if bias is None else bias[order]))


def _cut(w: Tensor, case: Case) -> Tensor:
    w, count = w.clone(), case.draw.randint(1, max(1, w.shape[1] // 2))
    w[:, -count:] = 0
    return w


def _late(w: Tensor, case: Case) -> Tensor:
    w, count = w.clone(), case.draw.randint(1, max(1, w.shape[1] // 2))
    w[:, :count] = 0
    return w


def _one_entry(t: Tensor, case: Case) -> Tensor:
    t, at = t.clone(), case.draw.randrange(t.numel())
    t.view(-1)[at] += case.draw.choice((0.5, 2.0**-6)) * (t.view(-1)[at].abs() + 0.01)
    return t


def _overlapping(case: Case) -> Wrong:
    count = case.draw.randint(1, 4)

    def change(y: Tensor, case: Case) -> Tensor:
        w = case.layer.weight.flatten(1)
        twice = w.clone()
        twice[:, :-count] = 0
        return y + case(case.with_parameters(twice, None))

    return of_results(change)(case)


def _by_bias(times: float, case: Case) -> Tensor:
    bias = case.layer.bias
    return 0 if bias is None else times * bias.view(-1, *[1] * (case().ndim - 2))


def _low_sums(dtype: torch.dtype) -> Plant:
    def plant(case: Case) -> Wrong:
        kernel = low_sums(dtype, 4)
        return Wrong(function=lambda x: kernel(x.flatten(1), case.layer.weight.flatten(1), case.layer.bias))

    return plant


def _heeding(setting: Callable[[], str], plant: Plant) -> Plant:
    """A kernel of low precision that leaves it be where torch is told so."""

    def planted(case: Case) -> Wrong:
        low = plant(case).function
        return Wrong(function=lambda x: case(x=x) if setting() == "ieee" else low(x))

    return planted


def _cuda() -> str:
    return torch.backends.cuda.matmul.fp32_precision


def _mkldnn() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


def _same_of_tensorflow(case: Case) -> dict[str, object]:
    return {"pads": [(p - 1, p + 1) for p in case.layer.padding]}


def _changes(case: Case, name: str, value: object) -> bool:
    return getattr(case.layer, name) != value


def _as_nhwc(y: Tensor, case: Case) -> Tensor:
    return y.movedim(1, -1).reshape(y.shape)


def _not_rounded(kind: str) -> Plant:
    def plant(case: Case) -> Wrong:
        def function(x: Tensor) -> Tensor:
            w, dtype = case.layer.weight.flatten(1).double(), x.dtype
            exact = linear(x.flatten(1).double(), w, None if case.layer.bias is None else case.layer.bias.double())
            near = exact.to(dtype)
            other = torch.nextafter(near, torch.full_like(near, torch.inf if kind == "up" else -torch.inf))
            if kind == "up":
                return torch.where(near.double() < exact, other, near)
            if kind == "down":
                return torch.where(near.double() > exact, other, near)
            zero = torch.where(near.double().abs() > exact.abs(), torch.nextafter(near, torch.zeros_like(near)), near)
            away = torch.nextafter(near, torch.where(exact > 0, torch.inf, -torch.inf).to(dtype))
            away = torch.where(near.double().abs() < exact.abs(), away, near)
            return zero if kind == "toward-zero" else away

        return Wrong(function=function)

    return plant


MISTAKES: dict[str, Mistake] = {
    # The order of the weight
    "flattened as HWC": Mistake(of_weight(_hwc), "flattened-hwc"),
    "H and W exchanged": Mistake(of_weight(_exchanged), "spatial-swapped", fits=lambda case: len(case.kernel) > 2),
    "channels and height exchanged": Mistake(of_weight(_axes), "axes-permuted", fits=lambda case: len(case.kernel) > 2),
    "kernel flipped": Mistake(
        of_weight(lambda w, case: as_map(w, case).flip(spatial_axes(case)).flatten(1)), "kernel-flipped"
    ),
    "kernel flipped along one axis": Mistake(
        of_weight(lambda w, case: as_map(w, case).flip(case.draw.choice(spatial_axes(case))).flatten(1)),
        "kernel-flipped-axis",
        fits=lambda case: len(case.kernel) > 2,
    ),
    "channels reversed": Mistake(of_weight(lambda w, case: as_map(w, case).flip(1).flatten(1)), "channels-reversed"),
    "channels permuted": Mistake(of_weight(_channels), "channels-permuted", None, also=("channels-reversed",)),
    "inputs reversed": Mistake(of_weight(lambda w, case: w.flip(1)), "inputs-reversed"),
    "inputs permuted": Mistake(of_weight(lambda w, case: w[:, moved(w.shape[1], case)]), "inputs-permuted", None),
    "weight transposed": Mistake(of_weight(lambda w, case: w.T), "weight-transposed", forms=FULL, square=True),
    "outputs permuted": Mistake(_outputs, "outputs-permuted"),
    # Other mistakes of the weight
    "weight negated": Mistake(of_weight(lambda w, case: -w), "weight-negated", "product-negated", bias=True),
    "weight negated, no bias": Mistake(of_weight(lambda w, case: -w), "weight-negated", "output-negated", bias=False),
    "weight absolute": Mistake(of_weight(lambda w, case: w.abs()), "weight-absolute"),
    "weight scaled": Mistake(
        of_weight(lambda w, case: w * case.draw.choice((2, 3, 10))), "weight-scaled", "product-scaled", bias=True
    ),
    "weight divided": Mistake(of_weight(lambda w, case: w / w.shape[1]), "weight-scaled", "product-scaled", bias=True),
    "weight zero": Mistake(of_weight(lambda w, case: w * 0), "weight-zero", "product-missing", bias=True),
    "weight zero, no bias": Mistake(of_weight(lambda w, case: w * 0), "weight-zero", "output-zero", bias=False),
    "reduction cut short": Mistake(of_weight(_cut), "reduction-cut-short"),
    "reduction starts late": Mistake(of_weight(_late), "reduction-starts-late"),
    "one weight changed": Mistake(of_weight(_one_entry), "one-entry", None),
    # The bias
    "bias dropped": Mistake(of_bias(lambda b, case: None), "bias-dropped", bias=True, also=("bias-added",)),
    "bias doubled": Mistake(of_bias(lambda b, case: 2 * b), "bias-doubled", bias=True),
    "bias negated": Mistake(of_bias(lambda b, case: -b), "bias-negated", bias=True),
    "bias added": Mistake(
        of_bias(lambda b, case: torch.rand(len(case.layer.weight), generator=case.generator).to(case.x.dtype)),
        "bias-added",
        bias=False,
        also=("bias-dropped",),
    ),
    "bias permuted": Mistake(of_bias(lambda b, case: b[moved(len(b), case)]), "bias-permuted", bias=True),
    "one bias changed": Mistake(of_bias(_one_entry), "bias-one-entry", None, bias=True),
    "bias in bfloat16": Mistake(
        of_bias(lambda b, case: b.bfloat16().to(b.dtype)), "bias-rounded-bfloat16", None, bias=True
    ),
    "bias in float16": Mistake(
        of_bias(lambda b, case: b.half().to(b.dtype)),
        "bias-rounded-float16",
        None,
        also=("bias-rounded-tf32",),
        bias=True,
        dtypes=(torch.float64,),
    ),
    # Results
    "results zero": Mistake(of_results(lambda y, case: y * 0), "output-zero", ways=RESULTS),
    "negative results cut": Mistake(of_results(lambda y, case: y.relu()), "output-clamped", ways=RESULTS),
    "results absolute": Mistake(of_results(lambda y, case: y.abs()), "output-absolute", ways=RESULTS),
    "results negated": Mistake(of_results(lambda y, case: -y), "output-negated", ways=RESULTS, bias=True),
    "results scaled": Mistake(
        of_results(lambda y, case: y * case.draw.choice((2, 4, 5))), "output-scaled", ways=RESULTS, bias=True
    ),
    "results divided": Mistake(
        of_results(lambda y, case: y / case.draw.choice((2, 4, 5))), "output-scaled", ways=RESULTS, bias=True
    ),
    "last terms twice": Mistake(_overlapping, "reduction-overlaps", ways=RESULTS),
    "batch permuted": Mistake(of_results(lambda y, case: y[moved(len(y), case)]), "batch-permuted", ways=RESULTS),
    "batch repeated": Mistake(of_results(lambda y, case: y[1:2].expand_as(y)), "batch-repeated", ways=RESULTS),
    "outputs repeated": Mistake(of_results(lambda y, case: y[:, 1:2].expand_as(y)), "outputs-repeated", ways=RESULTS),
    # What is lost to a narrower format
    "parameters in bfloat16": Mistake(of_parameters(BRAIN), "rounded-bfloat16", words=("weights",), dtypes=SINGLE),
    "parameters in float16": Mistake(
        of_parameters(HALF), "rounded-float16", also=("rounded-tf32",), words=("weights",), dtypes=SINGLE
    ),
    "parameters in float32": Mistake(
        of_parameters(lambda t: t.float().double()), "rounded-float32", dtypes=(torch.float64,)
    ),
    "weights in TF32, cut off": Mistake(of_weight(lambda w, case: tf32_cut(w)), "truncated-tf32", None, dtypes=SINGLE),
    "weights in int8": Mistake(of_weight(lambda w, case: int8(w)), "rounded-steps", dtypes=SINGLE),
    "weights in int8 by row": Mistake(of_weight(lambda w, case: int8_by_row(w)), "rounded-steps", dtypes=SINGLE),
    "computed in bfloat16": Mistake(
        of_kernel(BRAIN, BRAIN, BRAIN, BRAIN), "computed-bfloat16", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "computed in float16": Mistake(
        of_kernel(HALF, HALF, HALF, HALF), "computed-float16", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "factors in bfloat16": Mistake(
        _heeding(_mkldnn, of_kernel(BRAIN, BRAIN)), "rounded-bfloat16", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "factors in TF32": Mistake(_heeding(_cuda, of_kernel(tf32, tf32)), "rounded-tf32", ways=FUNCTIONS, dtypes=SINGLE),
    "factors in TF32, ties away": Mistake(
        _heeding(_cuda, of_kernel(tf32_away, tf32_away)), "rounded-tf32", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "factors in TF32, cut off": Mistake(
        _heeding(_cuda, of_kernel(tf32_cut, tf32_cut)), "truncated-tf32", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "inputs in bfloat16": Mistake(of_kernel(BRAIN), "rounded-bfloat16", ways=FUNCTIONS, dtypes=SINGLE),
    "results in bfloat16": Mistake(
        of_kernel(same, results=BRAIN), "output-rounded-bfloat16", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "results in float16": Mistake(
        of_kernel(same, results=HALF), "output-rounded-float16", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "results in steps": Mistake(
        of_kernel(same, results=steps(2.0**-6)), "output-rounded-steps", ways=FUNCTIONS, dtypes=SINGLE
    ),
    "int8": Mistake(of_kernel(int8, int8), "rounded-steps", ways=RESULTS, dtypes=SINGLE, forms=FULL),
    "uint8 and int8 by row": Mistake(
        of_kernel(uint8, int8_by_row), "rounded-steps", ways=RESULTS, dtypes=SINGLE, forms=FULL
    ),
    "float16 sums": Mistake(_low_sums(torch.float16), "accumulated-float16", ways=RESULTS, dtypes=SINGLE, forms=FULL),
    "bfloat16 sums": Mistake(
        _low_sums(torch.bfloat16), "accumulated-bfloat16", ways=RESULTS, dtypes=SINGLE, forms=FULL
    ),
    "cut toward zero": Mistake(
        _not_rounded("toward-zero"), "rounding-toward-zero", ways=RESULTS, dtypes=HALVES, forms=FULL
    ),
    "rounded away from zero": Mistake(
        _not_rounded("away"), "rounding-away-from-zero", ways=RESULTS, dtypes=HALVES, forms=FULL
    ),
    "rounded down": Mistake(_not_rounded("down"), "rounding-down", ways=RESULTS, dtypes=HALVES, forms=FULL),
    "rounded up": Mistake(_not_rounded("up"), "rounding-up", ways=RESULTS, dtypes=HALVES, forms=FULL),
    # Where a sliding convolution reads and writes
    "SAME of TensorFlow": Mistake(
        of_window(_same_of_tensorflow),
        "padding-shifted",
        forms=("sliding",),
        ways=(*FUNCTIONS, "layers"),
        fits=lambda case: _changes(case, "padding", (0,) * (case.x.ndim - 2)),
    ),
    "circular padding": Mistake(
        of_window(lambda case: {"mode": "circular"}),
        "padding-mode",
        forms=("sliding",),
        ways=(*FUNCTIONS, "layers"),
        fits=lambda case: _changes(case, "padding", (0,) * (case.x.ndim - 2)),
    ),
    "results read as NHWC": Mistake(
        of_results(_as_nhwc), "outputs-flattened-hwc", forms=("sliding",), ways=(*FUNCTIONS, "layers")
    ),
    "results of NHWC": Mistake(
        of_results(lambda y, case: y.reshape(len(y), *y.shape[2:], y.shape[1]).movedim(-1, 1)),
        "outputs-flattened-hwc",
        forms=("sliding",),
        ways=(*FUNCTIONS, "layers"),
    ),
    "input read as NHWC": Mistake(
        of_window(lambda case: {}, lambda x: x.movedim(1, -1).reshape(x.shape)),
        "input-flattened-hwc",
        forms=("sliding",),
        ways=(*FUNCTIONS, "layers"),
    ),
}


def _cropped(case: Case) -> Wrong:
    """Strided reading replaced by a crop."""

    def function(x: Tensor) -> Tensor:
        y = of_window(lambda case: {"stride": 1})(case).function(x)
        return y[(slice(None), slice(None), *(slice(size) for size in case().shape[2:]))]

    return Wrong(function=function)


MISTAKES["stride 1, cropped"] = Mistake(
    _cropped,
    "stride-wrong",
    forms=("sliding",),
    ways=(*FUNCTIONS, "layers"),
    fits=lambda case: case.layer.stride[0] > 1,
)


def _dilated(case: Case) -> dict[str, object]:
    sizes = case.kernel[1:]
    pads = [(p + (k - 1) // 2, p + k - 1 - (k - 1) // 2) for k, p in zip(sizes, case.layer.padding, strict=True)]
    return {"dilation": 2, "pads": pads}


MISTAKES["dilation 2"] = Mistake(
    of_window(_dilated),
    "dilation-wrong",
    forms=("sliding",),
    ways=(*FUNCTIONS, "layers"),
    fits=lambda case: set(case.kernel[1:]) == {3},
)


for _key in (
    "flattened as HWC",
    "outputs permuted",
    "bias dropped",
    "bias doubled",
    "bias permuted",
    "weight negated",
    "reduction cut short",
    "batch permuted",
    "results read as NHWC",
):
    MISTAKES[f"{_key}, 16 bits"] = replace(MISTAKES[_key], dtypes=HALVES)
