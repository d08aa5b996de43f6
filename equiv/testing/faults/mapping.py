"""Mistakes that people make when they rewrite a layer as a convolution, or its input as a map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equiv.mapping import Conv
from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BOUNDARIES, EXACT, FORWARD, LAYOUT, PURITY, ROUND_TRIP, TRANSFORMS, WEIGHT_RECOVERY
from equiv.testing.faults.mistake import FULL, POINTWISE, Mistake, Right, biases, changed, everything, weights
from equiv.testing.faults.tools import through, zero_from

# --- order ------------------------------------------------------------------------------------------------------------


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


fault = Faults(kind="mapping", laws=(EXACT, WEIGHT_RECOVERY, FORWARD), family="mapping mistake")

fault("flattened-hwc", "flatten order")(
    "The weight is read as if the map had been flattened in the order HWC.", "vlfeat/matconvnet#657"
).mistake(weights(_read_as_hwc), FULL)
fault("kernel-written-hwc", "flatten order")(
    "The kernel is written in the order HWC into memory that is read as CHW.",
    "FCN.tensorflow#47, axis order of the kernel",
).mistake(weights(_written_as_hwc), FULL)
fault("flattened-spatial-reversed", "flatten order")(
    "The weight is read as if the map had been flattened with its spatial dimensions in reverse order.",
    "H and W exchanged",
).mistake(weights(_read_transposed), FULL)
fault("square-kernels-transposed", "flatten order", profile="gate")(
    "H and W of a square kernel are exchanged.", "H and W exchanged where they are equal"
).mistake(weights(lambda w: w.transpose(-1, -2) if w.ndim > 3 and w.shape[-1] == w.shape[-2] else w), FULL)
fault("kernel-flipped", "kernel orientation")(
    "The kernel is turned around in all spatial dimensions: the convolution of mathematics.",
    "convolution for correlation",
).mistake(weights(lambda w: w.flip(*range(2, w.ndim))), FULL)
fault("channels-reversed", "channel order")(
    "The channels are in reverse order, as BGR for RGB.", "BGR for RGB"
).mistake(weights(lambda w: w.flip(1)), FULL)
fault("in-and-out-exchanged-when-square", "weight orientation", laws=(LAYOUT, EXACT, WEIGHT_RECOVERY, FORWARD))(
    "The weight of a layer with as many outputs as inputs is transposed in the pointwise form.",
    "C_in and C_out exchanged where they are equal",
).mistake(weights(lambda w: w.transpose(0, 1) if w.shape[0] == w.shape[1] else w), POINTWISE)
fault("outputs-reversed", "output order")("The outputs are in reverse order.", "labels in another order").mistake(
    weights(lambda w: w.flip(0)), FULL, POINTWISE
)

# --- which weights ----------------------------------------------------------------------------------------------------


fault("only-the-first-outputs", "outputs", laws=(WEIGHT_RECOVERY, EXACT, BOUNDARIES, FORWARD))(
    "Only the first 32 rows of the weight are copied, the others stay zero.", "a partial copy of weights"
).mistake(weights(lambda w: zero_from(w, 32)), FULL, POINTWISE)


fault("last-tap-missing", "kernel")(
    "The last entry of every kernel larger than 1 is zero.", "a slice that ends one early"
).mistake(weights(lambda w: zero_from(w.flatten(2), -1, 2).view(w.shape) if math.prod(w.shape[2:]) > 1 else w), FULL)


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


fault("one-by-one-for-the-whole-map", "kernel size")(
    "A layer over a flattened map becomes a 1x1 convolution over its channels.", "pytorch/vision#4056"
).mistake(_one_by_one, FULL)

# --- bias -------------------------------------------------------------------------------------------------------------

fault("bias-dropped", "bias", laws=(EXACT, WEIGHT_RECOVERY, FORWARD, PURITY))(
    "The bias is not copied.", "chongzhou96/MaskCLIP#9"
).mistake(biases(lambda _: None), FULL, POINTWISE)
fault("bias-doubled", "bias")(
    "The bias is doubled: added by the convolution and once more.", "bias folded twice"
).mistake(biases(lambda b: b * 2), FULL, POINTWISE)


def _with_bias_of_zeros(conv: Conv) -> Conv:
    if conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.weight.shape[0]), requires_grad=False)
    return conv


fault("bias-invented", "bias", laws=(PURITY, ROUND_TRIP))(
    "A layer without bias becomes a convolution with a bias of zeros.", "bias=True is torch's default"
).mistake(changed(_with_bias_of_zeros), FULL, POINTWISE)

# --- options of the convolution ---------------------------------------------------------------------------------------


def _with_option(name: str, value: Callable[[Conv], Any]) -> Mistake:
    def change(conv: Conv) -> Conv:
        setattr(conv, name, value(conv))
        return conv

    return changed(change)


fault("same-padding", "padding", laws=(TRANSFORMS, ROUND_TRIP))(
    "The convolution pads the map with half its kernel on each side.", "tensorflow-fcn#27"
).mistake(_with_option("padding", lambda conv: tuple(k // 2 for k in conv.kernel_size)), FULL)
fault("kernel-dilated", "dilation", laws=(TRANSFORMS, ROUND_TRIP))(
    "The convolution has a dilation of 2, as the layers before it in a dense network.",
    "dilation carried over from a dense network",
).mistake(_with_option("dilation", lambda conv: (2,) * len(conv.kernel_size)), FULL)

# --- dtype and memory -------------------------------------------------------------------------------------------------


fault("copied-through-float16", "precision", laws=(WEIGHT_RECOVERY, FORWARD, EXACT, ROUND_TRIP))(
    "Weight and bias pass through float16.", "a checkpoint in half precision"
).mistake(everything(through(torch.float16)), FULL, POINTWISE)
fault("copied-through-float32", "precision", dtypes=("float64",), laws=(WEIGHT_RECOVERY, FORWARD, EXACT, ROUND_TRIP))(
    "Weight and bias of a float64 layer pass through float32.", "torch's default dtype"
).mistake(everything(through(torch.float32)), FULL, POINTWISE)
fault("dtype-of-the-default", "dtype", dtypes=("float64", "bfloat16"), laws=(PURITY, EXACT, ROUND_TRIP))(
    "The convolution is float32, whatever the dtype of the layer.", "a module made with torch's default dtype"
).mistake(changed(lambda conv: conv.float()), FULL, POINTWISE)


def _shared(right: Right, *args: Any, **options: Any) -> Any:
    return right(*args, **({**options, "share": True} if args[0].weight.is_contiguous() else options))


def _source_altered(right: Right, *args: Any, **options: Any) -> Any:
    conv = right(*args, **options)
    with torch.no_grad():
        args[0].weight.mul_(2)
    return conv


fault("requires-grad-lost", "requires_grad", laws=(PURITY,))(
    "The parameters of the convolution do not require gradients where those of the layer do.",
    ".data or .detach() in the copy",
).mistake(changed(lambda conv: conv.requires_grad_(False)), FULL, POINTWISE)
fault("training-mode-lost", "module state", laws=(PURITY,))(
    "The convolution is in training mode, whatever the mode of the layer.", "a fresh module is in training mode"
).mistake(changed(lambda conv: conv.train()), FULL, POINTWISE)
fault("memory-shared", "aliasing", laws=(PURITY,))(
    "The convolution shares its memory with the layer although a copy was promised.", "view for copy"
).mistake(_shared, FULL, POINTWISE)
fault("memory-copied-when-shared", "aliasing", profile="gate", laws=(ROUND_TRIP,))(
    "The convolution has a copy of the weight although shared memory was asked for.", "copy for view"
).mistake(lambda right, *args, **options: right(*args, **{**options, "share": False}), FULL, POINTWISE)
fault("source-altered", "purity", laws=(PURITY, EXACT))(
    "The mapping doubles the weight of the layer that it was given.", "normalised in place"
).mistake(_source_altered, FULL, POINTWISE)
