"""Conditions under which torch itself is known to be wrong: each narrow, each with a finding that shows it.

A comparison that fails under one of them on torch's own CPU kernels is counted as undecided and named in the coverage,
instead of breaking the law, if a small call of fixed values shows the defect on this machine. A gradient that would
damage memory is not asked for, and counted likewise, if it does damage in a process of its own. Gradients are excused
also where another backend leaves them to torch, results of other backends never. The tests in
``tests/laws/test_known_defects.py`` tell when the behaviour changes, and the entry can go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from equiv.backends import conv_kernel
from equiv.laws.call import Call
from equiv.laws.damage import damages, ends_in_padding
from equiv.laws.shown import (
    CONVS,
    fixed,
    is_wrong,
    refuses,
    shows_folded_columns,
    shows_nnpack,
    shows_one_channel,
    shows_one_map,
    shows_padded_depth_of_one,
    shows_slow_kernel,
    shows_strided_to_one_column,
    shows_tall_kernel,
    shows_uncovered_depth,
    shows_whole_width,
)
from equiv.laws.taken import shape_of_result

_OF_FLOAT32 = (torch.float32, torch.complex64, torch.bfloat16)
"""Where kernels of float32 and bfloat16 run: a complex convolution is made of three real ones."""


_seen: dict[tuple[str, torch.dtype, int, bool], bool] = {}


@dataclass(frozen=True)
class Known:
    """One defect of torch: its finding under ``docs/findings/``, and the calls and gradients that it spoils.

    ``sees`` makes a small call of this dtype and says whether the defect is seen in it; None where the kernel reads and
    writes beyond its tensors: such a call is made in a process of its own. ``takes_minutes`` where nothing is wrong but
    the time that the call takes.
    """

    finding: str
    spoils: Callable[[Call, str | None], bool]
    sees: Callable[[torch.dtype], bool] | None = None
    takes_minutes: bool = False

    @property
    def is_avoided(self) -> bool:
        """Whether the kernel must not be called at all where the defect shows."""
        return self.sees is None or self.takes_minutes

    def shows(self, dtype: torch.dtype) -> bool:
        """Whether the defect is seen on this machine, with torch as it is set now; looked at once in a process."""
        if self.sees is None:
            return damages(self.finding, dtype)
        key = (self.finding, dtype, torch.get_num_threads(), bool(torch._C._get_mkldnn_enabled()))
        if key not in _seen:
            _seen[key] = self.sees(dtype)
        return _seen[key]


def _one_channel_channels_last(call: Call, gradient: str | None) -> bool:
    """conv2d, conv3d over one channel, input or weight channels-last, output of width 1, last stride alone above 1."""
    x, kernel = call.input, call.weight
    if gradient is not None or x.ndim < 4 or x.dtype not in (torch.float32, torch.bfloat16, torch.complex64):
        return False
    stride = call.stride or (1,) * (x.ndim - 2)
    out_height, out_width = x.shape[-2] - kernel.shape[-2] + 1, (x.shape[-1] - kernel.shape[-1]) // stride[-1] + 1
    plain = x.shape[1] == 1 and stride[-2] == 1 and stride[-1] > 1 and out_width == 1 and out_height > 1
    return plain and (_is_channels_last(x) or _is_channels_last(kernel))


def _strided_weight_gradient(call: Call, gradient: str | None) -> bool:
    """bfloat16, a last stride larger than the kernel's width, fewer than 16 channels."""
    if gradient != "weight" or call.input.dtype != torch.bfloat16:
        return False
    channels, width = call.weight.shape[1], call.weight.shape[-1]
    return (call.stride or (1,))[-1] > width and channels < 16


def _strided_pointwise_weight_gradient(call: Call, gradient: str | None) -> bool:
    """float32, complex64, bfloat16, 1x1 kernels with a stride, 1 to 15 channels, closest in memory in the input."""
    x, kernel = call.input, call.weight
    if gradient != "weight" or x.dtype not in _OF_FLOAT32 or x.ndim < 4:
        return False
    steps = max(call.stride or (1,)) > 1 and all(size == 1 for size in kernel.shape[2:])
    closest = any(size > 1 and x.stride(1) < step for size, step in zip(x.shape[2:], x.stride()[2:], strict=True))
    return steps and kernel.shape[1] < 16 and closest


