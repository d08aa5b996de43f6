"""The command says what it found, in 80 columns, and every misuse ends in one message and exit code 2."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equiv import Cause, laws
from equiv.cli import main, run_laws
from equiv.cli.commands import COMMANDS
from equiv.errors import EquivError
from equiv.parsing import parse_name, parse_names

FORMS = ("linear", "full", "pointwise")
Runner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    def call(*arguments: str, columns: int = 80) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return call


def _process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "equiv", *arguments], capture_output=True, text=True, env=kept, timeout=120
    )


def _result(item: Any, *, seed: int, examples: int = 4, failure: Any = None) -> laws.Result:
    tally = {form: laws.Tally(10, 7, 2, 1, 0, 0.25) for form in item.forms}
    return laws.Result(
        item.id,
        item.law.id,
        item.word,
        item.backend.name,
        examples,
        0.01,
        seed,
        tally,
        {"n modulo 8": {"1": 4}},
        failure,
    )


def _failure(item: Any, seed: int) -> laws.Failure:
    return laws.Failure(
        law=item.law.id,
        form="full",
        dtype=item.word,
        backend=item.backend.name,
        sentence=item.law.sentence,
        note="returns 2.0, exact is 1.0, outside its envelope, at [0, 1], in a note that is longer than one line",
        shapes="input (1, 4), weight (2, 4), no bias",
        where=(0, 1),
        actual="2.0",
        expected="1.0",
        envelope=("0.9", "1.1"),
        ratio=10.0,
        cause=Cause("bias-doubled", "the bias was added twice"),
        snippet="import torch\nprint(torch.ones(1))",
        command=f"equiv verify --law {item.law.id} --dtype {item.word} --seed {seed}",
        case="build_case(...)",
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Laws that hold at once; the calls, for inspection."""
    calls: list[Any] = []

    def run_item(
        item: Any, *, profile: str, examples: int | None, seed: int, arithmetic: str, first: list[str]
    ) -> laws.Result:
        assert (arithmetic, first) == ("declared", [])
        calls.append((item.id, profile, examples, seed))
        return _result(item, seed=seed)

    monkeypatch.setattr(run_laws, "run_item", run_item)
    monkeypatch.setattr(run_laws, "default_jobs", lambda *_: 1)
    return calls


# --- help, version, what is needed ------------------------------------------------------------------------------------


