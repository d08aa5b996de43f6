"""What came of all laws of a backend: the results one by one, and the report that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from equiv.laws import Result
from equiv.report import NotAsked, Run, html_of, json_of
from equiv.text import counted


@dataclass(frozen=True, eq=False, repr=False)
class Results(Sequence[Result]):
    """The results of :func:`equiv.testing.check_backend`, in the order of the laws; equal to a list of the same.

    Attributes:
        results: They themselves.
        run: The same as an :class:`equiv.report.Run`: what the report is made from.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.testing import check_backend
        >>> results = check_backend(TorchEager(), laws=["exact"], dtypes=["int8"], examples=2, seed=0)
        >>> results.holds, len(results), results[0].outcome
        (True, 1, 'holds')
    """

    results: tuple[Result, ...]
    run: Run

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...

    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        return list(self.results[index]) if isinstance(index, slice) else self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Results | list):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # results can be changed

    def __repr__(self) -> str:
        broken = f", broken: {', '.join(self.run.broken)}" if self.run.broken else ""
        return f"<Results: {counted(len(self), 'item')}{broken}>"

    @property
    def failures(self) -> list[Result]:
        """Those whose law is broken, but for expected failures."""
        return [result for result, item in zip(self, self.run.items, strict=True) if item.outcome == "broken"]

    @property
    def not_asked(self) -> list[NotAsked]:
        """What was not asked of the backend, and why."""
        return self.run.not_asked

    @property
    def holds(self) -> bool:
        """Whether something was asked, and no law is broken."""
        return self.run.holds

    def to_dict(self) -> dict[str, Any]:
        """The report, in the layout of docs/report.md; infinities and NaN are still numbers."""
        return self.run.to_dict()

    def to_json(self) -> str:
        """The report as JSON, the same as ``equiv verify --json`` writes."""
        return json_of(self.run)

    def to_html(self) -> str:
        """The report as one page of HTML, the same as ``equiv verify --html`` writes.

        Raises:
            MissingExtraError: jinja2 is not installed.
        """
        return html_of(self.run)
