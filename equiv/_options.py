"""What a pytest run was asked for. Free of torch, so that the plugin can set it before torch starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Options:
    """Set by the plugin from its command line and ini options; read by ``equiv.testing``.

    Attributes:
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases per item, or None for the profile's number.
        seed: Of all items, or None.
        dtypes: Names, or None for all.
        arithmetic: ``declared`` or ``measured``.
        devices: Such as ``cpu`` or ``cuda:0``.
        isolate: Whether items run in a worker process.
        timeout: Seconds that an isolated item may take, or None for the default.
        memory: GiB that an isolated item may use, or None for the default.
        case: As a failure prints it, to try before any is drawn, or None.
        explicit: Which of them stand on the command line: they win over the arguments of a test.
        xfails: Ids and patterns of items that the whole run expects to fail, with reasons.
        xfails_met: Those of them that an item was found for.
    """

    profile: str = "dev"
    examples: int | None = None
    seed: int | None = None
    dtypes: tuple[str, ...] | None = None
    arithmetic: str = "declared"
    devices: tuple[str, ...] = ("cpu",)
    isolate: bool = False
    timeout: float | None = None
    memory: float | None = None
    case: str | None = None
    explicit: frozenset[str] = frozenset()
    xfails: dict[str, str] = field(default_factory=dict)
    xfails_met: set[str] = field(default_factory=set)

    def chosen(self, **asked: object) -> dict[str, Any]:
        """By name: an option of the command line, else what a test asks for, else the ini option or the default.

        Example:
            >>> Options(profile="gate", seed=3, explicit=frozenset(["seed"])).chosen(profile="deep", seed=5)
            {'profile': 'deep', 'seed': 3}
        """
        return {
            name: getattr(self, name) if value is None or name in self.explicit else value
            for name, value in asked.items()
        }


options = Options()

kept: dict[str, str] = {}
"""By the id of an item, the case that broke it in an earlier run; filled by the plugin while its test runs."""
