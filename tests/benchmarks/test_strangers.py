"""The strangers' faults: a hundred, each shown by a call, and a run that tells a fault from a defect of torch."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("HYPOTHESIS_NO_PLUGINS", "1")  # the benchmarks set it; here it is put back
    monkeypatch.syspath_prepend(BENCHMARKS)
    import strangers

    return strangers


def _chosen(strangers: ModuleType, *, legal: bool) -> list:
    return strangers.chosen(argparse.Namespace(only=None, legal=legal, piece="1/1"))


def test_there_are_a_hundred_faults_and_twenty_right_kernels(strangers: ModuleType) -> None:
    faults = _chosen(strangers, legal=False)
    assert max(Counter(one.id for one in faults).values()) == 1
    assert len(faults) == 100
    assert len(_chosen(strangers, legal=True)) == 20
    assert all("#" in one.source and one.says.endswith(".") for one in faults)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in forward mode
def test_each_fault_differs_from_torch_in_its_call_and_not_in_the_near_one(strangers: ModuleType) -> None:
    proofs = {one.id: strangers.prove(one) for one in _chosen(strangers, legal=False)}
    assert {key: complaint for key, complaint in proofs.items() if complaint} == {}


def test_a_proof_complains_of_a_backend_that_is_torch(strangers: ModuleType) -> None:
    one = strangers.FAULTS[0] if strangers.FAULTS else _chosen(strangers, legal=False)[0]
    honest = strangers.replace(one, make=strangers.Torch)
    assert strangers.prove(honest) == "its call does not differ from torch"


def test_a_case_that_torch_keeps_is_the_faults_own(strangers: ModuleType) -> None:
    (one,) = [one for one in _chosen(strangers, legal=False) if one.id == "bias_square"]
    (check,) = strangers.equiv.testing.checks(one.make(), laws=["boundaries"], dtypes=["float32"])
    check = strangers.replace(check, profile="gate", seed=0, examples=60)
    with pytest.raises(strangers.equiv.testing.LawBroken) as broken:
        check()
    assert not strangers.is_torchs_own(one.make(), check, broken.value.result.failure.stored)
