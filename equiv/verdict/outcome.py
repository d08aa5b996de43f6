"""What a comparison found: the outcome, the entry that decides, and both as a report and in JSON's types."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from equiv.causes import Cause
from equiv.pictures import in_notebook
from equiv.text import counted, plain_json, visible

if TYPE_CHECKING:
    from equiv.pictures import Picture


class Outcome(Enum):
    """What a comparison found.

    Example:
        >>> import torch
        >>> from equiv import compare
        >>> compare(torch.ones(2), torch.ones(2)).outcome is Outcome.IDENTICAL
        True
    """

    IDENTICAL = "identical"
    """Bit for bit the same (a NaN equals a NaN)."""
    ROUNDING = "rounding"
    """Inside the envelope: right kernels differ so."""
    DIFFERENT = "different"
    """Outside the envelope: no right kernel gives this."""
    UNDECIDED = "undecided"
    """Right kernels may disagree here, or too little is known to tell."""

    @property
    def equivalent(self) -> bool:
        """True for ``IDENTICAL`` and ``ROUNDING``."""
        return self in (Outcome.IDENTICAL, Outcome.ROUNDING)


@dataclass(frozen=True)
class Entry:
    """One output with everything known about it. Numbers are Python numbers (complex for complex dtypes).

    ``magnitude`` is the sum of the sizes of its ``terms`` non-zero terms; ``error_in_uS`` the error of ``actual`` in
    units of unit roundoff times that sum; ``bits_cancelled`` is ``log2(magnitude / |exact|)``.

    Example:
        >>> import torch
        >>> from equiv import compare
        >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> entry = compare(torch.tensor([[12.0]]), x @ weight.T, input=x, weight=weight).worst
        >>> entry.index, entry.actual, entry.exact, entry.terms
        ((0, 0), 12.0, 11.0, 2)
    """

    index: tuple[int, ...]
    actual: Any
    expected: Any
    exact: Any = None
    lower: Any = None
    upper: Any = None
    ratio: float | None = None
    magnitude: float | None = None
    terms: int | None = None
    error_in_uS: float | None = None  # noqa: N815 - the unit is u times S
    bits_cancelled: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What :func:`compare` found.

    ``str(verdict)`` is a report of a few lines, and ``if verdict:`` asks whether it is ``equivalent``: true for
    ``IDENTICAL`` and ``ROUNDING``, false for ``DIFFERENT`` and for ``UNDECIDED``, which is no evidence of equivalence.

    Attributes:
        outcome: One of :class:`Outcome`.
        explanation: One paragraph with the numbers.
        dtype: Dtype of ``actual``, as a word.
        shape: Shape of ``actual``.
        counts: Entries that are ``identical``, ``rounding``, ``different``, ``undecided``; they add up to ``total``.
        max_ratio: Largest error of ``actual`` as a fraction of its envelope; None where no envelope is known.
        worst: The entry that decides: the furthest outside, else the one with the largest ratio.
        arithmetic: The arithmetic that the envelope belongs to, in words.
        conditions: Tolerances that the caller asked for in addition, each with what came of it.
        cause: The likely mistake, with the line of code that mends it, if one fits.

    Example:
        >>> import torch
        >>> from equiv import compare
        >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> verdict = compare(torch.tensor([[12.0]]), x @ weight.T, input=x, weight=weight)
        >>> verdict.outcome.name, verdict.equivalent, verdict.counts["different"]
        ('DIFFERENT', False, 1)
    """

    outcome: Outcome
    explanation: str
    dtype: str
    shape: tuple[int, ...]
    counts: dict[str, int] = field(default_factory=dict)
    max_ratio: float | None = None
    worst: Entry | None = None
    arithmetic: str | None = None
    conditions: tuple[str, ...] = ()
    cause: Cause | None = None

    @property
    def equivalent(self) -> bool:
        """True for ``IDENTICAL`` and ``ROUNDING``."""
        return self.outcome.equivalent

    def __bool__(self) -> bool:
        """Whether it is ``equivalent``."""
        return self.equivalent

    def to_html(self, *, about: Mapping[str, str] | None = None) -> str:
        """The verdict as one self-contained page of HTML, with its picture where matplotlib is installed.

        Args:
            about: What was compared, by name: it stands at the head of the page.

        Raises:
            EquivError: ``about`` is no mapping of words.
            MissingExtraError: jinja2 is not installed.

        Example:
            >>> import torch, equiv
            >>> page = equiv.compare(torch.ones(2), torch.ones(2)).to_html(about={"candidate": "<mine>"})
            >>> "<title>IDENTICAL: Two results compared</title>" in page, "&lt;mine&gt;" in page
            (True, True)
        """
        from equiv.verdict.page import page_of

        return page_of(self, about)

    def to_dict(self) -> dict[str, Any]:
        """The verdict in JSON's types; numbers that JSON lacks become strings."""
        found: dict[str, Any] = plain_json(asdict(self))
        return {**found, "outcome": self.outcome.value, "equivalent": self.equivalent}

    def plot(self) -> Picture:
        """Counts of outputs, and the one that decides: exact value, envelope, both results, ``assert_close``'s band.

        Returns:
            A :class:`matplotlib.figure.Figure` outside pyplot, with a description in ``.alt``;
            ``.savefig("verdict.svg")`` writes it.

        Raises:
            MissingExtraError: matplotlib is not installed (extra ``plot``).

        Example:
            >>> Verdict(Outcome.IDENTICAL, "both results are empty.", "float32", (0, 3)).plot().alt
            'IDENTICAL: both results are empty.'
        """
        from equiv.pictures import of_verdict

        return of_verdict(self)

    def _repr_html_(self) -> str:
        return in_notebook(self)

    def __str__(self) -> str:
        """The report: outcome, explanation, the entry that decides, the likely cause and its fix.

        Lines of at most 79 columns, but for the fix: it is one line of code.
        """
        lines = textwrap.wrap(f"{self.outcome.name}: {self.explanation}", 79)
        if self.worst is not None:
            lines += _entry_lines(self.worst)
        lines += [f"  {'condition':<12} {text}" for text in self.conditions]
        if self.cause is not None:
            lines += textwrap.wrap(f"  {'cause':<12} {self.cause.sentence}", 79, subsequent_indent=" " * 15)
            lines += [f"  {'fix':<12} {self.cause.fix}"] if self.cause.fix else []
        return visible("\n".join(lines))


