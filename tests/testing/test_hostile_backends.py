"""Backends that crash, hang, eat memory or change what is not theirs are reported by name, and cost one item each."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import hostile
import pytest
import torch

import equiv
from equiv.backends import TorchEager
from equiv.cli import main, run_laws
from equiv.laws import Limits, Pool, items, listeners, run_item
from equiv.report import Request
from equiv.strategies import Recipe, Values, build_case
from equiv.testing import check_backend, checks

LIMITS = {"timeout": 5, "memory": 1}
HARMLESS = [kind for kind, (word, _) in hostile.BY_KIND.items() if word not in ("crash", "exit", "timeout", "memory")]


def asked(backend, **options):
    return check_backend(backend, laws=["exact"], dtypes=["float32"], examples=6, seed=1, **options)


@pytest.fixture(scope="module", autouse=True)
def _no_worker_is_left():
    yield
    equiv.laws.close_shared_pool()


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", hostile.BY_KIND, ids=lambda kind: kind.__name__)
def test_in_a_worker_each_is_reported_by_name(kind):
    [result] = asked(kind(), isolate=True, **LIMITS)
    word, note = hostile.BY_KIND[kind]
    assert result.failure.kind == word, result.failure.summary
    assert note in result.failure.note
    assert f"in float32 on {kind.__name__.lower()} " in result.failure.summary
    assert result.failure.command.endswith("isolate=True, timeout=5, memory=1)")
    assert result.seed == 1


@pytest.mark.parametrize("kind", HARMLESS, ids=lambda kind: kind.__name__)
def test_in_this_process_each_that_leaves_it_alive_is_reported_by_name(kind):
    [result] = asked(kind())
    word, note = hostile.BY_KIND[kind]
    assert result.failure.kind == word, result.failure.summary
    assert note in result.failure.note
    assert torch.is_grad_enabled()


def test_a_right_backend_passes_in_a_worker_with_the_results_that_it_has_here():
    found = [asked(hostile.Fine()), asked(hostile.Fine(), isolate=True, **LIMITS)]
    here, there = ([{**result.to_dict(), "seconds": 0} for result in results] for results in found)
    assert here == there
    assert here[0]["failure"] is None


def test_no_result_is_lost_whoever_dies_and_listeners_hear_of_each():
    heard = []
    listeners.append(heard.append)
    backends = [hostile.Segfault(), hostile.Fine(), hostile.Exits()]
    try:
        for check in checks(backends, laws=["exact", "forward"], dtypes=["float32"], isolate=True, **LIMITS):
            if check.item.backend.name == "fine":
                check()
            else:
                with pytest.raises(equiv.testing.LawBroken):
                    check()
    finally:
        listeners.remove(heard.append)
    assert [result.item for result in heard] == [
        item.id for item in items(backends, laws=["exact", "forward"], dtypes=["float32"])
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equiv.laws.run_isolated(3, Limits(None, None)), "item: expected an equiv.laws.Item, got 3; "),
        (
            lambda: equiv.laws.run_isolated(items([TorchEager()])[0], 3),
            "limits: expected an equiv.laws.Limits, got 3; ",
        ),
        (lambda: Pool(3), "limits: expected an equiv.laws.Limits, got 3; "),
        (lambda: Pool(jobs=0), "jobs: expected an integer of at least 1, got 0; "),
    ],
    ids=["item", "limits", "limits of a pool", "jobs"],
)
def test_a_misuse_of_workers_is_refused_in_one_sentence(call, message):
    with pytest.raises(equiv.EquivError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_several_workers_use_one_thread_each():
    """They would wait for each other's: a run took ten times as long."""
    chosen, threads = (
        items([hostile.OneThread()], laws=["weight_recovery"], dtypes=["float32", "int8"]),
        torch.get_num_threads(),
    )
    torch.set_num_threads(2)
    try:
        with Pool(Limits(None, None), jobs=2) as pool:
            found = [result for _, result in pool.run(chosen, profile="dev", examples=3, seed=1, arithmetic="declared")]
    finally:
        torch.set_num_threads(threads)
    assert [result.failure for result in found] == [None, None]


