"""How a failure is seen again: what its run was given, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from equiv.backends import TorchEager
from equiv.laws.selection import Item


@dataclass(frozen=True)
class Attempt:
    """What the run of an item was given.

    Attributes:
        profile: Its name.
        examples: Cases to draw.
        seed: That they were drawn from.
        arithmetic: What envelopes follow.
        case: As text, where the seed may not find it: it was kept from a run before, or may have been.

    Example:
        >>> Attempt(profile="gate", examples=80, seed=0).arithmetic
        'declared'
    """

    profile: str
    examples: int
    seed: int
    arithmetic: str = "declared"
    case: str | None = None

    def options(self, prefix: str = "--") -> Iterator[str]:
        """As words of a command.

        Example:
            >>> " ".join(Attempt("gate", 80, 0).options("--equiv-"))
            '--equiv-profile gate --equiv-examples 80 --equiv-seed 0'
        """
        yield from (f"{prefix}profile", self.profile, f"{prefix}examples", str(self.examples))
        yield from (f"{prefix}seed", str(self.seed))
        yield from (f"{prefix}arithmetic", self.arithmetic) if self.arithmetic != "declared" else ()
        yield from (f"{prefix}case", self.case) if self.case is not None else ()


def command_of(item: Item, attempt: Attempt, name: str | None = None) -> str:
    """The command that runs an item again, or the call where its backend has no name that a command can have.

    ``name`` is what ``equiv verify --backend`` was given; torch's own backend needs none.
    """
    forms = () if item.forms == item.law.forms else item.forms
    if name is not None or type(item.backend) is TorchEager:
        device = str(item.backend.device)
        words = ["equiv", "verify", "--law", item.law.id, "--dtype", item.word]
        words += ["--form", ",".join(forms)] * bool(forms)
        words += ["--backend", name] if name is not None else ["--device", device] * (device != "cpu")
        return shlex.join([*words, *attempt.options()])
    given: dict[str, Any] = {"laws": [item.law.id], "dtypes": [item.word], **({"forms": list(forms)} if forms else {})}
    given |= {"profile": attempt.profile, "examples": attempt.examples, "seed": attempt.seed}
    given |= {"arithmetic": attempt.arithmetic} if attempt.arithmetic != "declared" else {}
    given |= {"case": attempt.case} if attempt.case is not None else {}
    options = "".join(f", {name}={value!r}" for name, value in given.items())
    return f"equiv.testing.check_backend(backend{options})"
