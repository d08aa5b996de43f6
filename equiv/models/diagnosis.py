"""What a diagnosis found: a row for each pair of layers, the first that differs on its own, and both in words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from equiv.causes import Cause
from equiv.pictures import in_notebook
from equiv.text import counted, plain_json, visible
from equiv.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from equiv.pictures import Picture

_SHOWN = 14  # rows on one screen


@dataclass(frozen=True)
class Layer:
    """One pair of modules, or the code before one.

    Example:
        >>> import torch
        >>> from equiv import diagnose
        >>> old, new = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
        >>> layer = diagnose(torch.nn.Sequential(new), torch.nn.Sequential(old), torch.randn(3, 4)).layers[0]
        >>> layer.candidate, layer.reference, layer.verdict.outcome.name
        ('0', '0', 'DIFFERENT')

    Attributes:
        candidate: Qualified name in the candidate, several of a chain joined by ``+``; empty of the whole model.
        reference: The same in the reference.
        kind: ``layer`` (affine), ``module``, ``input`` (the code between the layers before and this one), ``container``
            (what a module with others inside adds to them), or ``output`` of the whole model.
        verdict: On its results for the very input that the reference's had, all calls together.
        calls: How often it is called.
        inherited: Largest difference of its result when the candidate runs freely, what came before included.
        largest: Largest difference of its result on the reference's input.
        size: Largest absolute value of the reference's result.
        words: How the types and layouts differ, such as ``Conv2d for Linear, (2, 5, 8) as (2, 8, 5, 1)``.
        gradients: Verdicts on the gradients of its ``input``, ``weight`` and ``bias``, or of other parameters by name,
            where they were asked for. The worst of them is the ``verdict`` where the results are better.
    """

    candidate: str
    reference: str
    kind: str
    verdict: Verdict
    calls: int = 1
    inherited: float | None = None
    largest: float | None = None
    size: float | None = None
    words: str = ""
    gradients: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def bound(self) -> float | None:
        """The largest error as a share of its envelope; None where no envelope is known."""
        return self.verdict.max_ratio

    @property
    def cause(self) -> Cause | None:
        """The likely mistake by name, with the line that mends it."""
        return self.verdict.cause

    def to_dict(self) -> dict[str, Any]:
        """The row in JSON's types."""
        names = ("candidate", "reference", "kind", "calls", "inherited", "largest", "size", "bound", "words")
        found: dict[str, Any] = plain_json({name: getattr(self, name) for name in names})
        gradients = {name: verdict.to_dict() for name, verdict in self.gradients.items()}
        return {**found, "verdict": self.verdict.to_dict(), "gradients": gradients}


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`equiv.diagnose` found; true where the models are ``equivalent``.

    Attributes:
        outcome: ``IDENTICAL`` where all bits are, ``DIFFERENT`` where something differs on its own, ``UNDECIDED`` where
            something cannot be told, else ``ROUNDING``.
        explanation: One paragraph.
        layers: A row for each pair in the order of the reference's calls, and for code between that is not the same
            bit for bit.
        first_difference: The first row that is ``DIFFERENT`` on the reference's own input; None where none is.
        unpaired: Names of layers with parameters that have no counterpart, of the candidate and of the reference. They
            are judged as code between the pairs.
        notes: What else is worth knowing, a sentence each.

    Example:
        >>> import torch
        >>> from equiv import diagnose
        >>> old, new = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
        >>> diagnosis = diagnose(torch.nn.Sequential(new), torch.nn.Sequential(old), torch.randn(3, 4))
        >>> diagnosis.equivalent, diagnosis.first_difference.candidate
        (False, '0')
    """

    outcome: Outcome
    explanation: str
    layers: tuple[Layer, ...] = ()
    first_difference: Layer | None = None
    unpaired: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    notes: tuple[str, ...] = ()

    @property
    def equivalent(self) -> bool:
        """True for ``IDENTICAL`` and ``ROUNDING``."""
        return self.outcome.equivalent

    def __bool__(self) -> bool:
        """Whether they are ``equivalent``."""
        return self.equivalent

    def to_html(self, *, about: Mapping[str, str] | None = None) -> str:
        """The diagnosis as one self-contained page of HTML: the table of layers can be searched, filtered and sorted.

        A picture of it is there where matplotlib is installed.

        Args:
            about: What was compared, by name, such as ``{"candidate": "mine.py"}``: it stands at the head of the page.

        Raises:
            EquivError: ``about`` is no mapping of words.
            MissingExtraError: jinja2 is not installed.

        Example:
            >>> import torch, equiv
            >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
            >>> page = equiv.diagnose(equiv.to_pointwise(model), model, torch.ones(1, 2)).to_html()
            >>> "<title>IDENTICAL: Two models compared</title>" in page
            True
        """
        from equiv.models.page import page_of

        return page_of(self, about)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis in JSON's types; numbers that JSON lacks become strings."""
        first = self.first_difference
        return {
            "outcome": self.outcome.value,
            "equivalent": self.equivalent,
            "explanation": self.explanation,
            "first_difference": None if first is None else first.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
            "unpaired": {"candidate": list(self.unpaired[0]), "reference": list(self.unpaired[1])},
            "notes": list(self.notes),
        }

    def plot(self) -> Picture:
        """The error of each pair of layers against its bound, and how far the models part when run freely.

        Returns:
            A :class:`matplotlib.figure.Figure` outside pyplot, with a description in ``.alt``;
            ``.savefig("diagnosis.svg")`` writes it.

        Raises:
            MissingExtraError: matplotlib is not installed (extra ``plot``).

        Example:
            >>> Diagnosis(Outcome.IDENTICAL, "No layers.").plot().alt[:21]
            'IDENTICAL: No layers.'
        """
        from equiv.pictures import of_diagnosis

        return of_diagnosis(self)

    def _repr_html_(self) -> str:
        return in_notebook(self)

    def __str__(self) -> str:
        """One screen of at most 79 columns, but for a fix, which is one line of code."""
        lines = textwrap.wrap(f"{self.outcome.name}: {self.explanation}", 79)
        if self.layers:
            lines += ["", *_table(self.layers, self.first_difference)]
        first = self.first_difference
        if first is not None:
            lines += [
                "",
                *textwrap.wrap(
                    f"{place_of(first)}{f' ({first.words})' * bool(first.words)}: {first.verdict.explanation}", 79
                )[:6],
            ]
            if first.cause is not None:
                lines += textwrap.wrap(f"cause  {first.cause.sentence}", 79, subsequent_indent=" " * 7)
                lines += [f"fix    {first.cause.fix}"] * bool(first.cause.fix)
        for side, names in zip(("candidate", "reference"), self.unpaired, strict=True):
            if names:
                some = ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")
                lines += textwrap.wrap(f"Without counterpart in the {side}'s layers: {some}", 79)
        for note in self.notes:
            lines += textwrap.wrap(note, 79)
        return visible("\n".join(lines))


