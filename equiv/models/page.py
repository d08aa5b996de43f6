"""A diagnosis as a page of HTML: its layers in a table, with how errors grew from one to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from equiv.models.diagnosis import Diagnosis, Layer, place_of
from equiv.pages import Cell, Finding, Table, finding_page, picture_of

_NOTE = """Alone: the layer on the very input that the reference's had. Error: its largest error over its envelope, the
interval of right kernels. Off: its largest difference alone. Apart: the largest difference when the candidate runs
freely, what came before included. Of: the largest value there. Growth: apart over of, on a logarithmic scale."""
_WORDS = ("layer of the candidate", "of the reference", "what", "alone", "cause")
_NUMBERS = ("error", "off", "apart", "of", "growth")


def page_of(diagnosis: Diagnosis, about: Mapping[str, str] | None) -> str:
    """The page; ``about`` says which models and inputs these are."""
    first = diagnosis.first_difference
    cause = None if first is None or first.cause is None else vars(first.cause)
    return finding_page(
        Finding(
            title="Two models compared",
            outcome=diagnosis.outcome.value,
            explanation=diagnosis.explanation,
            payload=diagnosis.to_dict(),
            facts=_facts(diagnosis),
            cause=cause,
            notes=diagnosis.notes,
            tables=[_layers(diagnosis)] if diagnosis.layers else [],
            picture=picture_of(diagnosis),
        ),
        about=about,
    )


def _facts(diagnosis: Diagnosis) -> dict[str, str]:
    found, first = {}, diagnosis.first_difference
    if first is not None:
        found["first difference"] = f"{place_of(first)}{f' ({first.words})' * bool(first.words)}"
        found["there"] = first.verdict.explanation
    for side, names in zip(("candidate", "reference"), diagnosis.unpaired, strict=True):
        if names:
            found[f"without counterpart in the {side}'s layers"] = ", ".join(names)
    return found


def _layers(diagnosis: Diagnosis) -> Table:
    layers, first = diagnosis.layers, diagnosis.first_difference
    filled = _filled([_share(layer) for layer in layers])
    rows = [(layer.verdict.outcome.value, _row(layer, part)) for layer, part in zip(layers, filled, strict=True)]
    marked = next((number for number, layer in enumerate(layers) if layer is first), None)
    return Table("Layers", _NOTE, (*_WORDS, *_NUMBERS), rows, left=len(_WORDS), marked=marked)


def _row(layer: Layer, part: float | None) -> list[Cell]:
    numbers = [layer.bound, layer.largest, layer.inherited, layer.size]
    what = layer.kind + f" x {layer.calls:,}" * (layer.calls > 1) + f": {layer.words}" * bool(layer.words)
    share = _share(layer)
    return [
        Cell(place_of(layer)),
        Cell(layer.reference),
        Cell(what),
        Cell(layer.verdict.outcome.value, is_outcome=True),
        Cell("" if layer.cause is None else layer.cause.name),
        *(Cell("" if number is None else f"{number:.3g}") for number in numbers),
        Cell("" if share is None else f"{share:.2g}", part),
    ]


def _share(layer: Layer) -> float | None:
    """How far the models are apart there, as a share of the values."""
    return layer.inherited / layer.size if layer.inherited is not None and layer.size else None


def _filled(shares: Sequence[float | None]) -> list[float | None]:
    """How far each bar is filled: from the power of ten below the least share to that above the largest.

    Example:
        >>> _filled([None, 0.0, 1e-6, 1e-4, 1e-2])
        [None, 0.0, 0.2, 0.6, 1.0]
    """
    logs = [math.log10(share) for share in shares if share and math.isfinite(share)]
    low, high = (math.floor(min(logs)) - 1, math.ceil(max(logs))) if logs else (0, 1)
    return [None if share is None else _part(share, low, high) for share in shares]


def _part(share: float, low: int, high: int) -> float:
    if not math.isfinite(share):
        return 1.0
    return round((math.log10(share) - low) / (high - low), 3) if share > 0 else 0.0
