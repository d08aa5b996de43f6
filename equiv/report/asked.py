"""What was not asked in a run, and why: in few lines for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_FEW = 6  # names of one kind that a line lists


def not_asked_lines(entries: Iterable[Any]) -> list[str]:
    """One line for each reason, with the laws, forms and dtypes that it concerns; declared before found.

    The entries are those of ``equiv.laws``, or the report's own.

    Example:
        >>> from equiv.laws import NotAsked
        >>> about = {"law": "dense", "form": "full", "reason": "the backend declares stride=False"}
        >>> two = [NotAsked("stride", "mine", dtype=word, **about) for word in ("int8", "int16")]
        >>> not_asked_lines(two)
        ['not asked of mine: stride (declared: the backend declares stride=False) in dense, full, int16 and int8']
    """
    groups: dict[tuple[str, ...], list[Any]] = {}
    for one in sorted(entries, key=lambda one: (one.backend, one.how, one.what, one.law, one.form, one.dtype)):
        # A reason that a backend gives for each dtype or size is one reason: the first stands for all.
        alike = re.sub(r"'\w+'|torch\.\w+|\d+", "0", one.reason) if one.how == "found" else one.reason
        groups.setdefault((one.backend, one.what, one.how, alike), []).append(one)
    lines = []
    for (backend, what, how, _), group in groups.items():
        kinds = {"laws": [one.law for one in group], "forms": [one.form for one in group]}
        kinds["dtypes"] = [one.dtype for one in group]
        places = [
            _listed(found, kind) for kind, names in kinds.items() if (found := [*dict.fromkeys(filter(None, names))])
        ]
        where = f" in {', '.join(places)}" if places else ""
        lines.append(f"not asked of {backend}: {what} ({how}: {group[0].reason}){where}")
    return lines


def _listed(names: list[str], plural: str) -> str:
    if len(names) > _FEW:
        return f"{len(names)} {plural}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
