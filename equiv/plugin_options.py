"""What a pytest run was asked for: options of the command line, and ini options of the same names.

Loaded with the plugin in every project where the package is installed, so it imports neither torch nor hypothesis.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from equiv._options import Options, options
from equiv.errors import EquivError

OPTIONS = {
    "profile": ("NAME", "dev (quick), gate (the same cases each time), deep (nightly)"),
    "devices": ("LIST", "devices to test, such as cpu,cuda:0; all for every one present"),
    "dtypes": ("LIST", "dtypes to test, such as float32,bfloat16"),
    "examples": ("N", "cases for each law and dtype, instead of the profile's number"),
    "seed": ("N", "other cases: vary it to randomize a derandomized profile"),
    "arithmetic": ("NAME", "what error bounds follow: declared (by dtype and device) or measured (every call; slow)"),
    "timeout": ("SECONDS", "of each item that --equiv-isolate isolates; 600 if not given"),
    "memory": ("GIB", "of each item that --equiv-isolate isolates; 4 if not given"),
    "case": ("JSON", "a case to try before any is drawn, as a failure prints it"),
    "witnesses": ("DIR", "write the program of each failure into a folder, as ITEM.py"),
    "report": ("FILE.json", "write all results to a file as they come (docs/report.md); - for standard output"),
    "html": ("FILE.html", "write a page of all results to a file at the end; - for standard output"),
    "xfails": ("FILE", "items that are expected to fail, one a line: exact-*-float16-*  # reason"),
}


@dataclass(frozen=True)
class Given:
    """One option as it was given.

    Attributes:
        where: ``--equiv-seed`` or ``equiv_seed``: the name in messages.
        text: As it would be typed; None if it was given nowhere.
        explicit: Whether it stands on the command line.
    """

    where: str
    text: str | None = None
    explicit: bool = False


def kind_of_ini(metavar: str) -> Any:
    """The type of an ini option: whole numbers and lists may be written as such in TOML."""
    if metavar == "N" and pytest.version_tuple >= (8, 4):
        return "int"
    return "linelist" if metavar == "LIST" else "string"


def given(config: pytest.Config) -> dict[str, Given]:
    """Each option as the command line, else the ini file, has it.

    A file or folder of an ini file stands relative to that file.
    """
    return {name: _given(config, name, metavar) for name, (metavar, _) in OPTIONS.items()}


def _given(config: pytest.Config, name: str, metavar: str) -> Given:
    typed = config.getoption(f"equiv_{name}")
    if typed is not None:
        return Given(f"--equiv-{name}", typed, True)
    where = f"equiv_{name}"
    try:
        value = config.getini(where)
    except (TypeError, ValueError, pytest.UsageError) as error:
        expected = {"N": "a whole number", "LIST": "a list of words"}.get(metavar, "a string")
        raise EquivError(f"{where}: expected {expected}, pytest says: {error}; correct its value") from error
    if isinstance(value, list):
        value = ",".join(value)
    if value is None or value == "":
        return Given(where)
    text = str(value)
    if metavar.startswith(("FILE", "DIR")) and text != "-" and config.inipath is not None:
        text = str(config.inipath.parent / text)
    return Given(where, text)


def is_used(config: pytest.Config, asked: Mapping[str, Given]) -> bool:
    """Whether a project or its command line says anything of this package."""
    return _isolates(config) or any(one.text is not None for one in asked.values())


def _isolates(config: pytest.Config) -> bool:
    return bool(config.getoption("equiv_isolate") or config.getini("equiv_isolate"))


def read_options(config: pytest.Config, asked: Mapping[str, Given]) -> None:
    """Set what ``equiv.testing`` reads.

    Raises:
        EquivError: An option that cannot be served; it names the option, or the file and the line.
    """
    from equiv.laws import MODES, PROFILES, limits_of, read_case
    from equiv.parsing import parse_dtypes, parse_integer, parse_name
    from equiv.testing import read_reasons

    def number(name: str, least: int) -> int | None:
        one = asked[name]
        return None if one.text is None else parse_integer(one.where, one.text, least=least)

    def word(name: str, default: str, allowed: Iterable[str]) -> str:
        return parse_name(asked[name].where, (asked[name].text or default).removeprefix("equiv-"), allowed)

    explicit = {name for name, one in asked.items() if one.explicit}
    options.profile = word("profile", Options.profile, PROFILES)
    options.arithmetic = word("arithmetic", Options.arithmetic, MODES)
    options.examples, options.seed = number("examples", 1), number("seed", 0)
    hypothesis_seed = config.getoption("hypothesis_seed", None)
    if hypothesis_seed is not None and not asked["seed"].explicit:
        options.seed = _seed_of_hypothesis(hypothesis_seed)
        explicit.add("seed")
    dtypes, devices, xfails = asked["dtypes"], asked["devices"], asked["xfails"]
    options.dtypes = None if dtypes.text is None else tuple(parse_dtypes(dtypes.where, _words(dtypes.text)))
    options.devices = Options.devices if devices.text is None else _devices(devices.where, devices.text)
    options.xfails = {} if xfails.text is None else read_reasons(xfails.where, xfails.text)
    options.xfails_met = set()
    options.explicit = frozenset(explicit)
    options.case = asked["case"].text
    if options.case is not None:
        read_case(options.case, argument=asked["case"].where)
    texts = {asked[name].where: asked[name].text for name in ("timeout", "memory")}
    limits = limits_of(texts, isolate=_isolates(config), switch="--equiv-isolate")
    options.isolate = limits is not None
    options.timeout, options.memory = (None, None) if limits is None else (limits.timeout, limits.memory)


def _seed_of_hypothesis(text: str) -> int:
    """``--hypothesis-seed`` varies the laws too. Hypothesis takes any text; ours are integers of at least 0."""
    return int(text) if text.isdecimal() else zlib.crc32(text.encode())


def _devices(where: str, text: str) -> tuple[str, ...]:
    from equiv.parsing import parse_devices
    from equiv.strategies import devices_present

    if text.strip() == "all":
        return tuple(map(str, devices_present()))
    return tuple(parse_devices(where, _words(text), "write all for every one that is present"))


def _words(text: str) -> list[str]:
    """What stands between commas; the text itself where that is nothing."""
    return [word for word in text.split(",") if word.strip()] or [text]
