"""What was not asked in a run, and why: in few lines for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_FEW = 6  # names of one kind that a line lists


def merged(entries: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Each thing that was not asked once, by backend, declared before found."""
    once = {tuple(sorted(entry.items())): dict(entry) for entry in entries}
    keys = ("backend", "how", "what", "reason", "law", "form", "dtype")
    return sorted(once.values(), key=lambda entry: tuple(entry[key] for key in keys))


def not_asked_lines(entries: Iterable[Mapping[str, str]]) -> list[str]:
    """One line for each reason, with the laws, forms and dtypes that it concerns.

    Example:
        >>> about = {"what": "stride", "backend": "mine", "law": "dense", "form": "full", "how": "declared"}
        >>> for line in not_asked_lines([{**about, "reason": "stride=False", "dtype": name} for name in ("a", "b")]):
        ...     print(line)
        not asked of mine: stride (declared: stride=False) in dense, full, a and b
    """
    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for entry in merged(entries):
        alike = re.sub(r"\d+", "0", entry["reason"]) if entry["what"] == "calls" else entry["reason"]  # but for sizes
        groups.setdefault((entry["backend"], entry["what"], entry["how"], alike), []).append(entry)
    lines = []
    for (backend, what, how, _), group in groups.items():
        reason = group[0]["reason"]
        places = [
            _listed(names, plural)
            for key, plural in (("law", "laws"), ("form", "forms"), ("dtype", "dtypes"))
            if (names := [name for name in dict.fromkeys(entry[key] for entry in group) if name])
        ]
        where = f" in {', '.join(places)}" if places else ""
        lines.append(f"not asked of {backend}: {what} ({how}: {reason}){where}")
    return lines


def _listed(names: list[str], plural: str) -> str:
    if len(names) > _FEW:
        return f"{len(names)} {plural}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
