"""Is a layer over a flattened map a 1x1 convolution? The closest one, and the smallest input that tells them apart.

Letters: W (out, n) is the layer's weight, its columns the map (C, *spatial) flattened C-major, with HW = prod(spatial)
positions p, q; K (O, C) is the weight of a 1x1 convolution, T(K) the dense matrix of that convolution and the readout
that follows it, R = W - T(K). A *readout* says how the map (O, *spatial) of the convolution is read as the layer's
output: ``"positions"`` flattens it (T(K) is the Kronecker product K (x) I_HW), ``"sum"`` and ``"mean"`` reduce it over
positions.

The tensors are computed in `equiv.structure.closest`, programs are written in `equiv.structure.snippet`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from equiv.arguments import check_choice
from equiv.dtypes import DTYPES, dtype_name, dtype_names, is_inexact
from equiv.errors import EquivError
from equiv.mapping import CONVS, Conv, FeatureShape, check_feature_shape, check_linear, check_product
from equiv.pictures import in_notebook
from equiv.structure.closest import FlattenedLayer, Readout, Window, distances
from equiv.structure.snippet import WIDTH, Scalar, picture, shortest, snippet_bias, snippet_equivalent, snippet_weight
from equiv.text import counted, plain_json

if TYPE_CHECKING:
    from equiv.pictures import Picture


@dataclass(frozen=True, eq=False, kw_only=True)
class Counterexample:
    """What :func:`counterexample` found. Sizes are counts, distances are in units of the weights, in float64.

    Example:
        >>> from equiv import counterexample
        >>> found = counterexample(torch.nn.Linear(8, 8), (2, 2, 2))
        >>> found.equivalent, found.layer_weights, found.conv_weights
        (False, 64, 4)
        >>> int(found.witness.count_nonzero())
        1

    Attributes:
        equivalent: the layer is a 1x1 convolution (with the readout), entry by entry, for all inputs.
        feature_shape: (C, *spatial), the map that was flattened.
        readout: how the convolution's map is read: "positions", "sum" or "mean".
        in_features: n = C * HW.
        out_features: the layer's number of outputs.
        conv: the closest 1x1 convolution in Frobenius norm, rounded to the layer's dtype, on its device.
        conv_output_shape: (O, *spatial), what the convolution returns for one sample, before the readout.
        layer_weights: n * out_features.
        conv_weights: C * O.
        dense_entries: entries of the convolution's own dense matrix, (O * HW) * n.
        dense_nonzeros: how many of them can be non-zero, O * C * HW.
        cause: "none", "off_diagonal" (an output depends on another position), "position_dependent" (the weight changes
            from position to position) or "bias" (only the bias does not fit).
        reason: the cause in one sentence, with its numbers.
        witness: the smallest input (C, *spatial) that shows the difference: one entry 1, or all 0 when only the bias
            differs. None when equivalent.
        witness_index: (channel, *position) of the 1 in the witness, or None.
        output_index: the output that differs: (channel, *position), or (output,) for "sum" and "mean".
        expected: the layer's output there for the witness, from the entries of W and the bias.
        actual: the convolution's output there, after the readout.
        without_bias: expected and actual leave the bias out, because in this dtype adding it would hide the difference.
        distance: Frobenius norm of R for the best real K.
        relative_distance: distance / norm of W (0 for W = 0).
        bias_distance: 2-norm of what no bias of the convolution reaches.
        gap: the largest gain of R, 2-norm in and out. Above 65536 weights a lower bound, attained by worst_input_2.
        gap_is_exact: gap comes from a singular value decomposition.
        worst_input_2: unit 2-norm, shape (C, *spatial), float64 or complex128; None where R = 0.
        gap_inf: the largest gain of R for inputs of unit max-norm: its largest row 1-norm.
        worst_input_inf: attains gap_inf; None where R = 0.
        picture: both dense matrices as text, for at most 8 x 8 entries; else empty.
        entry: row and column of the entry of W that the witness reads; None where it reads none.
        window: both dense matrices around that entry, at most 64 x 64.
    """

    equivalent: bool
    feature_shape: tuple[int, ...]
    readout: Readout
    in_features: int
    out_features: int
    conv: Conv
    conv_output_shape: tuple[int, ...]
    layer_weights: int
    conv_weights: int
    dense_entries: int
    dense_nonzeros: int
    cause: str
    reason: str
    witness: Tensor | None
    witness_index: tuple[int, ...] | None
    output_index: tuple[int, ...] | None
    expected: Scalar | None
    actual: Scalar | None
    without_bias: bool
    distance: float
    relative_distance: float
    bias_distance: float
    gap: float
    gap_is_exact: bool
    worst_input_2: Tensor | None
    gap_inf: float
    worst_input_inf: Tensor | None
    picture: str
    entry: tuple[int, int] | None
    window: Window = field(repr=False)
    _snippet: str = field(repr=False)

    def __str__(self) -> str:
        """One screen: shapes, reason, smallest witness, what the convolution really is, distances."""
        return self.render()

    def render(self, width: int = WIDTH) -> str:
        """The report as ``str`` gives it, with sentences wrapped at ``width`` columns."""
        c, o, hw = self.feature_shape[0], self.conv_output_shape[0], math.prod(self.feature_shape[1:])
        head = "EQUIVALENT" if self.equivalent else "NOT EQUIVALENT"
        tail = "is" if self.equivalent else "is not"
        read = {"positions": "flattened", "sum": "then summed over positions", "mean": "then averaged over positions"}
        lines = [
            f"{head}: Linear({self.in_features} -> {self.out_features}) over a flattened map {self.feature_shape} "
            f"{tail} a 1x1 conv over {counted(c, 'channel')}, {read[self.readout]}.",
            f"  layer     {counted(self.in_features, 'number')} -> {self.out_features:,}; "
            f"{counted(self.layer_weights, 'weight')}",
            f"  1x1 conv  {self.feature_shape} -> {self.conv_output_shape}, {counted(o * hw, 'number')}; "
            f"{counted(self.conv_weights, 'weight')}",
            f"The 1x1 conv is one layer {c} -> {o} at each of {counted(hw, 'position')}: the dense matrix K (x) I_{hw}"
            f", where {self.dense_nonzeros:,} of {counted(self.dense_entries, 'entry', 'entries')} can be non-zero.",
            f"Reason: {self.reason}.",
        ]
        if self.witness is not None:
            index = "0" if self.witness_index is None else f"0 but x{list(self.witness_index)} = 1"
            lines += [
                f"Smallest witness: x = {index}.",
                f"  output {list(self.output_index or ())}{' without bias' * self.without_bias}",
                f"    layer     {self.expected!r}",
                f"    1x1 conv  {self.actual!r}",
            ]
        lines += self.picture.splitlines()
        if not self.equivalent:
            bound = "" if self.gap_is_exact else "at least "
            lines += [
                f"Closest 1x1 conv: distance {self.distance:.6g} ({self.relative_distance:.3g} of the layer's norm)"
                + (f", bias {self.bias_distance:.6g}" if self.bias_distance else ""),
                f"  worst error for |x|_2 = 1: {bound}{self.gap:.6g}; for max|x| = 1: {self.gap_inf:.6g}",
            ]
        return "\n".join(fill(line, width, subsequent_indent="  ") for line in lines)

    def plot(self) -> Picture:
        """Both dense matrices around the entry that the witness reads, which is framed.

        Returns:
            A :class:`matplotlib.figure.Figure` outside pyplot, with a description in ``.alt``;
            ``.savefig("counterexample.svg")`` writes it.

        Raises:
            MissingExtraError: matplotlib is not installed (extra ``plot``).

        Example:
            >>> picture = counterexample(nn.Linear(4, 4), (1, 2, 2)).plot()
            >>> picture.alt[:15], len(picture.axes)
            ('NOT EQUIVALENT:', 3)
        """
        from equiv.pictures import of_counterexample

        return of_counterexample(self)

    def _repr_html_(self) -> str:
        return in_notebook(self)

    def snippet(self) -> str:
        """Python source that needs torch and equiv only, rebuilds the witness and asserts the difference.

        Up to 64 weights are spelled out; of a larger layer only the entries that the witness reaches.
        """
        return self._snippet

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON-safe values; a complex number is a string such as ``(1-3j)``. Tensors are left out."""
        left_out = {"conv", "witness", "worst_input_2", "worst_input_inf", "window", "_snippet"}
        found: dict[str, Any] = {"dtype": dtype_name(self.conv.weight.dtype)}
        for name, value in vars(self).items():
            if name not in left_out:
                found[name] = plain_json(value)
        return found