def _wide_strided_input_gradient(call: Call, gradient: str | None) -> bool:
    """float32, complex64, bfloat16, kernels wider than 128 with a stride along the width."""
    if gradient != "input" or call.input.dtype not in _OF_FLOAT32:
        return False
    return call.weight.shape[-1] > 128 and (call.stride or (1,))[-1] > 1


def _slow_input_gradient(call: Call, gradient: str | None) -> bool:
    """bfloat16, one sample, a kernel higher than 128 with an even number of outputs above 16, or than 256."""
    if gradient != "input" or call.input.dtype != torch.bfloat16 or call.input.shape[0] != 1:
        return False
    outputs, _, *kernel = call.weight.shape
    height = max(kernel[:-1], default=1)
    return height > 256 or (height > 128 and outputs > 16 and outputs % 2 == 0)


def _weight_gradient_of_one_map(call: Call, gradient: str | None) -> bool:
    """float32, complex64, no stride, one sample of 14 to 19 columns, a kernel as wide.

    And fewer than 4 channels, 32 rows or more, a kernel of 4 or more; or 16 channels or more (two, on 14 columns), 16
    rows or more, a kernel of 15 or more.
    """
    x, kernel = call.input, call.weight
    if gradient != "weight" or x.dtype not in (torch.float32, torch.complex64) or kernel.ndim != 4:
        return False
    (rows, width), high, channels = x.shape[-2:], kernel.shape[-2], kernel.shape[1]
    one = x.shape[0] == 1 and max(call.stride or (1,)) == 1
    few = channels < 4 and rows >= 32 and high >= 4
    many = (channels >= 16 or (channels == 2 and width == 14)) and rows >= 16 and high >= 15
    return one and width == kernel.shape[-1] and 14 <= width <= 19 and (few or many)


def _nnpack(call: Call, gradient: str | None) -> bool:
    """float32 or complex64 with oneDNN off: NNPACK convolves by transforms, which round where a sum would be exact.

    The derivatives of a derivative are convolutions forward again: with respect to an incoming gradient the same one,
    with respect to the weight one whose samples are the channels, and whose kernel is the incoming gradient.
    """
    if gradient not in (None, "incoming", "weight again"):
        return False
    x, kernel = (t.real if t.is_complex() else t for t in (call.input, call.weight))
    ones = (1,) * (kernel.ndim - 2)
    stride, dilation = call.stride or ones, call.dilation or ones
    if gradient == "weight again":
        if x.ndim != kernel.ndim:
            return False
        turned = torch.empty((kernel.shape[0], x.shape[0], *ones), dtype=x.dtype)
        return conv_kernel(x.transpose(0, 1), turned, None, dilation, stride) == "NnpackSpatial"
    return conv_kernel(x, kernel, None, stride, dilation) == "NnpackSpatial"


def _is_channels_last(t: torch.Tensor) -> bool:
    memory_format = torch.channels_last if t.ndim == 4 else torch.channels_last_3d
    return t.is_contiguous(memory_format=memory_format) and t.stride(1) == 1


def _tall_kernel_input_gradient(call: Call, gradient: str | None) -> bool:
    """One sample, kernel n x 1, n >= 32, O > 32 and no multiple of 32: bfloat16, channels-last, or float16.

    In float16 any number of samples where the gradient of the weight is differentiated.
    """
    x, kernel = call.input, call.weight
    several = gradient == "input again" and x.dtype == torch.float16
    if gradient not in ("input", "input again") or x.ndim < 4 or (x.shape[0] != 1 and not several):
        return False
    tall = max(kernel.shape[2:-1]) >= 32 and kernel.shape[-1] == 1
    if not tall or kernel.shape[0] <= 32 or kernel.shape[0] % 32 == 0:
        return False
    if x.dtype == torch.float16:
        return kernel.shape[-2] >= 32
    return x.dtype == torch.bfloat16 and 1 in (x.stride(1), kernel.stride(1))


def _whole_width_stride(call: Call, gradient: str | None) -> bool:
    """bfloat16, channels closest in memory, output of width 1, map and stride multiples of the kernel's width k.

    And C even, C < 32, C * k a multiple of 32 and above 32.
    """
    x, kernel = call.input, call.weight
    if gradient is not None or x.dtype != torch.bfloat16:
        return False
    channels, k, width, stride = kernel.shape[1], kernel.shape[-1], x.shape[-1], (call.stride or (1,))[-1]
    fits = k > 1 and stride % k == 0 and width % k == 0 and width - k < stride
    folds = channels % 2 == 0 and channels < 32 and channels * k % 32 == 0 and channels * k > 32
    closest = any(t.stride(1) < t.stride(-1) for t in (kernel, x)[: x.ndim - 2])
    return fits and folds and closest


