"""What the laws find of the zoo of faults, and whether they spare the legal variants.

    OMP_NUM_THREADS=1 nice python benchmarks/zoo.py --json zoo.json             # all of it, ten seeds of the faults
    OMP_NUM_THREADS=1 python benchmarks/zoo.py --faults --only 'grad-*' --seeds 3
    OMP_NUM_THREADS=1 python benchmarks/zoo.py --variants --examples 5

Each fault runs in its own profile and in the laws that it names, until one is broken; with --every-law in the others
too. A variant, and a fault that no law tells yet, run in all laws with 5 cases of each. Runs are kept in the JSON
file and not made again, so that an interrupted run goes on where it was. A run in which torch takes the process down
with it is noted as crashed. The exit code is 1 where a fault survived that is not among
`equiv.testing.faults.SURVIVORS`, where one of those was found, and on every false alarm.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

LONG = 5  # cases per law and dtype of runs that are to find nothing


@dataclass(frozen=True)
class Run:
    """One fault or variant with one seed.

    Attributes:
        name: Of the fault or variant.
        seed: Of the run.
        profile: Of the fault when it was made; empty for a variant.
        outcome: ``found``, ``survived``, ``spared``, ``alarm`` or ``crashed``.
        law: That was broken.
        dtype: In which it was.
        cases: Tried until then, of that law in that dtype.
        seconds: Of all laws.
        note: What was said.
    """

    name: str
    seed: int
    profile: str
    outcome: str
    law: str = ""
    dtype: str = ""
    cases: int = 0
    seconds: float = 0.0
    note: str = ""


def run(name: str, seed: int, is_fault: bool, examples: int | None, every_law: bool) -> Run:
    from equiv.testing import faults

    warnings.simplefilter("ignore")
    profile = faults.FAULTS[name].profile if is_fault else ""
    start = perf_counter()
    hinted = is_fault and name not in faults.SURVIVORS and not every_law
    found = faults.find(name, seed=seed, examples=examples, laws=faults.FAULTS[name].laws if hinted else None)
    seconds = round(perf_counter() - start, 2)
    if found is None or found.failure is None:
        return Run(name, seed, profile, "survived" if is_fault else "spared", seconds=seconds)
    outcome = "found" if is_fault else "alarm"
    note = f"{found.failure.form}: {found.failure.note}; {found.failure.shapes}"
    return Run(name, seed, profile, outcome, found.law, found.dtype, found.examples, seconds, note)


class Runner:
    """Runs in a process of their own, made anew after a crash."""

    def __init__(self) -> None:
        self.pool = self.fresh()

    def fresh(self) -> ProcessPoolExecutor:
        """One process, which starts with nothing of this one."""
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def run(self, *what: Any) -> Run:
        """A run, also if it takes its process down with it."""
        try:
            return self.pool.submit(run, *what).result()
        except BrokenProcessPool:
            self.pool = self.fresh()
            return Run(what[0], what[1], profile_of(what[0]), "crashed", note="the process ended")


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    from equiv.testing import faults

    both = options.faults == options.variants
    for names, is_fault, wanted in (
        (faults.FAULTS, True, both or options.faults),
        (faults.VARIANTS, False, both or options.variants),
    ):
        for name in sorted(names, key=depth) if wanted else ():
            if any(fnmatch.fnmatch(name, pattern) for pattern in options.only.split(",")):
                yield name, is_fault


def profile_of(name: str) -> str:
    from equiv.testing import faults

    return faults.FAULTS[name].profile if name in faults.FAULTS else ""


def depth(name: str) -> bool:
    """Whether a fault takes long: those come last."""
    from equiv.testing import faults

    return name in faults.FAULTS and faults.FAULTS[name].profile == "deep"


def seeds_of(options: argparse.Namespace, name: str) -> range:
    from equiv.testing import faults

    often = name in faults.FAULTS and name not in faults.SURVIVORS
    count = options.seeds if options.seeds is not None else 10 if often else 1
    return range(options.first_seed, options.first_seed + count)


def examples_of(options: argparse.Namespace, name: str) -> int | None:
    """Runs that are to find nothing try every law and dtype: they get fewer cases of each."""
    from equiv.testing import faults

    if options.examples is not None:
        return int(options.examples)
    return None if name in faults.FAULTS and name not in faults.SURVIVORS else LONG


def line(name: str, runs: list[Run], words: str) -> str:
    good = sum(run.outcome in ("found", "spared") for run in runs)
    seconds = sum(run.seconds for run in runs)
    laws = ", ".join(sorted({run.law for run in runs if run.law}))
    return f"{name:50}{words:14}{f'{good}/{len(runs)}':>7}{seconds:>9.1f}  {laws}"


def is_wrong(name: str, runs: list[Run]) -> bool:
    from equiv.testing import faults

    wanted = "survived" if name in faults.SURVIVORS else "found" if name in faults.FAULTS else "spared"
    return any(run.outcome != wanted for run in runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", action="store_true", help="faults alone")
    parser.add_argument("--variants", action="store_true", help="variants alone")
    parser.add_argument("--seeds", type=int, help="how many; by default 10 of faults, 1 of variants and survivors")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument(
        "--examples", type=int, help="cases per law and dtype; by default the profile's, 5 where nothing is to be found"
    )
    parser.add_argument("--every-law", action="store_true", help="also those that the fault does not name")
    parser.add_argument("--only", default="*", help="names or patterns, with commas between")
    parser.add_argument("--json", type=Path, help="keeps every run, and takes up those that are there")
    options = parser.parse_args()

    from equiv.testing import faults

    kept: dict[tuple[str, int], Run] = {}
    if options.json is not None and options.json.exists():
        kept = {(entry["name"], entry["seed"]): Run(**entry) for entry in json.loads(options.json.read_text())}
    runner, wrong, count = Runner(), [], 0
    print(f"{'name':50}{'profile':14}{'right':>7}{'seconds':>9}  laws")
    for name, is_fault in chosen(options):
        runs = []
        for seed in seeds_of(options, name):
            if (name, seed) not in kept or kept[name, seed].profile != profile_of(name):
                kept[name, seed] = runner.run(name, seed, is_fault, examples_of(options, name), options.every_law)
                if options.json is not None:
                    options.json.write_text(json.dumps([asdict(each) for each in kept.values()], indent=0))
            runs.append(kept[name, seed])
        count += len(runs)
        words = "variant" if not is_fault else faults.FAULTS[name].profile
        print(line(name, runs, "no law" if name in faults.SURVIVORS else words), flush=True)
        if is_wrong(name, runs):
            wrong.append(name)
            print("\n".join(f"    seed {one.seed}: {one.outcome} {one.law} {one.dtype} {one.note}" for one in runs))
    print(f"{count} runs; not as they must be: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