def test_help_imports_neither_torch_nor_hypothesis() -> None:
    code = (
        "import sys; from equiv.cli import main; code = main(['--help']); "
        "print([m for m in ('torch', 'hypothesis') if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


@pytest.mark.parametrize("command", [(), *[(name,) for name in COMMANDS]])
def test_every_command_has_help_in_80_columns(run: Runner, command: tuple[str, ...]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: equiv")
    assert max(map(len, out.splitlines())) <= 80


def test_the_list_of_commands_is_not_cut(run: Runner) -> None:
    for columns in (80, 120):
        said = " ".join(run("--help", columns=columns)[1].split())
        assert [name for name, command in COMMANDS.items() if (command.__doc__ or "").splitlines()[0] not in said] == []
    assert 100 < max(map(len, run("verify", "--help", columns=120)[1].splitlines())) <= 120


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    shown = _process("--help", _EQUIV_COMPLETE=f"source_{shell}")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"_EQUIV_COMPLETE=complete_{shell}" in shown.stdout
    words = {"COMP_WORDS": "equiv counter", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "equiv counter"}
    if shell == "fish":
        words["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    assert "counterexample" in _process(_EQUIV_COMPLETE=f"complete_{shell}", **words).stdout


def test_no_command_shows_the_help(run: Runner) -> None:
    code, out, _ = run()
    assert code == 0
    assert "counterexample" in out


def test_version(run: Runner) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"equiv \d+\.\d+\.\d+\S*\n", out)


@pytest.mark.parametrize("package", ["typer", "rich", "hypothesis"])
def test_a_missing_package_is_named_in_one_line(run: Runner, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run("--help")
    assert (code, out) == (2, "")
    assert err == f'equiv: the package {package} is not installed; run: pip install "torch-equiv[report]"\n'


# --- misuse -----------------------------------------------------------------------------------------------------------

MISUSES = [
    (["bogus"], "bogus"),
    (["--bogus"], "--bogus"),
    (["demo", "--section", "5"], "--section: expected a whole number from 1 to 4, got '5'"),
    (["demo", "--section", "0"], "--section: expected a whole number from 1 to 4, got '0'"),
    (["demo", "--section", "two"], "--section: expected a whole number from 1 to 4, got 'two'"),
    (["demo", "extra"], "extra"),
    (["verify", "--law", "foward"], "got 'foward'; did you mean 'forward'?"),
    (["verify", "--law", "forward,,exact"], "--law: expected names separated by commas, got 'forward,,exact'"),
    (["verify", "--law", ""], "--law: expected names separated by commas, got ''"),
    (["verify", "--form", "conv"], "--form: expected one of linear, full, pointwise, got 'conv'"),
    (["verify", "--dtype", "flot32"], "--dtype: expected one of float32"),
    (["verify", "--dtype", "bool"], "got 'bool'"),
    (["verify", "--device", "cuda:99"], "--device: expected a device that is present, got 'cuda:99'; choose among cpu"),
    (["verify", "--device", "meta"], "--device: expected a device that is present, got 'meta'"),
    (["verify", "--device", "toaster"], "--device: expected a device that is present, got 'toaster'"),
    (["verify", "--profile", "ci"], "--profile: expected one of dev, gate, deep, got 'ci'"),
    (["verify", "--examples", "0"], "--examples: expected a whole number from 1 to 1000000, got '0'"),
    (["verify", "--examples", "1.5"], "--examples: expected a whole number"),
    (["verify", "--seed", "-1"], "--seed: expected a whole number from 0 to 4294967295, got '-1'"),
    (["verify", "--seed", "9" * 30], "--seed: expected a whole number"),
    (["verify", "--jobs", "0"], "--jobs: expected a whole number from 1 to 64, got '0'"),
    (["verify", "--json", "no/such/folder/x.json"], "--json: expected a file that can be written"),
    (["verify", "--json", "."], "--json: expected a file that can be written"),
    (["verify", "--seed"], "--seed"),
    (["verify", "--law", "gradients", "--dtype", "int8"], "--law gradients --dtype int8: expected a law that is about"),
    (["verify", "--law", "dense", "--form", "linear"], "--law dense --form linear: expected a law that is about"),
    (["env", "--json", "no/such/folder/x.json"], "got 'no/such/folder/x.json'"),
    (["counterexample"], "MAP"),
    (["counterexample", "3x4x4", "--out", "0"], "--out: expected a whole number from 1"),
    (["counterexample", "3x4x4", "--out", "many"], "got 'many'"),
    (["counterexample", "3", "--out", "8"], "got '3' with 0 spatial; for one position write 3x1x1"),
    (["counterexample", "3x4x", "--out", "8"], "got '3x4x': a size is missing"),
    (["counterexample", "axb", "--out", "8"], "'a' is not a whole number"),
    (["counterexample", "3x0x4", "--out", "8"], "every size must be at least 1"),
    (["counterexample", "1x3x4x4x4", "--out", "8"], "with 4 spatial; leave out the batch"),
    (["counterexample", "3x-4", "--out", "8"], "'-4' is not a whole number"),
    (["counterexample", "3,4,4", "--out", "8"], "'3,4,4' is not a whole number"),
    (["counterexample", "999999999x9", "--out", "8"], "MAP: expected a layer of at most 16,777,216 weights"),
    (["counterexample", "3x4", "--out", "8", "--dtype", "float8"], "--dtype: expected one of"),
    (["counterexample", "3x4", "--out", "8", "--dtype", "float32,int8"], "--dtype: expected one name"),
    (["counterexample", "3x4", "--out", "8", "--readout", "max"], "--readout: expected one of positions, sum, mean"),
    (["counterexample", "3x4", "--out", "7", "--readout", "positions"], "--readout: expected sum or mean for --out 7"),
    (["counterexample", "3x4", "--out", "8", "--readout", "mean", "--dtype", "int8"], "--readout: expected positions"),
    (["counterexample", "3x4", "--out", "8", "--seed", "x"], "--seed: expected a whole number"),
]


@pytest.mark.parametrize(("arguments", "message"), MISUSES, ids=[" ".join(words)[:60] for words, _ in MISUSES])
def test_misuse_ends_in_one_message_that_names_the_option(run: Runner, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("equiv")
    assert err.count("\n") == 1


def test_a_misuse_is_no_traceback_in_a_process_either() -> None:
    done = _process("verify", "--law", "nothing")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_says_what_was_checked(run: Runner, fake: list[Any]) -> None:
    code, out, err = run("verify", "--law", "forward", "--law", "exact,dense", "--dtype", "float32,int8", "--seed", "7")
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    # 2 dtypes for each of 3 laws; 3, 3 and 2 forms; 10 comparisons a form
    assert "3 laws hold, in 24 cases and 160 comparisons, over 2 dtypes (float32, int8), on cpu with torch" in said
    assert said.endswith("profile dev. To repeat it: --seed 7")
    assert len(fake) == 6
    assert {call[1:] for call in fake} == {("dev", None, 7)}


@pytest.mark.usefixtures("fake")
def test_one_row_for_each_law_and_form(run: Runner) -> None:
    _, out, _ = run("verify", "--law", "forward", "--dtype", "float32,int8", "--seed", "7")
    rows = [line.split() for line in out.splitlines()[2:5]]
    assert rows[0] == ["forward", "linear", "14", "4", "2", "0", "0.25", "float32"]
    assert [row[-8] for row in (rows[0],)] + [row[0] for row in rows[1:]] == ["forward", "full", "pointwise"]


@pytest.mark.usefixtures("fake")
def test_full_has_one_row_for_each_dtype(run: Runner) -> None:
    _, out, _ = run("verify", "--law", "forward", "--dtype", "float32,int8", "--seed", "7", "--full")
    rows = [line.split() for line in out.splitlines()[2:8]]
    assert [row[:3] for row in rows] == [["forward", form, dtype] for form in FORMS for dtype in ("float32", "int8")]


@pytest.mark.usefixtures("fake")
def test_a_wide_terminal_shows_cases_and_comparisons(run: Runner) -> None:
    assert "compared" in run("verify", "--law", "forward", columns=120)[1]
    assert "compared" not in run("verify", "--law", "forward", columns=80)[1]


def test_examples_profile_and_names_reach_the_runner(run: Runner, fake: list[Any]) -> None:
    code, _, _ = run(
        *("verify", "--law", "FREE-parameters", "--form", "full", "--dtype", "torch.float64"),
        *("--profile", "equiv-deep", "--examples", "3", "--seed", "11"),
    )
    assert code == 0
    assert fake == [("free_parameters-full-float64-eager.cpu", "deep", 3, 11)]


def test_a_seed_is_drawn_and_said_and_gate_has_a_fixed_one(run: Runner, fake: list[Any]) -> None:
    said = [run("verify", "--law", "exact", "--dtype", "int8")[1] for _ in range(2)]
    seeds = [re.findall(r"--seed\s+(\d+)", text)[-1] for text in said]
    assert seeds == [str(call[3]) for call in fake]
    assert seeds[0] != seeds[1]
    assert "--seed 0" in " ".join(run("verify", "--law", "exact", "--dtype", "int8", "--profile", "gate")[1].split())


@pytest.mark.usefixtures("fake")
def test_a_broken_law_is_shown_in_full_once_and_exits_1(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_item(item: Any, *, seed: int, **_: Any) -> laws.Result:
        broken = item.law.id in ("exact", "batch") and item.word == "float32"
        return _result(item, seed=seed, failure=_failure(item, seed) if broken else None)

    monkeypatch.setattr(run_laws, "run_item", run_item)
    code, out, _ = run("verify", "--law", "forward,exact,batch", "--examples", "9", "--seed", "5")
    assert code == 1
    assert len([line for line in out.splitlines() if line.startswith("exact: full in float32 on")]) == 1
    assert "the bias was added twice" in out
    assert "again: equiv verify --law exact --dtype float32 --seed 5" in out
    assert len([line for line in out.splitlines() if line.startswith("  batch: full in float32 on eager.cpu ")]) == 1
    assert "2 of 3 laws broken: exact, batch" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.usefixtures("fake")
def test_the_json_holds_everything(run: Runner, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    code, out, _ = run("verify", "--law", "forward", "--seed", "3", "--json", str(target))
    found = json.loads(target.read_text())
    assert code == 0
    assert out
    assert (found["schema"], found["seed"], found["holds"], found["complete"], found["broken"]) == (
        3,
        3,
        True,
        True,
        [],
    )
    assert [item["item"] for item in found["items"]] == found["planned"]
    assert len(found["items"]) == 11
    assert len(found["table"]) == 33
    assert found["items"][0]["forms"]["linear"]["rounding"] == 2
    assert found["items"][0]["coverage"] == {"n modulo 8": {"1": 4}}
    assert found["coverage"]["n modulo 8"] == {"1": 44}


@pytest.mark.usefixtures("fake")
def test_a_dash_sends_the_json_alone_to_standard_output(run: Runner) -> None:
    _, out, err = run("verify", "--law", "forward", "--json", "-")
    assert json.loads(out)["holds"] is True
    assert "1 law holds" in err


@pytest.mark.usefixtures("fake")
def test_a_failure_in_json_has_no_infinity(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_item(item: Any, *, seed: int, **_: Any) -> laws.Result:
        result = _result(item, seed=seed, failure=_failure(item, seed))
        result.forms["full"].max_ratio = float("inf")
        return result

    monkeypatch.setattr(run_laws, "run_item", run_item)
    code, out, _ = run(
        "verify", "--law", "forward", "--dtype", "float32", "--form", "full", "--json", "-", "--seed", "2"
    )
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert code == 1
    assert found["items"][0]["forms"]["full"]["max_ratio"] == "inf"
    assert found["items"][0]["failure"]["command"] == "equiv verify --law forward --dtype float32 --seed 2"


def test_an_existing_file_survives_a_misuse(run: Runner, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("kept")
    assert run("verify", "--json", str(target), "--law", "gradients", "--dtype", "int8")[0] == 2
    assert target.read_text() == "kept"


@pytest.mark.usefixtures("fake")
def test_ctrl_c_reports_what_was_done_and_exits_130(
    run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = iter(range(100))

    def run_item(item: Any, *, seed: int, **_: Any) -> laws.Result:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return _result(item, seed=seed)

    monkeypatch.setattr(run_laws, "run_item", run_item)
    target = tmp_path / "out.json"
    code, out, err = run("verify", "--law", "forward", "--json", str(target), "--seed", "1")
    assert code == 130
    assert err == "equiv: interrupted\n"
    assert "Interrupted after 2 of 11 laws x dtypes. Nothing broken so far in 1 law, in" in " ".join(out.split())
    found = json.loads(target.read_text())
    assert [item["outcome"] for item in found["items"]] == ["holds"] * 2 + ["not run"] * 9
    assert (found["complete"], found["holds"], found["status"], found["exit_code"]) == (
        False,
        False,
        "interrupted",
        130,
    )


@pytest.mark.usefixtures("fake")
def test_ctrl_c_before_the_first_result_says_so(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_item(*_: Any, **__: Any) -> laws.Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_laws, "run_item", run_item)
    code, out, _ = run("verify", "--law", "forward")
    assert code == 130
    assert "Nothing was checked." in out


def test_ctrl_c_elsewhere_exits_130(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("equiv.cli.worked.seed_123", interrupted)
    code, _, err = run("demo", "--section", "1")
    assert (code, err) == (130, "equiv: interrupted\n")


def _without_times(found: dict[str, Any]) -> dict[str, Any]:
    for item in found["items"]:
        del item["seconds"]
    return {key: value for key, value in found.items() if key not in ("seconds", "jobs")}


def test_a_seed_repeats_a_run_in_one_process_or_two() -> None:
    words = ["verify", "--law", "forward,exact", "--dtype", "float32,int8", "--examples", "3", "--seed", "4"]
    runs = [_process(*words, "--json", "-", "--jobs", jobs) for jobs in ("1", "2")]
    assert [done.returncode for done in runs] == [0, 0], runs[1].stderr
    one, two = (_without_times(json.loads(done.stdout)) for done in runs)
    assert one == two


DIES = """
import os, sys
from equiv.cli import main, run_laws
from equiv.backends import TorchEager

class Dies(TorchEager):
    def linear(self, input, weight, bias=None):
        if str(input.dtype) == "torch.int16":
            os._exit(3)
        return super().linear(input, weight, bias)

run_laws.TorchEager = Dies
Dies.supports = lambda self, dtype, form: True
sys.exit(main(["verify", "--law", "exact", "--dtype", "int8,int16,int32", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("options", [["--jobs", "2"], ["--jobs", "1", "--isolate", "--timeout", "60"]])
def test_a_dead_process_costs_its_item_alone(tmp_path: Path, options: list[str]) -> None:
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, str(script), *options, "--json", str(tmp_path / "out.json"), "--examples", "3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["complete"] is True
    assert {item["dtype"]: item["failure"] and item["failure"]["note"] for item in found["items"]} == {
        "int8": None,
        "int16": "exited with code 3",
        "int32": None,
    }
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM that a program can handle")
@pytest.mark.parametrize("options", [["--jobs", "1"], ["--jobs", "2"], ["--isolate"]])
def test_sigterm_keeps_what_is_finished_and_leaves_nothing_behind(tmp_path: Path, options: list[str]) -> None:
    target, scratch = tmp_path / "out.json", tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(scratch)}
    run = "import sys; from equiv.cli import main, run_laws; say = run_laws.stop_if_told\n"
    run += "run_laws.stop_if_told = lambda: (say(), print('one', file=sys.stderr, flush=True))\n"
    words = ["verify", "--law", "forward", "--examples", "300", "--json", str(target), *options]
    started = subprocess.Popen(
        [sys.executable, "-c", f"{run}sys.exit(main({words}))"],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert started.stderr is not None
    for _ in range(2):  # one item is finished
        started.stderr.readline()
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 143, said
    assert said.endswith("equiv: terminated\n")
    found = json.loads(target.read_text())
    assert found["outcomes"]["holds"] >= 1
    assert found["outcomes"]["not_run"] >= 1
    assert found["complete"] is False
    assert [item["failure"] for item in found["items"]] == [None] * len(found["items"])
    assert list(scratch.iterdir()) == []


# --- env --------------------------------------------------------------------------------------------------------------


def test_env_names_versions_dtypes_laws_and_profiles(run: Runner) -> None:
    code, out, err = run("env")
    assert (code, err) == (0, "")
    for word in ("torch", "hypothesis", "float32", "bfloat16", "modulo 2**64", "2**-24", "not_equivalent", "gate"):
        assert word in out


def test_env_as_json(run: Runner) -> None:
    found = json.loads(run("env", "--json", "-")[1])
    cpu = found["devices"]["cpu"]["dtypes"]
    assert cpu["float32"]["accumulator_unit_roundoff"] == 2**-24
    assert cpu["int8"] == {"exact": "modulo 2**8"}
    assert [law["id"] for law in found["laws"]] == list(laws.LAWS)
    assert set(found["packages"]) == {"torch", "hypothesis", "typer", "rich"}


# --- counterexample ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["3x4x4", "--out", "8"],
        ["1x2x2", "--out", "4", "--seed", "3"],
        ["2x3", "--out", "6", "--dtype", "int32"],
        ["2x3", "--out", "5", "--dtype", "complex64", "--readout", "sum"],
        ["2x2x2x2", "--out", "3", "--dtype", "bfloat16", "--readout", "mean"],
        ["2X3", "--out", "2", "--dtype", "uint8"],
    ],
    ids=" ".join,
)
def test_the_snippet_of_a_counterexample_runs(
    run: Runner, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("counterexample", *words)
    assert code == 0
    assert "NOT EQUIVALENT" in out
    snippet = out.split("To run it yourself\n------------------\n")[1]
    exec(compile(snippet, "snippet", "exec"), {})
    assert capsys.readouterr().out.startswith("layer ")


def test_a_counterexample_says_how_many_numbers_come_out(run: Runner) -> None:
    said = " ".join(run("counterexample", "3x4x4", "--out", "8")[1].split())
    assert "takes the 48 numbers of the map to 8." in said
    assert "takes them to 8 x 4x4 = 128 numbers, not 8" in said
    assert "384 of 6,144 entries can be non-zero" in said


def test_one_position_is_the_same_and_exits_0(run: Runner) -> None:
    code, out, _ = run("counterexample", "6x1x1", "--out", "8")
    assert code == 0
    assert "They are the same." in out
    assert "NOT EQUIVALENT" not in out
    assert "To run it yourself" not in out


def test_a_seed_repeats_a_counterexample_and_another_changes_it(run: Runner) -> None:
    first, again, other = (run("counterexample", "2x2", "--out", "4", "--seed", seed)[1] for seed in ("1", "1", "2"))
    assert first == again
    assert first != other


def test_a_counterexample_as_json(run: Runner, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    code, out, _ = run("counterexample", "2x2", "--out", "4", "--dtype", "complex64", "--json", str(target))
    found = json.loads(target.read_text())
    assert code == 0
    assert "NOT EQUIVALENT" in out
    assert (found["equivalent"], found["dtype"], found["seed"], found["feature_shape"]) == (
        False,
        "complex64",
        0,
        [2, 2],
    )
    assert json.loads(run("counterexample", "2x2", "--out", "4", "--json", "-")[1])["dtype"] == "float32"


# --- what it looks like -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(
    "words",
    [
        ["demo"],
        ["env"],
        ["verify"],
        ["verify", "--full"],
        ["counterexample", "3x4x4"],
        ["counterexample", "2x2", "--out", "4", "--dtype", "complex128"],
        ["counterexample", "1x2x2", "--out", "3", "--dtype", "float64"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("fake")
def test_output_fits_its_columns_in_plain_ascii(run: Runner, words: list[str], columns: int) -> None:
    code, out, _ = run(*words, columns=columns)
    assert code == 0
    shown = out.split("To run it yourself")[0].splitlines()
    assert [line for line in shown if len(line) > columns] == []
    assert out.isascii()
    assert "\x1b" not in out
    assert [line for line in out.splitlines() if line != line.rstrip()] == []


def test_a_closed_pipe_is_no_traceback() -> None:
    command = [sys.executable, "-m", "equiv.cli", "env"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    timer = threading.Timer(100, process.kill)
    timer.start()
    error = process.stderr.read()
    code = process.wait()
    process.stderr.close()
    timer.cancel()
    assert error == ""
    assert code == 141


def test_colour_only_where_it_is_asked_for() -> None:
    assert "\x1b" not in _process("demo", "--section", "1").stdout
    assert "\x1b" in _process("demo", "--section", "1", FORCE_COLOR="1", TERM="xterm").stdout


# --- options ----------------------------------------------------------------------------------------------------------


def test_names_are_given_once_and_in_order() -> None:
    assert parse_names("--form", ["full,linear", "full"], FORMS) == ["full", "linear"]


def test_a_suggestion_is_made_only_for_what_is_close() -> None:
    with pytest.raises(EquivError, match="choose one of these"):
        parse_name("--form", "zzz", FORMS)


def test_the_legend_of_a_table_explains_its_columns(run: Runner, fake: Any) -> None:
    for columns in (60, 80, 120):
        for words in (["verify"], ["verify", "--full"]):
            said = " ".join(run(*words, columns=columns)[1].split())
            names = ["form", "identical", "rounding", "undecided", "broken", "worst"]
            names += ["dtype"] * ("--full" in words) + ["cases", "compared"] * (columns == 120)
            assert [name for name in names if f"{name}: " not in said] == []


def test_a_counterexample_has_eight_outputs_where_none_are_asked_for(run: Runner) -> None:
    assert run("counterexample", "3x4x4") == run("counterexample", "3x4x4", "--out", "8")
    assert "8 if not given" in run("counterexample", "--help")[1]