def place_of(layer: Layer) -> str:
    """Where in the candidate a row is, in words."""
    name = layer.candidate or "the model"
    return {"input": f"the code before {name}", "output": "the code after the last layer"}.get(layer.kind, name)


def _table(layers: tuple[Layer, ...], first: Layer | None) -> list[str]:
    """The rows that matter: what is not identical, the ends, and others spread over all; counts for those left out."""
    order = [Outcome.DIFFERENT, Outcome.UNDECIDED, Outcome.ROUNDING]
    kept = {0, len(layers) - 1}
    ranked = [i for outcome in order for i, layer in enumerate(layers) if layer.verdict.outcome is outcome]
    if first is not None:
        at = next(i for i, layer in enumerate(layers) if layer is first)
        kept |= {at, max(0, at - 1), min(len(layers) - 1, at + 1)}
    grown = [i for i, layer in enumerate(layers) if layer.inherited]
    spread = grown[:: -(-len(grown) // 5)] if grown else []
    for i in (*ranked[: _SHOWN - 8], *spread, *ranked):
        if len(kept) < _SHOWN - 2:
            kept.add(i)
    lines = [f"{'layer of the candidate':<32} {'alone':<10} {'error':>8} {'apart':>9} {'of':>8}"]
    last = -1
    for i in sorted(kept):
        if i - last > 1:
            lines.append(_left_out(layers[last + 1 : i]))
        lines.append(_row(layers[i]))
        last = i
    return lines


def _left_out(layers: tuple[Layer, ...]) -> str:
    words = [
        f"{sum(layer.verdict.outcome is outcome for layer in layers):,} {outcome.value}"
        for outcome in Outcome
        if any(layer.verdict.outcome is outcome for layer in layers)
    ]
    return f"  ... {counted(len(layers), 'row')}: {', '.join(words)}"


def _row(layer: Layer) -> str:
    name = {"input": "  before ", "output": "(output)", "container": ""}.get(layer.kind, "") + layer.candidate
    if len(name) > 32:
        name = "..." + name[-29:]
    share = "" if layer.bound is None else f"{layer.bound:.2g}"
    apart = "" if layer.inherited is None else f"{layer.inherited:.2g}"
    size = "" if layer.size is None else f"{layer.size:.2g}"
    return f"{name:<32} {layer.verdict.outcome.name:<10} {share:>8} {apart:>9} {size:>8}".rstrip()


def growth_words(layers: tuple[Layer, ...]) -> str:
    """How far the candidate's own run parts from the reference, from the first layer that does to the last.

    Example:
        >>> growth_words(())
        ''
    """
    apart = [layer for layer in layers if layer.inherited and layer.size]
    if not apart:
        return ""
    first, last = apart[0], apart[-1]
    shares = [(layer.inherited or 0.0) / (layer.size or 1.0) for layer in (first, last)]
    text = (
        f"run freely, the two part by {last.inherited:.3g} at {last.candidate or 'the output'}, where values reach "
        f"{last.size:.3g}: {shares[1]:.2g} of that"
    )
    if first is last or not shares[0]:
        return text + "."
    size = [layer.size or 0.0 for layer in (first, last)]
    grown = f"; at {first.candidate}, the first to differ, it is {first.inherited:.3g} of {size[0]:.3g}"
    times = shares[1] / shares[0]
    return f"{text}{grown}. Rounding grew {times:.2g} times as fast as the values."
