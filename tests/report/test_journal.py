"""At every moment the report of a run holds what was found so far, and is never half of one."""

from __future__ import annotations

import importlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from equiv.errors import EquivError
from equiv.report import Journal, Request, check_target, write_json

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
IDS = [f"exact-all-{dtype}-mine" for dtype in ("float32", "int8", "int16")]


def result(name: str, **more: Any) -> dict[str, Any]:
    law, _, dtype, backend = name.split("-")
    plain = {"item": name, "law": law, "dtype": dtype, "backend": backend, "examples": 1, "seconds": 0.1, "seed": 3}
    return {**plain, "forms": {}, "coverage": {}, "failure": None, **more}


def outcomes(path: Path) -> list[str]:
    return [item["outcome"] for item in json.loads(path.read_text())["items"]]


def journal(path: Path) -> Journal:
    made = Journal(Request(), {"json": str(path)})
    made.plan(IDS)
    return made


def test_the_report_is_whole_after_every_result_in_the_order_that_was_planned(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    made = journal(path)
    assert outcomes(path) == ["not run"] * 3
    made.add(result(IDS[1]))
    assert outcomes(path) == ["holds", "not run", "not run"]
    made.add(result(IDS[0], failure={"note": "wrong"}))
    found = json.loads(path.read_text())
    assert [item["item"] for item in found["items"]] == IDS
    assert (found["status"], found["exit_code"], found["complete"]) == ("incomplete", None, False)
    assert found["outcomes"] == {"holds": 1, "broken": 1, "expected": 0, "not_asked": 0, "not_run": 1}
    assert found["items"][0]["failure"]["kind"] == "value"
    made.add(result(IDS[2]))
    made.end(exit_code=1)
    found = json.loads(path.read_text())
    assert (found["status"], found["exit_code"], found["complete"], found["holds"]) == ("broken", 1, True, False)
    assert os.listdir(tmp_path) == ["out.json"]


def test_an_old_report_stays_until_the_first_result(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    made = journal(path)
    made.end(stopped="interrupted", exit_code=130)
    assert made.kept
    assert path.read_text() == "old"
    made.add(result(IDS[0]))
    made.end(stopped="interrupted", exit_code=130)
    assert not made.kept
    assert outcomes(path) == ["holds", "not run", "not run"]
    assert json.loads(path.read_text())["status"] == "interrupted"


def test_a_plan_of_this_run_is_no_old_report(tmp_path: Path) -> None:
    made = journal(tmp_path / "out.json")
    made.end(stopped="interrupted", exit_code=130)
    assert json.loads((tmp_path / "out.json").read_text())["exit_code"] == 130


def test_a_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path, link = tmp_path / "there" / "out.json", tmp_path / "link.json"
    path.write_text("old")
    path.chmod(0o604)
    link.symlink_to(Path("there") / "out.json")
    write_json({"a": 1}, str(link))
    assert link.is_symlink()
    assert json.loads(path.read_text()) == {"a": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    new = tmp_path / "new.json"
    write_json({}, str(new))
    other = tmp_path / "other"
    other.touch()
    assert new.stat().st_mode == other.stat().st_mode


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    made = journal(path)
    with monkeypatch.context() as patch:
        patch.setattr("equiv.report.files.os.replace", full)
        made.add(result(IDS[0]))
    assert "No space left on device" in str(made.problem)
    assert "free space there" in str(made.problem)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]
    made.add(result(IDS[1]))
    assert made.problem is None
    assert outcomes(path) == ["holds", "holds", "not run"]


def test_a_pipe_gets_the_report_once(tmp_path: Path) -> None:
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    check_target(str(path))
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    made = journal(path)
    for name in IDS:
        made.add(result(name))
    made.end(exit_code=0)
    reader.join(timeout=20)
    assert json.loads(read[0])["status"] == "passed"
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_full_device_is_exit_code_2_after_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    from equiv.cli import main

    words = ["--law", "exact", "--dtype", "int8", "--examples", "2", "--json", "/dev/full"]
    assert main(["verify", *words]) == 2
    out, err = capsys.readouterr()
    assert "1 law holds" in out
    assert "No space left on device" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_takes_no_file_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EquivError, match="--json: expected a file that can be written"):
        check_target(str(tmp_path / "out.json"))


def test_standard_output_by_its_other_name_holds_the_report_alone() -> None:
    words = ["verify", "--law", "exact", "--dtype", "int8", "--examples", "2", "--json", "/dev/stdout"]
    done = subprocess.run([sys.executable, "-m", "equiv.cli", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "passed"
    assert "1 law holds" in done.stderr


@pytest.mark.parametrize(("front_end", "items"), [("verify", 2), ("pytest", 5), ("xdist", 3)])
def test_a_killed_run_leaves_all_finished_items(
    front_end: str, items: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``benchmarks/killed_runs.py`` does it at many moments."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    runs = importlib.import_module("killed_runs")
    finished = runs.killed(front_end, tmp_path, items=items, seconds=0.01)
    assert len(finished) >= items
    assert not runs.lost(finished, tmp_path / "out.json")
