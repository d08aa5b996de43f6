"""Are the gradients of a candidate and of a reference those of the layer? Of the input, the weight and the bias.

Both sides run as twins, with stand-ins for their parameters: nothing of the caller's gets a gradient. Each gradient is
held against the exact one, which ``equiv.verdict.gradient_forms`` writes as a layer's result; which parameters have one
is found in ``equiv.verdict.parameters``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.numerics import Arithmetic, exact_range, gradients_recorded
from equiv.text import quoted
from equiv.verdict.arguments import Alternatives, Comparison, on_cpu
from equiv.verdict.beside_exact import beside_exact
from equiv.verdict.blocks import at_outputs, outputs_to_judge
from equiv.verdict.entries import index_in
from equiv.verdict.gradient_forms import Form, bias_form, cause_of_gradient, input_form, slides, weight_forms
from equiv.verdict.outcome import NotEquivalent, Outcome, Verdict
from equiv.verdict.parameters import Held, Side, held_by, layer_with

_ROWS, _FEW = 32, 8
_ONE_HOTS = 64
_JUDGED = 2**18  # entries of a gradient

_Arranged = Callable[[Tensor], Tensor]  # a parameter's gradient in the shape of the layer's


class Probe(NamedTuple):
    """Inputs ``(N, n)`` and an incoming gradient ``(N, O)``; with integers of this size in place of the weights."""

    words: str
    x: Tensor
    grad: Tensor
    weights: int = 0


@dataclass(frozen=True, eq=False)
class _Run:
    """One side as its gradients are asked."""

    side: Side
    layer: nn.Linear  # that it is, or the other side is
    taps: Alternatives
    shape: tuple[int, ...]
    slides: bool
    held: list[Held]
    left_out: str


def check_differentiable(dtype: torch.dtype) -> None:
    """Refuse dtypes that have no gradients."""
    if not is_inexact(dtype):
        raise EquivError(
            f"gradients: expected a layer of a floating or complex dtype, got {dtype_name(dtype)}, which has no "
            "gradients; leave gradients= out"
        )


@gradients_recorded()
def check_gradients(
    sides: tuple[Side, Side], shape: tuple[int, ...], given: Tensor | None, seed: int, arithmetic: Arithmetic | None
) -> None:
    """Raise unless the gradients of both sides are those of right kernels.

    ``shape`` is that of the map, ``given`` an input to try in addition; ``arithmetic`` is the candidate's.

    Raises:
        NotEquivalent: With the verdict, which names the side, the gradient and the entry.
        EquivError: A side that does not run while gradients are recorded, or whose backward pass raises an error.
    """
    for side, other in (sides, sides[::-1]):
        run = _run_of(side, other, shape)
        wanted = arithmetic if side is sides[0] else None
        for probe in _probes(run, given, seed):
            _check(run, probe, wanted)


def _run_of(side: Side, other: Side, shape: tuple[int, ...]) -> _Run:
    layer = side.dense if side.dense is not None else other.dense
    assert layer is not None
    known = side.taps if side.taps is not None else other.taps
    own: Alternatives = (side.taps,) if side.dense is not None else (None, known) if known is not None else (None,)
    held, left_out = held_by(side, other, shape)
    frozen = [one.name for one in held if not one.parameter.requires_grad]
    if frozen:
        words = f"the {side.name}'s {' and '.join(frozen)} {'do' if len(frozen) > 1 else 'does'} not require gradients"
        left_out = "; ".join(filter(None, (left_out, words)))
    calls = (side.function.call, other.function.call)
    own_taps = slides(calls[0], shape) if side.dense is not None else side.function.takes_map or slides(calls[1], shape)
    return _Run(side, layer, own, shape, own_taps, held, left_out)


def _probes(run: _Run, given: Tensor | None, seed: int) -> Iterator[Probe]:
    """What to ask: integers, of which each in turn is as large as sums stay exact, one-hot and ordinary gradients."""
    weight = run.layer.weight
    (outputs, n), dtype, device = weight.shape, weight.dtype, weight.device
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=wide).to(dtype).to(device)

    def integers(largest: int, share: float, *sizes: int) -> Tensor:
        drawn = torch.randint(-largest, largest + 1, sizes, generator=generator).double()
        kept = torch.rand(sizes, generator=generator) < share
        return (drawn * kept).to(dtype).to(device)

    longest = max(_FEW * outputs // max(1, _channels(run)), outputs, 1)
    limit = exact_range(dtype, unrounded=True) // (4 if dtype.is_complex else 1)
    large, share = max(1, limit // (2 * longest)), min(1.0, limit / (2 * longest))
    words = "for incoming gradients of integers"
    few, of_one = (_FEW, n), (_FEW, outputs)
    yield Probe(words, integers(1, 1.0, *few), integers(large, share, *of_one), 1)
    yield Probe(words, integers(large, 1.0, *few), integers(1, share, *of_one), 1)
    yield Probe(words, integers(1, 1.0, *few), integers(1, share, *of_one), large)
    ones = torch.ones((), dtype=dtype, device=device).expand(of_one)
    yield Probe("for the incoming gradient of y.sum()", integers(1, share, *few), ones)
    chosen = torch.randperm(outputs, generator=generator)[:_ONE_HOTS]
    one_hot = torch.zeros(len(chosen), outputs, dtype=dtype, device=device)
    one_hot[torch.arange(len(chosen)), chosen] = normal(len(chosen))
    yield Probe("for one-hot incoming gradients", normal(len(chosen), n), one_hot)
    yield Probe("for normal incoming gradients", normal(_ROWS, n), normal(_ROWS, outputs))
    yield Probe("for one normal incoming gradient", normal(1, n), normal(1, outputs))
    if given is not None and given.numel():
        x = given.detach().clone().reshape(-1, n)
        yield Probe("on the input given, for normal incoming gradients", x, normal(len(x), outputs))


def _channels(run: _Run) -> int:
    """Outputs at one position."""
    call = run.held[0].layer if run.held else run.layer
    return run.layer.out_features if isinstance(call, nn.Linear) else call.out_channels


def _check(run: _Run, probe: Probe, arithmetic: Arithmetic | None) -> None:
    values, dense, taps = _with_integers(run, probe)
    asked = [held for held in run.held if held.parameter.requires_grad]
    leaves = {id(held.parameter): values.get(id(held.parameter), held.parameter) for held in run.held}
    stand_ins = {key: nn.Parameter(_usable(value)) for key, value in leaves.items()}
    found = _gradients(run.side, probe, stand_ins, [id(held.parameter) for held in asked])
    of_input = input_form(dense, taps, probe.grad, slides=run.slides)
    parts: list[tuple[Form, Tensor, _Arranged]] = [(of_input, found[0], _as_it_is)]
    for held, gradient in zip(asked, found[1:], strict=True):
        in_steps = not isinstance(run.side.function.call, nn.Linear)
        forms = [bias_form(held.layer, probe.grad, in_steps=in_steps)]
        if held.key == "weight":
            forms = [*weight_forms(held.layer, run.shape, probe.x, probe.grad)]
        parts += [(form, gradient, held.in_layer) for form in forms]
    for form, gradient, arranged in parts:
        used = form.arithmetic(arithmetic, run.layer.weight.device)
        verdict = judged_form(form, arranged(gradient), used)
        if not verdict.equivalent:
            raise NotEquivalent(_placed(verdict, form, (gradient, arranged), run, probe))


def _with_integers(run: _Run, probe: Probe) -> tuple[dict[int, Tensor], Tensor, Alternatives]:
    """Integers in place of the weight, if it is known and the probe asks for them; and the dense weight, and taps."""
    held = next((held for held in run.held if held.key == "weight"), None)
    if not probe.weights or held is None:
        return {}, run.layer.weight.detach(), run.taps
    own = getattr(held.layer, "weight")  # noqa: B009 - its class is one of several
    generator = torch.Generator().manual_seed(probe.weights)
    drawn = torch.randint(-probe.weights, probe.weights + 1, own.shape, generator=generator)
    values = drawn.to(own.dtype).to(own.device)
    dense, taps = layer_with(held.layer, run.shape, weight=values)
    known = (taps,) if run.side.dense is not None or taps is None else (None, taps)
    return {id(held.parameter): held.in_parameter(values)}, dense.weight.detach(), known


def _usable(value: Tensor) -> Tensor:
    return value.detach().clone() if value.is_inference() else value.detach()


def _as_it_is(gradient: Tensor) -> Tensor:
    return gradient


def _gradients(side: Side, probe: Probe, stand_ins: dict[int, nn.Parameter], asked: list[int]) -> list[Tensor]:
    """The gradients of the input and of what is asked, in their own shapes."""
    x = probe.x.clone().requires_grad_()
    y = side.function.recorded(x, stand_ins)
    got = f"{dtype_name(y.dtype)} of shape {tuple(y.shape)}"
    if y.dtype != x.dtype or y.numel() != probe.grad.numel():
        raise _different(
            side, f"its result is {got} while gradients are recorded, and {tuple(probe.grad.shape)} without", x
        )
    if not y.requires_grad:
        text = "its result is detached from its input: computed without recording gradients, or outside torch"
        raise _different(side, text, x)
    leaves = [x, *(stand_ins[key] for key in asked)]
    try:
        found = torch.autograd.grad(y.reshape(len(x), -1), leaves, probe.grad, allow_unused=True)
    except Exception as error:
        raise EquivError(
            f"{side.name}: expected gradients of a result of {got}, got {type(error).__name__}: {quoted(error)}; make "
            "its backward pass run, or leave gradients= out"
        ) from error
    pairs = zip(found, leaves, strict=True)
    return [torch.zeros_like(leaf) if g is None else g.to_dense().detach() for g, leaf in pairs]


def _different(side: Side, text: str, x: Tensor) -> NotEquivalent:
    text = f"the {side.name} has no gradient to compare: {text}."
    return NotEquivalent(Verdict(Outcome.DIFFERENT, text, dtype_name(x.dtype), tuple(x.shape)))


def judged_form(form: Form, gradient: Tensor, arithmetic: Arithmetic) -> Verdict:
    """The verdict on one gradient in the shape of its layer, beside the exact one; its index is that of the form."""
    x, weight, actual = form.x, form.weight, on_cpu(form.part(gradient))
    rows = Comparison(actual, actual, x, weight, None, alternative_weights=(form.alternatives,) * 2)
    if form.alternatives == (None,) and bool(weight.isfinite().all()):
        some = (x != 0).any(0)  # what meets zeros alone is no term
        rows = replace(rows, input=x[:, some], weight=weight[:, some]) if bool(some.any()) else rows
    wide = torch.complex128 if actual.is_complex() else torch.float64
    product, exactly = rows.input.to(wide) @ rows.weight.to(wide).T, form.is_exact
    if exactly and torch.equal(actual.to(wide), product):
        counts = {"identical": actual.numel(), "rounding": 0, "different": 0, "undecided": 0, "total": actual.numel()}
        return Verdict(Outcome.IDENTICAL, "", dtype_name(actual.dtype), tuple(actual.shape), counts)
    chosen = outputs_to_judge(replace(rows, expected=product.to(actual.dtype)))
    if chosen is None and actual.numel() > _JUDGED:
        chosen = _columns(rows, product)
    if chosen is None:
        return beside_exact(rows, arithmetic, exactly=exactly)
    verdict = beside_exact(at_outputs(rows, chosen), arithmetic, exactly=exactly)
    text = f"judged at {len(chosen):,} of {len(weight):,} columns (those furthest off, and others): "
    verdict = replace(verdict, explanation=text + verdict.explanation)
    entry = verdict.worst
    if entry is not None:
        row, column = entry.index
        verdict = replace(verdict, worst=replace(entry, index=(row, int(chosen[column]))))
    return verdict


def _columns(rows: Comparison, product: Tensor) -> Tensor:
    """Of a large gradient the columns furthest from the ``product`` for the size of their terms, and others."""
    sizes = rows.input.abs().to(torch.float64) @ rows.weight.abs().to(torch.float64).T
    apart = (rows.actual.to(product.dtype) - product).abs()
    score = torch.where(apart == 0, 0.0, apart / sizes).nan_to_num(torch.inf, torch.inf).amax(0)
    count = max(2, _JUDGED // len(rows.actual))
    furthest = score.topk(min(len(score), count - count // 2)).indices.tolist()
    return torch.tensor(sorted({*furthest, *range(0, len(score), -(-len(score) // (count // 2)))}))


def _placed(verdict: Verdict, form: Form, found: tuple[Tensor, _Arranged], run: _Run, probe: Probe) -> Verdict:
    """The verdict on a part of a gradient, with the entry where it is in the gradient, and the cause."""
    gradient, arranged = found
    entry, where = verdict.worst, ""
    if entry is not None:
        row, column = entry.index
        places = torch.arange(gradient.numel(), device="cpu").view(gradient.shape)
        index = index_in(int(form.part(arranged(places))[row, column]), tuple(gradient.shape))
        entry, where = replace(entry, index=index), f", most at {list(index)}"
    text = verdict.explanation.replace("outputs", "entries").replace("output ", "entry ")
    text = f"{probe.words}, the {run.side.name}'s gradient of the {form.of} is not that of the layer{where}: {text}"
    text += f" Not asked: {run.left_out}." if run.left_out else ""
    cause = cause_of_gradient(form, on_cpu(form.part(arranged(gradient))), len(probe.grad))
    return replace(verdict, explanation=text, worst=entry, shape=tuple(gradient.shape), cause=cause)
