"""How hard to try: three named profiles, each of which sets every Hypothesis setting that matters here itself.

Hypothesis has a profile of its own for CI that derandomizes and drops the database; a nightly run would inherit both
unnoticed. Nothing here is registered with Hypothesis and no setting of a host project changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from equiv.arguments import refusal

_STORAGE = Path.cwd() / ".hypothesis" / "examples"  # of where the process was started: a test may go elsewhere


@dataclass(frozen=True)
class Profile:
    """One way to run the laws.

    Attributes:
        name: ``dev``, ``gate`` or ``deep``; messages say ``equiv-gate``.
        max_examples: Cases per item for a law of weight 1.
        derandomize: Whether a run tries the same cases each time.
        database: Whether failing cases are kept in ``.hypothesis/`` of the folder that the process was started in, and
            tried first next time.
        deep: Whether the sizes go beyond 1024, to 32767 and 65536 with their neighbours.

    Example:
        >>> PROFILES["gate"].derandomize, PROFILES["gate"].database
        (True, False)
    """

    name: str
    max_examples: int
    derandomize: bool
    database: bool
    deep: bool

    def settings(self, *, max_examples: int) -> settings:
        """Every setting that decides what is run, set explicitly."""
        return settings(
            max_examples=max_examples,
            derandomize=False,  # a seed per item says the same, and keeps items apart
            database=DirectoryBasedExampleDatabase(_STORAGE) if self.database else None,
            deadline=None,  # shared machines stall; time is measured in benchmarks/
            print_blob=False,  # the failure prints a recipe and a snippet instead
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            phases=tuple(p for p in Phase if p not in (Phase.explain, Phase.target)),
            # Large maps take their time on a loaded machine; that is not a fault of the case.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
            backend="hypothesis",
            stateful_step_count=1,
        )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("dev", 25, derandomize=False, database=False, deep=False),
        Profile("gate", 80, derandomize=True, database=False, deep=False),
        Profile("deep", 600, derandomize=False, database=True, deep=True),
    )
}
"""The profiles by name.

Example:
    >>> sorted(PROFILES)
    ['deep', 'dev', 'gate']
"""


def profile_of(name: str | Profile) -> Profile:
    """The profile of a name, with or without the prefix ``equiv-``.

    Raises:
        EquivError: No profile has this name.

    Example:
        >>> profile_of("equiv-gate").derandomize
        True
    """
    if isinstance(name, Profile):
        return name
    word = name.removeprefix("equiv-") if isinstance(name, str) else ""
    if word not in PROFILES:
        raise refusal("profile", f"one of {', '.join(PROFILES)}", name, "dev is quick, gate repeats, deep is long")
    return PROFILES[word]
