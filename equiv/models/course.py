"""The course of a diagnosis: is each model a function, which layers are pairs, and what each of them does alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from equiv.arguments import check_bool, check_tensor, refusal
from equiv.causes import Cause
from equiv.errors import EquivError
from equiv.models.diagnosis import Diagnosis, Layer, growth_words
from equiv.models.generators import Generators, generators_kept
from equiv.models.gradients import Backward, Right, gradients_of
from equiv.models.layouts import fitted
from equiv.models.links import Link, link_of
from equiv.models.pairing import Pairs, paired
from equiv.models.players import march
from equiv.models.runs import Forced, Free, Leader, largest
from equiv.models.sampling import same, verdict_of, worst_of
from equiv.models.settings import own_parameter_cause, setting_cause, setting_words, unlike_settings
from equiv.models.sides import Side
from equiv.models.trees import equal, tensors
from equiv.models.wide import Four, settled
from equiv.models.wide_runs import Wide, differ_in_float64
from equiv.text import counted, quoted
from equiv.verdict import Outcome, Verdict


def diagnose(
    candidate: nn.Module | Callable[..., Any],
    reference: nn.Module | Callable[..., Any],
    *inputs: Any,
    match: Mapping[str, str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    gradients: bool = False,
) -> Diagnosis:
    """Do two models compute the same, and where do they first part?

    Layers are paired, and each pair is judged alone: the candidate's gets the very input that the reference's had, and
    the reference's result is put in its place, so that no difference is inherited. Affine layers (Linear, convolutions,
    transposed ones, the ``Conv1D`` of transformers) are compared by their parameters, bit for bit, held against the
    envelope of right kernels (:func:`equiv.compare`) on real inputs, and asked on inputs of few entries, where kernels
    have no freedom. Other modules, and the code between, are run in float64 as well where their bits differ: rounding
    nearly vanishes there, a defect stays.

    A function, a session of ONNX Runtime or a compiled or scripted model is judged as a whole: by float64 where it runs
    so, else its error against the reference in float64 beside the reference's own error. Up to 8 times of that is
    called rounding, which is evidence on these inputs and no proof: a defect that is smaller is not seen.

    Args:
        candidate: A module, a function, or a session with ``run`` and ``get_inputs``.
        reference: The same; what is right.
        inputs: What both are called with: tensors, or containers of tensors.
        match: Names of modules of the candidate, each with that of the reference which it stands for, where names,
            parameters, order and shapes do not tell.
        kwargs: Keyword arguments that both are called with.
        gradients: True compares the gradients of each pair's inputs and parameters as well, mapped through the
            conversion: each pair, and the code between, is given the incoming gradient that the reference's has. Those
            of plain affine layers are held against their own envelopes. All activations are kept, as in training.

    Raises:
        EquivError: A model that does not run on the inputs, results of different structure, or names in ``match`` of
            modules that are not called.

    Nothing of either model is changed, nor the state of random generators. No ``.grad`` is written.

    Example:
        >>> old = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> new = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = new.load_state_dict(old.state_dict())
        >>> diagnose(new, old, torch.randn(5, 8)).outcome.name
        'IDENTICAL'
        >>> with torch.no_grad():
        ...     _ = new[2].weight[1, 3].mul_(1.01)
        >>> diagnose(new, old, torch.randn(5, 8)).first_difference.candidate
        '2'
    """
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)):
        raise refusal("kwargs", "a dict of keyword arguments", kwargs, "pass such as kwargs={'mask': mask}")
    check_bool("gradients", gradients, advice="pass True or False")
    try:
        given = tensors((inputs, kwargs))
    except Exception as error:  # whatever a container says, or one that holds itself
        raise refusal("inputs", "tensors, or containers of them", type(error).__name__, "pass those alone") from error
    for tensor in given:
        check_tensor("inputs", tensor, advice="pass what both models are called with")
    sides = Side("candidate", candidate, inputs, kwargs or {}), Side("reference", reference, inputs, kwargs or {})
    trained = [words for side in sides for words in _random_parts(side)]
    if trained:
        return _no_function(trained)
    with generators_kept() as generators, torch.no_grad():
        return _Course(*sides, match, generators, gradients=gradients).run()


def _random_parts(side: Side) -> list[str]:
    """Modules in training mode that are no function of their input alone."""
    found = []
    for name, module in side.modules.items():
        if not module.training:
            continue
        kind, share = type(module).__name__, getattr(module, "p", None) or getattr(module, "dropout", None)
        drops = isinstance(module, nn.modules.dropout._DropoutNd | nn.MultiheadAttention | nn.RNNBase) and share
        norms = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        if drops or norms or isinstance(module, nn.RReLU):
            does = "takes its statistics from the batch and changes them" if norms else "draws random numbers"
            found.append(f"the {side.name}'s {name or 'whole'} ({kind}) is in training mode and {does}")
    return found


def _no_function(said: Sequence[str]) -> Diagnosis:
    more = f", and {counted(len(said) - 1, 'other module')} likewise" if len(said) > 1 else ""
    text = f"{said[0]}{more}: not a function of the input, so nothing was compared. Call .eval() on both models first."
    return Diagnosis(Outcome.UNDECIDED, text)


class _Course:
    def __init__(
        self,
        candidate: Side,
        reference: Side,
        match: Mapping[str, str] | None,
        generators: Generators,
        *,
        gradients: bool = False,
    ) -> None:
        self.candidate, self.reference, self.match, self.gradients = candidate, reference, match, gradients
        self.generators = generators
        self.permuted = True
        self.back = Backward()
        self.notes: list[str] = []
        self.links: list[Link] = []
        self.pairs = Pairs()
        self.why = ""
        self.proves = True

    def run(self) -> Diagnosis:
        first = {}
        for side in (self.reference, self.candidate):
            with self.generators.watched(side):
                first[side.name] = _results(side)
        theirs, mine = first["reference"], first["candidate"]
        self._check_results(mine, theirs)
        if self.match is not None or not (self.candidate.is_whole or self.reference.is_whole):
            self.pairs = paired(self.candidate, self.reference, self.match)
        known: list[Tensor] | None = [] if self.permuted else None
        self.links = [link_of(unit, self.candidate, self.reference, known) for unit in self.pairs.units]
        leader = Leader(self.reference, self.links, of_candidate=False)
        forced, free = Forced(self.candidate, self.links), Free(self.candidate, self.links, of_candidate=True)
        try:
            march(leader.player, [forced.player, free.player])
        except EquivError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {quoted(error)}"
            raise EquivError(
                f"candidate: expected modules that run on the inputs of the reference's, got {said}; pair others with "
                "match="
            ) from error
        again = {"reference": tensors(leader.player.result), "candidate": tensors(free.player.result)}
        unlike = [name for name in first if not _same_bits(first[name], again[name])]
        if unlike:
            text = (
                f"the {unlike[0]} returns other bits when it is run again on the same input: it draws random numbers, "
            )
            text += "or keeps a state, so nothing was compared. Call .eval() on it, or make it a function of its input."
            return Diagnosis(Outcome.UNDECIDED, text)
        del first, again
        results = [tensors(forced.player.result), tensors(leader.player.result), tensors(free.player.result)]
        self.proves = any(bool(t.isfinite().any()) for t in results[1])
        output = self._output(*results)
        del results, leader, forced, free
        if self.gradients:
            output = self._backward(output)
        return self._unless_permuted(self._diagnosis(output))

    def _unless_permuted(self, found: Diagnosis) -> Diagnosis:
        """Channels in another order are no difference where other layers undo it; else each is one where it is."""
        moved = [link.unit.candidate[0] for link in self.links if link.parameters.order is not None]
        misfit = any(link.misfit for link in self.links)
        if not self.permuted or not (moved or misfit):
            return found
        different = {row.kind for row in found.layers if row.verdict.outcome is Outcome.DIFFERENT}
        if not misfit and not different & {"input", "output", "container"}:
            names = ", ".join(moved[:4]) + f" and {len(moved) - 4:,} more" * (len(moved) > 4)
            text = f"up to a permutation of channels that the model's other layers undo, in {names}: "
            return replace(found, explanation=text + found.explanation)
        again = _Course(self.candidate, self.reference, self.match, self.generators, gradients=self.gradients)
        again.permuted = False
        return again.run()

    def _backward(self, output: Layer) -> Layer:
        """The row of the results with the gradients of the code after the last pair, once all were compared."""
        right = Right(set(), set() if output.verdict.outcome is Outcome.DIFFERENT else {None})
        for place, link in enumerate(self.links):
            if link.parameters.verdict is None and all(v.equivalent for v in link.own.values()):
                right.own.add(place)
            if all(v.equivalent for v in link.before.values()):
                right.before.add(place)
        self.back = gradients_of(self.candidate, self.reference, self.links, right)
        self.notes += self.back.notes
        after = [verdict for place, verdict in self.back.before.items() if place is None]
        return replace(output, verdict=_worse(output.verdict, *after))

    def _check_results(self, mine: list[Tensor], theirs: list[Tensor]) -> None:
        shapes = [[tuple(t.shape) for t in some] for some in (mine, theirs)]
        fit = len(mine) == len(theirs) and all(fitted(a, b) is not None for a, b in zip(mine, theirs, strict=True))
        if theirs and fit and any(t.numel() for t in theirs):
            return
        if theirs and fit:
            raise EquivError(
                f"inputs: expected some on which the models return something, got results of shapes {shapes[1]}, which "
                "have no entries and prove nothing; pass one sample or more"
            )
        got = [f"{counted(len(some), 'tensor')} {quoted(str(some), 150)}" for some in shapes]
        raise EquivError(
            f"candidate: expected results of the structure of the reference's, {got[1]}, got {got[0]}; return the same "
            "tensors in the same order"
        )

    def _output(self, forced: list[Tensor], theirs: list[Tensor], free: list[Tensor]) -> Layer:
        """The row of the results, and float64 for all that bits left open."""
        placed = [[fitted(a, b)[0] for a, b in zip(some, theirs, strict=True)] for some in (forced, free)]  # type: ignore[index]
        unchanged = _same_bits(placed[0], theirs)
        wide: list[list[Tensor] | None] = [None, None]
        if not unchanged or any(link.pending or link.constant for link in self.links):
            wide = self._in_float64(theirs)
        native = theirs[0].dtype == torch.float64
        verdicts = []
        for i, (a, b) in enumerate(zip(placed[0], theirs, strict=True)):
            c, r = (None if some is None else some[i] for some in wide)
            if c is not None and r is not None and equal(a, b) and differ_in_float64(c, r, b):
                text = "the result differs on other values than the constants of this run."
                verdicts.append(verdict_of(Outcome.DIFFERENT, text, b))
                continue
            if native and c is not None and r is not None and not equal(a, b):
                verdicts.append(settled(Four(c, r, a, b), "the result"))
            else:
                verdicts.append(same(b) if equal(a, b) else settled(Four(a, b, c, r), "the result", self.why))
        apart = max((_largest_apart(a, b) for a, b in zip(placed[1], theirs, strict=True)), default=0.0)
        alone = max((_largest_apart(a, b) for a, b in zip(placed[0], theirs, strict=True)), default=0.0)
        shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(forced, theirs, strict=True)]
        words = next((f"{b} as {a}" for a, b in shapes if a != b), "")
        return Layer("", "", "output", worst_of(verdicts), 1, apart, alone, largest(theirs), words)

    def _in_float64(self, theirs: list[Tensor]) -> list[list[Tensor] | None]:
        """Both sides in float64 (float64 models in float32): what they return; None of one that does not run so."""
        native = theirs[0].dtype == torch.float64
        dtype = torch.float32 if native else torch.float64
        closed = self.candidate.is_whole and (
            isinstance(self.candidate.given, nn.Module)
            or hasattr(self.candidate.given, "_torchdynamo_orig_callable")
            or not callable(self.candidate.given)
        )
        for both in (True, False):
            if both and closed:
                continue
            leader = Leader(self.reference, self.links, of_candidate=False)
            forced = Forced(self.candidate, self.links, judge=False)
            wides = [Wide(self.reference, self.links, dtype, of_candidate=False, last=not both, native=native)]
            if both:
                wides.append(Wide(self.candidate, self.links, dtype, of_candidate=True, last=True, native=native))
            try:
                march(leader.player, [forced.player, *(wide.player for wide in wides)])
            except Exception as error:  # whatever a model says to another format
                said = f"{type(error).__name__}: {quoted(error, 80)}"
                self.why = f"it does not run in {str(dtype).removeprefix('torch.')} ({said})"
                continue
            results = [tensors(wide.player.result) for wide in wides]
            found = [results[1] if both else None, results[0]]
            return [
                None if some is None else [_placed(a, b) for a, b in zip(some, theirs, strict=True)] for some in found
            ]
        return [None, None]

    def _diagnosis(self, output: Layer) -> Diagnosis:
        rows = [row for place, link in enumerate(self.links) for row in self._rows(place, link)]
        rows.append(output)
        first = next((row for row in rows if row.verdict.outcome is Outcome.DIFFERENT), None)
        verdict = worst_of([row.verdict for row in rows])
        outcome = verdict.outcome
        if outcome is Outcome.IDENTICAL and output.inherited:
            outcome = Outcome.ROUNDING
        constant = [link.unit.reference[-1] for link in self.links if link.constant]
        if constant:
            some = ", ".join(constant[:3]) + " and others" * (len(constant) > 3)
            tried = f"and of other values {self.why}" if self.why else "asked with other values as well"
            self.notes.append(f"The results of {some} are one value throughout and prove nothing: {tried}.")
        if outcome is not Outcome.DIFFERENT and output.verdict.outcome is Outcome.IDENTICAL and not self.proves:
            outcome = Outcome.UNDECIDED
            text = (
                "the results hold no finite value, so they prove nothing: pass inputs on which the reference has some."
            )
            return Diagnosis(outcome, text, tuple(rows), None)
        self.notes += _unlike(self.links)
        left = [tuple(self.pairs.left.get(name, ())) for name in ("candidate", "reference")]
        text = _explained(outcome, rows, first)
        return Diagnosis(outcome, text, tuple(rows), first, (left[0], left[1]), tuple(self.notes))

    def _owner(self, link: Link) -> tuple[str, str, Cause] | None:
        """The modules around a pair whose own settings or parameters differ: the code before it may be theirs."""
        names = [link.unit.candidate[0], link.unit.reference[0]]
        while True:
            names = [name.rpartition(".")[0] for name in names]
            if not all(names):
                return None
            modules = [
                side.modules.get(name) for side, name in zip((self.candidate, self.reference), names, strict=True)
            ]
            if modules[0] is None or modules[1] is None:
                return None
            cause = setting_cause(unlike_settings(modules[0], modules[1]), names[0])
            cause = cause or own_parameter_cause(modules[0], modules[1], *names)
            if cause is not None:
                return names[0], names[1], cause

    def _rows(self, place: int, link: Link) -> Iterator[Layer]:
        unit = link.unit
        names = " + ".join(unit.candidate), " + ".join(unit.reference)
        for count, part in sorted(link.pending):
            found = link.before if part == "x" else link.own
            if count not in found:
                text = (
                    f"its {'input' if part == 'x' else 'result'} differs, and {self.why or 'float64 was not tried'}: "
                )
                text += "nobody can tell rounding from a defect."
                found[count] = verdict_of(Outcome.UNDECIDED, text, torch.empty(0))
        handed = [*link.before.values(), *(v for where, v in self.back.before.items() if where == place)]
        before = [v for v in handed if v.outcome is not Outcome.IDENTICAL]
        if before:
            found_before = worst_of(before)
            owner = self._owner(link) if found_before.outcome is Outcome.DIFFERENT else None
            if owner is None:
                yield Layer(*names, "input", found_before, link.calls)
            else:
                yield Layer(*owner[:2], "container", replace(found_before, cause=owner[2]), link.calls)
        own = list(link.own.values()) or [verdict_of(Outcome.IDENTICAL, "no results.", torch.empty(0))]
        verdict = worst_of(own)
        if link.parameters.verdict is not None:
            cause = link.parameters.verdict.cause or verdict.cause
            verdict = replace(link.parameters.verdict, max_ratio=verdict.max_ratio, cause=cause)
        elif verdict.outcome is Outcome.DIFFERENT and verdict.cause is None:
            verdict = replace(verdict, cause=setting_cause(link.settings, unit.candidate[0]))
        found_back = self.back.own.get(place, {})
        verdict = _worse(verdict, *found_back.values())
        seen = {name: getattr(link, name) for name in ("calls", "inherited", "largest", "size", "words")}
        yield Layer(*names, unit.kind, verdict, gradients=found_back, **seen)


def _worse(verdict: Verdict, *others: Verdict) -> Verdict:
    """The verdict, or the worst of others where its outcome is worse."""
    worst = worst_of([verdict, *others])
    return verdict if worst.outcome is verdict.outcome else worst


def _unlike(links: Sequence[Link]) -> list[str]:
    """Modules of other types or settings whose results were the same here, in one sentence."""
    found = []
    for link in links:
        kinds = [type(module).__name__ for module in link.modules]
        alone = all(verdict.outcome is Outcome.IDENTICAL for verdict in link.own.values())
        if link.unit.kind == "module" and alone and (kinds[0] != kinds[1] or link.settings):
            unlike = setting_words(link.settings) or f"is {kinds[0]}, and {kinds[1]} in the reference"
            found.append(f"{link.unit.candidate[0]}: {unlike}")
    if not found:
        return []
    more = f" ({counted(len(found) - 1, 'other module')} likewise)" if len(found) > 1 else ""
    return [f"{found[0]}{more}; the results are the same on these inputs, which proves no others."]


def _results(side: Side) -> list[Tensor]:
    found = tensors(side.record())
    for tensor in found:
        check_tensor(side.name, tensor, advice="pass a model that returns such")
    return found


def _same_bits(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and a.dtype == b.dtype and equal(a, b) for a, b in zip(first, second, strict=True)
    )


def _placed(a: Tensor, like: Tensor) -> Tensor:
    found = fitted(a, like)
    return a if found is None else found[0]


def _largest_apart(a: Tensor, b: Tensor) -> float:
    if not b.numel() or (a.dtype == b.dtype and equal(a, b)):
        return 0.0
    kind = torch.complex128 if b.is_complex() else torch.float64
    return float((a.to(kind) - b.to(kind)).abs().nan_to_num(float("inf")).max())


def _explained(outcome: Outcome, rows: Sequence[Layer], first: Layer | None) -> str:
    paired = [row for row in rows if row.kind in ("layer", "module")]
    count = f"{counted(len(paired), 'pair')} of layers"
    if first is not None:
        where = {
            "input": f"in the code before {first.candidate}",
            "output": "in the code after the last pair" if paired else "in their results",
            "container": f"in {first.candidate}, in what it adds to the modules inside",
        }.get(first.kind, f"at {first.candidate}" + (f" ({first.reference})" * (first.reference != first.candidate)))
        more = sum(row.verdict.outcome is Outcome.DIFFERENT for row in rows) - 1
        others = f", and in {counted(more, 'other place')} after it" if more else ""
        return f"the two part {where}{others}; {count}, each fed the reference's input."
    if outcome is Outcome.IDENTICAL:
        return (
            f"{count}, and all that lies between, are the same bit for bit."
            if paired
            else "all results are the same bit for bit."
        )
    undecided = next((row for row in rows if row.verdict.outcome is Outcome.UNDECIDED), None)
    if undecided is not None:
        name = undecided.candidate or "the results"
        return f"{count}; nothing is shown to differ, but of {name} it cannot be told: {undecided.verdict.explanation}"
    grown = growth_words(tuple(rows))
    return f"{count}, none of which differs on its own by more than rounding" + (f"; {grown}" if grown else ".")
