"""``equiv env``: what would be tested on this machine, and in which arithmetic."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import equiv
from equiv.cli import measure as measured
from equiv.dtypes import dtype_name, is_inexact
from equiv.laws import LAWS, PROFILES
from equiv.numerics import declared, format_of
from equiv.report import STDOUT, write_json
from equiv.report.terminal import Page
from equiv.strategies import devices_present, served
from equiv.text import counted

_PACKAGES = ("torch", "hypothesis", "typer", "rich")
_LIBRARIES = ("mkldnn", "mkl", "openmp")
_PRECISIONS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def show(*, measure: bool, json: str | None) -> None:
    """Find everything out, write it as JSON, and say it."""
    found = facts()
    if measure:
        found["measured"] = {name: measured.facts(name) for name in found["devices"]}
    if json is not None:
        write_json(found, json)
    if json != STDOUT:
        _say(Page(), found)


def facts() -> dict[str, Any]:
    """Everything that the command shows, in JSON's types."""
    return {
        "schema": 1,
        "equiv": equiv.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": {
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            **{name: _is_on(name) for name in _LIBRARIES},
        },
        "float32": _float32(),
        "devices": {str(device): _device(device) for device in devices_present()},
        "laws": [{"id": law.id, "number": law.number, "sentence": law.sentence} for law in LAWS.values()],
        "profiles": [asdict(profile) for profile in PROFILES.values()],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _is_on(library: str) -> bool:
    module: Any = getattr(torch.backends, library)
    return bool(module.is_available()) and bool(getattr(module, "enabled", True))


def _float32() -> dict[str, str]:
    """The settings that let float32 be computed in less; older versions of torch have fewer of them."""
    found = {"matmul precision": torch.get_float32_matmul_precision()}
    for path in _PRECISIONS:
        place: Any = torch.backends
        for part in path.split("."):
            place = getattr(place, part, None)
        try:
            setting = getattr(place, "fp32_precision", None)
        except RuntimeError:  # some builds know the name and not the setting
            setting = None
        if setting is not None:
            found[path] = str(setting)
    return found


def _device(device: torch.device) -> dict[str, Any]:
    module: Any = getattr(torch, device.type)
    name = module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)
    return {
        "name": platform.machine() if device.type == "cpu" else name,
        "dtypes": {dtype_name(dtype): _arithmetic(dtype, device) for dtype in served(device)},
    }


def _arithmetic(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if not is_inexact(dtype):
        return {"exact": f"modulo 2**{torch.iinfo(dtype).bits}"}
    found = declared(dtype, device)
    return {
        "unit_roundoff": format_of(dtype).u,
        "accumulator_unit_roundoff": found.u,
        "factor": found.factor,
        "extra_terms": found.extra_terms,
        "relative": found.relative,
        "flushes_inputs": found.flushes_inputs,
        "flushes_outputs": found.flushes_outputs,
        "bias_rounding": found.bias_rounding,
        "measured": found.measured,
    }


# --- what is said -----------------------------------------------------------------------------------------------------


def _say(page: Page, found: dict[str, Any]) -> None:
    page.heading(f"equiv {found['equiv']}")
    cpu = found["cpu"]
    rows = {
        "python": f"{found['python']} on {found['platform']}",
        "packages": ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items()),
        "cpu": ", ".join(
            (
                cpu["capability"],
                counted(cpu["threads"], "thread"),
                *(f"{name} {'on' if cpu[name] else 'off'}" for name in _LIBRARIES),
            )
        ),
        "float32": ", ".join(f"{name}: {setting}" for name, setting in found["float32"].items()),
    }
    _definitions(page, rows)
    for name, device in found["devices"].items():
        page.heading(f"{name} ({device['name']})")
        columns = ("dtype", "u of result", "u of sums", "subnormals", "bias", "source")
        page.table(columns, [_row(dtype, facts) for dtype, facts in device["dtypes"].items()])
        if "measured" in found:
            measured.say(page, name, found["measured"][name])
    page.prose("""Dtypes are those that both Linear and conv2d accept. u: unit roundoff, the largest relative error of
        one rounding, of the result and of the sums inside. subnormals: whether values below the smallest normal number
        may become 0. bias: how often a result is rounded when a bias is added. source: measured on CPUs, taken from
        documentation, or theory: integers are exact modulo a power of two.""")
    page.heading(f"{len(found['laws'])} laws")
    _definitions(page, {law["id"]: law["sentence"] for law in found["laws"]})
    page.heading(f"{len(found['profiles'])} profiles")
    _definitions(page, {profile["name"]: _traits(profile) for profile in found["profiles"]})


def _definitions(page: Page, texts: dict[str, str]) -> None:
    """Each name with its text beside it. An empty line follows."""
    indent = 2 + max(map(len, texts))
    page.lines([f"{name:<{indent}}{text}" for name, text in texts.items()], hanging=" " * indent)


def _traits(profile: dict[str, Any]) -> str:
    traits = [f"{profile['max_examples']} cases for each law and dtype, more or fewer where the law says so"]
    traits += ["the same in every run" if profile["derandomize"] else "new ones in every run"]
    traits += ["failing ones are kept in .hypothesis/"] * profile["database"] + ["sizes beyond 1024"] * profile["deep"]
    return "; ".join(traits)


def _row(dtype: str, facts: dict[str, Any]) -> tuple[str, ...]:
    if "exact" in facts:
        return dtype, "exact", facts["exact"], "", "", "theory"
    return (
        dtype,
        _power(facts["unit_roundoff"]),
        _power(facts["accumulator_unit_roundoff"]),
        "may be 0" if facts["flushes_inputs"] or facts["flushes_outputs"] else "kept",
        "once" if facts["bias_rounding"] == "once" else "once or twice",
        "measured" if facts["measured"] else "documents",
    )


def _power(value: float) -> str:
    mantissa, exponent = math.frexp(value)
    return f"2**{exponent - 1}" if mantissa == 0.5 else f"{value:.3g}"
