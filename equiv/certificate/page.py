"""A certificate as a page of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from equiv.pages import Cell, Finding, Table, finding_page, picture_of

if TYPE_CHECKING:
    from equiv.certificate.report import Certificate


def page_of(certificate: Certificate, about: Mapping[str, str] | None) -> str:
    """The page; ``about`` says which maps were compared."""
    facts = {
        "reason": certificate.reason,
        "method": certificate.method,
        "probes": f"{certificate.probes:,}",
        "error probability": f"{certificate.error_probability:.3g}",
        "differences": f"{certificate.difference_count:,}",
        "rests on": certificate.assumed,
        "resolution": f"{certificate.resolution:.3g}" if certificate.resolution else "",
    }
    return finding_page(
        Finding(
            title="Two maps, for all inputs",
            outcome="equivalent" if certificate.equivalent else "not certified",
            explanation=certificate.explanation,
            payload=certificate.to_dict(),
            facts=facts | {name: str(value) for name, value in certificate.scope.items()},
            cause=None if certificate.cause is None else vars(certificate.cause),
            tables=[_differences(certificate)] if certificate.differences else [],
            picture=picture_of(certificate),
        ),
        about=about,
    )


def _differences(certificate: Certificate) -> Table:
    rows = [
        ("", [Cell(str(output)), Cell("bias" if index is None else str(index)), Cell(str(mine)), Cell(str(theirs))])
        for output, index, mine, theirs in certificate.differences
    ]
    total = certificate.difference_count
    note = f"The first {len(rows):,} of {total:,}. " * (len(rows) < total) + "Indices count in what is flattened."
    return Table("Differing weights", note, ("output", "input", "candidate", "reference"), rows, left=2)
