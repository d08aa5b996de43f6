"""What the laws find of the catalogue of faults, and whether they spare the legal variants.

    OMP_NUM_THREADS=1 nice python benchmarks/catalogue.py --json found.json       # all of it, ten seeds of the faults
    OMP_NUM_THREADS=1 python benchmarks/catalogue.py --faults --only 'grad-*' --seeds 3
    OMP_NUM_THREADS=1 python benchmarks/catalogue.py --variants --examples 5

Each fault runs in its own profile and in the laws that it names, until one is broken; with --every-law in the others
too. A variant, and a fault that no law finds yet, run in all laws with 5 cases of each. Runs are kept in the JSON
file and not made again, so that an interrupted run goes on where it was. A run in which torch takes the process down
with it is noted as crashed. The exit code is 1 where a fault survived that is not among
`equiv.testing.faults.SURVIVORS`, where one of those was found, and on every false alarm.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import _common

from equiv.testing import faults

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


def run(name: str, seed: int, examples: int | None, every_law: bool) -> Run:
    warnings.simplefilter("ignore")
    is_fault = name in faults.FAULTS
    hinted = faults.FAULTS[name].laws if is_to_be_found(name) and not every_law else None
    start = perf_counter()
    found = faults.find(name, seed=seed, examples=examples, laws=hinted)
    seconds = round(perf_counter() - start, 2)
    if found is None or found.failure is None:
        return Run(name, seed, profile_of(name), "survived" if is_fault else "spared", seconds=seconds)
    note = f"{found.failure.form}: {found.failure.note}; {found.failure.shapes}"
    outcome = "found" if is_fault else "alarm"
    return Run(name, seed, profile_of(name), outcome, found.law, found.dtype, found.examples, seconds, note)


def ended(name: str, seed: int, *_: object) -> Run:
    return Run(name, seed, profile_of(name), "crashed", note="the process ended")


def chosen(options: argparse.Namespace) -> Iterator[str]:
    """Those that take long come last."""
    both = options.faults == options.variants
    for names, wanted in ((faults.FAULTS, both or options.faults), (faults.VARIANTS, both or options.variants)):
        for name in sorted(names, key=lambda name: profile_of(name) == "deep") if wanted else ():
            if any(fnmatch.fnmatch(name, pattern) for pattern in options.only.split(",")):
                yield name


def profile_of(name: str) -> str:
    return faults.FAULTS[name].profile if name in faults.FAULTS else ""


def is_to_be_found(name: str) -> bool:
    return name in faults.FAULTS and name not in faults.SURVIVORS


def seeds_of(options: argparse.Namespace, name: str) -> range:
    count = options.seeds if options.seeds is not None else 10 if is_to_be_found(name) else 1
    return range(options.first_seed, options.first_seed + count)


def examples_of(options: argparse.Namespace, name: str) -> int | None:
    """Runs that are to find nothing try every law and dtype: they get fewer cases of each."""
    return options.examples if options.examples is not None or is_to_be_found(name) else LONG


def is_wrong(name: str, runs: list[Run]) -> bool:
    wanted = "survived" if name in faults.SURVIVORS else "found" if name in faults.FAULTS else "spared"
    return any(run.outcome != wanted for run in runs)


def kept_in(path: Path | None) -> dict[tuple[str, int], Run]:
    """The runs of a file that is there, by name and seed."""
    entries = json.loads(path.read_text()) if path is not None and path.exists() else []
    return {(entry["name"], entry["seed"]): Run(**entry) for entry in entries}


def main() -> int:
    parser = _common.parser(__doc__)
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

    kept, wrong, count = kept_in(options.json), [], 0
    table = _common.Table({"name": "50", "profile": "14", "right": ">7", "seconds": ">9.1f", "  laws": ""})
    with _common.Worker(run, ended) as worker:
        for name in chosen(options):
            runs = []
            for seed in seeds_of(options, name):
                if (name, seed) not in kept or kept[name, seed].profile != profile_of(name):
                    kept[name, seed] = worker.do(name, seed, examples_of(options, name), options.every_law)
                    _common.write_whole(options.json, json.dumps([asdict(each) for each in kept.values()], indent=0))
                runs.append(kept[name, seed])
            count += len(runs)
            words = "no law" if name in faults.SURVIVORS else profile_of(name) or "variant"
            good = sum(run.outcome in ("found", "spared") for run in runs)
            laws = ", ".join(sorted({run.law for run in runs if run.law}))
            table.row(name, words, f"{good}/{len(runs)}", sum(run.seconds for run in runs), f"  {laws}")
            if is_wrong(name, runs):
                wrong.append(name)
                print("\n".join(f"    seed {one.seed}: {one.outcome} {one.law} {one.dtype} {one.note}" for one in runs))
    print(f"{count} runs; not as they must be: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
