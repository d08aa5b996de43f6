"""What a shell and a machine do to the command: one sentence and exit code 2, 141 or 130, and 1 for a broken law alone.

File descriptors need processes of their own, which take seconds: these are marked slow, but for one of each kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import equiv.cli
from equiv.cli import app, main

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
POSIX = pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX closes the streams")
QUICK = ("counterexample", "2x2x2", "--out", "2")
DIAGNOSE = "diagnose torch.nn:Identity torch.nn:Identity --input 2"
CONVERT = "convert torch.nn:Identity --to pointwise --input 2"
LONGEST = 1000

OPTIONS = [
    *[("demo", name) for name in ("--section",)],
    *[("verify", f"--{name}") for name in ("law", "form", "dtype", "device", "profile", "examples", "arithmetic")],
    *[("verify", f"--{name}") for name in ("seed", "case", "jobs", "json", "html", "timeout", "memory", "backend")],
    *[("verify", f"--{name}") for name in ("against", "witnesses")],
    *[("report none.json", option) for option in ("", "--programs", "--backend")],
    *[
        ("counterexample 2x2x2", f"--{name}")
        for name in ("out", "seed", "dtype", "weights", "layer", "readout", "json")
    ],
    *[(DIAGNOSE, f"--{name}") for name in ("input", "weights-new", "weights-old", "match", "seed", "dtype", "device")],
    *[(CONVERT, f"--{name}") for name in ("to", "input", "out", "weights", "only", "seed", "dtype", "device", "json")],
    *[(DIAGNOSE, f"--{name}") for name in ("json", "html")],
    ("diagnose --input 2 torch.nn:Identity", ""),
    ("convert --to pointwise --input 2", ""),
    ("counterexample", ""),
    ("env", "--json"),
    ("backends numpy", "--json"),
    *[("check-kernel math:fsum", f"--{name}") for name in ("like", "law", "dtype", "device", "profile", "examples")],
    *[("check-kernel math:fsum", f"--{name}") for name in ("seed", "arithmetic", "json")],
    ("check-kernel", ""),
]
ODD = ["", "\0", "a\0b", "\ud800", "x" * 5000, "/no/such\n\x1b[31m/place", "/proc/no/such", "/etc/passwd/x", "/"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []  # nothing that was tried is left


def one_sentence(err: str) -> None:
    assert err.startswith("equiv")
    assert err.endswith("\n")
    assert err[:-1].isprintable(), err
    assert len(err) <= LONGEST


@pytest.mark.parametrize("text", ODD, ids=[repr(text)[:20] for text in ODD])
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_no_text_in_any_option_is_more_than_a_misuse(
    command: str, option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *[option] * bool(option), text]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    one_sentence(err)


@pytest.mark.parametrize("folder", [text for text in ODD if not text.startswith("/") or "passwd" in text])
def test_a_folder_that_cannot_be_written_is_a_misuse(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init-backend", "mine", "--folder", folder]) == 2
    one_sentence(capsys.readouterr().err)


NUMBERS = ["-1", "1.5", "nan", "inf", "1e3", "0x10", "²", "9" * 5000, str(2**63), "--", "None"]


@pytest.mark.parametrize("text", NUMBERS, ids=[text[:12] for text in NUMBERS])
@pytest.mark.parametrize(
    ("command", "option"),
    [(c, o) for c, o in OPTIONS if o in ("--section", "--examples", "--seed", "--jobs", "--out")],
)
def test_numbers_out_of_range_are_refused(
    command: str, option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), option, text]) == 2
    one_sentence(capsys.readouterr().err)


@pytest.mark.parametrize(
    "error",
    [ValueError("no\n\x1b[31mway"), RecursionError("deep"), MemoryError(), OSError(28, "No space left"), KeyError("k")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_any_kind_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raises(**_: Any) -> None:
        raise error

    monkeypatch.setattr("equiv.cli.counterexample.show", lambda *_, **__: raises())
    assert main(QUICK) == 2
    one_sentence(capsys.readouterr().err)


def test_an_interrupt_before_any_command_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)
    assert main(QUICK) == 130
    assert capsys.readouterr().err == "equiv: interrupted\n"


def test_no_temporary_folder_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none(**_: Any) -> Any:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.delenv("HYPOTHESIS_STORAGE_DIRECTORY", raising=False)
    monkeypatch.setattr(equiv.cli, "TemporaryDirectory", none)
    assert main(QUICK) == 2
    err = capsys.readouterr().err
    one_sentence(err)
    assert "TMPDIR" in err


@pytest.mark.parametrize("width", ["0", "-5", "1", "wide", "", "9" * 30, "²"])
def test_any_width_of_the_terminal_will_do(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("LINES", width)
    assert main(QUICK) == 0
    out, err = capsys.readouterr()
    assert (out.isascii(), err) == (True, "")


def test_standard_output_that_is_closed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(QUICK) == 2
    one_sentence(capsys.readouterr().err)


@FULL
@pytest.mark.parametrize("words", [QUICK, (*QUICK, "--json", "-"), ("--help",), ("demo", "--section", "1")])
def test_a_full_standard_output_is_said(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == 2
    err = capsys.readouterr().err
    one_sentence(err)
    assert "space" in err


@FULL
@pytest.mark.parametrize("words", [(*QUICK, "--json", "/dev/full"), ("env", "--json", "/dev/full")])
def test_a_full_file_is_said(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    one_sentence(err)
    assert "--json: expected a file that can be written" in err


@FULL
def test_no_message_where_standard_error_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert main(["verfy"]) == 2
        equiv.cli._discard_output()  # as before the end of a process


def test_json_goes_through_a_link_and_leaves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link, target, loop = tmp_path / "link", tmp_path / "target", tmp_path / "loop"
    link.symlink_to(target)
    loop.symlink_to(loop)
    assert main([*QUICK, "--json", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_text().startswith("{")
    target.unlink()
    assert main([*QUICK, "--json", str(link), "--readout", "max"]) == 2
    assert link.is_symlink()
    assert not target.exists()
    assert main([*QUICK, "--json", str(loop)]) == 2
    link.unlink()
    loop.unlink()


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line for a shell, in which $equiv is the command."""
    home = str(Path(equiv.__file__).parent.parent)
    kept = {**os.environ, "PYTHONPATH": home, "OMP_NUM_THREADS": "1", "equiv": f"{sys.executable} -m equiv.cli"}
    bash = ["bash", "-c", line]
    return subprocess.run(bash, capture_output=True, text=True, env={**kept, **environment}, timeout=120)