class NotEquivalent(AssertionError):  # noqa: N818 - a finding, not a malfunction: it reads as one in a test's output
    """Two layers are not shown to be the same function. ``verdict`` holds the evidence.

    Example:
        >>> import torch
        >>> from equiv import assert_equivalent
        >>> layer, other = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
        >>> try:
        ...     assert_equivalent(other, layer)
        ... except NotEquivalent as error:
        ...     print(error.verdict.outcome.name)
        DIFFERENT
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


def _entry_lines(entry: Entry) -> list[str]:
    rows = [
        ("worst at", f"[{', '.join(map(str, entry.index))}]"),
        ("actual", number_text(entry.actual)),
        ("expected", number_text(entry.expected)),
    ]
    if entry.exact is not None:
        rows.append(("exact", number_text(entry.exact)))
    if entry.magnitude is not None:
        lower, upper = number_text(entry.lower), number_text(entry.upper)
        if len(lower) + len(upper) > 60:
            rows += [("envelope", f"[{lower},"), ("", f" {upper}]")]
        else:
            rows.append(("envelope", f"[{lower}, {upper}]"))
        rows.append(("", f"{counted(entry.terms or 0, 'term')} of total size {entry.magnitude:.6g}"))
        rows.append(("error", ", ".join(error_words(entry))))
    return [f"  {name:<12} {value}".rstrip() for name, value in rows]


def error_words(entry: Entry) -> list[str]:
    """How far an entry is from the exact value, in each unit that tells something."""
    words = [] if entry.ratio is None else [share_words(entry.ratio)]
    if entry.error_in_uS is not None and entry.error_in_uS <= _MANY:
        words.append(f"{entry.error_in_uS:.3g} u*S")
    if entry.bits_cancelled is not None and entry.bits_cancelled >= 1:
        words.append(f"{counted(round(entry.bits_cancelled), 'bit')} cancelled")
    return words


def number_text(value: Any) -> str:
    """A Python number in nine digits, as reports show it."""
    if isinstance(value, complex):
        return f"{value.real:.9g}{value.imag:+.9g}j"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


_MANY = 1e6  # beyond it, how many times tells a reader nothing


def share_words(ratio: float) -> str:
    """An error as a share of its envelope.

    Example:
        >>> share_words(0.5), share_words(2e44), share_words(math.inf)
        ('0.5 of the envelope', 'over a million times the envelope', 'beyond any multiple of the envelope')
    """
    if math.isinf(ratio):
        return "beyond any multiple of the envelope"
    return "over a million times the envelope" if ratio > _MANY else f"{ratio:.3g} of the envelope"
