"""One law tried on one backend: runs forms, compares results, keeps the tally, and says precisely what broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from equiv.backends import Backend, TorchEager, conv_kernel
from equiv.laws.call import Broken, Call, Tally
from equiv.laws.known import (
    differentiated_by_torch,
    known_corruption,
    known_defect,
    known_defect_of_module,
    known_refusal,
)
from equiv.laws.measuring import arithmetic_of, explains, usable
from equiv.mapping import linear_to_full_conv, linear_to_pointwise_conv, to_feature_map, undrawn
from equiv.numerics import Arithmetic, Reference, bit_equal, declared

Coverage = dict[str, Counter[Hashable]]


@dataclass
class Trial:
    """What a law's check is given: the backend, the forms to judge, and the ways to run and compare.

    Attributes:
        backend: Who runs the forms.
        dtype: Of all tensors.
        forms: Which forms to judge.
        deep: Whether the deep profile runs.
        measured: Whether envelopes follow the arithmetic that the backend is measured to compute in.
        tally: Per form, what was judged.
        coverage: Per condition, how often each of its values was met.
    """

    backend: Backend
    dtype: torch.dtype
    forms: tuple[str, ...]
    deep: bool = False
    measured: bool = False
    tally: dict[str, Tally] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=dict)
    _layer: tuple[Tensor, Tensor | None, nn.Linear] | None = field(default=None, init=False, repr=False)
    _declared: dict[str, Arithmetic] = field(default_factory=dict, init=False, repr=False)

    # -- building calls --------------------------------------------------------------------------------------------

    def arrange(self, form: str, x: Tensor, weight: Tensor, bias: Tensor | None, feature_shape: Sequence[int]) -> Call:
        """The call that carries out ``(weight, bias)`` on ``x`` ``(*batch, n)`` in a form, by way of the mapping."""
        if form == "linear":
            return Call(form, x, weight, bias)
        layer = self._layer_of(weight, bias)
        dims, n = len(feature_shape) - 1, weight.shape[1]
        if form == "full":
            conv = linear_to_full_conv(layer, feature_shape, share=True)
            rows = to_feature_map(x, feature_shape).reshape(-1, *feature_shape)
        else:
            conv = linear_to_pointwise_conv(layer, dims, share=True)
            rows = x.reshape(-1, n, *(1,) * dims)
        return Call(form, rows, conv.weight.detach(), None if conv.bias is None else conv.bias.detach())

    def _layer_of(self, weight: Tensor, bias: Tensor | None) -> nn.Linear:
        """:func:`as_linear`, made once for the forms of a case that follow one another."""
        if self._layer is None or self._layer[0] is not weight or self._layer[1] is not bias:
            self._layer = (weight, bias, as_linear(weight, bias))
        return self._layer[2]

    def run(self, call: Call, *, note: str = "") -> Tensor:
        """The result of a call as ``(rows, O)``, after a look at the shape and dtype that the backend returned."""
        try:
            if call.form == "linear":
                y = self.backend.linear(call.input, call.weight, call.bias)
                expected: tuple[int, ...] = (*call.input.shape[:-1], call.weight.shape[0])
            else:
                dims = call.weight.ndim - 2
                stride, dilation = call.stride or (1,) * dims, call.dilation or (1,) * dims
                if isinstance(self.backend, TorchEager):
                    self.cover("conv kernel", conv_kernel(call.input, call.weight, call.bias, stride, dilation))
                y = self.backend.conv(call.input, call.weight, call.bias, stride=stride, dilation=dilation)
                expected = (*call.input.shape[: -dims - 1], call.weight.shape[0], *(1,) * dims)
        except Exception as error:
            raise Broken(f"raised {type(error).__name__}: {error}{_tail(note)}", form=call.form, call=call) from error
        if not isinstance(y, Tensor):
            self._count(call.form, "different")
            raise Broken(f"returned {type(y).__name__}, not a tensor{_tail(note)}", form=call.form, call=call)
        if tuple(y.shape) != expected or y.dtype != self.dtype:
            self._count(call.form, "different")
            found = f"{tuple(y.shape)} of {y.dtype}"
            raise Broken(
                f"the result is {found}, expected {expected} of {self.dtype}{_tail(note)}", form=call.form, call=call
            )
        return y.reshape(-1, call.weight.shape[0])

    # -- comparing -------------------------------------------------------------------------------------------------

    def judge(self, call: Call, y: Tensor, reference: Reference, *, op: str | None = None, note: str = "") -> None:
        """``y`` ``(N, O)`` must lie in the envelope around ``reference``."""
        arithmetic = self._arithmetic(call, op) if reference.parts else None
        tally = self._tally(call.form)
        tally.judged += 1
        if arithmetic is not None and reference.is_attained(y.cpu(), arithmetic):
            tally.identical += 1
            return
        found = reference.assess(y.cpu(), arithmetic)
        if found.all_inside:
            tally.max_ratio = max(tally.max_ratio, found.max_ratio)
            if found.any_undecided:
                tally.undecided += 1
            elif found.max_ratio == 0.0:
                tally.identical += 1
            else:
                tally.rounding += 1
            return
        if self._is_known(call, op.removeprefix("grad_") if op is not None and op.startswith("grad_") else None):
            tally.judged -= 1
            return
        tally.different += 1
        flat = int(torch.where(found.inside, -1.0, found.ratio.nan_to_num(torch.inf)).argmax())
        row, column = divmod(flat, y.shape[1])
        raise Broken(
            f"the result lies outside the envelope of right kernels{_tail(note)}",
            form=call.form,
            call=call,
            actual=y[row, column].item(),
            expected=found.exact[row, column].item(),
            index=(row, column),
            envelope=(found.lower[row, column].item(), found.upper[row, column].item()),
            ratio=float(found.ratio[row, column]),
            outputs=(y.detach().cpu(), found.exact),
        )

    def same(
        self, call: Call, y: Tensor, expected: Tensor, *, note: str = "", gradient: tuple[str, Tensor] | None = None
    ) -> None:
        """``y`` must equal ``expected`` entry for entry (``-0.0 == 0.0``, NaN equals NaN)."""
        found: Any
        wanted: Any
        actual = y.detach().resolve_conj().resolve_neg()
        expected = expected.detach().resolve_conj().resolve_neg()
        if actual.shape == expected.shape and actual.dtype == expected.dtype:
            if torch.equal(actual, expected) or bit_equal(actual, expected):
                self._count(call.form, "identical")
                return
            wrong = ~((actual == expected) | (actual.isnan() & expected.isnan()))
            if not bool(wrong.any()):
                self._count(call.form, "identical")
                return
            index = tuple(int(i) for i in wrong.nonzero()[0])
            found, wanted = actual[index].item(), expected[index].item()
            both = (actual.cpu(), expected.cpu()) if actual.ndim == 2 and gradient is None else None
            if self._is_known(call, *(gradient or (None, None))):
                return
            if self.measured and gradient is None and self._is_explained(call, actual):
                return
        else:
            index, both = (), None
            found, wanted = _signature(actual), _signature(expected)
        self._count(call.form, "different")
        text = "a result that leaves right kernels no choice is another"
        raise Broken(
            text + _tail(note),
            form=call.form,
            call=call,
            actual=found,
            expected=wanted,
            index=index,
            gradient=gradient,
            outputs=both,
        )

    def holds(self, condition: bool, form: str, note: str, call: Call | None = None) -> None:
        """A fact about a form that is neither a result nor a tensor."""
        self._count(form, "identical" if condition else "different")
        if not condition:
            raise Broken(note, form=form, call=call)

    def owns(self, call: Call, y: Tensor) -> None:
        """The memory of a result is its own: writing to it must not change what the call was given."""
        if y.numel():
            given = {t.untyped_storage().data_ptr() for t in (call.input, call.weight, call.bias) if t is not None}
            own = y.untyped_storage().data_ptr() not in given
            self.holds(own, call.form, "the result lies in the memory of what the call was given", call)

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def cover(self, condition: str, value: Hashable) -> None:
        """Note that a condition took a value; those of one condition are of one type."""
        counter = self.coverage.get(condition)
        if counter is None:
            counter = self.coverage[condition] = Counter()
        counter[value] += 1

    def _is_known(self, call: Call, gradient: str | None, incoming: Tensor | None = None) -> bool:
        """Whether a failed comparison falls under a defect of torch that is written down."""
        return self._is_torchs(call, known_defect(call, gradient, incoming) if self._is_torch() else None)

    def is_known_of_module(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
        """Whether the wrong result of ``conv(x)`` falls under a defect of torch that is written down."""
        call = Call("full", x, conv.weight, conv.bias)
        return self._is_torchs(call, known_defect_of_module(conv, x) if self._is_torch() else None)

    def is_known_refusal(self, call: Call, error: Exception) -> bool:
        """Whether torch raised what it is known to raise by mistake."""
        return self._is_torchs(call, known_refusal(error) if self._is_torch() else None)

    def is_known_to_corrupt(self, call: Call, y: Tensor) -> bool:
        """Whether torch is known to damage memory when it is asked for the gradients of ``y``, which this call gave.

        Also where a backend of somebody's own leaves them to torch.
        """
        finding = known_corruption(call)
        if finding is None or not (isinstance(self.backend, TorchEager) or differentiated_by_torch(y)):
            return False
        return self._is_torchs(call, finding)

    def _is_torch(self) -> bool:
        return type(self.backend) is TorchEager  # what is derived from it is a backend of somebody's own

    def _is_torchs(self, call: Call, finding: str | None) -> bool:
        if finding is not None:
            self._count(call.form, "undecided")
            self.cover("known defect of torch", finding)
        return finding is not None

    def _arithmetic(self, call: Call, op: str | None) -> Arithmetic:
        """What the envelope of a result follows: what is declared, or what this very call is measured to compute in."""
        expected = self._declared.get(op or call.form)
        if expected is None:  # no law changes torch's settings
            expected = self._declared[op or call.form] = declared(self.dtype, self.backend.device, op or call.form)
        found = usable(arithmetic_of(self.backend, call)) if self.measured and op is None else None
        if found is None:
            return expected
        self._cover_findings(call, found.agrees_with(expected))
        return found.arithmetic

    def _is_explained(self, call: Call, y: Tensor) -> bool:
        """Whether a result that is not the exact one lies in the measured envelope of a kernel weaker than declared."""
        found = explains(self.backend, call, y)
        if found is None:
            return False
        self._cover_findings(call, found.discrepancies)
        self._count(call.form, "rounding")
        self._tally(call.form).max_ratio = max(self._tally(call.form).max_ratio, found.ratio)
        return True

    def _cover_findings(self, call: Call, discrepancies: tuple[str, ...]) -> None:
        for text in discrepancies:
            self.cover("weaker than declared", f"{call.form}: {text}")

    def _tally(self, form: str) -> Tally:
        return self.tally.setdefault(form, Tally())

    def _count(self, form: str, outcome: str) -> None:
        tally = self._tally(form)
        tally.judged += 1
        setattr(tally, outcome, getattr(tally, outcome) + 1)


def as_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An ``nn.Linear`` that holds the given tensors themselves, strides and all."""
    layer = undrawn(nn.Linear, bias=bias is not None, in_features=weight.shape[1], out_features=weight.shape[0])
    layer._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
    return layer


def _signature(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}"


def _tail(note: str) -> str:
    return f", {note}" if note else ""
