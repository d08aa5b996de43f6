"""A broken law in words: one screen with the law, the witness, both values, the likely cause, how to see it again."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from equiv.backends import Backend
from equiv.causes import likely_cause
from equiv.laws.call import Broken
from equiv.laws.measuring import weaker_arithmetic
from equiv.laws.registry import Law
from equiv.laws.witness.snippet import program_of
from equiv.verdict import share_words


@dataclass(frozen=True)
class Failure:
    """What is reported of a law that does not hold.

    Attributes:
        law: Its id.
        form: The form that broke it.
        dtype: As a word.
        backend: Its name.
        sentence: The law in words.
        note: What was tried and what happened.
        shapes: Of input, weight and bias.
        where: Index of the worst entry, rows first; empty if the failure is not about an entry.
        actual: Its value.
        expected: Its exact value.
        envelope: The interval that right kernels stay in, or None on exact probes.
        ratio: How many times the error is its envelope, or None.
        cause: The likely cause, or None.
        snippet: Python that fails as the law did, or None for a case that has no source.
        command: Shell command that finds it again.
        case: The recipe of the case.
    """

    law: str
    form: str
    dtype: str
    backend: str
    sentence: str
    note: str
    shapes: str
    where: tuple[int, ...]
    actual: str
    expected: str
    envelope: tuple[str, str] | None
    ratio: float | None
    cause: str | None
    snippet: str | None
    command: str
    case: str

    def render(self, width: int = 80) -> str:
        """Plain text of at most ``width`` columns, snippet aside."""
        rows = [("form", f"{self.form} in {self.dtype} on {self.backend}"), ("found", self.note)]
        if self.shapes:
            rows.append(("shapes", self.shapes))
        if self.actual or self.expected:
            place = f" at [{', '.join(map(str, self.where))}]" if self.where else ""
            rows += [("actual", self.actual + place), ("expected", self.expected)]
        if self.envelope is not None:
            rows.append(("envelope", f"[{self.envelope[0]}, {self.envelope[1]}]"))
        if self.ratio is not None:
            rows.append(("error", share_words(self.ratio)))
        if self.cause:
            rows.append(("cause", self.cause))
        lines = textwrap.wrap(f"LAW BROKEN: {self.law}. {self.sentence}", width)
        for name, value in rows:
            lines += textwrap.wrap(f"  {name:<9}{value}", width, subsequent_indent=" " * 11, break_on_hyphens=False)
        if self.snippet is None:
            lines += textwrap.wrap(
                f"  {'case':<9}{self.case}", width, subsequent_indent=" " * 11, max_lines=8, break_on_hyphens=False
            )
        else:
            lines += ["  witness, as a program:", *(f"    {line}".rstrip() for line in self.snippet.splitlines())]
        return "\n".join([*lines, f"  again: {self.command}"])

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)


def failure_of(broken: Broken, law: Law, *, dtype: str, backend: Backend, seed: int, case: object) -> Failure:
    """Find the words for a broken law."""
    call = broken.call
    shapes = ""
    if call is not None:
        bias = "no bias" if call.bias is None else f"bias {tuple(call.bias.shape)}"
        shapes = f"input {tuple(call.input.shape)}, weight {tuple(call.weight.shape)}, {bias}"
    return Failure(
        law=law.id,
        form=broken.form,
        dtype=dtype,
        backend=backend.name,
        sentence=law.sentence,
        note=broken.note,
        shapes=shapes,
        where=broken.index or (),
        actual="" if broken.actual is None else str(broken.actual),
        expected="" if broken.expected is None else str(broken.expected),
        envelope=None if broken.envelope is None else (str(broken.envelope[0]), str(broken.envelope[1])),
        ratio=broken.ratio,
        cause=_cause(broken, backend),
        snippet=program_of(broken, law, case, backend=backend),
        command=_again(law.id, dtype, backend.name, seed),
        case=repr(case),
    )


def _again(law: str, dtype: str, backend: str, seed: int) -> str:
    if backend.startswith("eager."):
        device = "" if backend == "eager.cpu" else f" --device {_device(backend)}"
        return f"equiv verify --law {law} --dtype {dtype}{device} --seed {seed}"
    return f"pytest -k '{law} and {dtype} and {backend}' --equiv-seed {seed}"


def _device(backend: str) -> str:
    kind = backend.removeprefix("eager.")
    index = kind.lstrip("abcdefghijklmnopqrstuvwxyz")
    return kind if not index else f"{kind.removesuffix(index)}:{index}"


def _cause(broken: Broken, backend: Backend) -> str | None:
    """The named mistake that gives the same outputs, or the weaker arithmetic that allows them, if there is one."""
    call, outputs = broken.call, broken.outputs
    if call is None or outputs is None or broken.gradient is not None:
        return None
    actual, exact = outputs
    if actual.shape != exact.shape:
        return None
    n, o = call.weight[0].numel(), call.weight.shape[0]
    if actual.shape[1] != o or call.input.numel() != actual.shape[0] * n:
        return None
    shape = tuple(call.weight.shape[1:]) if call.form == "full" else (n, 1)
    mistake = likely_cause(
        actual, x=call.input.reshape(-1, n), weight=call.weight.reshape(o, n), bias=call.bias, feature_shape=shape
    )
    return mistake.sentence if mistake is not None else weaker_arithmetic(backend, call, actual)
