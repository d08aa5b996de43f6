import importlib

import hypothesis.core
import pytest


@pytest.fixture(scope="session")
def modules_that_stay():
    """A run of pytest in this process forgets what it was the first to import: torch registers operators only once."""
    for name in ("torch._dynamo", "equiv.laws"):
        importlib.import_module(name)


@pytest.fixture
def pytester(modules_that_stay, pytester, monkeypatch):
    """Leaves ``--hypothesis-seed`` to the run that it was given to: Hypothesis keeps it, and no database beside it."""
    monkeypatch.setattr(hypothesis.core, "global_force_seed", hypothesis.core.global_force_seed)
    return pytester
