"""Slips that people make when they rewrite a layer as a convolution, or its input as a map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equiv.mapping import Conv
from equiv.testing.faults._slip import FULL, POINTWISE, Right, Slip, biases, everything, slip, weights

# --- order ------------------------------------------------------------------------------------------------------------

EXACT = ("exact", "readback", "forward")


def _read_as_hwc(weight: Tensor) -> Tensor:
    """(O, C, *spatial), whose entries were taken for those of (O, *spatial, C)."""
    outputs, channels, *spatial = weight.shape
    return weight.reshape(outputs, *spatial, channels).movedim(-1, 1)


def _written_as_hwc(weight: Tensor) -> Tensor:
    return weight.movedim(1, -1).reshape(weight.shape)


def _read_transposed(weight: Tensor) -> Tensor:
    """(O, C, *spatial), whose entries were taken for those of (O, C, *reversed spatial)."""
    outputs, channels, *spatial = weight.shape
    return weight.reshape(outputs, channels, *spatial[::-1]).permute(0, 1, *range(weight.ndim - 1, 1, -1))


slip(
    "flattened-hwc",
    "The weight is taken for one over a map that was flattened in the order HWC.",
    of=(FULL,),
    wrong=weights(_read_as_hwc),
    source="mapping slip: vlfeat/matconvnet#657",
    dimension="flatten order",
    laws=EXACT,
)
slip(
    "kernel-written-hwc",
    "The kernel is written in the order HWC into memory that is read as CHW.",
    of=(FULL,),
    wrong=weights(_written_as_hwc),
    source="mapping slip: FCN.tensorflow#47, axis order of the kernel",
    dimension="flatten order",
    laws=EXACT,
)
slip(
    "flattened-spatial-reversed",
    "The weight is taken for one over a map that was flattened with its spatial dimensions in reverse order.",
    of=(FULL,),
    wrong=weights(_read_transposed),
    source="mapping slip: H and W exchanged",
    dimension="flatten order",
    laws=EXACT,
)
slip(
    "square-kernels-transposed",
    "H and W of a square kernel are exchanged.",
    of=(FULL,),
    wrong=weights(lambda w: w.transpose(-1, -2) if w.ndim > 3 and w.shape[-1] == w.shape[-2] else w),
    source="mapping slip: H and W exchanged where shapes do not tell",
    dimension="flatten order",
    profile="gate",
    laws=EXACT,
)
slip(
    "kernel-flipped",
    "The kernel is turned around in all spatial dimensions: the convolution of mathematics.",
    of=(FULL,),
    wrong=weights(lambda w: w.flip(*range(2, w.ndim))),
    source="mapping slip: convolution for correlation",
    dimension="kernel orientation",
    laws=EXACT,
)
slip(
    "channels-reversed",
    "The channels are in reverse order, as BGR for RGB.",
    of=(FULL,),
    wrong=weights(lambda w: w.flip(1)),
    source="mapping slip: BGR for RGB",
    dimension="channel order",
    laws=EXACT,
)
slip(
    "in-and-out-exchanged-when-square",
    "The weight of a layer with as many outputs as inputs is transposed in the pointwise form.",
    of=(POINTWISE,),
    wrong=weights(lambda w: w.transpose(0, 1) if w.shape[0] == w.shape[1] else w),
    source="mapping slip: C_in and C_out exchanged where shapes do not tell",
    dimension="weight orientation",
    laws=("layout", *EXACT),
)
slip(
    "outputs-reversed",
    "The outputs are in reverse order.",
    of=(FULL, POINTWISE),
    wrong=weights(lambda w: w.flip(0)),
    source="mapping slip: labels in another order",
    dimension="output order",
    laws=EXACT,
)

# --- which weights ----------------------------------------------------------------------------------------------------


def _zero_from(size: int) -> Callable[[Tensor], Tensor]:
    """Only the first ``size`` outputs are copied."""

    def change(weight: Tensor) -> Tensor:
        changed = weight.clone()
        changed[size:] = 0
        return changed

    return change


slip(
    "only-the-first-outputs",
    "Only the first 32 rows of the weight are copied, the others stay zero.",
    of=(FULL, POINTWISE),
    wrong=weights(_zero_from(32)),
    source="mapping slip: a partial copy of weights",
    dimension="outputs",
    laws=("readback", "exact", "boundaries", "forward"),
)


def _last_tap_zero(weight: Tensor) -> Tensor:
    changed = weight.clone(memory_format=torch.contiguous_format)
    changed.flatten(2)[..., -1] = 0
    return changed


slip(
    "last-tap-missing",
    "The last entry of every kernel larger than 1 is zero.",
    of=(FULL,),
    wrong=weights(lambda w: _last_tap_zero(w) if math.prod(w.shape[2:]) > 1 else w),
    source="mapping slip: a slice that ends one early",
    dimension="kernel",
    laws=EXACT,
)


def _one_by_one(right: Right, linear: nn.Linear, feature_shape: Any, **options: Any) -> Conv:
    """A 1x1 kernel over C channels with the weights of the first position."""
    shape = tuple(feature_shape)
    positions = math.prod(shape[1:])
    conv: Conv = right(linear, shape, **options)
    if positions == 1:
        return conv
    conv = type(conv)(shape[0], linear.out_features, 1, bias=linear.bias is not None, device="meta")
    weight = linear.weight.detach()[:, ::positions].reshape(linear.out_features, shape[0], *(1,) * (len(shape) - 1))
    conv.weight = nn.Parameter(weight.clone(), requires_grad=linear.weight.requires_grad)
    if linear.bias is not None:
        conv.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=linear.bias.requires_grad)
    conv.train(linear.training)
    return conv


slip(
    "one-by-one-for-the-whole-map",
    "A layer over a flattened map becomes a 1x1 convolution over its channels.",
    of=(FULL,),
    wrong=_one_by_one,
    source="mapping slip: pytorch/vision#4056",
    dimension="kernel size",
    laws=EXACT,
)

# --- bias -------------------------------------------------------------------------------------------------------------

slip(
    "bias-dropped",
    "The bias is not copied.",
    of=(FULL, POINTWISE),
    wrong=biases(lambda _: None),
    source="mapping slip: chongzhou96/MaskCLIP#9",
    dimension="bias",
    laws=(*EXACT, "purity"),
)
slip(
    "bias-doubled",
    "The bias is doubled: added by the convolution and once more.",
    of=(FULL, POINTWISE),
    wrong=biases(lambda b: b * 2),
    source="mapping slip: bias folded twice",
    dimension="bias",
    laws=EXACT,
)


def _invented(right: Right, *args: Any, **options: Any) -> Any:
    conv = right(*args, **options)
    if conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.weight.shape[0]), requires_grad=False)
    return conv


slip(
    "bias-invented",
    "A layer without bias becomes a convolution with a bias of zeros.",
    of=(FULL, POINTWISE),
    wrong=_invented,
    source="mapping slip: bias=True is torch's default",
    dimension="bias",
    laws=("purity", "round_trip"),
)

# --- options of the convolution ---------------------------------------------------------------------------------------


def _with_option(name: str, value: Callable[[Conv], Any]) -> Slip:
    def wrong(right: Right, *args: Any, **options: Any) -> Any:
        conv = right(*args, **options)
        setattr(conv, name, value(conv))
        return conv

    return wrong


slip(
    "same-padding",
    "The convolution pads the map with half its kernel on each side.",
    of=(FULL,),
    wrong=_with_option("padding", lambda conv: tuple(k // 2 for k in conv.kernel_size)),
    source="mapping slip: tensorflow-fcn#27",
    dimension="padding",
    laws=("transforms", "round_trip"),
)
slip(
    "kernel-dilated",
    "The convolution has a dilation of 2, as the layers before it in a dense network.",
    of=(FULL,),
    wrong=_with_option("dilation", lambda conv: (2,) * len(conv.kernel_size)),
    source="mapping slip: dilation carried over from a dense network",
    dimension="dilation",
    laws=("transforms", "round_trip"),
)

# --- dtype and memory -------------------------------------------------------------------------------------------------


def _through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda t: t.to(dtype).to(t.dtype) if t.is_floating_point() else t


slip(
    "copied-through-float16",
    "Weight and bias pass through float16.",
    of=(FULL, POINTWISE),
    wrong=everything(_through(torch.float16)),
    source="mapping slip: a checkpoint in half precision",
    dimension="precision",
    laws=("readback", "forward", "exact", "round_trip"),
)
slip(
    "copied-through-float32",
    "Weight and bias of a float64 layer pass through float32.",
    of=(FULL, POINTWISE),
    wrong=everything(_through(torch.float32)),
    source="mapping slip: torch's default dtype",
    dimension="precision",
    dtypes=("float64",),
    laws=("readback", "forward", "exact", "round_trip"),
)
slip(
    "dtype-of-the-default",
    "The convolution is float32, whatever the dtype of the layer.",
    of=(FULL, POINTWISE),
    wrong=lambda right, *args, **options: right(*args, **options).float(),
    source="mapping slip: a module made with torch's default dtype",
    dimension="dtype",
    dtypes=("float64", "bfloat16"),
    laws=("purity", "exact", "round_trip"),
)


def _grad_lost(right: Right, *args: Any, **options: Any) -> Any:
    return right(*args, **options).requires_grad_(False)


def _trained(right: Right, *args: Any, **options: Any) -> Any:
    return right(*args, **options).train()


def _shared(right: Right, *args: Any, **options: Any) -> Any:
    linear = args[0]
    if not linear.weight.is_contiguous():
        return right(*args, **options)
    return right(*args, **{**options, "share": True})


def _copied(right: Right, *args: Any, **options: Any) -> Any:
    return right(*args, **{**options, "share": False})


def _source_altered(right: Right, *args: Any, **options: Any) -> Any:
    conv = right(*args, **options)
    with torch.no_grad():
        args[0].weight.mul_(2)
    return conv


slip(
    "requires-grad-lost",
    "The parameters of the convolution do not require gradients where those of the layer do.",
    of=(FULL, POINTWISE),
    wrong=_grad_lost,
    source="mapping slip: .data or .detach() in the copy",
    dimension="requires_grad",
    laws=("purity",),
)
slip(
    "training-mode-lost",
    "The convolution is in training mode, whatever the mode of the layer.",
    of=(FULL, POINTWISE),
    wrong=_trained,
    source="mapping slip: a fresh module is in training mode",
    dimension="module state",
    laws=("purity",),
)
slip(
    "memory-shared",
    "The convolution shares its memory with the layer although a copy was promised.",
    of=(FULL, POINTWISE),
    wrong=_shared,
    source="mapping slip: view for copy",
    dimension="aliasing",
    laws=("purity",),
)
slip(
    "memory-copied-when-shared",
    "The convolution has a copy of the weight although shared memory was asked for.",
    of=(FULL, POINTWISE),
    wrong=_copied,
    source="mapping slip: copy for view",
    dimension="aliasing",
    profile="gate",
    laws=("round_trip",),
)
slip(
    "source-altered",
    "The mapping doubles the weight of the layer that it was given.",
    of=(FULL, POINTWISE),
    wrong=_source_altered,
    source="mapping slip: normalised in place",
    dimension="purity",
    laws=("purity", "exact"),
)