def _next_row(call: Call, gradient: str | None, incoming: Tensor | None) -> bool:
    """bfloat16 on AMX, above 16 rows, a NaN or an infinity in memory behind the end of a row, sizes that read it.

    Of a linear layer, or of a convolution as large as a map of 28 positions or more, which oneDNN computes as one. The
    rows are those of the input, or those of the incoming gradient for the gradient of the input.
    """
    read = {None: call.input, "input": incoming}.get(gradient)
    if read is None or call.input.dtype != torch.bfloat16:
        return False
    if call.form == "linear":
        rows = read.detach().reshape(-1, read.shape[-1])
    elif call.input.shape[2:] == call.weight.shape[2:] and math.prod(call.weight.shape[2:]) >= 28:
        rows = read.detach().movedim(1, -1).flatten(1)  # (N, *map, C) in memory
    else:
        return False
    n = rows.shape[1]
    if rows.stride(1) != 1 or rows.stride(0) < n:
        rows = rows.contiguous()
    beyond = n % 2 if n < 32 else -n % 32
    if len(rows) <= 16 or not beyond or not _is_followed_by_special(rows, beyond):
        return False
    return _reads_the_next_row(call, rows, gradient)


def _is_followed_by_special(rows: Tensor, beyond: int) -> bool:
    """Whether an entry in memory behind the end of a row of ``(N, n)``, the last row excepted, is not finite."""
    memory = rows.as_strided((rows.untyped_storage().nbytes() // rows.element_size(),), (1,), 0)
    ends = [rows.storage_offset() + i * rows.stride(0) + rows.shape[1] for i in range(len(rows) - 1)]
    return not all(bool(memory[end : end + beyond].isfinite().all()) for end in ends)


def _reads_the_next_row(call: Call, rows: Tensor, gradient: str | None) -> bool:
    """Whether a NaN in memory behind the first of rows in these strides makes its result NaN."""
    memory = torch.ones(rows.storage_offset() + len(rows) * rows.stride(0) + 1, dtype=rows.dtype)
    given = memory.as_strided(rows.shape, rows.stride(), rows.storage_offset())
    memory[rows.storage_offset() + rows.shape[1]] = torch.nan
    weight, bias = fixed(call.weight), None if call.bias is None else fixed(call.bias)
    dims = weight.ndim - 2

    def run(x: Tensor) -> Tensor:
        return CONVS[dims](x, weight, bias, call.stride or 1) if dims else functional.linear(x, weight, bias)

    if gradient is None:
        x = given.view(len(rows), *weight.shape[2:], -1).movedim(-1, 1).contiguous() if dims else given
        return bool(run(x)[0].isnan().any())
    leaf = torch.ones(call.input.shape, dtype=rows.dtype, requires_grad=True)
    (found,) = torch.autograd.grad(run(leaf).reshape(len(rows), -1), leaf, given)
    return bool(found.reshape(len(rows), -1)[0].isnan().any())


def _folded(channels: int, kernel: int, stride: int, width: int) -> int:
    """How many columns of an unpadded map oneDNN takes together as channels on AMX; 1 where it takes each alone."""
    common = math.gcd(kernel, stride, width)
    return common if channels % 2 == 0 and (channels * common <= 32 or channels * common % 32 == 0) else 1


def _positions(call: Call) -> tuple[int, ...]:
    return shape_of_result(call)[-call.dims :]


def _strided_to_one_column(call: Call, gradient: str | None) -> bool:
    """bfloat16 on AMX, output of width 1, 5 positions or more, stride and width of the kernel above 1 once folded."""
    x, kernel = call.input, call.weight
    if gradient is not None or x.dtype != torch.bfloat16 or not call.stride:
        return False
    positions = _positions(call)
    folded = _folded(kernel.shape[1], kernel.shape[-1], call.stride[-1], x.shape[-1])
    if not _is_one_column(positions, kernel.shape[-1] // folded, call.stride[-1] // folded):
        return False
    conv = CONVS[x.ndim - 2]
    return is_wrong(lambda x, kernel: conv(x, kernel, None, call.stride), x, kernel)


def _is_one_column(positions: Sequence[int], kernel: int, stride: int) -> bool:
    return positions[-1] == 1 and math.prod(positions) >= 5 and kernel > 1 and stride > 1


def _folded_columns(call: Call, gradient: str | None) -> bool:
    """bfloat16 on AMX, an even C < 32, F * C above 32 and a multiple of 32.

    F is the greatest common divisor of the kernel's, the map's and the stride's width; where that is 1, the kernel's
    width, and C < 16. From 5 positions on; below, where the same sizes show it, since few samples or outputs take
    another kernel.
    """
    x, kernel = call.input, call.weight
    if gradient is not None or x.dtype != torch.bfloat16:
        return False
    channels, width = kernel.shape[1], kernel.shape[-1]
    common = math.gcd(width, call.steps[0][-1], x.shape[-1])
    folds = channels % 2 == 0 and channels < (16 if common == 1 else 32)
    together = channels * (width if common == 1 else common)
    if not (folds and together > 32 and together % 32 == 0):
        return False
    conv = CONVS[x.ndim - 2]
    return math.prod(_positions(call)) >= 5 or is_wrong(
        lambda x, kernel: conv(x, kernel, None, call.steps[0]), x, kernel
    )


def _uncovered_depth(call: Call, gradient: str | None) -> bool:
    """bfloat16 conv3d on AMX, 17 columns or more, a stride along the depth that leaves the last slices out."""
    x, kernel = call.input, call.weight
    if gradient != "input" or x.dtype != torch.bfloat16 or kernel.ndim != 5 or x.shape[-1] < 17:
        return False
    depth, stride = kernel.shape[2], (call.stride or (1,))[0]
    return depth >= stride > 1 and (x.shape[2] - depth) % stride != 0


KNOWN = (
    Known("one-channel-channels-last", _one_channel_channels_last, shows_one_channel),
    Known("tall-kernel-input-gradient", _tall_kernel_input_gradient, shows_tall_kernel),
    Known("strided-weight-gradient-in-bfloat16", _strided_weight_gradient),
    Known("strided-1x1-weight-gradient", _strided_pointwise_weight_gradient),
    Known("wide-strided-input-gradient", _wide_strided_input_gradient),
    Known("tall-kernel-takes-minutes", _slow_input_gradient, shows_slow_kernel, takes_minutes=True),
    Known("weight-gradient-of-one-map", _weight_gradient_of_one_map, shows_one_map),
    Known("whole-width-kernel-with-its-stride", _whole_width_stride, shows_whole_width),
    Known("transforms-in-nnpack", _nnpack, shows_nnpack),
    Known("one-column-of-strided-windows", _strided_to_one_column, shows_strided_to_one_column),
    Known("columns-folded-into-channels", _folded_columns, shows_folded_columns),
    Known("uncovered-depth-input-gradient", _uncovered_depth, shows_uncovered_depth),
)


_NEXT_ROW = "linear-reads-the-next-row"
_REFUSALS = {"slow_conv2d: grad_weight must be contiguous": "odd-strides-stop-backward"}


def known_refusal(error: Exception) -> str | None:
    """The finding about this error, which torch raises in the backward pass of calls that it should serve, or None."""
    return next((finding for text, finding in _REFUSALS.items() if text in str(error) and refuses(text)), None)


def known_defect(call: Call, gradient: str | None, incoming: Tensor | None = None) -> str | None:
    """The finding that covers this call of torch's CPU kernels, or None; ``incoming`` is that of the gradient."""
    if call.input.device.type != "cpu":
        return None
    gradient = None if gradient == "incoming" else gradient  # what is differentiated by it is a convolution of the map
    if gradient is None and _one_column_of_any(call):
        return "one-column-of-strided-windows"
    if gradient is None and _padded_depth_of_one(call):
        return "padded-depth-of-one-in-bfloat16"
    call = _batched(call)
    if _next_row(call, gradient, incoming):
        return _NEXT_ROW
    covering = (known for known in KNOWN if call.form != "linear" and known.spoils(call, gradient))
    return next((k.finding for k in covering if not k.takes_minutes and k.shows(call.input.dtype)), None)


def known_defect_of_module(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> str | None:
    """The finding that covers ``conv(x)``, which may have padding, dilation and groups, or None."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return None
    width, stride = conv.kernel_size[-1], conv.stride[-1]
    if conv.groups == max(conv.dilation) == 1 and (conv.padding == "valid" or max(conv.padding) == 0):
        folded = _folded(conv.in_channels, width, stride, x.shape[-1])
        width, stride = width // folded, stride // folded
    names, parameters = zip(*conv.named_parameters(), strict=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = functional_call(conv, dict(zip(names, parameters, strict=True)), (x,))
        return y

    positions = run(x, *parameters).shape[2:]
    if not _is_one_column(positions, width, stride) or not is_wrong(run, x, *parameters):
        return None
    return "one-column-of-strided-windows" if shows_strided_to_one_column(x.dtype) else None


def crashes_in_padding(call: Call) -> str | None:
    """The finding that says why torch's CPU kernel ends the process, or None.

    A map of 16 bits that is no larger than the dilation along a padded side; in float16 with a stride along it.
    """
    findings = {torch.float16: "dilated-width-of-one-in-padding", torch.bfloat16: "taps-in-padding-alone-in-bfloat16"}
    finding = findings.get(call.input.dtype)
    if finding is None or call.input.device.type != "cpu" or not call.padding:
        return None
    least = 2 if call.input.dtype == torch.float16 else 1
    axes = zip(call.input.shape[-call.dims :], call.padding, *call.steps, strict=True)
    met = any(size <= e > 1 and p > 0 and s >= least for size, p, s, e in axes)
    return finding if met and ends_in_padding(finding) else None


def _one_column_of_any(call: Call) -> bool:
    """The same with padding, dilation or groups, where oneDNN takes no columns together."""
    if call.form == "linear" or call.input.dtype != torch.bfloat16 or (call.is_plain and max(call.steps[1]) == 1):
        return False
    one = _is_one_column(_positions(call), call.weight.shape[-1], call.steps[0][-1])
    return one and shows_strided_to_one_column(call.input.dtype)


def _padded_depth_of_one(call: Call) -> bool:
    """bfloat16 over a map of depth 1, padded along the depth."""
    if call.input.dtype != torch.bfloat16 or call.dims != 3 or not any(call.padding[:1]):
        return False
    met = call.input.shape[-3] == 1 and call.weight.shape[2] > 1
    return met and shows_padded_depth_of_one(call.input.dtype)


def _strided_in_groups(call: Call) -> bool:
    """bfloat16 with padding, dilation or groups, and a stride, if a process of its own shows such a defect."""
    if call.input.dtype != torch.bfloat16 or (call.is_plain and max(call.steps[1]) == 1):
        return False
    return max(call.steps[0]) > 1 and damages("strided-weight-gradient-in-padding", call.input.dtype)


def known_corruption(call: Call) -> str | None:
    """The finding that says why torch's CPU kernels must not be asked for the gradients of this call, or None."""
    if call.input.device.type != "cpu" or call.form == "linear":
        return None
    if _strided_in_groups(call):
        return "strided-weight-gradient-in-bfloat16"
    asked, call = ("input", "weight"), _batched(call)
    met = (k for k in KNOWN if k.is_avoided and any(k.spoils(call, name) for name in asked))
    return next((k.finding for k in met if k.shows(call.input.dtype)), None)


def _batched(call: Call) -> Call:
    """A call as a batch, of one where there was none, and as the convolution of its first group on the padded map."""
    x = call.input[None] if call.input.ndim < call.weight.ndim else call.input
    if call.is_plain:
        return call if x is call.input else replace(call, input=x)
    around = [p for each in reversed(call.padding) for p in (each, each)]
    x = functional.pad(x.detach(), around)[:, : call.weight.shape[1]]
    weight = call.weight.detach()[: call.weight.shape[0] // call.groups]
    bias = None if call.bias is None else call.bias.detach()[: len(weight)]
    return replace(call, input=x, weight=weight, bias=bias, padding=(), groups=1)


def differentiated_by_torch(y: torch.Tensor) -> torch.dtype | None:
    """The dtype in which the gradients of ``y`` pass through torch's own convolution, or None where they do not."""
    waiting, met = [y.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in met:
            continue
        if type(node).__name__ == "ConvolutionBackward0":
            saved: Any = node
            return next((t.dtype for t in (saved._saved_weight, saved._saved_input) if t is not None), y.dtype)
        met.add(node)
        waiting += [following for following, _ in node.next_functions]
    return None
