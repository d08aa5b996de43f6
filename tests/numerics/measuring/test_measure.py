"""Kernels whose arithmetic is known, in Python: every property is recognised, and none is seen where it is not."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import equiv
from equiv import numerics
from equiv.backends import TorchEager, measure_form
from equiv.errors import EquivError
from equiv.numerics import Measured, Order, declared, measure
from equiv.numerics.measuring.fprev import Nodes, describe, reveal
from equiv.verdict import Outcome

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16


# --- kernels with a known arithmetic ----------------------------------------------------------------------------------


def keep_bits(t: Tensor, bits: int, *, nearest: bool = True) -> Tensor:
    """Float64 values cut to ``bits`` significant bits, ties to even, whatever their exponent."""
    drop = 53 - bits
    raw = t.double().contiguous().view(torch.int64)
    if nearest:
        raw = raw + ((1 << (drop - 1)) - 1) + ((raw >> drop) & 1)
    cut = ((raw >> drop) << drop).view(torch.float64)
    return torch.where(t.double().isfinite(), cut, t.double())


def flushed(t: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(t.abs() < torch.finfo(dtype).tiny, 0.0, t)


def in_order(n: int) -> Any:
    tree: Any = 0
    for i in range(1, n):
        tree = (tree, i)
    return tree


def in_reverse(n: int) -> Any:
    tree: Any = n - 1
    for i in range(n - 2, -1, -1):
        tree = (tree, i)
    return tree


def halves(members: range) -> Any:
    n = len(members)
    return members[0] if n == 1 else (halves(members[: n // 2]), halves(members[n // 2 :]))


def joined(parts: list[Any]) -> Any:
    tree = parts[0]
    for part in parts[1:]:
        tree = (tree, part)
    return tree


def blocks(n: int, size: int) -> Any:
    return joined([joined(list(range(start, min(start + size, n)))) for start in range(0, n, size)])


def lanes(n: int, count: int) -> Any:
    return joined([joined(list(range(lane, n, count))) for lane in range(min(count, n))])


def groups(n: int, size: int) -> Any:
    """A running sum that takes ``size`` terms at a time."""
    tree: tuple[Any, ...] = tuple(range(min(size, n)))
    for start in range(size, n, size):
        tree = (tree, *range(start, min(start + size, n)))
    return tree


@dataclass(frozen=True)
class Kernel:
    """A sum of products in which every step is stated. Rounding is done in float64, which holds every product here."""

    out: torch.dtype = F32
    tree: Callable[[int], Any] = in_order
    factor_bits: int = 53
    factor_nearest: bool = True
    factor_range: torch.dtype | None = None
    acc_bits: int = 24
    acc_nearest: bool = True
    acc_range: torch.dtype | None = None
    block_bits: int | None = None
    fused: bool = False
    flush_inputs: bool = False
    flush_sums: bool = False
    flush_outputs: bool = False
    truncate: bool = False
    bias_after: bool = False
    bias_first: bool = False
    pad_pairs: bool = False

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, w = self.factor(x), self.factor(weight)
        if self.pad_pairs and x.shape[1] % 2:
            x = torch.cat([x, x[:, :1]], 1)
            w = torch.cat([w, torch.zeros_like(w[:, :1])], 1)
        b = None if bias is None else self.factor(bias)
        products = x.T[:, :, None] * w.T[:, None, :]  # (n, rows, O), exact in float64
        terms = list(products if self.fused else self.round(products))
        if self.bias_first and b is not None:
            terms[0] = self.round(terms[0] + b)
        y = self.add(self.tree(len(terms)), terms)
        if b is not None and not self.bias_first:
            y = self.finish(y).double() if self.bias_after else y
            y = self.round(y + b)
        return self.finish(y)

    def factor(self, t: Tensor) -> Tensor:
        small = t.double()
        small = flushed(small, t.dtype) if self.flush_inputs else small
        small = small if self.factor_range is None else small.to(self.factor_range).double()
        return keep_bits(small, self.factor_bits, nearest=self.factor_nearest) if self.factor_bits < 53 else small

    def round(self, t: Tensor) -> Tensor:
        if self.acc_range is not None:
            return t.to(self.acc_range).double()
        if self.acc_bits == 24 and self.acc_nearest:
            t = t.float().double()
        elif self.acc_bits < 53:
            t = keep_bits(t, self.acc_bits, nearest=self.acc_nearest)
        return flushed(t, F32) if self.flush_sums else t

    def add(self, tree: Any, terms: list[Tensor]) -> Tensor:
        if isinstance(tree, int):
            return terms[tree]
        spine: list[tuple[Any, ...]] = []
        while isinstance(tree, tuple):  # down the left side without recursion
            spine.append(tree)
            tree = tree[0]
        total = terms[tree]
        for number, node in enumerate(reversed(spine)):
            others = [self.add(child, terms) for child in node[1:]]
            if len(others) == 1:
                total = self.round(total + others[0])
            else:  # all aligned to the largest, what lies below is cut off
                stack = torch.stack([total, *others])
                unit = 2.0 ** (torch.frexp(stack.abs().amax(0)).exponent - 1 - 24).double()
                total = self.round(((stack / unit).trunc() * unit).sum(0))
            if self.block_bits and (number + 1) % 8 == 0:
                total = keep_bits(total, self.block_bits)
        return total

    def finish(self, y: Tensor) -> Tensor:
        y = keep_bits(y, {F32: 24, F16: 11, BF16: 8}[self.out], nearest=False) if self.truncate else y
        y = y.to(self.out)
        return flushed(y, self.out) if self.flush_outputs else y


def found(
    kernel: Any, dtype: torch.dtype = F32, *, rows: int = 3, outputs: int = 2, n: int = 24, **options: Any
) -> Measured:
    return measure(kernel, dtype=dtype, rows=rows, out_features=outputs, in_features=n, **options)


def values(m: Measured) -> dict[str, Any]:
    return {name: entry["value"] for name, entry in m.to_dict().items() if isinstance(entry, dict)}


PLAIN = {
    "operands": 24,
    "operand_range": "full",
    "accumulator": 24,
    "accumulator_rounding": "nearest",
    "reduction": 24,
    "products": "rounded",
    "output_rounding": "nearest-even",
    "flushes_inputs": False,
    "flushes_sums": False,
    "flushes_outputs": False,
    "infinity_spreads": False,
    "bias_bits": 24,
    "bias_rounding": "once",
    "bias_place": "last",
}
PLAIN16 = {**PLAIN, "operands": 8, "products": "exact", "bias_bits": 8}
PLAIN_F16 = {**PLAIN16, "operands": 11, "operand_range": None, "bias_bits": 11}

CASES: dict[str, tuple[Kernel, torch.dtype, dict[str, Any], str | None]] = {
    # name: kernel, dtype, what differs from the plain findings, a word of the only discrepancy
    "plain": (Kernel(), F32, {}, None),
    "fused": (Kernel(fused=True), F32, {"products": "fused"}, None),
    "float64 sums": (
        Kernel(acc_bits=53),
        F32,
        {"accumulator": 53, "reduction": 53, "products": "exact"},
        None,
    ),
    "TF32": (
        Kernel(factor_bits=11),
        F32,
        {"operands": 11, "bias_bits": 11, "operand_rounding": "nearest", "products": None, "output_rounding": None},
        "TF32",
    ),
    "TF32 truncated": (
        Kernel(factor_bits=11, factor_nearest=False),
        F32,
        {"operands": 11, "bias_bits": 11, "operand_rounding": "truncated", "products": None, "output_rounding": None},
        "TF32",
    ),
    "float16 factors": (
        Kernel(factor_bits=11, factor_range=F16),
        F32,
        {
            "operands": 11,
            "bias_bits": 11,
            "operand_rounding": "nearest",
            "operand_range": "float16",
            "products": None,
            "output_rounding": None,
            **dict.fromkeys(("flushes_inputs", "flushes_sums", "flushes_outputs"), True),
        },
        "(float16)",
    ),
    "bfloat16 factors": (
        Kernel(factor_bits=8),
        F32,
        {"operands": 8, "bias_bits": 8, "operand_rounding": "nearest", "products": None, "output_rounding": None},
        "(bfloat16)",
    ),
    "truncated sums": (
        Kernel(acc_nearest=False),
        F32,
        {"accumulator_rounding": "truncated", "output_rounding": "truncated"},
        "sums are truncated",
    ),
    "truncated results": (
        Kernel(out=BF16, truncate=True),
        BF16,
        {**PLAIN16, "output_rounding": "truncated"},
        "rounded truncated",
    ),
    "bfloat16": (Kernel(out=BF16), BF16, PLAIN16, None),
    "bfloat16 from float32 results": (Kernel(out=F32), BF16, {**PLAIN16, "output_rounding": None}, None),
    "float16": (Kernel(out=F16), F16, PLAIN_F16, None),
    "float16 sums": (
        Kernel(out=F16, acc_bits=11, acc_range=F16),
        F16,
        {**PLAIN_F16, "accumulator": 11, "reduction": 11, "products": "rounded"},
        "sums are kept in 11 bits",
    ),
    "bfloat16 sums": (
        Kernel(out=BF16, acc_bits=8),
        BF16,
        {**PLAIN16, "accumulator": 8, "reduction": 8, "products": "rounded"},
        "sums are kept in 8 bits",
    ),
    "blocks combined in bfloat16": (
        Kernel(out=BF16, block_bits=8),
        BF16,
        {**PLAIN16, "reduction": 8, "bias_rounding": "twice"},
        "combined in 8 bits",
    ),
    "bias rounded twice": (
        Kernel(out=F16, bias_after=True),
        F16,
        {**PLAIN_F16, "bias_rounding": "twice"},
        None,
    ),
    "bias first": (Kernel(bias_first=True), F32, {"bias_place": "first"}, None),
    "flushes inputs": (Kernel(flush_inputs=True), F32, {"flushes_inputs": True}, "subnormal inputs"),
    "flushes results": (Kernel(flush_outputs=True), F32, {"flushes_outputs": True}, "subnormal results"),
    "flushes sums": (Kernel(flush_sums=True), F32, {"flushes_sums": True, "flushes_outputs": True}, "subnormal"),
    "pads to pairs": (Kernel(out=BF16, pad_pairs=True), BF16, {**PLAIN16, "infinity_spreads": True}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_every_property_is_recognised_and_no_other_one_is_seen(name: str) -> None:
    kernel, dtype, differs, word = CASES[name]
    n = 21 if kernel.pad_pairs else 20
    m = found(kernel, dtype, n=n, order_limit=0)
    expected = {**PLAIN, "bias_place": None, **differs}
    expected["bias_place"] = None  # needs the order
    seen = values(m)
    assert {key: seen[key] for key in expected} == expected, str(m)
    discrepancies = m.agrees_with()
    assert (not discrepancies) if word is None else any(word in text for text in discrepancies), discrepancies


@pytest.mark.parametrize("name", CASES)
def test_results_lie_in_the_envelope_of_the_measured_arithmetic(name: str) -> None:
    kernel, dtype, _, _ = CASES[name]
    m = found(kernel, dtype, n=25, order_limit=0)
    generator = torch.Generator().manual_seed(5)
    for scale in (1.0, 2.0**-70 if dtype != F16 else 2.0**-10):
        x, w, b = (torch.randn(*s, generator=generator).mul(scale).to(dtype) for s in ((3, 25), (2, 25), (2,)))
        if m.operand_range.value == "float16" and scale < 1:
            continue  # below that format's range, which no bound of this kind describes
        y = kernel(x, w, b)
        assessed = numerics.assess(y, x, w, b, m.arithmetic)
        assert assessed.all_inside, (name, scale, m.arithmetic)


@pytest.mark.parametrize("name", ["TF32", "bfloat16 factors", "float16 sums", "bfloat16 sums"])
def test_such_results_leave_the_envelope_of_the_declared_arithmetic(name: str) -> None:
    kernel, dtype, _, _ = CASES[name]
    x, w = (torch.randn(s, generator=torch.Generator().manual_seed(6)).to(dtype) for s in ((3, 24), (2, 24)))
    assert not numerics.assess(kernel(x, w, None), x, w, None, declared(dtype)).all_inside


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_a_plain_kernel_agrees_with_what_is_declared_at_every_small_size(
    dtype: torch.dtype, n: int, bias: bool
) -> None:
    m = found(Kernel(out=dtype), dtype, rows=1, outputs=1, n=n, bias=bias)
    assert m.agrees_with() == ()
    assert m.arithmetic.note == ""
    assert m.bias_rounding.value in ({"once", None} if bias else {"none"})
    assert (m.accumulator.value == 24) == (n >= 3)


# --- order ------------------------------------------------------------------------------------------------------------

ORDERS: dict[str, tuple[Callable[[int], Any], int, str, int]] = {
    "in order": (in_order, 40, "sequential", 39),
    "in reverse": (in_reverse, 40, "reversed", 39),
    "pairwise": (lambda n: halves(range(n)), 64, "pairwise, ", 6),
    "blocks of 8": (lambda n: blocks(n, 8), 64, "blocked, blocks of 8", 14),
    "blocks of 32": (lambda n: blocks(n, 32), 80, "blocked, blocks of 32", 33),
    "8 lanes": (lambda n: lanes(n, 8), 64, "interleaved, 8 running sums", 14),
    "4 at a time": (lambda n: groups(n, 4), 32, "fused, 4 terms at a time", 8),
    "16 at a time": (lambda n: groups(n, 16), 64, "fused, 16 terms at a time", 4),
}


SIXTEEN_BITS = ("in reverse", "blocks of 8", "4 at a time")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, F32) for name in ORDERS] + [(name, dtype) for name in SIXTEEN_BITS for dtype in (BF16, F16)],
)
def test_the_order_of_summation_is_found(name: str, dtype: torch.dtype) -> None:
    tree, n, words, depth = ORDERS[name]
    m = found(Kernel(out=dtype, tree=tree), dtype, rows=4, n=n)
    order = m.order.value
    assert order is not None, str(m)
    assert str(order).startswith(words)
    assert order.depth == depth
    assert (order.width > 2) == (order.kind == "fused")
    if order.kind == "fused":
        assert m.arithmetic.factor == 4


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_the_order_of_a_kernel_with_sums_in_sixteen_bits_is_found(dtype: torch.dtype) -> None:
    bits, reach = (11, F16) if dtype == F16 else (8, None)
    m = found(Kernel(out=dtype, acc_bits=bits, acc_range=reach, tree=lambda n: blocks(n, 8)), dtype, n=32)
    assert str(m.order.value).startswith("blocked, blocks of 8"), str(m)


def test_256_terms_are_found_in_full_and_more_by_a_sample() -> None:
    full = found(Kernel(), n=256, rows=64, outputs=1, bias=False)
    assert full.order.value is not None
    assert len(full.order.value.nodes) == 255
    assert full.calls < 1000
    part = found(Kernel(tree=lambda n: blocks(n, 64)), n=300, rows=16, order_limit=40)
    assert "(40 of 300 terms probed)" in str(part.order.value)


def test_of_terms_taken_together_a_sample_tells_at_least_how_many() -> None:
    m = found(Kernel(tree=lambda n: groups(n, 8)), n=96, order_limit=24)
    assert m.order.value is not None
    assert m.order.value.block == 8
    assert str(m.order.value).startswith("fused, at least 8 terms at a time"), str(m)


def test_rows_or_outputs_that_are_summed_otherwise_are_noticed() -> None:
    first, other = Kernel(), Kernel(tree=in_reverse)

    def mixed(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return torch.cat([first(x[:-1], w, b), other(x[-1:], w, b)])

    m = found(mixed)
    assert m.order.value is not None
    assert m.order.value.kind == "sequential"
    assert "not all are alike, the last one: reversed" in m.order.evidence


def test_an_edge_that_computes_in_less_is_noticed() -> None:
    good, poor = Kernel(), Kernel(factor_bits=8, acc_bits=11)

    def mixed(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return torch.cat([good(x, w[:-1], None), poor(x, w[-1:], None)], 1) + (0 if b is None else b)

    m = found(mixed, outputs=9)
    assert (m.operands.value, m.accumulator.value) == (8, 11)


def test_a_sum_that_no_tree_explains_has_no_order() -> None:
    def exactly(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        products = x.double()[:, None] * w.double()
        if not bool(products.isfinite().all()):
            return products.sum(-1).float()
        sums = [[math.fsum(terms) for terms in row] for row in products.tolist()]
        return (torch.tensor(sums, dtype=F64) + (0 if b is None else b)).float()

    m = found(exactly, n=8)
    assert m.order.value is None
    assert "no tree" in m.order.evidence
    assert m.accumulator.value is None  # nothing is ever lost
    assert m.agrees_with() == ()


def _random_tree(leaves: list[int], rng: random.Random) -> Any:
    if len(leaves) == 1:
        return leaves[0]
    parts = rng.choice((2, 2, 2, 3, 5))
    cuts = sorted(rng.sample(range(1, len(leaves)), min(parts, len(leaves)) - 1))
    rng.shuffle(leaves)
    return tuple(_random_tree(leaves[a:b], rng) for a, b in zip([0, *cuts], [*cuts, len(leaves)], strict=True))


def _leaves(tree: Any) -> list[int]:
    return [tree] if isinstance(tree, int) else [leaf for child in tree for leaf in _leaves(child)]


def _shape(tree: Any) -> str:
    """Brackets with the children by their first leaf."""
    if isinstance(tree, int):
        return str(tree)
    return "(" + " ".join(map(_shape, sorted(tree, key=lambda child: min(_leaves(child))))) + ")"


def test_any_tree_is_found_again_from_counts() -> None:
    rng = random.Random(3)
    for _ in range(60):
        n = rng.randrange(1, 30)
        tree = _random_tree(list(range(n)), rng)

        def lost(pairs: Any, tree: Any = tree) -> list[int]:
            def under(i: int, j: int) -> int:
                node = tree
                while True:
                    below = [child for child in node if {i, j} <= set(_leaves(child))]
                    if not below:
                        return len(_leaves(node))
                    node = below[0]

            return [under(i, j) for i, j in pairs]

        nodes: Nodes | None = reveal(lost, n)
        assert nodes is not None
        order = describe(nodes, range(n), n)
        assert _shape(_nested(order)) == _shape(tree)


def _nested(order: Order) -> Any:
    trees: list[Any] = list(order.places)
    for children in order.nodes:
        trees.append(tuple(trees[child] for child in children))
    return trees[-1]


def test_counts_that_belong_to_no_tree_are_refused() -> None:
    assert reveal(lambda pairs: [None for _ in pairs], 4) is None
    assert reveal(lambda pairs: [2 for _ in pairs], 4) is None


# --- what is made of it -----------------------------------------------------------------------------------------------


def test_a_verdict_with_measured_arithmetic_says_so_and_repeats_the_discrepancy() -> None:
    kernel = CASES["TF32"][0]
    x, w = (torch.randn(s, generator=torch.Generator().manual_seed(8)) for s in ((3, 24), (2, 24)))
    y, exact = kernel(x, w, None), (x.double() @ w.double().T).float()
    assert equiv.compare(y, exact, input=x, weight=w).outcome is Outcome.DIFFERENT
    m = found(kernel)
    verdict = equiv.compare(y, exact, input=x, weight=w, arithmetic=m.arithmetic)
    assert verdict.outcome is Outcome.ROUNDING
    assert "measured: 11-bit factors, 24-bit sums" in str(verdict.arithmetic)
    assert "weaker than the declared one: factors keep 11 of 24 bits" in verdict.explanation


def test_a_verdict_about_a_kernel_as_declared_has_no_note() -> None:
    x, w = torch.rand(3, 24), torch.rand(2, 24)
    verdict = equiv.compare(Kernel()(x, w, None), x @ w.T, input=x, weight=w, arithmetic=found(Kernel()).arithmetic)
    assert verdict.equivalent
    assert "weaker" not in verdict.explanation


def test_a_kernel_is_held_against_any_declaration() -> None:
    m = found(CASES["flushes inputs"][0])
    assert m.agrees_with(replace(declared(F32), flushes_inputs=True)) == ()
    assert len(m.agrees_with()) == 1


def test_it_prints_in_80_columns_and_goes_through_json() -> None:
    m = found(CASES["bfloat16 factors"][0], subject="mine")
    assert str(m).startswith("mine: 3 x 24 by 2 x 24 in float32, ")
    assert "weaker than declared" in str(m)
    assert max(map(len, str(m).splitlines())) < 80
    data = json.loads(json.dumps(m.to_dict()))
    assert data["operands"] == {"value": 8, "evidence": "of inputs: 1 + 2^-8 times 1 is not itself"}
    assert data["order"]["value"]["kind"] == "sequential"


def test_measurements_are_kept_by_key_sizes_and_settings() -> None:
    numerics.forget()
    calls = 0

    def counting(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        nonlocal calls
        calls += 1
        return Kernel()(x, w, b)

    def again(**options: Any) -> int:
        before = calls
        found(counting, n=4, **options)
        return calls - before

    assert again(key="k") > 0
    assert again(key="k") == 0
    assert again() > 0
    assert again(key="k", rows=4) > 0
    assert again(key="k", bias=False) > 0
    threads = torch.get_num_threads()
    enabled = torch.backends.mkldnn.enabled
    try:
        torch.set_num_threads(threads + 1)
        assert again(key="k") > 0
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = not enabled
        assert again(key="k") > 0
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = enabled
    assert again(key="k") == 0
    numerics.forget()
    assert again(key="k") > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.complex64}, "dtype: expected one of float32, float64, float16, bfloat16, got torch.complex64"),
        ({"dtype": torch.int32}, "dtype: expected one of"),
        ({"rows": 0}, "rows: expected an integer of at least 1, got 0"),
        ({"n": 0}, "in_features: expected an integer of at least 1, got 0"),
        ({"op": "other"}, "op: expected one of"),
        ({"kernel": lambda x, w, b: 3 * x @ w.T}, "run: expected sums of products, got another value"),
        ({"kernel": lambda x, w, b: x}, r"run: expected a result of shape \(3, 2\)"),
    ],
)
def test_what_cannot_be_measured_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EquivError, match=message):
        found(options.pop("kernel", Kernel()), **options)


# --- torch itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["linear", "full", "pointwise"])
def test_torch_keeps_53_bits_in_float64_on_the_cpu(form: str) -> None:
    m = measure_form(TorchEager(), form, dtype=F64, out_features=3, feature_shape=(2, 2, 3), batch_shape=(2,))
    assert (m.operands.value, m.output_rounding.value) == (53, "nearest-even")
    assert (m.accumulator.value or 53) >= 53
    assert m.agrees_with() == ()


def test_a_layout_reaches_the_kernel_and_decides_what_is_kept() -> None:
    seen = []

    class Watching(TorchEager):
        def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            seen.append((tuple(input.shape), input.stride(), weight.stride()))
            return super().linear(input, weight, bias)

    backend = Watching()

    def measured(**options: Any) -> Measured:
        return measure_form(backend, "linear", dtype=F32, out_features=4, feature_shape=(5, 1, 1), **options)

    swap = lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)  # noqa: E731
    m = measured(batch_shape=(2, 3), lay_input=swap, lay_weight=lambda w: w.T.contiguous().T)
    assert m.size == (6, 4, 5)
    assert set(seen) == {((2, 3, 5), (5, 10, 1), (1, 4))}
    seen.clear()
    measured(batch_shape=(2, 3), lay_input=swap, lay_weight=lambda w: w.T.contiguous().T)
    assert not seen
    measured(batch_shape=(2, 3))
    assert set(seen) == {((2, 3, 5), (15, 5, 1), (5, 1))}
    with pytest.raises(EquivError, match="lay_input: expected a tensor of the same shape, dtype and values"):
        measured(batch_shape=(2, 3), lay_input=lambda x: x + 1)
    with pytest.raises(EquivError, match="form: expected one of linear, full, pointwise, got 'conv'"):
        measure_form(backend, "conv", dtype=F32, out_features=4, feature_shape=(5, 1, 1))


def test_strided_linear_in_sixteen_bits_rounds_its_bias_twice() -> None:
    swap = lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)  # noqa: E731
    options: dict[str, Any] = {"dtype": BF16, "out_features": 64, "feature_shape": (2, 4, 4), "batch_shape": (4, 4)}
    strided = measure_form(TorchEager(), "linear", lay_input=swap, **options)
    if strided.bias_rounding.value != "twice":
        pytest.skip("this build of torch adds the bias before it rounds")
    assert strided.arithmetic.bias_rounding == "either"
    assert strided.agrees_with() == ()  # declared, docs/findings/linear-rounds-bias-twice.md
    assert strided.agrees_with(replace(declared(BF16), bias_rounding="once"))


def test_env_measures_every_form_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    pytest.importorskip("rich")
    from equiv.cli import main
    from equiv.cli import measure as page

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(page, "SIZES", page.SIZES[-1:])
    target = tmp_path / "env.json"
    assert main(["env", "--measure", "--json", str(target)]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "measured on cpu: 16 rows, 64 outputs, map 2x4x4 = 32" in text
    found = json.loads(target.read_text(encoding="utf-8"))["measured"]["cpu"]
    assert {(one["dtype"], one["layout"]) for one in found} >= {("float32", "linear"), ("float64", "strided")}