def counterexample(linear: nn.Linear, feature_shape: FeatureShape, *, readout: Readout | None = None) -> Counterexample:
    """Say whether a layer over a flattened map is a 1x1 convolution over its channels, and if not, where it fails.

    The decision is exact: entries of W and of the bias are compared with ``==``, no arithmetic on inputs is involved.
    ``"positions"`` holds when W = K (x) I_HW and the bias does not change over positions. ``"sum"`` and ``"mean"``
    hold when W[o, (c, p)] does not depend on p; there the convolution needs the bias b / HW, or the weight HW * K, and
    these are rounded to the dtype (integers must divide). With HW = 1 all three hold for every layer.

    When equivalent under "positions", ``conv.weight`` holds the entries of W bit for bit. Otherwise it is the closest
    in Frobenius norm, K[o, c] = mean over p, rounded once to the dtype.

    Args:
        linear: any real, complex or integer dtype that ``nn.Linear`` computes in; finite weights; not on meta.
        feature_shape: (C, *spatial), 1 to 3 spatial dimensions, product ``linear.in_features``.
        readout: "positions" needs ``out_features`` to be a multiple of HW. None takes "positions" where it is, else
            "sum".

    Raises:
        EquivError: any other input; the message names the argument and what to do.

    Example:
        >>> import torch
        >>> from equiv.structure import counterexample
        >>> linear = torch.nn.Linear(4, 4, bias=False)
        >>> _ = torch.nn.init.ones_(linear.weight)
        >>> found = counterexample(linear, (1, 2, 2))
        >>> found.equivalent, found.witness_index, found.output_index, found.expected, found.actual
        (False, (0, 0, 0), (0, 0, 1), 1.0, 0.0)
        >>> _ = linear.weight.data.copy_(torch.eye(4) * 3)
        >>> counterexample(linear, (1, 2, 2)).equivalent
        True
    """
    shape, how = _check(linear, feature_shape, readout)
    with torch.device("cpu"):  # whatever the default device is
        return _counterexample(linear, shape, how)


