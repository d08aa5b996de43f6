"""A broken law in words: one screen with what is wrong, the law, both values, the likely cause, how to see it again."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from equiv.backends import Backend
from equiv.causes import Cause, likely_cause
from equiv.laws.arithmetic import weaker_arithmetic
from equiv.laws.call import Broken, Mismatch, sentence_of
from equiv.laws.selection import Item
from equiv.laws.witness.again import Attempt, command_of
from equiv.laws.witness.origin import code_of, traceback_text
from equiv.laws.witness.snippet import program_of, program_on
from equiv.laws.witness.sparser import sparser
from equiv.laws.witness.stored import case_text
from equiv.verdict import share_words


@dataclass(frozen=True)
class Failure:
    """What is reported of a law that does not hold.

    Attributes:
        law: Its id.
        form: The form that broke it.
        dtype: Its name.
        backend: Its name.
        sentence: The law in words.
        note: What the form does wrong and under which condition: the rest of a sentence that begins with the form.
        shapes: Of input, weight and bias.
        where: Index of the worst entry, rows first; empty if the failure is not about an entry.
        actual: Its value.
        expected: Its exact value.
        envelope: The interval that right kernels stay in, or None on exact probes.
        ratio: How many times the error is its envelope, or None.
        cause: The likely cause, or None.
        snippet: Python that fails as the law did, or None for a case that has no source.
        command: Command that finds it again, or a call in Python.
        case: The recipe of the case.
        kind: What is wrong in one word. ``value``: a law does not hold. ``raised``, ``type``, ``shape``, ``dtype``,
            ``device``: what a call gave. ``mutation``: it wrote to its inputs. ``state``: it left torch's global state
            changed. ``leak``: the backend keeps its results. ``crash``, ``exit``, ``timeout``, ``memory``: how it ended
            the process that it ran in.
        code: Where in the backend's source it arises: the innermost line of its own that raised, or else the method.
        traceback: The frames of the backend's own code from which an exception came; empty if there was none.
        attempt: What the run was given that found it.
        stored: The case as one line of JSON, which ``run_item(..., first=[it])`` tries first; None for a case of a
            class that equiv does not know.

    Example:
        >>> import torch
        >>> from equiv.testing import Kernels, check_backend
        >>> def zeros(input, weight, bias=None):
        ...     return torch.zeros(*input.shape[:-1], len(weight))
        >>> mine = Kernels(linear=zeros, name="mine")
        >>> (failure,) = [result.failure for result in check_backend(mine, laws=["exact"], dtypes=["float32"], seed=0)]
        >>> failure.law, failure.form, failure.actual
        ('exact', 'linear', '0.0')
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
    cause: Cause | None
    snippet: str | None
    command: str
    case: str
    kind: str = "value"
    code: str = ""
    traceback: str = ""
    attempt: Attempt | None = None
    stored: str | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Failure:
        """From :meth:`to_dict` in JSON's types, as a report has it; what is not known of it stays empty."""
        needed = [field for field in fields(cls) if field.default is MISSING]
        empty = {field.name: "" if field.type == "str" else None for field in needed} | {"where": ()}
        known = {field.name: found[field.name] for field in fields(cls) if found.get(field.name) is not None}
        for name, kind in (("cause", Cause), ("attempt", Attempt)):
            if name in known:
                known[name] = kind(**{field.name: known[name][field.name] for field in fields(kind)})
        known |= {name: tuple(known[name]) for name in ("where", "envelope") if name in known}
        return cls(**{**empty, **known})

    @property
    def summary(self) -> str:
        """What is wrong, in one sentence on one line."""
        return " ".join(sentence_of(self.law, self.form, self.dtype, self.backend, self.note).split())

    def render(self, width: int = 80) -> str:
        """The whole report: plain text of at most ``width`` columns, snippet aside."""
        return "\n".join([*textwrap.wrap(self.summary, width), self.details(width)])

    def details(self, width: int = 80, *, with_program: bool = True) -> str:
        """The report below its summary; without its program, which is :attr:`snippet`, if that is shown elsewhere."""
        rows = [("law", self.sentence)]
        if self.shapes:
            rows.append(("shapes", self.shapes))
        if self.envelope is not None:
            rows.append(("envelope", f"[{self.envelope[0]}, {self.envelope[1]}]"))
        if self.ratio is not None:
            rows.append(("error", share_words(self.ratio)))
        if self.cause is not None:
            rows.append(("cause", self.cause.sentence))
            rows += [("fix", self.cause.fix)] if self.cause.fix else []
        rows += [("code", self.code)] if self.code else []
        lines = [line for name, value in rows for line in _row(name, value, width)]
        if self.snippet is None:
            lines += _row("case", self.case, width, max_lines=8)
        elif with_program:
            lines += ["  witness, as a program:", *(f"    {line}".rstrip() for line in self.snippet.splitlines())]
        return "\n".join([*lines, f"  again: {self.command}"])

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types, with the summary."""
        return {"summary": self.summary, **asdict(self)}


def _row(name: str, value: str, width: int, max_lines: int | None = None) -> list[str]:
    how: dict[str, Any] = {"subsequent_indent": " " * 11, "break_on_hyphens": False, "max_lines": max_lines}
    return textwrap.wrap(f"  {name:<9}{value}", width, **how)


def failure_of(broken: Broken, item: Item, *, case: object, attempt: Attempt) -> Failure:
    """Find the words for a broken law, and the plainest call that shows it."""
    cause = _cause(broken, item.backend)  # more numbers tell more of it
    broken = sparser(broken, item)
    call, wrong = broken.call, broken.mismatch or Mismatch("", "")
    shapes = ""
    if call is not None:
        bias = "no bias" if call.bias is None else f"bias {tuple(call.bias.shape)}"
        shapes = f"input {tuple(call.input.shape)}, weight {tuple(call.weight.shape)}, {bias}"
    return Failure(
        law=item.law.id,
        form=broken.form,
        dtype=item.word,
        backend=item.backend.name,
        sentence=item.law.sentence,
        note=broken.note,
        shapes=shapes,
        where=wrong.index,
        actual=str(wrong.actual),
        expected=str(wrong.expected),
        envelope=None if wrong.envelope is None else (str(wrong.envelope[0]), str(wrong.envelope[1])),
        ratio=wrong.ratio,
        cause=cause,
        snippet=program_of(broken, item, case),
        code=code_of(broken, item.backend),
        traceback=traceback_text(broken.error),
        command=command_of(item, attempt),
        attempt=attempt,
        case=repr(case),
        kind=broken.kind,
        stored=case_text(item.law.id, case),
    )


def failure_without_case(
    note: str, kind: str, item: Item, attempt: Attempt, *, case: str = "no case by itself"
) -> Failure:
    """A failure that no call can be blamed for, such as of a process that died; ``case`` is the last that was tried."""
    found = failure_of(Broken(note, form=item.form, kind=kind), item, case=None, attempt=attempt)
    return replace(found, case=case, snippet=program_on(case, item))


def _cause(broken: Broken, backend: Backend) -> Cause | None:
    """The named mistake that gives the same outputs, or the weaker arithmetic that allows them, if there is one."""
    call, mismatch = broken.call, broken.mismatch
    if call is None or mismatch is None or mismatch.results is None:
        return None
    actual, exact = mismatch.results
    rows, outputs, n = call.sizes
    if actual.shape != exact.shape or actual.shape != (rows, outputs) or call.input.numel() != rows * n:
        return None
    shape = tuple(call.weight.shape[1:]) if call.form == "full" else (n, 1)
    x, weight = call.input.reshape(-1, n), call.weight.reshape(outputs, n)
    mistake = likely_cause(actual, x=x, weight=weight, bias=call.bias, feature_shape=shape)
    weaker = None if mistake is not None else weaker_arithmetic(backend, call, actual)
    return mistake if weaker is None else weaker.cause
