"""What a certificate says, in fields, in words and in JSON's types."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from equiv.causes import Cause
from equiv.certificate.sides import Difference
from equiv.pictures import in_notebook
from equiv.text import counted, visible

if TYPE_CHECKING:
    from equiv.pictures import Picture


@dataclass(frozen=True)
class Certificate:
    """What :func:`equiv.certify` found. True in a condition if the two maps are equivalent.

    Attributes:
        equivalent: No difference was found, and the method went to its end.
        method: ``"deterministic"`` or ``"random"``: what was done, which may be other than what was asked for.
        probes: Inputs that each side was given.
        error_probability: Bound on the probability that kernels which differ passed; 0.0 for the deterministic method.
        reason: A few words: ``"equivalent"``, ``"weights differ"``, ``"bias differs"`` (the bias alone), ``"kernels
            differ"``, ``"rounding differs"``, ``"not affine"``, ``"shapes differ"``, ``"dtypes differ"``, ``"not
            finished"``.
        explanation: One paragraph: what was done, what follows for all inputs, and what was assumed.
        differences: The first of them, as (output index, input index, candidate's value, reference's value). Indices
            count in the flattened result and input; the input index is None for the bias.
        difference_count: All of them.
        scope: Where the kernels were probed: dtype, device, sizes, batch, layouts, threads, versions.
        resolution: How far a weight may be off unseen because a bias that cannot be taken away hides its last bits, or
            because a convolution adds several taps for it in any order; or the imaginary part of a bias because a
            complex convolution inside a function rounds it.
        state: Pass it as ``resume=`` to go on where a certificate was not finished: a dict that ``torch.save`` writes
            and ``torch.load(weights_only=True)`` reads.
        assumed: What the certificate rests on and no finite number of inputs proves, such as "affine as far as 3,012
            probes show" of functions; empty between plain layers.
        cause: The mistake that turns the reference into the candidate, if one is known that does; else None.

    Example:
        >>> import torch
        >>> from equiv import certify, linear_to_full_conv
        >>> layer = torch.nn.Linear(4, 2)
        >>> certificate = certify(linear_to_full_conv(layer, (1, 2, 2)), layer)
        >>> certificate.equivalent, certificate.method, certificate.error_probability
        (True, 'deterministic', 0.0)
    """

    equivalent: bool
    method: str
    probes: int
    error_probability: float
    reason: str
    explanation: str
    differences: tuple[Difference, ...] = ()
    difference_count: int = 0
    scope: dict[str, Any] = field(default_factory=dict)
    resolution: float = 0.0
    state: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    cause: Cause | None = None
    assumed: str = ""

    def __bool__(self) -> bool:
        """Whether the two maps are equivalent."""
        return self.equivalent

    def to_html(self, *, about: Mapping[str, str] | None = None) -> str:
        """The certificate as one self-contained page of HTML, with its picture where matplotlib is installed.

        Args:
            about: What was compared, by name: it stands at the head of the page.

        Raises:
            EquivError: ``about`` is no mapping of words.
            MissingExtraError: jinja2 is not installed.
        """
        from equiv.certificate.page import page_of

        return page_of(self, about)

    def to_dict(self) -> dict[str, Any]:
        """The certificate in JSON's types, without its state; complex values, infinities and NaN become strings."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "state"}
        found["differences"] = [
            {name: _json(value) for name, value in difference._asdict().items()} for difference in self.differences
        ]
        return {**found, "scope": dict(self.scope), "cause": self.cause and asdict(self.cause)}

    def plot(self) -> Picture:
        """Which weights differ, by input and output.

        Returns:
            A :class:`matplotlib.figure.Figure` outside pyplot, with a description in ``.alt``;
            ``.savefig("certificate.svg")`` writes it.

        Raises:
            MissingExtraError: matplotlib is not installed (extra ``plot``).

        Example:
            >>> Certificate(True, "random", 3, 1e-9, "equivalent", "No bit differs.").plot().alt
            'EQUIVALENT. No bit differs.'
        """
        from equiv.pictures import of_certificate

        return of_certificate(self)

    def _repr_html_(self) -> str:
        return in_notebook(self)

    def __str__(self) -> str:
        """A report of at most 79 columns; the line of code that mends a cause may be longer."""
        head = f"NOT CERTIFIED: {self.reason}"
        if self.equivalent:
            head = f"EQUIVALENT, {self.assumed}" if self.assumed else "EQUIVALENT for all inputs"
        lines = textwrap.wrap(f"{head}. {self.explanation}", 79)
        risk = "0" if self.error_probability == 0 else f"{self.error_probability:.1e}"
        lines.append(f"  {'method':<12} {self.method}, {counted(self.probes, 'probe')}, error probability {risk}")
        if self.cause is not None:
            lines += _wrapped("cause", self.cause.sentence)
            lines += [f"  {'fix':<12} {self.cause.fix}"] if self.cause.fix else []
        if self.differences:
            lines.append(f"  {'output':>12} {'input':>8} {'candidate':>24} {'reference':>24}")
            for output, index, a, b in self.differences[:5]:
                where = "bias" if index is None else str(index)
                digits = 17 if self.scope.get("dtype") in ("float64", "complex128") else 9
                lines.append(f"  {output:>12} {where:>8} {_number(a, digits):>24} {_number(b, digits):>24}")
            rest = self.difference_count - min(5, len(self.differences))
            lines += [f"  and {rest:,} more"] if rest > 0 else []
        if self.scope:
            lines += _wrapped("scope", ", ".join(f"{name} {value}" for name, value in self.scope.items()))
        return visible("\n".join(lines))


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"  {label:<12} {text}", 79, subsequent_indent=" " * 15)


def _json(value: Any) -> Any:
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _number(value: Any, digits: int) -> str:
    if isinstance(value, complex):
        return f"{value.real:.{min(digits, 9)}g}{value.imag:+.{min(digits, 9)}g}j"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