SAID, SILENT = True, False
LINES = [
    ("$equiv verfy > /dev/full", 2, SAID),
    ("$equiv env > /dev/full", 2, SAID),
    ("$equiv --version > /dev/full", 2, SAID),
    ("$equiv counterexample 2x2 --out 2 >&-", 2, SAID),
    ("$equiv verify --law exact --examples 1 --json - >&-", 2, SAID),
    ("$equiv verfy 2>&-", 2, SILENT),
    ("$equiv verfy 2>/dev/full", 2, SILENT),
    ("$equiv counterexample 2x2 --out 2 2>&- >/dev/null", 0, SILENT),
    ("$equiv counterexample 2x2 --out 2 <&- >/dev/null", 0, SILENT),
    ("$equiv verify --law exact --dtype float32 --examples 1 --jobs 2 2>&- >/dev/null", 0, SILENT),
    ("$equiv demo | head -1 >/dev/null; exit ${PIPESTATUS[0]}", 141, SILENT),
    ("$equiv env | true; exit ${PIPESTATUS[0]}", 141, SILENT),
    ("env -u HOME $equiv counterexample 2x2 --out 2 >/dev/null", 0, SILENT),
    ("HOME=/proc $equiv counterexample 2x2 --out 2 >/dev/null", 0, SILENT),
    ("LANG=C LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii $equiv demo --section 1 >/dev/null", 0, SILENT),
    ("TERM=dumb NO_COLOR=1 $equiv demo --section 1 >/dev/null", 0, SILENT),
    ("$equiv counterexample 2x2 --out 2 --json $'/no/such/\\xff'", 2, SAID),
    (f"$equiv {DIAGNOSE} > /dev/full", 2, SAID),
    (f"$equiv {DIAGNOSE} --json - > /dev/full", 2, SAID),
    (f"$equiv {DIAGNOSE} >&-", 2, SAID),
    (f"$equiv {DIAGNOSE} 2>&- >/dev/null", 0, SILENT),
    (f"$equiv {DIAGNOSE} | true; exit ${{PIPESTATUS[0]}}", 141, SILENT),
    ("mkfifo p; cat p >/dev/null & $equiv env --json p >/dev/null; r=$?; rm p; exit $r", 0, SILENT),
]


def marked(line: str) -> list[pytest.MarkDecorator]:
    return [] if line in (LINES[0][0], LINES[3][0]) else [pytest.mark.slow]


@POSIX
@FULL
@pytest.mark.parametrize(
    ("line", "code", "said"), [pytest.param(*row, id=row[0], marks=marked(row[0])) for row in LINES]
)
def test_streams_of_a_process(line: str, code: int, said: bool) -> None:
    done = shell(line)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    if said:
        one_sentence(done.stderr)
    else:
        assert done.stderr == ""


def test_every_option_is_in_the_table() -> None:
    listed = {(command.split()[0], option) for command, option in OPTIONS if option}
    taken: Any = get_command(app.app)
    texts = {
        (name, option)
        for name, command in taken.commands.items()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and not parameter.is_flag and option != "--help"
    }
    assert texts == listed | {("init-backend", "--folder")}  # a folder of any name can be made