@torch.inference_mode(False)
@torch.no_grad()
def _counterexample(linear: nn.Linear, shape: tuple[int, ...], how: Readout) -> Counterexample:
    layer = FlattenedLayer(linear, shape, how)
    entry = layer.first_difference()
    return Counterexample(
        feature_shape=shape,
        readout=how,
        in_features=linear.in_features,
        out_features=linear.out_features,
        conv=_conv(linear, layer),
        conv_output_shape=(layer.o, *shape[1:]),
        layer_weights=linear.in_features * linear.out_features,
        conv_weights=layer.c * layer.o,
        dense_entries=layer.o * layer.hw * linear.in_features,
        dense_nonzeros=layer.o * layer.c * layer.hw,
        picture=picture(layer),
        entry=entry,
        window=layer.window(*(entry or (0, 0))),
        **_findings(layer, entry),
        **distances(layer),
    )


def _check(linear: object, feature_shape: FeatureShape, readout: str | None) -> tuple[tuple[int, ...], Readout]:
    """Validate the arguments of :func:`counterexample`; settle the readout."""
    layer = check_linear(linear)
    shape = check_feature_shape(feature_shape)
    check_product(shape, layer.in_features, "linear.in_features")
    _check_values(layer)
    hw, out = math.prod(shape[1:]), layer.out_features
    if readout is None:
        return shape, "sum" if out % hw else "positions"
    choices: tuple[Readout, ...] = ("positions", "sum", "mean")
    check_choice("readout", readout, choices, "pass one of these, or leave it out")
    if readout == "positions" and out % hw:
        raise EquivError(
            f"readout: expected 'sum', 'mean' or None, got 'positions' with out_features = {out}: a 1x1 conv gives "
            f"{hw} numbers for each output channel over {shape[1:]}, and {out} is no multiple of {hw}; pass 'sum'"
        )
    if readout == "mean" and not is_inexact(layer.weight.dtype):
        raise EquivError(
            f"readout: expected 'positions', 'sum' or None for {dtype_name(layer.weight.dtype)}, got 'mean'; integers "
            "have no mean in their own dtype, pass 'sum'"
        )
    return shape, next(choice for choice in choices if choice == readout)


