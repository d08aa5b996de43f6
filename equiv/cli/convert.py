"""``equiv convert``: a model in which other layers compute the same, checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

import equiv
from equiv.cli import BROKEN, OK, inputs
from equiv.cli.diagnose import Setting, as_options, say
from equiv.cli.files import write_state
from equiv.cli.models import Model, load_model
from equiv.cli.watched import working
from equiv.errors import EquivError
from equiv.report import STDOUT, write_json
from equiv.report.terminal import Page

TARGETS = ("pointwise", "dense", "linear")
"""What layers become: 1x1 convolutions, a model that takes larger maps, Linear layers."""


def convert(
    name: str,
    to: str,
    setting: Setting,
    *,
    weights: str | None,
    only: Sequence[str] = (),
    out: str | None,
    json: str | None,
) -> int:
    """Load, convert, check and write a model, and say what was done; the exit code."""
    if only and to != "pointwise":
        raise EquivError(f"--only: expected none with --to {to}, got {only[0]!r}; it chooses layers for pointwise")
    named = next((spec.name for spec in setting.inputs if spec.name), None)
    if named is not None:
        raise EquivError(f"--input: expected inputs by position to convert with, got {named}=; leave the name out")
    with working("loading"):
        model = load_model("MODEL", name, seed=setting.seed)
        module = model.need_module("equiv convert")
        setting.prepare(model, weights, "--weights")
        given = setting.draw(model)
    with working("converting"), as_options(only="--only", example_input="--input", example_inputs="--input"):
        converted = _converted(module, to, given, only)
    found = None
    if to != "dense":  # that function checks what it returns
        with working("comparing"), as_options(candidate="the converted model", reference="MODEL"):
            found = equiv.diagnose(converted, module, *given)
    right = found is None or found.equivalent
    note = write_state("--out", out, converted.state_dict()) if right and out is not None else ""
    if json is not None:
        write_json(_payload(model, to, setting, given, converted, found, out if right else None), json)
    if json != STDOUT:
        page = Page()
        page.lines([f"{model.sentence}", f"in: {inputs.sentence(setting.inputs, given, setting.seed)}"], hanging="    ")
        say(page, _report(converted))
        if found is not None:
            say(page, str(found))
        page.prose(_written(to, out, right, note))
    return OK if right else BROKEN


def _converted(module: nn.Module, to: str, given: Sequence[Tensor], only: Sequence[str]) -> nn.Module:
    if to == "dense":
        if len(given) != 1:
            raise EquivError(f"--input: expected one input for --to dense, got {len(given)}; name one")
        dense: nn.Module = equiv.to_fully_convolutional(module, given[0])
        return dense
    example = tuple(given)
    converted: nn.Module
    if to == "linear":
        converted = equiv.to_linear(module, example_inputs=example)
    else:
        converted = equiv.to_pointwise(module, only=list(only) or None, example_inputs=example)
    return converted


def _own_report(converted: nn.Module) -> Any:
    """The converter's report; a model may have a ``report`` of its own."""
    return getattr(converted, "equiv_report", None)


def _report(converted: nn.Module) -> str:
    """What the converter has to say."""
    report = _own_report(converted)
    if report is not None:
        return str(report)
    windows: Any = converted.windows
    window, stride = ("x".join(map(str, sizes)) for sizes in (windows.window, windows.stride))
    where = f"along each axis at these scores: {', '.join(windows.exact)}"
    if set(windows.exact) == {"all"}:
        where = "at every score"
    return (
        f"Fully convolutional: a score for each window of {window}, {stride} entries apart.\n"
        f"Equal to the classifier on the window {where}.\n"
        "Checked on an input one window larger along each axis."
    )


def _written(to: str, out: str | None, right: bool, note: str) -> str:
    if not right:
        return "The conversion was not shown to be equivalent on this input, so nothing was written."
    if out is None:
        return "Nothing was written; --out FILE writes the state_dict."
    how = {
        "pointwise": "equiv.to_pointwise(model)",
        "linear": "equiv.to_linear(model)",
        "dense": "equiv.to_fully_convolutional(model, example)",
    }[to]
    return f"Written to {out}, the state_dict of {how}{'; ' if note else ''}{note}."


def _payload(
    model: Model, to: str, setting: Setting, given: Sequence[Tensor], converted: nn.Module, found: Any, out: str | None
) -> dict[str, Any]:
    report = _own_report(converted)
    return {
        "model": model.to_dict(),
        "to": to,
        **setting.to_dict(given),
        "report": None if report is None else report.to_dict(),
        "windows": vars(converted.windows) if to == "dense" else None,
        "diagnosis": None if found is None else found.to_dict(),
        "out": out,
    }
