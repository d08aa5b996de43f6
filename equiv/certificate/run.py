"""Equivalence for ALL inputs of two layers, modules or functions that are affine, with what the proof rests on.

Knows which method serves, in what order its steps come, and how to say what was proved. Reading columns is the
business of ``equiv.certificate.one_hot``, random integers in place of the weights that of ``equiv.certificate.random_integers``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from equiv.certificate._checkpoint import Checkpoint, printed
from equiv.certificate._origin import origin
from equiv.certificate.arguments import (
    check_fit,
    check_options,
    check_origin,
    check_room,
    check_state,
    device_of,
    dtypes_of,
    shape_of,
)
from equiv.certificate.one_hot import Reader
from equiv.certificate.parameters import cause_of, compare_parameters, outputs_of
from equiv.certificate.random_integers import Pair, Plan, Weights, layout_word, pair_of, plan, probe
from equiv.certificate.report import Certificate
from equiv.certificate.sides import CAP, Difference, Progress, Side, side_of
from equiv.dtypes import dtype_name
from equiv.errors import EquivError
from equiv.mapping import geometry_of
from equiv.text import counted

__all__ = ["Certificate", "certify"]

_CHUNK_BYTES = 2**26
_CHEAP = 2**35  # multiplications of reading every column that "auto" accepts: a second or so


def certify(
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
    chunk_bytes: int = _CHUNK_BYTES,
    progress: Progress | bool | None = None,
    resume: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Certificate:
    """Certify that two affine maps are the same function for all inputs, bit by bit of their coefficients.

    The deterministic method reads every column of both maps: an affine map is fixed by its values at zero and at the n
    one-hot inputs, where right kernels have no freedom, so one weight that is wrong by one ulp is found, and named.
    The random method serves two plain layers that are large: it compares their parameters through the mapping bit for
    bit, and then their kernels at this very shape, dtype and layout with random integers in place of the weights. It
    falls back to the deterministic one, and says so, where a weight cannot be replaced or the dtype has no room.
    Functions, and modules other than plain layers, are always read column by column, twice, and must prove on the way
    that they are affine: equal bits twice, straight lines through 0, e_i and -2^K*e_i, every column at a full mantissa,
    inputs of few and of many entries, of both signs and many sizes, as sums of columns. Where such a function is one
    product of matrices, its results must lie in the envelope of the weights that were read; integers agree modulo
    ``2**bits``. Layers in a row are compared entry by entry all the same: where their weights cancel to exactly zero,
    what an inner layer rounds may be left over, and counts as a difference.

    Args:
        candidate: A Linear, a convolution, a module, or a function of a batch. Each side is given the shape that it
            takes: rows for a Linear, maps for a convolution, and for all others if ``feature_shape`` is passed.
        reference: The same.
        feature_shape: ``(C, *spatial)``; by default a convolution's kernel is taken for the whole map.
        in_features: n, for functions of rows where neither side is a layer.
        method: ``"auto"``, ``"deterministic"`` or ``"random"``.
        error_probability: Bound for the random method, between 0 and 1.
        seed: Of the probes; the global random state is left as it was.
        dtype: Of the probes where no side has parameters; default float32.
        device: The same; default cpu.
        chunk_bytes: Bound on the probes and results that are held at once, in bytes.
        progress: Called as ``progress(done, total, state)`` after every chunk; returning False stops, and the
            certificate's ``state`` allows to go on. True writes how far it is to standard error.
        resume: The ``state`` of a certificate or a progress call for the same layers, method and seed. It belongs to
            a SHA-256 over types, attributes and training mode of all modules, names, dtypes, strides and bytes of all
            parameters and buffers (random: all but the bytes, which are compared anew), seed, threads and torch's
            version and settings; not over code. Functions, and modules that hold such, are in no hash: with one of
            them, everything is read again.
        checkpoint: A file to keep the state in, about once a second and when it is interrupted. Where it exists, the
            work goes on from there; it is removed when the certificate is complete.

    Raises:
        EquivError: Arguments that cannot be served: no shape, lazy or meta parameters, weights that are not finite, a
            function that does not run or gives other bits the second time, a state of other layers.

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
    check_options(method, error_probability, seed, chunk_bytes, progress, resume)
    told = printed() if progress is True else progress or None
    kept = None if checkpoint is None else Checkpoint(checkpoint)
    if kept is not None:
        if resume is not None:
            raise EquivError(
                "resume: expected None beside checkpoint=, got a state; the file holds one: pass one of both"
            )
        resume, told = kept.read(), kept.watching(told)
    shape = shape_of(candidate, reference, feature_shape, in_features)
    sides = [
        side_of(name, given, shape, feature_shape is not None)
        for name, given in (("candidate", candidate), ("reference", reference))
    ]
    check_fit(sides, shape, given=feature_shape is not None)
    dtypes, where = dtypes_of(sides, dtype), device_of(sides, device)
    if len(set(dtypes)) > 1:
        text = f"The candidate has parameters of {dtype_name(dtypes[0])}, the reference of {dtype_name(dtypes[1])}: other arithmetic."
        return Certificate(False, "deterministic", 0, 0.0, "dtypes differ", text)
    devices = [where] if where.type not in ("cpu", "meta") else []
    # Under a default device of meta nothing that is made on the way would have values.
    values = torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext()
    with (
        values,
        torch.random.fork_rng(devices=devices, device_type=where.type if devices else "cuda"),
    ):  # dropouts draw
        case = _Case(sides[0], sides[1], shape, dtypes[0], where, chunk_bytes, seed, told, resume)
        return _kept(case, method, error_probability, kept)