def _check_values(layer: nn.Linear) -> None:
    """Refuse a layer without values, with NaN or infinity among them, or of dtypes that are not served."""
    weight, bias = layer.weight, layer.bias
    if weight.is_meta or isinstance(weight, FakeTensor):
        raise EquivError(
            "linear: expected weights with values, got a meta or fake tensor; give it values first, as by "
            "linear.to_empty(device=...) and load_state_dict"
        )
    dtypes = [dtype_name(values.dtype) for values in (weight, bias) if values is not None]
    if weight.dtype not in DTYPES or len(set(dtypes)) > 1:
        raise EquivError(
            f"linear: expected weight and bias of one dtype out of {dtype_names(DTYPES)}, got {' and '.join(dtypes)}; "
            "convert the layer first"
        )
    for name, values in (("weight", weight), ("bias", bias)):
        if values is not None and not bool(torch.isfinite(values.detach()).all()):
            at = (~torch.isfinite(values.detach())).nonzero()[0].tolist()
            raise EquivError(
                f"linear: expected finite values, got linear.{name}{at} = {values[tuple(at)].item()}; remove NaN and "
                "infinity, no convolution is closest to them"
            )


def _findings(layer: FlattenedLayer, entry: tuple[int, int] | None) -> dict[str, Any]:
    """The verdict, the witness and the reason."""
    if entry is not None:
        return _weight_findings(layer, *entry)
    b, kb, reach = layer.b, layer.kb, layer.reach
    if b is not None and kb is not None and reach is not None and bool((b != reach).any()):
        return _bias_findings(layer, b, kb, reach)
    hw, p = layer.hw, "the weight of every channel pair is the same at all"
    reason = {
        "positions": f"W = K (x) I: {p} {hw} positions, every other entry is 0",
        "sum": f"{p} {hw} positions, so summing the map gives the layer",
        "mean": f"{p} {hw} positions, so averaging the map, with {hw} times the weight, gives the layer",
    }[layer.readout]
    if hw == 1:
        reason = f"the map {layer.shape} has one position, so the 1x1 conv is the layer itself"
    nothing = dict.fromkeys(("witness", "witness_index", "output_index", "expected", "actual"))
    found = {"equivalent": True, "cause": "none", "reason": reason, "without_bias": False}
    return {**nothing, **found, "_snippet": snippet_equivalent(layer)}


def _weight_findings(layer: FlattenedLayer, row: int, column: int) -> dict[str, Any]:
    """A one-hot input reads W[row, column] from the layer and T(K)[row, column] from the convolution."""
    c, q = divmod(column, layer.hw)
    o, p = divmod(row, layer.hw) if layer.readout == "positions" else (row, q)
    w, t = layer.w[row, column].item(), layer.conv_rows(slice(row, row + 1))[0, column].item()
    also = [(row, column, w)]
    if p != q:
        cause = "off_diagonal"
        reason = (
            f"output channel {o} at position {layer.position(p)} depends on input channel {c} at position "
            f"{layer.position(q)}: W[{row}, {column}] = {shortest(w, layer.dtype)}, and a 1x1 conv has 0 there"
        )
    else:
        cause = "position_dependent"
        at = torch.arange(layer.hw)
        rows = o * layer.hw + at if layer.readout == "positions" else o
        other = _another_position(layer, layer.w[rows, c * layer.hw + at], q, layer.k[o, c])
        i, j = (o * layer.hw + other if layer.readout == "positions" else o), c * layer.hw + other
        also.append((i, j, layer.w[i, j].item()))
        here, there = (shortest(v, layer.dtype) for _, _, v in also)
        reason = (
            f"the weight for channel pair (o, c) = ({o}, {c}) changes from position to position: "
            f"W[{row}, {column}] = {here} at {layer.position(q)}, W[{i}, {j}] = {there} at {layer.position(other)}, "
            "and a 1x1 conv has one weight for all"
        )
    b, kb = (0, 0) if layer.b is None or layer.reach is None else (layer.b[row].item(), layer.reach[row].item())
    expected, actual = _as_output(w + b, layer.dtype), _as_output(t + kb, layer.dtype)
    hidden = bool(_stored(expected, layer.dtype) == _stored(actual, layer.dtype))
    if hidden or not all(math.isfinite(abs(v)) for v in (expected, actual)):
        hidden, b, kb, expected, actual = True, 0, 0, w, t
    witness = torch.zeros(layer.n, dtype=layer.dtype)
    witness[column] = 1
    return {
        "equivalent": False,
        "cause": cause,
        "reason": reason,
        "witness": witness.view(layer.shape),
        "witness_index": (c, *layer.position(q)),
        "output_index": layer.output_index(row),
        "expected": expected,
        "actual": actual,
        "without_bias": hidden,
        "_snippet": snippet_weight(layer, row, column, also, (b, kb)),
    }


