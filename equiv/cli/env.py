"""``equiv env``: what would be tested on this machine, and in which arithmetic."""

from __future__ import annotations

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

import equiv
from equiv.cli import measure as measured_facts
from equiv.cli import options
from equiv.dtypes import dtype_name
from equiv.report import json as report_json
from equiv.report import terminal as term
from equiv.text import counted

if TYPE_CHECKING:
    from rich.console import Console

_PACKAGES = ("torch", "hypothesis", "typer", "rich")
_PRECISIONS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def env(
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write this to a file; - for stdout.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Also find out by probes what each form computes in, at three sizes: 5 to 15 s.",
        ),
    ] = False,
) -> None:
    """Show versions, settings, devices, dtypes with their declared arithmetic, laws and profiles."""
    if json is not None:
        report_json.check_target(json)
    found = facts()
    if measure:
        found["measured"] = {name: measured_facts.facts(name) for name in found["devices"]}
    if json is not None:
        report_json.write(found, json)
    if json != report_json.STDOUT:
        _show(term.console(), found)


def facts() -> dict[str, Any]:
    """Everything that the command shows, in JSON's types."""
    from equiv.laws import LAWS, PROFILES

    return {
        "schema": 1,
        "equiv": equiv.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": _cpu(),
        "float32": _float32(),
        "devices": {name: _device(name) for name in options.devices_here()},
        "laws": [{"id": law.id, "number": law.number, "sentence": law.sentence} for law in LAWS.values()],
        "profiles": [
            {
                "name": profile.name,
                "max_examples": profile.max_examples,
                "derandomize": profile.derandomize,
                "database": profile.database,
                "deep": profile.deep,
            }
            for profile in PROFILES.values()
        ],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    import torch

    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "mkldnn": _has("mkldnn") and torch.backends.mkldnn.enabled,
        "mkl": _has("mkl"),
        "openmp": _has("openmp"),
    }


def _has(library: str) -> bool:
    import torch

    available: Any = getattr(torch.backends, library).is_available
    return bool(available())


def _float32() -> dict[str, str]:
    """The settings that let float32 be computed in less; older versions of torch have fewer of them."""
    import torch

    found = {"matmul precision": torch.get_float32_matmul_precision()}
    for path in _PRECISIONS:
        room: Any = torch.backends
        for part in path.split("."):
            room = getattr(room, part, None)
        try:
            setting = getattr(room, "fp32_precision", None)
        except RuntimeError:  # some builds know the name and not the setting
            setting = None
        if setting is not None:
            found[path] = str(setting)
    return found


def _device(name: str) -> dict[str, Any]:
    import torch

    from equiv.dtypes import DTYPES
    from equiv.numerics import declared, format_of
    from equiv.strategies import served

    device = torch.device(name)
    here = set(served(device))
    dtypes: dict[str, dict[str, Any]] = {}
    for dtype in (dtype for dtype in DTYPES if dtype in here):
        if not (dtype.is_floating_point or dtype.is_complex):
            dtypes[dtype_name(dtype)] = {"exact": f"modulo 2**{torch.iinfo(dtype).bits}"}
            continue
        found = declared(dtype, device)
        dtypes[dtype_name(dtype)] = {
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
    name_of = platform.machine() if device.type == "cpu" else _accelerator_name(device)
    return {"name": name_of, "dtypes": dtypes}


def _accelerator_name(device: Any) -> str:
    import torch

    module = getattr(torch, device.type)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else str(device)


# --- what is said -----------------------------------------------------------------------------------------------------


def _show(out: Console, found: dict[str, Any]) -> None:
    term.heading(out, f"equiv {found['equiv']}")
    cpu = found["cpu"]
    packages = ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items())
    rows = [
        ("python", f"{found['python']} on {found['platform']}"),
        ("packages", packages),
        (
            "cpu",
            f"{cpu['capability']}, {counted(cpu['threads'], 'thread')}, "
            + ", ".join(f"{name} {'on' if cpu[name] else 'off'}" for name in ("mkldnn", "mkl", "openmp")),
        ),
        ("float32", ", ".join(f"{name}: {setting}" for name, setting in found["float32"].items())),
    ]
    term.lines(out, [f"{name:<10}{text}" for name, text in rows], hanging=" " * 10)
    out.print()
    for name, device in found["devices"].items():
        _show_device(out, name, device)
        if "measured" in found:
            measured_facts.show(out, name, found["measured"][name])
    term.paragraph(
        out,
        """Dtypes are those that both Linear and conv2d serve. u: unit roundoff, the largest relative error of one
        rounding, of the result and of the sums inside. subnormals: whether values below the smallest normal number may
        become 0. bias: how often a result is rounded when a bias is added. source: measured on CPUs, or taken from
        documentation.""",
    )
    term.heading(out, f"{len(found['laws'])} laws")
    hanging = " " * (2 + max(len(law["id"]) for law in found["laws"]))
    term.lines(out, [f"{law['id']:<{len(hanging)}}{law['sentence']}" for law in found["laws"]], hanging=hanging)
    out.print()
    term.heading(out, f"{len(found['profiles'])} profiles")
    for profile in found["profiles"]:
        traits = [f"{profile['max_examples']} cases for each law and dtype, more or fewer where the law says so"]
        traits += ["the same in every run" if profile["derandomize"] else "others in every run"]
        traits += ["failing ones kept in .hypothesis/"] * profile["database"] + ["sizes beyond 1024"] * profile["deep"]
        term.lines(out, [f"{profile['name']:<6}{'; '.join(traits)}"], hanging=" " * 6)


def _show_device(out: Console, name: str, device: dict[str, Any]) -> None:
    term.heading(out, f"{name} ({device['name']})")
    rows = []
    for dtype, facts in device["dtypes"].items():
        if "exact" in facts:
            rows.append((dtype, "exact", facts["exact"], "", "", "theory"))
            continue
        flushed = facts["flushes_inputs"] or facts["flushes_outputs"]
        rows.append(
            (
                dtype,
                _power(facts["unit_roundoff"]),
                _power(facts["accumulator_unit_roundoff"]),
                "may be 0" if flushed else "kept",
                "once" if facts["bias_rounding"] == "once" else "once or twice",
                "measured" if facts["measured"] else "documents",
            )
        )
    term.table(out, ("dtype", "u of result", "u of sums", "subnormals", "bias", "source"), rows)


def _power(value: float) -> str:
    mantissa, exponent = math.frexp(value)
    return f"2**{exponent - 1}" if mantissa == 0.5 else f"{value:.3g}"