def test_a_crash_is_shown_with_its_case_as_a_program_that_crashes(tmp_path):
    [result] = asked(hostile.Segfault(), isolate=True, **LIMITS)
    assert "from hostile import Segfault" in result.failure.snippet
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", result.failure.snippet], capture_output=True, env=environment)
    assert done.returncode < 0


def test_a_local_class_without_a_pickle_is_inherited():
    class Local(hostile.Segfault):
        pass

    class Right(hostile.Fine):
        pass

    assert asked(Right(), isolate=True)[0].failure is None
    assert asked(Local(), isolate=True)[0].failure.kind == "crash"


def test_ctrl_c_of_a_backend_is_its_own_in_a_worker():
    class Interrupts(hostile.Fine):
        def harm(self, y, input):
            raise KeyboardInterrupt

    [result] = asked(Interrupts(), isolate=True)
    assert (result.failure.kind, result.failure.note) == ("raised", "raises KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        asked(Interrupts())


def test_limits_are_refused_without_isolation_and_where_they_are_no_positive_number():
    with pytest.raises(equiv.EquivError, match="timeout: expected None where items are not isolated, got 3"):
        asked(hostile.Fine(), timeout=3)
    with pytest.raises(equiv.EquivError, match="memory: expected a number above 0, got 0"):
        asked(hostile.Fine(), isolate=True, memory=0)


# --- state and leaks --------------------------------------------------------------------------------------------------


def _leave(guard):
    guard.__enter__()
    _open.append(guard)


_open: list[object] = []
CHANGES = {
    "grad mode": lambda: torch.set_grad_enabled(False),
    "inference mode": lambda: _leave(torch.inference_mode()),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "function modes": lambda: _leave(torch.device("meta")),
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "mkldnn": lambda: torch.backends.mkldnn.set_flags(False),
    "precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "autocast on cpu": lambda: _leave(torch.autocast("cpu")),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "forward-mode": lambda: torch.autograd.forward_ad.enter_dual_level(),
    "cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "random numbers of torch": lambda: torch.manual_seed(5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_state_is_named_and_put_back_and_the_next_item_runs_without_it(name):
    class Changes(hostile.Fine):
        def harm(self, y, input):
            CHANGES[name]()
            return y

    torch_state = torch.get_rng_state()
    [result] = asked(Changes())
    assert result.failure.kind == "state", result.failure.summary
    assert name in result.failure.note
    assert result.failure.form == "linear"
    [result] = check_backend(TorchEager(), laws=["gradients"], dtypes=["float32"], examples=3, seed=1)
    assert result.failure is None
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_random_numbers_that_were_used_between_the_cases_of_an_item_are_no_change():
    """A case that is kept is tried as it is; those that Hypothesis draws, with numbers that it has seeded."""
    (item,) = items([hostile.Fine()], laws=["exact"], dtypes=["float32"])
    small = Recipe((1, 2), 1, (), x=Values("distinct"), weight=Values("constant"))
    trial, case = equiv.laws.Trial(item.backend, item.dtype, item.forms), build_case(small)
    for seed in range(20):
        random.seed(seed)
        item.law.try_on(trial, case)


def test_a_backend_that_changes_state_within_its_call_alone_is_right():
    class Restores(hostile.Fine):
        def harm(self, y, input):
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.rand(1)
            torch.set_default_dtype(before)
            return y

    assert [result.failure for result in asked(Restores())] == [None]


def test_a_backend_that_keeps_a_constant_number_of_things_does_not_leak():
    class Caches(hostile.Fine):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.packed = [], [], []

        def harm(self, y, input):
            self.packed.append(input.clone())  # of its own; what it returned is looked at
            self.first = [*self.first, y][:16]
            self.last = [*self.last, y][-4:]
            return y

    results = check_backend(Caches(), laws=["exact", "forward"], dtypes=["float32"], examples=40, seed=1)
    assert [result.failure for result in results] == [None, None]


def test_the_exit_of_a_backend_is_a_failure_and_hypothesis_finds_the_smallest_case():
    class Leaves(hostile.Fine):
        def harm(self, y, input):
            return y if y.numel() < 3 else sys.exit(7)

    [result] = asked(Leaves())
    assert result.failure.kind == "raised"
    assert "raises SystemExit: 7" in result.failure.note


# --- front ends -------------------------------------------------------------------------------------------------------

SUITE = """
import equiv.testing, hostile

BACKENDS = [kind() for kind in (*hostile.BY_KIND, hostile.Fine)]

@equiv.testing.parametrize_with_laws(BACKENDS, laws=["exact"], dtypes=["float32"])
def test_law(law):
    law()
"""


def test_pytest_with_xdist_reports_each_and_loses_none(tmp_path):
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nequiv_profile = dev\n")
    words = ["-n2", "--equiv-isolate", "--equiv-timeout=5", "--equiv-memory=1", "--equiv-examples=6", "--equiv-seed=1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "--equiv-report=r.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert f"{len(hostile.BY_KIND)} failed, 1 passed" in done.stdout, done.stdout + done.stderr
    found = {item["backend"]: item["failure"] for item in json.loads((tmp_path / "r.json").read_text())["items"]}
    assert found.pop("fine") is None
    assert {name: failure["kind"] for name, failure in found.items()} == {
        kind.__name__.lower(): word for kind, (word, _) in hostile.BY_KIND.items()
    }


def test_verify_reports_each_and_loses_none():
    named = [word for kind in (*hostile.BY_KIND, hostile.Fine) for word in ("--backend", f"hostile:{kind.__name__}")]
    words = ["verify", *named, "--law", "exact", "--dtype", "float32", "--examples", "6", "--seed", "1", "--json", "-"]
    words += ["--isolate", "--timeout", "5", "--memory", "1", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = f"import sys; from equiv.cli import main; sys.exit(main({words}))"
    done = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    found = {item["backend"]: item["failure"] for item in json.loads(done.stdout)["items"]}
    assert found.pop("fine") is None
    assert {name: failure["kind"] for name, failure in found.items()} == {
        kind.__name__.lower(): word for kind, (word, _) in hostile.BY_KIND.items()
    }
    again = "equiv verify --law exact --dtype float32 --backend hostile:Hangs --profile dev --examples 6 --seed 1"
    assert found["hangs"]["command"] == f"{again} --isolate --timeout 5 --memory 1"


@pytest.mark.parametrize("name", ["hostile", "hostile:Nobody", "nowhere.py:Fine", "hostile:Stop", ":", "json:loads"])
def test_a_name_that_is_no_backend_is_refused(name, capsys):
    assert main(["verify", "--backend", name, "--law", "exact"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("equiv verify: --backend: expected ")
    assert len(said.splitlines()) == 1


def test_results_come_from_the_jobs_that_live():
    backends = [hostile.Exits(), hostile.Segfault(), hostile.Fine()]
    chosen = items(backends, laws=["exact", "forward"], dtypes=["float32"])
    for limits in (None, Limits(5, 1)):
        results = []
        request = Request(examples=4, seed=1)
        run_laws.run_all(request, chosen, 2, results.append, starting=lambda _: None, limits=limits)
        assert {result.item: result.failure and result.failure.kind for result in results} == {
            item.id: {"exits": "exit", "segfault": "crash", "fine": None}[item.backend.name] for item in chosen
        }


def test_a_closed_pool_leaves_no_process():
    [item] = items([hostile.Hangs()], laws=["exact"], dtypes=["float32"])
    pool = Pool(Limits(60, 1))
    pool._hand_over(0, item, pool._task(item, {}))
    [worker] = pool._busy
    assert worker.process.is_alive()
    pool.close()
    assert not worker.process.is_alive()
    assert run_item(items([hostile.Fine()], laws=["exact"], dtypes=["int8"])[0], examples=2).failure is None