def _bias_findings(layer: FlattenedLayer, bias: Tensor, kb: Tensor, reach: Tensor) -> dict[str, Any]:
    """The input 0 reads the bias; ``reach`` is what the convolution's bias ``kb`` adds to each output."""
    size = layer.difference(bias, reach).abs()
    row = int(((bias != reach) & (2 * size >= size.max())).nonzero()[0])
    expected, o = bias[row].item(), row
    if layer.readout == "positions":
        o, p = divmod(row, layer.hw)
        tied = bias.view(layer.o, layer.hw)[o]
        other = _another_position(layer, tied, p, kb[o])
        here, there = (shortest(v.item(), layer.dtype) for v in (tied[p], tied[other]))
        reason = (
            f"the bias of output channel {o} changes from position to position: {here} at {layer.position(p)}, {there} "
            f"at {layer.position(other)}, and a 1x1 conv has one bias for all"
        )
    else:
        times = f"the {layer.hw} positions over which it is summed"
        reason = f"the bias of output {row} is {expected}, no multiple of {times}"
    return {
        "equivalent": False,
        "cause": "bias",
        "reason": reason,
        "witness": torch.zeros(layer.shape, dtype=layer.dtype),
        "witness_index": None,
        "output_index": layer.output_index(row),
        "expected": expected,
        "actual": reach[row].item(),
        "without_bias": False,
        "_snippet": snippet_bias(layer, bias, row, kb[o].item()),
    }


def _another_position(layer: FlattenedLayer, values: Tensor, p: int, usual: Tensor) -> int:
    """A position whose value differs from the one at p: one that holds the usual value, else the farthest."""
    same = (values != values[p]) & (values == usual)
    return int(same.nonzero()[0]) if bool(same.any()) else int(layer.difference(values, values[p]).abs().argmax())


def _as_output(value: Scalar, dtype: torch.dtype) -> Scalar:
    """What an exact sum becomes: integers wrap at the dtype's width, the others stay in double precision."""
    if not isinstance(value, int):
        return value
    low, bits = torch.iinfo(dtype).min, torch.iinfo(dtype).bits
    return int((value - low) % 2**bits + low)


def _stored(value: Scalar, dtype: torch.dtype) -> Tensor:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.tensor(value, dtype=dtype) if isinstance(value, int) else torch.tensor(value, dtype=wide).to(dtype)


def _conv(linear: nn.Linear, layer: FlattenedLayer) -> Conv:
    """The closest convolution as a module; no random initialisation runs."""
    conv: Conv = CONVS[len(layer.shape) - 1](layer.c, layer.o, 1, bias=layer.kb is not None, device="meta")
    weight = layer.k.view(layer.o, layer.c, *([1] * (len(layer.shape) - 1))).clone().to(linear.weight.device)
    conv.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if layer.kb is not None:
        conv.bias = nn.Parameter(layer.kb.clone().to(linear.weight.device), requires_grad=linear.bias.requires_grad)
    return conv.train(linear.training)
