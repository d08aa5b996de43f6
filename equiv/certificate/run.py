"""The course of a certificate: which method serves, in what order its steps come, and what follows from what was found.

Reading columns is the business of ``equiv.certificate.one_hot``, random integers in place of the weights that of
``equiv.certificate.random_integers``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from equiv.causes import Cause
from equiv.certificate.affine import Superposition
from equiv.certificate.arguments import (
    check_arithmetic_of,
    check_fit,
    check_memory,
    check_options,
    device_of,
    dtypes_of,
    shape_of,
)
from equiv.certificate.one_hot import Reader
from equiv.certificate.parameters import cause_of, cause_of_results, compare_parameters, outputs_of
from equiv.certificate.progress import Progress, printed
from equiv.certificate.random_integers import Pair, Plan, Weights, pair_of, plan, probe
from equiv.certificate.report import Certificate
from equiv.certificate.resume import Checkpoint, State, check_origin, check_state, origin_of, sealed
from equiv.certificate.sides import CAP, Difference, Differences, Layer, Side, side_of
from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.mapping import geometry_of
from equiv.numerics import Arithmetic, declared, plain_torch
from equiv.text import counted

_CHUNK_BYTES = 2**26
_CHEAP = 2**35  # multiplications of reading every column that "auto" accepts: a second or so


@plain_torch()
def certify(  # noqa: PLR0913 - its keyword options are the interface
    candidate: nn.Module | Callable[[Tensor], Tensor],
    reference: nn.Module | Callable[[Tensor], Tensor],
    *,
    feature_shape: Sequence[int] | None = None,
    in_features: int | None = None,
    method: str = "auto",
    error_probability: float = 1e-12,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    arithmetic: Arithmetic | None = None,
    chunk_bytes: int = _CHUNK_BYTES,
    progress: Progress | bool | None = None,
    resume: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Certificate:
    """Certify that two affine maps are the same function for all inputs, bit by bit of their coefficients.

    The deterministic method reads every column of both maps: an affine map is fixed by its values at zero and at the n
    one-hot inputs e_i, where every right kernel returns the same bits. One weight that is wrong by one ulp is found and
    named. The random method serves two plain layers that are large: it compares their parameters through the mapping
    bit for bit, and then their kernels at this shape, dtype and layout with random integers in place of the weights.
    Where a weight cannot be replaced or the dtype is too narrow, columns are read, and the explanation says so.

    A function is given batches; where it refuses them, as a session of fixed size does, it is asked for one row at a
    time, in other batches and ranks, with numpy arrays, or in a wider dtype, and the scope says how. It may return an
    array, or a list or dict of one. A module runs in a shallow twin with buffers of its own: nothing of it is changed,
    and it may be used, and certified, in other threads at the same time. State that it keeps in lists, dicts or other
    objects is shared with the twin.

    Functions, and modules other than plain layers, are always read column by column, and tested for being affine on the
    way: on the same input twice; on lines through 0, e_i and -2^K*e_i; at inputs of few and of many entries, of both
    signs and of every size that the dtype has, against the sum of their columns. Where such a function is one product
    of matrices, its results must lie in the envelope of the weights that were read; integers agree modulo ``2**bits``.
    A sum that kernels of a layer round once, or once more where the bias comes apart, must be rounded to nearest:
    results that another rounding explains are not equivalent, and the rounding is the cause. 16-bit results of a
    function of which torch sees no operation, such as a session of another runtime, are those of a kernel of the layer
    on the other side, rounded so; where torch sees that a function rounds several times, it may. Where it is one
    convolution of repeated inputs, entries that are sums of several taps must be right in some order of the sum. Layers
    in a row are compared entry by entry: what an inner layer rounds counts as a difference where weights cancel.

    Args:
        candidate: A Linear, a convolution, a module, or a function of a batch. Each side is given the shape that it
            takes: rows for a Linear, maps for a convolution, and for all others if ``feature_shape`` is passed.
        reference: The same.
        feature_shape: ``(C, *spatial)``; by default a convolution's kernel is taken for the whole map.
        in_features: n, for functions of rows where neither side is a layer.
        method: ``"auto"``, ``"deterministic"`` or ``"random"``.
        error_probability: Bound for the random method, between 0 and 1.
        seed: Of the probes; the global random state is neither read nor set.
        dtype: Of the probes where no side has parameters; default float32.
        device: The same; default cpu.
        arithmetic: What the kernels compute in; by default what is declared for the dtype and device.
            ``equiv.numerics.measure(...).arithmetic`` is what a kernel was found to compute in.
        chunk_bytes: Bound on the probes and results that are held at once, in bytes.
        progress: Called as ``progress(done, total, state)`` after every chunk; returning False stops, and the
            certificate's ``state`` allows to go on. True writes how far it is to standard error.
        resume: The ``state`` of a certificate or a progress call for the same layers, method and seed, also after
            ``torch.save`` and ``torch.load(weights_only=True)``. A SHA-256 in it stands for types, attributes and
            training mode of all modules, names, dtypes, strides and bytes of all parameters and buffers (random: all
            but the bytes, which are compared anew), seed, threads and torch's version and settings; not for code.
            Functions, and modules that hold such, are in no hash: with one of them, everything is read again. A digest
            of its contents refuses a state that was damaged by accident; it stops nobody who changes one on purpose.
        checkpoint: A file to keep the state in, about once a second and when work is interrupted or fails. Where it
            exists, the work goes on from there; it is removed when the certificate is complete.

    Raises:
        EquivError: Arguments that cannot be served: no shape, lazy or meta parameters, weights that are not finite, a
            function that does not run or gives other bits the second time, a state that is damaged or of other layers.

    Example:
        >>> linear = torch.nn.Linear(12, 5)
        >>> conv = torch.nn.Conv2d(3, 5, 2)
        >>> _ = conv.load_state_dict({"weight": linear.weight.view(5, 3, 2, 2), "bias": linear.bias})
        >>> certificate = certify(conv, linear)
        >>> certificate.equivalent, certificate.probes, certificate.error_probability
        (True, 13, 0.0)
        >>> conv.weight.data[4, 2, 1, 0] = 0.0
        >>> [(d.output, d.input) for d in certify(conv, linear).differences]
        [(4, 10)]
    """
    seed, chunk_bytes = check_options(method, error_probability, seed, chunk_bytes, progress)
    listener = printed() if progress is True else progress or None
    file = None if checkpoint is None else Checkpoint(checkpoint)
    if file is None:
        state = None if resume is None else check_state(resume)
    elif resume is None:
        state, listener = file.read(), file.watching(listener)
    else:
        raise EquivError(
            "resume: expected None where checkpoint= is passed, got a state as well; the checkpoint's file holds the "
            "state to go on from: pass resume= or checkpoint="
        )
    shape = shape_of(candidate, reference, feature_shape, in_features)
    by_map = feature_shape is not None
    sides = side_of("candidate", candidate, shape, by_map), side_of("reference", reference, shape, by_map)
    check_fit(sides, shape, given=by_map)
    dtypes, where = dtypes_of(sides, dtype), device_of(sides, device)
    check_arithmetic_of(arithmetic, dtypes[0])
    if len(set(dtypes)) > 1:
        names = f"The candidate has parameters of {dtype_name(dtypes[0])}, the reference of {dtype_name(dtypes[1])}"
        return Certificate(False, "deterministic", 0, 0.0, "dtypes differ", f"{names}: other arithmetic.")
    # Under a default device of meta nothing that is made on the way would have values.
    values = torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext()
    with file or nullcontext(), values:
        case = _Case(sides, shape, dtypes[0], where, arithmetic, chunk_bytes, seed, listener, state)
        return case.certify(method, error_probability)


@dataclass(frozen=True)
class _Case:
    """Two sides and how to probe them."""

    sides: tuple[Side, Side]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    arithmetic: Arithmetic | None  # None for what is declared
    chunk_bytes: int
    seed: int
    progress: Progress | None
    resume: State | None

    def certify(self, method: str, wanted: float) -> Certificate:
        parameters = Differences()
        if self.layers is not None:
            a, b = self.layers
            outputs = outputs_of(a, self.shape), outputs_of(b, self.shape)
            if outputs[0] != outputs[1]:
                return self._other_outputs(*outputs)
            parameters = compare_parameters(a, b, self.shape)
        chosen = self._choice(method, wanted)
        if isinstance(chosen, str):
            note = f"Random probes were asked for, and not used: {chosen}." if method == "random" else ""
            return self._by_columns(parameters, note)
        if parameters.count:
            return self._other_parameters(*chosen[1].layers, parameters)
        return self._at_random(*chosen)

    @property
    def layers(self) -> tuple[Layer, Layer] | None:
        a, b = (side.layer for side in self.sides)
        return None if a is None or b is None else (a, b)

    @property
    def n(self) -> int:
        return math.prod(self.shape)

    def _choice(self, method: str, wanted: float) -> tuple[Plan, Pair] | str:
        """How the random method draws, or why it is not taken."""
        if self.layers is None:
            return "a result's rounding would hide small weights from random inputs to a function"
        costs = [outputs_of(layer, self.shape) * layer.weight[0].numel() * self.n for layer in self.layers]
        started = self.resume is not None and self.resume["method"] == "random"
        if method == "deterministic" or (method == "auto" and max(costs) <= _CHEAP and not started):
            return "every column is read"
        pair = pair_of(self.sides, self.layers, self.shape)
        if pair is None:
            return "two convolutions of different geometry cannot hold the same random matrix"
        chosen = plan(pair.terms, self.dtype, self.device, pair.repeats, wanted, self.arithmetic)
        if chosen is None:
            return f"{dtype_name(self.dtype)} is too narrow for exact sums of {pair.terms:,} terms"
        return chosen, pair

    def _by_columns(self, parameters: Differences, note: str) -> Certificate:
        check_memory(self.n, self.device)
        zeros = torch.zeros(1, self.n, dtype=self.dtype, device=self.device)
        first = [side.run(zeros if side.layer is not None else zeros.expand(2, -1)) for side in self.sides]
        outputs = [y.shape[1] for y in first]
        if outputs[0] != outputs[1]:
            return self._other_outputs(*outputs)
        if any(y.dtype != self.dtype for y in first):
            got = " and ".join(dtype_name(y.dtype) for y in first)
            text = f"For an input of {dtype_name(self.dtype)} the sides return {got}: other arithmetic. {note}"
            return self._certificate("deterministic", 1, 1, ("dtypes differ", text.strip()))
        reader = self._reader()
        if self.resume is not None:
            reader.resume(self.resume)
        finished = reader.run(self.progress)
        read, affine = reader.found.differences, reader.test.not_affine is None
        known = {difference[:2] for difference in read.named}
        named = (*read.named, *(d for d in parameters.named if d[:2] not in known))[:CAP]
        count = max(read.count, parameters.count, len(named))
        wrong = reader.misrounding
        # What is no affine map has no coefficients, and what rounds otherwise returns others than it has.
        differs = affine and wrong is None and count > 0
        cause = self._cause(reader, parameters) if differs or not affine else None
        if cause is None and wrong is not None:
            cause = wrong.cause
        reason, text = self._conclusion(reader, parameters, count, finished)
        if cause is not None and not affine:
            text = f"The {reader.test.not_affine}. It is the same layer, computed in other formats."
        probes = 1 + reader.passes * reader.found.next + reader.found.more
        rests = self.layers is None and reason == "equivalent"
        return self._certificate(
            "deterministic",
            probes,
            reader.rows,
            (reason, f"{text} {note}".strip()),
            differences=named if differs else (),
            difference_count=count if differs else 0,
            cause=cause,
            resolution=reader.found.resolution,
            assumed=f"affine as far as {counted(probes, 'probe')} show" if rests else "",
            state=reader.state(),
        )

    def _reader(self) -> Reader:
        inputs = Superposition(self.n, self.dtype, self.device, self.seed, self.arithmetic)
        return Reader(self.sides, inputs, self.chunk_bytes)

    def _cause(self, reader: Reader, parameters: Differences) -> Cause | None:
        """From the parameters where they differ, from results where these are not affine, else from what was read."""
        if reader.test.not_affine is not None:
            return cause_of_results(self.sides, self.shape, self.seed)
        if self.layers is not None and parameters.count:
            return cause_of(*self.layers, self.shape)
        if self.resume is not None and reader.is_small:
            # What was read before the interrupt is gone: such a map is read again in a second or so.
            reader = self._reader()
            reader.run(None)
        return reader.cause(self.shape)

    def _conclusion(self, reader: Reader, parameters: Differences, count: int, finished: bool) -> tuple[str, str]:
        """The reason and the explanation."""
        n, found = self.n, reader.found
        entries = f"{counted((n + 1) * reader.outputs, 'entry', 'entries')} ({counted(n, 'column')} and the bias)"
        if reader.test.not_affine is not None:
            advice = "Certify the layers between the non-linearities one by one: each of them is affine."
            return "not affine", f"The {reader.test.not_affine}. {advice}"
        wrong = reader.misrounding
        if wrong is not None and wrong.name is not None:
            return "rounding differs", f"The {wrong.text}."
        if count and self.layers is not None and not parameters.count:
            verb = "does" if count == 1 else "do"
            what = f"of {entries} that the kernels return for one-hot inputs {count:,} {verb} not"
            return "kernels differ", f"The parameters agree through the mapping, but {what}."
        if count:
            return _what_differs(found.differences, parameters), _differ(count, f"{count:,} of {entries}")
        if reader.test.outside_envelope is not None:
            return "kernels differ", f"All {entries} agree bit for bit, but the {reader.test.outside_envelope}."
        if wrong is not None:
            return "kernels differ", f"The {wrong.text}."
        if not finished:
            read = f"Read {found.next:,} of {n:,} columns without a difference"
            return "not finished", f"{read}; to go on, pass the certificate's state as resume=."
        aside = "the sign of zero and the order of sums of taps" if found.sums else "the sign of zero"
        return "equivalent", f"All {entries} agree bit for bit ({aside} aside). {self._what_follows(reader)}"

    def _what_follows(self, reader: Reader) -> str:
        found = reader.found
        if self.layers is not None:
            text = "Parameters: proved for all inputs. Kernels: one-hot inputs, biases set to zero, in the scope below."
        else:
            text = (
                "An affine map is fixed by them. That functions are affine cannot be proved by finitely many inputs; "
                "lines through 0, e_i and -2^K*e_i, and sums of both signs and of every size did not refute it. They "
                "cannot show what the rounding of larger terms hides, nor what happens at single values."
            )
        certain = f"each is certain to within {found.resolution:.3g} only"
        if found.unseen:
            text += f" A bias hides the last bits of {found.unseen:,} weights: {certain}."
        if found.sums:
            sums = counted(found.sums, "weight is a sum", "weights are sums")
            text += f" {sums} of several taps that land on one input, added in any order: {certain}."
        if reader.lost:
            certain = f"which is certain to within {reader.lost:.3g} only"
            text += f" A complex convolution rounds the imaginary part of its bias, {certain}."
        if found.flushed:
            may = f"as {dtype_name(self.dtype)} may"
            text += f" {found.flushed:,} subnormal values are treated as zero by one kernel, {may}."
        return text

    def _at_random(self, chosen: Plan, pair: Pair) -> Certificate:
        # Without the values of the weights: they are compared bit by bit in every run, and no draw depends on them.
        facts = ("random", self.seed, self.shape, chosen, self.arithmetic, *map(geometry_of, pair.layers))
        origin = origin_of(self.sides, self.dtype, self.device, *facts, values=False)
        state = sealed("random", origin, 0)
        if self.resume is not None:
            check_origin(self.resume, "random", origin)
            state = dict(self.resume)
        weights = Weights(pair, chosen)
        found, done = None, int(state["next"])
        for draw in range(done, chosen.draws):
            x = weights.draw(self.seed * 1_000_003 + draw)
            found = probe(weights, x)
            done = draw + 1
            if found is not None:
                break  # the state stays before this draw: who goes on finds the difference again
            state = sealed("random", origin, done)
            if self.progress is not None and self.progress(done, chosen.draws, state) is False:
                break
        return self._certificate(
            "random",
            done * chosen.rows,
            chosen.rows,
            self._random_conclusion(chosen, found, done),
            error_probability=chosen.miss**done,
            differences=() if found is None else (found[0],),
            difference_count=0 if found is None else 1,
            state=state,
        )

    def _random_conclusion(
        self, chosen: Plan, found: tuple[Difference, int | None] | None, draws: int
    ) -> tuple[str, str]:
        """The reason and the explanation."""
        setting = (
            f"integers up to {chosen.weight:,} in place of the weights and up to {chosen.input:,} as inputs, "
            f"{counted(draws, 'draw')} of {counted(chosen.rows, 'row')}"
        )
        agree = "The parameters agree through the mapping"
        if found is not None:
            right = "" if found[1] is None else f"; the exact product is {found[1]:,}, before a bias"
            return "kernels differ", f"{agree}, but with {setting}, the kernels return different bits{right}."
        if draws < chosen.draws:
            done = f"{draws} of {chosen.draws} draws are done"
            return "not finished", f"{agree}; {done}. To go on, pass the certificate's state as resume=."
        return "equivalent", (
            "Parameters: equal bit for bit through the mapping, which proves the maps equal for all inputs. "
            f"Kernels: with {setting}, no bit differs, in the scope below. Kernels that differ by a map linear in "
            f"weights and input pass this with a probability of at most {chosen.error_probability:.1e}."
        )

    def _other_outputs(self, a: int, b: int) -> Certificate:
        text = f"The candidate has {a:,} outputs for {self.n:,} features, the reference {b:,}."
        return self._certificate("deterministic", 0, 1, ("shapes differ", text))

    def _other_parameters(self, a: Layer, b: Layer, found: Differences) -> Certificate:
        when = " once both layers are written as one dense matrix"
        return self._certificate(
            "random",
            0,
            1,
            (_what_differs(found), _differ(found.count, counted(found.count, "parameter"), when)),
            differences=tuple(found.named),
            difference_count=found.count,
            cause=cause_of(a, b, self.shape),
        )

    def _certificate(
        self, method: str, probes: int, batch: int, conclusion: tuple[str, str], **found: Any
    ) -> Certificate:
        """The certificate with a reason and an explanation."""
        reason, text = conclusion
        found = {"error_probability": 0.0, "scope": self._scope(batch), **found}
        return Certificate(reason == "equivalent", method, probes, reason=reason, explanation=text, **found)

    def _scope(self, batch: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "dtype": dtype_name(self.dtype),
            "device": str(self.device),
            "input": "x".join(map(str, self.shape)),
            "batch": batch,
        }
        for side in self.sides:
            if side.layer is not None:
                weight = side.layer.weight
                layout = "contiguous" if weight.is_contiguous() else f"strides {tuple(weight.stride())}"
                found[side.name] = f"{type(side.layer).__name__} {layout}"
            elif side.function.asked:
                found[side.name] = f"asked {side.function.asked}"
        if is_inexact(self.dtype):
            found["arithmetic"] = (self.arithmetic or declared(self.dtype, self.device)).name
        found["threads"] = torch.get_num_threads()
        found["mkldnn"] = "on" if torch.backends.mkldnn.enabled else "off"
        if self.device.type == "cuda":
            found["tf32"] = f"matmul {torch.backends.cuda.matmul.allow_tf32}, conv {torch.backends.cudnn.allow_tf32}"
        found["capability"] = torch.backends.cpu.get_cpu_capability() if self.device.type == "cpu" else self.device.type
        found["torch"] = torch.__version__
        return found


def _what_differs(*found: Differences) -> str:
    """The reason: the bias alone, or weights as well."""
    return "weights differ" if any(differences.weights for differences in found) else "bias differs"


def _differ(count: int, what: str, when: str = "") -> str:
    verb, rest = ("differs", "it follows") if count == 1 else ("differ", "the first follow")
    return f"{what} {verb}{when}; {rest}."
