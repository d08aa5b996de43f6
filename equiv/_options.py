"""What a pytest run was asked for. Free of torch, so that the plugin can set it before torch starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
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

    def request(self) -> dict[str, Any]:
        """What the run was asked for, as reports show it."""
        return {name: value for name, value in asdict(self).items() if name not in _PRIVATE}


_PRIVATE = ("explicit", "xfails", "xfails_met")

options = Options()
