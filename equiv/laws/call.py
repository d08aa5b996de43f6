"""One call of a backend, how it broke a law, and how often calls were judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass
class Tally:
    """How often one form was judged, and how: numbers of comparisons, and the largest error over its envelope."""

    judged: int = 0
    identical: int = 0
    rounding: int = 0
    undecided: int = 0
    different: int = 0
    max_ratio: float = 0.0


@dataclass(frozen=True)
class Call:
    """One call of a backend: a form and its tensors, shaped as that form takes them.

    Attributes:
        form: One of ``equiv.backends.FORMS``.
        input: ``(*batch, n)`` for linear, else ``(N, C, *spatial)`` or ``(N, n, 1, ...)``.
        weight: ``(O, n)`` or ``(O, C, *kernel)``.
        bias: ``(O,)`` or None.
        stride: Of a convolution.
        dilation: Of a convolution.
    """

    form: str
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()


class Broken(AssertionError):  # noqa: N818 - what it says is that a law is broken
    """A law does not hold. Carries what a report needs; words are found only when it is reported."""

    def __init__(
        self,
        note: str,
        *,
        form: str,
        call: Call | None = None,
        actual: Any = None,
        expected: Any = None,
        index: tuple[int, ...] | None = None,
        envelope: tuple[Any, Any] | None = None,
        ratio: float | None = None,
        gradient: tuple[str, Tensor] | None = None,
        outputs: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(note)
        self.note = note
        self.form = form
        self.call = call
        self.actual = actual
        self.expected = expected
        self.index = index
        self.envelope = envelope
        self.ratio = ratio
        self.gradient = gradient
        self.outputs = outputs


def with_layout(call: Call, **tensors: Tensor | None) -> Call:
    """The same call on tensors laid out differently."""
    return replace(call, **tensors)  # type: ignore[arg-type]
