"""Where something ran: versions, system and CPU, as reports of runs and of findings state it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Environment:
    """The versions of a run, the system, and its CPU: the widest vector instructions that torch uses."""

    equiv: str
    torch: str
    hypothesis: str | None
    python: str
    platform: str
    cpu: str

    @classmethod
    def here(cls) -> Environment:
        """That of this process."""
        import torch

        import equiv

        return cls(
            equiv=equiv.__version__,
            torch=torch.__version__,
            hypothesis=_version("hypothesis"),
            python=platform.python_version(),
            platform=platform.platform(),
            cpu=torch.backends.cpu.get_cpu_capability(),
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
