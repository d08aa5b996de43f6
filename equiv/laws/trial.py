"""One law tried on one backend: runs forms, compares results, counts the comparisons, and says precisely what broke."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from equiv.backends import (
    Backend,
    Capabilities,
    TorchEager,
    capabilities_of,
    conv_kernel,
    defect_of,
    laid_by,
    runs_torch,
    setting_of,
)
from equiv.dtypes import dtype_name
from equiv.laws.arithmetic import arithmetic_of, own_arithmetic, usable, weaker_arithmetic, within_weaker
from equiv.laws.asking import refusal_of
from equiv.laws.call import Broken, Call, Mismatch, Tally, is_control, raised
from equiv.laws.capabilities import NotAsked
from equiv.laws.inputs import changed, copies, given
from equiv.laws.known import (
    differentiated_by_torch,
    known_corruption,
    known_defect,
    known_defect_of_module,
    known_refusal,
)
from equiv.laws.leaks import Returned
from equiv.laws.reach import trace_of
from equiv.laws.state import Watch
from equiv.laws.taken import shape_of_result, taken
from equiv.mapping import Conv, linear_to_full_conv, linear_to_pointwise_conv, to_feature_map, undrawn
from equiv.numerics import Arithmetic, Reference, bit_equal, declared, surely_bit_equal


@dataclass
class Trial:
    """What a law's check is given: the backend, the forms to judge, and the ways to run and compare.

    A ``condition`` says in words under which a call is made, for the message of a law that is broken by it.

    Attributes:
        backend: Who runs the forms.
        dtype: Of all tensors.
        forms: Which forms to judge.
        deep: Whether the deep profile runs.
        measured: Whether envelopes follow the arithmetic that the backend is measured to compute in.
        law: The id of the law that is tried, set by :meth:`equiv.laws.Law.try_on`.
        tally: Per form, what was judged.
        coverage: Per condition, how often each of its values was met.
        traces: How often calls of each kind were made; :mod:`equiv.laws.reach` tells their conditions from these.
        not_asked: What the laws left out because the backend does not serve it.
        results: What the backend has returned so far.
        watch: Of torch's global state, from the first case on.
        results: Which of the results that it has returned are still held by somebody.
    """

    backend: Backend
    dtype: torch.dtype
    forms: tuple[str, ...]
    deep: bool = False
    measured: bool = False
    law: str = ""
    tally: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    coverage: dict[str, Counter[Hashable]] = field(default_factory=lambda: defaultdict(Counter))
    traces: Counter[tuple[Hashable, ...]] = field(default_factory=Counter)
    not_asked: set[NotAsked] = field(default_factory=set)
    results: Returned = field(default_factory=Returned)
    watch: Watch | None = None
    _declares: Capabilities | None = field(default=None, init=False, repr=False)
    _taken: Call | None = field(default=None, init=False, repr=False)
    _asked: dict[tuple[str, str, str, object], bool] = field(default_factory=dict, init=False, repr=False)
    _layer: tuple[Tensor, Tensor | None, nn.Linear] | None = field(default=None, init=False, repr=False)
    _declared: dict[str, Arithmetic] = field(default_factory=dict, init=False, repr=False)
    _torch_differentiates: torch.dtype | None = field(default=None, init=False, repr=False)

    # -- building and running calls --------------------------------------------------------------------------------

    def calls(self, x: Tensor, weight: Tensor, bias: Tensor | None, feature_shape: Sequence[int]) -> Iterator[Call]:
        """:meth:`arrange` for every form that is judged, as far as the backend serves such calls."""
        for form in self.forms:
            call = self.taken(self.arrange(form, x, weight, bias, feature_shape))
            if call is not None:
                yield call

    def arrange(self, form: str, x: Tensor, weight: Tensor, bias: Tensor | None, feature_shape: Sequence[int]) -> Call:
        """The call that carries out ``(weight, bias)`` on ``x`` ``(*batch, n)`` in a form, by way of the mapping."""
        if form == "linear":
            return Call(form, x, weight, bias)
        if self._layer is None or self._layer[0] is not weight or self._layer[1] is not bias:
            self._layer = (weight, bias, as_linear(weight, bias))  # once for the forms of a case
        layer = self._layer[2]
        dims, n = len(feature_shape) - 1, weight.shape[1]
        if form == "full":
            conv = linear_to_full_conv(layer, feature_shape, share=True)
            rows = to_feature_map(x, feature_shape).reshape(-1, *feature_shape)
        else:
            conv = linear_to_pointwise_conv(layer, dims, share=True)
            rows = x.reshape(-1, n, *(1,) * dims)
        return Call(form, rows, conv.weight.detach(), None if conv.bias is None else conv.bias.detach())

    def taken(self, call: Call) -> Call | None:
        """The call with its tensors as the backend takes them; None where it serves no such call, which is noted."""
        if call is self._taken:
            return call
        self._taken = taken(call, self.asks, limited=self._declared_by_it.largest is not None)
        return self._taken

    def run(self, call: Call, condition: str = "") -> Tensor:
        """The result as ``(rows, O)`` of a call that is :meth:`taken`, whose map is as large as its kernel."""
        if call.form != "linear" and isinstance(self.backend, TorchEager):
            more: dict[str, Any] = {"padding": call.padding, "groups": call.groups}
            self.cover("conv kernel", conv_kernel(call.input, call.weight, call.bias, *call.steps, **more))
        return self.output(call, condition).reshape(-1, call.weight.shape[0])

    def output(self, call: Call, condition: str = "") -> Tensor:
        """What the backend returns, after a look at its type, device, shape and dtype, and at the inputs after it."""
        # Leaves of autograd are compared after the backward pass.
        tensors = {name: t for name, t in given(call).items() if not t.requires_grad}
        before = copies(tensors)
        try:
            y = call.result(self.backend)
        except BaseException as error:
            if is_control(error):
                raise
            raise raised(error, call, condition=condition) from error
        kind, wrong = self._wrong(call, y)
        if not wrong:
            kind, wrong = "mutation", changed(tensors, before)
        if wrong:
            self.tally[call.form].count("different")
            raise Broken(wrong, form=call.form, call=call, condition=condition, kind=kind)
        self.results.add(y, call)
        self.traces[trace_of(call)] += 1
        return y

    def _wrong(self, call: Call, y: object) -> tuple[str, str]:
        """What is wrong with a result apart from its values: the kind of it, and the words; empty if nothing."""
        if not isinstance(y, Tensor):
            return "type", f"returns {type(y).__name__}, not a tensor"
        if y.device != call.input.device:
            return "device", f"returns a result on {y.device}, expected one on {call.input.device}"
        if y.layout != torch.strided:
            return "type", f"returns a tensor of layout {y.layout}, expected {torch.strided}"
        expected = shape_of_result(call)
        if tuple(y.shape) == expected and y.dtype == self.dtype:
            return "", ""
        words = str(Mismatch(_described(y), f"{dtype_name(self.dtype)} of shape {expected}"))
        return "shape" if tuple(y.shape) != expected else "dtype", words

    def asks(self, capability: str, form: str = "", *, wanted: object = True) -> bool:
        """Whether a law may ask this of the backend: whether it serves ``wanted``. What it may not is noted once.

        Args:
            capability: Such as ``empty_batches``, one of those of :class:`equiv.backends.Capabilities`.
            form: The form that would be asked; empty for all.
            wanted: An order of gradients, a rank of maps, a number of entries; True for a capability that is yes or no.
        """
        key = (self.law, capability, form, wanted)
        known = self._asked.get(key)
        if known is None:
            known = self._asked[key] = self._serves(capability, form, wanted)
        return known

    def _serves(self, capability: str, form: str, wanted: object) -> bool:
        """What the backend declares, or answers when it is asked; noted where that is a no."""
        refused = refusal_of(self.backend, capability, form, self.dtype, wanted)
        if refused is not None:
            self.not_asked.add(replace(refused, law=self.law))
        return refused is None

    @property
    def _declared_by_it(self) -> Capabilities:
        if self._declares is None:
            self._declares = capabilities_of(self.backend)
        return self._declares

    def leave_out(self, capability: str, form: str, reason: str, *, how: str = "declared") -> None:
        """Note what is not asked, and why."""
        names = (capability, self.backend.name, self.law, form, dtype_name(self.dtype))
        self.not_asked.add(NotAsked(*names, reason=reason, how=how))

    # -- comparing -------------------------------------------------------------------------------------------------

    def gives(self, call: Call, expected: Tensor, condition: str = "") -> None:
        """The result of a call must be the exact one, if the backend serves such calls; see :meth:`same`."""
        served = self.taken(call)
        if served is not None:
            self.same(served, self.run(served, condition), expected, condition)

    def judge(
        self, call: Call, y: Tensor, reference: Reference, condition: str = "", *, gradient: str | None = None
    ) -> None:
        """``y`` ``(N, O)`` must lie in the envelope around ``reference``: a result, or the gradient of ``gradient``."""
        arithmetic = self._arithmetic(call, gradient) if reference.exact is not None else None
        if gradient is not None:
            self.cover("gradients judged", f"{gradient} by its envelope")
        tally = self.tally[call.form]
        ratio = None if arithmetic is None else reference.largest_ratio(y.cpu(), arithmetic)
        if ratio is not None:
            tally.count("rounding" if ratio else "identical", ratio)
            return
        found = reference.assess(y.cpu(), arithmetic)
        if found.all_inside:
            rounded = "rounding" if found.max_ratio else "identical"
            tally.count("undecided" if found.any_undecided else rounded, found.max_ratio)
            return
        if self._is_known(call, gradient):
            return
        tally.count("different")
        flat = int(torch.where(found.inside, -1.0, found.ratio.nan_to_num(torch.inf)).argmax())
        entry = divmod(flat, y.shape[1])
        mismatch = Mismatch(
            y[entry].item(),
            found.exact[entry].item(),
            entry,
            envelope=(found.lower[entry].item(), found.upper[entry].item()),
            ratio=float(found.ratio[entry]),
            results=(y.detach().cpu(), found.exact) if gradient is None else None,
        )
        raise Broken(mismatch, form=call.form, call=call, condition=condition)

    def same(
        self, call: Call, y: Tensor, expected: Tensor, condition: str = "", gradient: tuple[str, Tensor] | None = None
    ) -> None:
        """``y`` must equal ``expected`` entry for entry (``-0.0 == 0.0``, NaN equals NaN).

        ``gradient`` says what ``y`` is the gradient of, and for which incoming gradient; None for a result.
        """
        if gradient is not None:
            self.cover("gradients judged", f"{gradient[0]} exactly")
        actual = y.detach().resolve_conj().resolve_neg()
        expected = expected.detach().resolve_conj().resolve_neg()
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            mismatch = Mismatch(_described(actual), _described(expected), gradient=gradient)
        else:
            index = _first_difference(actual, expected)
            if index is None:
                self.tally[call.form].count("identical")
                return
            if self._is_known(call, *(gradient or (None, None))):
                return
            if gradient is None and self._is_explained(call, actual):
                return
            both = (actual.cpu(), expected.cpu()) if actual.ndim == 2 and gradient is None else None
            mismatch = Mismatch(actual[index].item(), expected[index].item(), index, gradient=gradient, results=both)
        self.tally[call.form].count("different")
        raise Broken(mismatch, form=call.form, call=call, condition=condition)

    def holds(
        self, condition: bool, form: str, otherwise: str, call: Call | None = None, *, kind: str = "value"
    ) -> None:
        """A fact about a form that is neither a result nor a tensor; ``otherwise`` says what the form does instead."""
        self.tally[form].count("identical" if condition else "different")
        if not condition:
            raise Broken(otherwise, form=form, call=call, kind=kind)

    def owns(self, call: Call, y: Tensor) -> None:
        """A result must not share memory with the tensors of its call: writing to it would change them."""
        if y.numel():
            theirs = {t.untyped_storage().data_ptr() for t in given(call).values()}
            own = y.untyped_storage().data_ptr() not in theirs
            self.holds(own, call.form, "returns a result that shares memory with an input", call)

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def cover(self, condition: str, value: Hashable) -> None:
        """Count that a condition took a value; all values of one condition are of one type."""
        self.coverage[condition][value] += 1

    def is_known_refusal(self, call: Call, error: Exception) -> bool:
        """Whether torch raised what it is known to raise by mistake."""
        is_torchs = self._is_torch() or self._torch_differentiates is not None
        return self._is_excused(call, known_refusal(error) if is_torchs else None)

    def must_not_go_back(self, call: Call, y: Tensor) -> bool:
        """Whether torch is known to damage memory, or take minutes, for the gradients of ``y``, which this call gave.

        Also where another backend leaves them to torch.
        """
        self._torch_differentiates = differentiated_by_torch(y)
        is_torchs = isinstance(self.backend, TorchEager) or self._is_torch() or self._torch_differentiates is not None
        with setting_of(self.backend):
            laid = self._laid(self._as_differentiated(call))
            return self._is_excused(call, known_corruption(laid) if is_torchs else None)

    def is_known_of_module(self, conv: Conv, x: Tensor) -> bool:
        """Whether the wrong result of ``conv(x)`` falls under a defect of torch that is written down."""
        call = Call("full", x, conv.weight, conv.bias)
        return self._is_excused(call, known_defect_of_module(conv, x) if self._is_torch() else None)

    def _is_known(self, call: Call, gradient: str | None, incoming: Tensor | None = None) -> bool:
        """Whether a failed comparison falls under a defect that is written down: torch's, or a runtime's own."""
        own = defect_of(self.backend, call) if gradient is None else None
        if own is not None:
            return self._is_excused(call, own, self.backend.name.partition(".")[0])
        is_torchs = self._is_torch() or (gradient is not None and self._torch_differentiates is not None)
        call = call if gradient is None else self._as_differentiated(call)
        with setting_of(self.backend):
            return self._is_excused(call, known_defect(self._laid(call), gradient, incoming) if is_torchs else None)

    def _laid(self, call: Call) -> Call:
        """A call as torch's kernels get it from the backend."""
        x, weight = laid_by(self.backend, call.input, call.weight)
        return call if x is call.input and weight is call.weight else replace(call, input=x, weight=weight)

    def _as_differentiated(self, call: Call) -> Call:
        """A call in the dtype in which torch computes its gradients, which a backend may have changed."""
        dtype = self._torch_differentiates
        if dtype in (None, call.input.dtype) or call.input.is_complex():  # which torch makes of real ones
            return call
        bias = None if call.bias is None else call.bias.detach().to(dtype)
        return replace(call, input=call.input.detach().to(dtype), weight=call.weight.detach().to(dtype), bias=bias)

    def _is_torch(self) -> bool:
        return runs_torch(self.backend)  # what is derived from TorchEager is another backend

    def _is_excused(self, call: Call, finding: str | None, whose: str = "torch") -> bool:
        """Whether there is a finding; if so the comparison is counted as undecided."""
        if finding is not None:
            self.tally[call.form].count("undecided")
            self.cover(f"known defect of {whose}", finding)
        return finding is not None

    def _arithmetic(self, call: Call, gradient: str | None) -> Arithmetic:
        """What the envelope of a result follows: what is declared, or what this very call is measured to compute in."""
        op = call.form if gradient is None else f"grad_{gradient}"
        expected = self._declared.get(op)
        if expected is None:  # no law changes torch's settings
            expected = self._declared[op] = declared(self.dtype, self.backend.device, op)
        own = None if gradient is not None else self._own
        if isinstance(own, Arithmetic):
            self.cover("envelopes follow", own.name)
            return own
        found = usable(arithmetic_of(self.backend, call)) if own == "measured" else None
        if found is None:
            return expected
        self._cover_weaknesses(call, found.agrees_with(expected))
        return found.arithmetic

    def _is_explained(self, call: Call, y: Tensor) -> bool:
        """Whether a result that is not the exact one lies in the envelope of a weaker kernel, measured or declared."""
        own = self._own
        if isinstance(own, Arithmetic):
            expected = declared(self.dtype, self.backend.device, call.form)
            found = within_weaker(own, expected, call, y)
        else:
            found = weaker_arithmetic(self.backend, call, y) if own == "measured" else None
        if found is None:
            return False
        self._cover_weaknesses(call, found.discrepancies)
        self.tally[call.form].count("rounding", found.ratio)
        return True

    @cached_property
    def _own(self) -> Arithmetic | str | None:
        """What the backend declares that it computes in; ``measured`` where the run asks for that."""
        own = own_arithmetic(self.backend, self.dtype)
        return "measured" if self.measured and not isinstance(own, Arithmetic) else own

    def _cover_weaknesses(self, call: Call, discrepancies: tuple[str, ...]) -> None:
        for text in discrepancies:
            self.cover("weaker than declared", f"{call.form}: {text}")


def as_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An ``nn.Linear`` that holds the given tensors themselves, strides and all."""
    layer = undrawn(nn.Linear, bias=bias is not None, in_features=weight.shape[1], out_features=weight.shape[0])
    layer._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
    return layer


def _first_difference(actual: Tensor, expected: Tensor) -> tuple[int, ...] | None:
    if surely_bit_equal(actual, expected) or torch.equal(actual, expected) or bit_equal(actual, expected):
        return None
    wrong = ~((actual == expected) | (actual.isnan() & expected.isnan()))
    return tuple(int(i) for i in wrong.nonzero()[0]) if bool(wrong.any()) else None


def _described(t: Tensor) -> str:
    return f"{dtype_name(t.dtype)} of shape {tuple(t.shape)}"