def _kept(case: _Case, method: str, wanted: float, kept: Checkpoint | None) -> Certificate:
    """The certificate, with its state in a file until it is complete."""
    if kept is None:
        return case.certify(method, wanted)
    try:
        found = case.certify(method, wanted)
    except EquivError as error:
        raise kept.foreign() if str(error).startswith("resume:") else error from error
    except BaseException:  # an interrupt too
        kept.write()
        raise
    if kept.stopped:
        kept.write()
    else:
        kept.remove()
    return found


@dataclass(frozen=True)
class _Case:
    """Two sides and how to probe them."""

    candidate: Side
    reference: Side
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    chunk_bytes: int
    seed: int
    progress: Progress | None
    resume: Mapping[str, Any] | None

    def certify(self, method: str, wanted: float) -> Certificate:
        parameters: list[Difference] = []
        total = 0
        if self.layers is not None:
            a, b = self.layers
            if outputs_of(a, self.shape) != outputs_of(b, self.shape):
                return self._refused(outputs_of(a, self.shape), outputs_of(b, self.shape))
            parameters, total = compare_parameters(a, b, self.shape)
        chosen, pair, note = self._choice(method, wanted)
        if chosen is not None and pair is not None and total:
            return self._parameters_differ("random", parameters, total, 0)
        if chosen is not None and pair is not None:
            return self._random(pair, chosen)
        return self._deterministic(parameters, total, note)

    @property
    def layers(self) -> tuple[Any, Any] | None:
        a, b = self.candidate.layer, self.reference.layer
        return None if a is None or b is None else (a, b)

    @property
    def n(self) -> int:
        return math.prod(self.shape)

    def _choice(self, method: str, wanted: float) -> tuple[Plan | None, Pair | None, str]:
        """The plan of the random method, or why it is not taken."""
        if method == "deterministic":
            return None, None, ""
        if self.layers is None:
            why = "a result's rounding would hide small weights from random inputs to a function"
            return None, None, _fallback(method, why)
        costs = [outputs_of(layer, self.shape) * layer.weight[0].numel() * self.n for layer in self.layers]
        if method == "auto" and max(costs) <= _CHEAP and (self.resume or {}).get("method") != "random":
            return None, None, ""
        pair = pair_of(self.candidate, self.reference, self.shape)
        if pair is None:
            why = "two convolutions of different geometry cannot hold the same random matrix"
            return None, None, _fallback(method, why)
        chosen = plan(pair.terms, self.dtype, self.device, pair.repeats, wanted)
        if chosen is None:
            why = f"{dtype_name(self.dtype)} has no room for exact sums of {pair.terms:,} terms"
            return None, None, _fallback(method, why)
        return chosen, pair, ""

    # --- columns ------------------------------------------------------------------------------------------------------

    def _deterministic(self, parameters: list[Difference], total: int, note: str) -> Certificate:
        check_state(self.resume, "deterministic")
        check_room(self.n, self.device)
        zeros = torch.zeros(1, self.n, dtype=self.dtype, device=self.device)
        first = [side.run(zeros) if side.layer is not None else side.run(zeros.expand(2, -1)) for side in self.sides]
        if first[0].shape[1] != first[1].shape[1]:
            return self._refused(first[0].shape[1], first[1].shape[1])
        if any(y.dtype != self.dtype for y in first):
            got = " and ".join(dtype_name(y.dtype) for y in first)
            text = f"For an input of {dtype_name(self.dtype)} candidate and reference return {got}: other arithmetic. {note}"
            return Certificate(False, "deterministic", 1, 0.0, "dtypes differ", text.strip())
        reader = Reader(*self.sides, self.n, self.dtype, self.device, self.chunk_bytes, self.seed)
        if self.resume is not None:
            reader.resume(self.resume)
        finished = reader.run(self.progress)
        found = reader.found
        known = {(d.output, d.input) for d in found.differences}
        extra = [d for d in parameters if (d.output, d.input) not in known] if len(found.differences) < CAP else []
        differences = (*found.differences, *extra)[:CAP]
        count = max(found.count, total, len(differences))
        passes = max(1, (reader.probes - 1) // self.n)
        if found.bent is not None:
            differences, count = (), 0  # what is no affine map has no coefficients
        certificate = Certificate(
            equivalent=finished and not count and found.bent is None and found.rough is None,
            method="deterministic",
            probes=1 + passes * found.next,
            error_probability=0.0,
            reason="equivalent",
            explanation="",
            differences=differences,
            difference_count=count,
            cause=self._cause(reader, total) if count else None,
            scope=self._scope(reader.rows),
            resolution=found.resolution,
            state=reader.state(),
        )
        reason, text = self._words(certificate, reader, finished, total)
        return replace(certificate, reason=reason, explanation=" ".join(filter(None, (text, note))))

    def _cause(self, reader: Reader, total: int) -> str | None:
        """From the parameters where they differ, else from what was read."""
        if self.layers is not None and total:
            return cause_of(*self.layers, self.shape)
        if self.resume is not None and reader.is_small:
            # What was read before the interrupt is gone: such a map is read again in a second or so.
            reader = Reader(*self.sides, self.n, self.dtype, self.device, self.chunk_bytes, self.seed)
            reader.run(None)
        return reader.cause(self.shape)

    def _words(self, found: Certificate, reader: Reader, finished: bool, total: int) -> tuple[str, str]:
        entries = (
            f"{counted((self.n + 1) * reader.outputs, 'entry', 'entries')} ({counted(self.n, 'column')} and the bias)"
        )
        if reader.found.bent is not None:
            advice = "Certify the layers between the non-linearities one by one: each of them is affine."
            return "not affine", f"The {reader.found.bent}. {advice}"
        if found.difference_count:
            reason = "bias differs" if all(d.input is None for d in found.differences) else "weights differ"
            if self.layers is not None and not total:
                return (
                    "kernels differ",
                    f"The parameters agree through the mapping, but of {entries} that the kernels return for one-hot "
                    f"inputs {found.difference_count:,} {'does' if found.difference_count == 1 else 'do'} not.",
                )
            return reason, _differ(found.difference_count, f"{found.difference_count:,} of {entries}")
        if reader.found.rough is not None:
            return "kernels differ", f"All {entries} agree bit for bit, but the {reader.found.rough}."
        if not finished:
            return (
                "not finished",
                f"Read {reader.found.next:,} of {self.n:,} columns without a difference; pass resume=.state.",
            )
        text = f"All {entries} agree bit for bit (the sign of zero aside). "
        if self.layers is not None:
            text += (
                "Parameters: proved for all inputs. Kernels: one-hot inputs, biases set to zero, in the scope below."
            )
        else:
            text += (
                "An affine map is fixed by them. That functions are affine cannot be proved by finitely many inputs; "
                f"lines through 0, e_i and -2^K*e_i, and {reader.tests.count} sums of both signs did not refute it."
            )
        if reader.found.unseen:
            text += (
                f" A bias hides the last bits of {reader.found.unseen:,} weights: each is certain to within "
                f"{reader.found.resolution:.3g} only."
            )
        if reader.lost:
            text += (
                " A complex convolution rounds the imaginary part of its bias, which is certain to within "
                f"{reader.lost:.3g} only."
            )
        if reader.found.flushed:
            kind = dtype_name(self.dtype)
            text += f" {reader.found.flushed:,} subnormal values are treated as zero by one kernel, as {kind} may."
        return "equivalent", text

    # --- random integers ----------------------------------------------------------------------------------------------

    def _random(self, pair: Pair, chosen: Plan) -> Certificate:
        check_state(self.resume, "random")
        # Without the values of the weights: they are compared bit by bit in every run, and no draw depends on them.
        layers = [geometry_of(layer) for layer in self.layers or ()]
        facts = ("random", self.seed, self.shape, chosen, *layers)
        of = origin(self.sides, self.dtype, self.device, *facts, values=False)
        state: dict[str, Any] = {"version": 1, "method": "random", "of": of, "next": 0}
        if self.resume is not None:
            check_origin(self.resume, state, chosen.draws)
            state["next"] = int(self.resume["next"])
        weights = Weights(pair, chosen)
        found, done = None, int(state["next"])
        for draw in range(done, chosen.draws):
            x = weights.draw(self.seed * 1_000_003 + draw)
            found = probe(weights, x)
            done = draw + 1
            if found is not None:
                break  # the state stays before this draw: who goes on finds the difference again
            state = {**state, "next": done}
            if self.progress is not None and self.progress(done, chosen.draws, state) is False and done < chosen.draws:
                break
        return self._integers_say(chosen, state, found, done)

    def _integers_say(
        self, chosen: Plan, state: dict[str, Any], found: tuple[Difference, int | None] | None, draws: int
    ) -> Certificate:
        finished = draws == chosen.draws
        setting = (
            f"integers up to {chosen.weight:,} in place of the weights and up to {chosen.input:,} as inputs, "
            f"{counted(draws, 'draw')} of {counted(chosen.rows, 'row')}"
        )
        if found is not None:
            reason = "kernels differ"
            exact = found[1]
            right = "" if exact is None else f"; the exact product is {exact:,}, before a bias"
            text = (
                f"The parameters agree through the mapping, but with {setting}, the kernels return "
                f"different bits{right}."
            )
        elif not finished:
            reason = "not finished"
            text = (
                f"The parameters agree through the mapping; {draws} of {chosen.draws} draws done. Pass resume=.state."
            )
        else:
            reason = "equivalent"
            text = (
                "Parameters: equal bit for bit through the mapping, which proves the maps equal for all inputs. "
                f"Kernels: with {setting}, no bit differs, in the scope below. Kernels that differ by a map linear in "
                f"weights and input pass this with a probability of at most {chosen.error_probability:.1e}."
            )
        return Certificate(
            equivalent=found is None and finished,
            method="random",
            probes=draws * chosen.rows,
            error_probability=chosen.miss**draws,
            reason=reason,
            explanation=text,
            differences=() if found is None else (found[0],),
            difference_count=0 if found is None else 1,
            scope=self._scope(chosen.rows),
            state=state,
        )

    # --- words --------------------------------------------------------------------------------------------------------

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.candidate, self.reference

    def _refused(self, a: int, b: int) -> Certificate:
        text = f"The candidate has {a:,} outputs for {self.n:,} features, the reference {b:,}."
        return Certificate(False, "deterministic", 0, 0.0, "shapes differ", text, scope=self._scope(1))

    def _parameters_differ(self, method: str, found: list[Difference], total: int, probes: int) -> Certificate:
        reason = "bias differs" if all(d.input is None for d in found) else "weights differ"
        text = _differ(total, counted(total, "parameter"), " once both layers are written as one dense matrix")
        cause = None if self.layers is None else cause_of(*self.layers, self.shape)
        return Certificate(
            False, method, probes, 0.0, reason, text, tuple(found), total, scope=self._scope(1), cause=cause
        )

    def _scope(self, batch: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "dtype": dtype_name(self.dtype),
            "device": str(self.device),
            "input": "x".join(map(str, self.shape)),
            "batch": batch,
        }
        for side in self.sides:
            if side.layer is not None:
                found[f"{side.name}"] = f"{type(side.layer).__name__} {layout_word(side.layer)}"
        found["threads"] = torch.get_num_threads()
        found["mkldnn"] = "on" if torch.backends.mkldnn.enabled else "off"
        if self.device.type == "cuda":
            found["tf32"] = f"matmul {torch.backends.cuda.matmul.allow_tf32}, conv {torch.backends.cudnn.allow_tf32}"
        found["capability"] = torch.backends.cpu.get_cpu_capability() if self.device.type == "cpu" else self.device.type
        found["torch"] = torch.__version__
        return found


def _differ(count: int, what: str, when: str = "") -> str:
    return (
        f"{what} {'differs' if count == 1 else 'differ'}{when}; {'it follows' if count == 1 else 'the first follow'}."
    )


def _fallback(method: str, why: str) -> str:
    return f"Random probes were asked for, and not used: {why}." if method == "random" else ""
