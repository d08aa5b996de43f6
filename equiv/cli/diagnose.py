"""``equiv diagnose``: do two models that are named compute the same, and where do they first part?"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import equiv
from equiv.arguments import refusal
from equiv.cli import BROKEN, OK, inputs
from equiv.cli.inputs import Spec
from equiv.cli.models import Model, load_model, parted, prepare
from equiv.cli.watched import working
from equiv.cli.weights import load_weights
from equiv.dtypes import FLOATS
from equiv.errors import EquivError
from equiv.report import is_stdout, write_json, write_text
from equiv.report.terminal import Page
from equiv.text import quoted


@dataclass(frozen=True)
class Setting:
    """What models and inputs of a command have in common.

    ``dtype`` None is that of each model; ``evaluate`` None puts models that are made here into evaluation mode.
    """

    inputs: tuple[Spec, ...]
    seed: int
    dtype: torch.dtype | None
    device: torch.device
    evaluate: bool | None

    def prepare(self, model: Model, weights: str | None, option: str) -> None:
        """Give a model its weights, its mode, its dtype and its place."""
        if weights is not None:
            load_weights(option, weights, model)
        prepare(model, evaluate=self.evaluate, dtype=self.dtype, device=self.device)

    def draw(self, *models: Model) -> tuple[Tensor, ...]:
        """The inputs, in the dtype of the first of these models that has one where nothing else was asked for."""
        known = [next(floating(model), None) for model in models]
        dtype = self.dtype or next((one for one in known if one is not None), torch.float32)
        return inputs.draw("--input", self.inputs, dtype=dtype, device=self.device, seed=self.seed)

    def to_dict(self, given: Sequence[Tensor]) -> dict[str, Any]:
        """The setting for a report."""
        return {
            "inputs": inputs.to_dict(self.inputs, given),
            "seed": self.seed,
            "device": str(self.device),
            "torch": torch.__version__,
        }


def floating(model: Model) -> Iterator[torch.dtype]:
    """The dtypes of a model's parameters in which inputs can be drawn."""
    parameters = () if model.module is None else model.module.parameters()
    return (p.dtype for p in parameters if p.dtype in FLOATS or p.dtype.is_complex)


def parse_match(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Pairs of names of modules, the new one first.

    Example:
        >>> parse_match("--match", ["head.conv=classifier.fc"])
        {'head.conv': 'classifier.fc'}
    """
    found: dict[str, str] = {}
    for text in texts:
        new, equals, old = (part.strip() for part in text.partition("="))
        if not (new and equals and old):
            raise refusal(option, "two names of modules such as new.name=old.name", text[:100], "write both")
        if found.get(new, old) != old:
            raise refusal(option, f"one partner for {new}", text[:100], "name each module once")
        found[new] = old
    return found


_ARGUMENTS = {"candidate": "NEW", "reference": "OLD", "inputs": "--input", "match": "--match", "model": "MODEL"}


@contextmanager
def as_options(**names: str) -> Iterator[None]:
    """Errors name the option that was typed, where functions name their argument."""
    known = {**_ARGUMENTS, **names}
    try:
        yield
    except EquivError as error:
        text = re.sub(r"^(\w+)\b(?=.*:)", lambda found: known.get(found[1], found[1]), str(error))
        raise type(error)(text) from error


def diagnose(
    new: str,
    old: str,
    setting: Setting,
    *,
    weights: tuple[str | None, str | None],
    match: Mapping[str, str],
    gradients: bool,
    targets: Mapping[str, str],
) -> int:
    """Load both, compare them, write and say what was found; the exit code."""
    with working("loading"):
        models = load_model("NEW", new, seed=setting.seed), load_model("OLD", old, seed=setting.seed)
        parted(*models)
        for model, file, option in zip(models, weights, ("--weights-new", "--weights-old"), strict=True):
            setting.prepare(model, file, option)
        given = setting.draw(models[1], models[0])
    with working("comparing"), as_options():
        args, kwargs = inputs.arranged(setting.inputs, given)
        asked: dict[str, Any] = {"match": match or None, "kwargs": kwargs or None, "gradients": gradients}
        found = equiv.diagnose(models[0].call, models[1].call, *args, **asked)
    told = {name: model.sentence for name, model in zip(("new", "old"), models, strict=True)}
    told["in"] = inputs.sentence(setting.inputs, given, setting.seed)
    if "json" in targets:
        heads = {name: model.to_dict() for name, model in zip(("new", "old"), models, strict=True)}
        write_json({**heads, **setting.to_dict(given), **found.to_dict()}, targets["json"])
    if "html" in targets:
        write_text(found.to_html(about=told), targets["html"], option="--html")
    if not any(map(is_stdout, targets.values())):
        page = Page()
        page.lines([f"{name}: {text}" for name, text in told.items()], hanging="     ")
        say(page, str(found))
    return OK if found.equivalent else BROKEN


def say(page: Page, text: str) -> None:
    """Lines of a report, wrapped where they are too long and no code, without control characters."""
    page.verbatim("\n".join(piece for line in text.splitlines() for piece in _wrapped(line, page.prose_width)))


def _wrapped(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    plain = indent + (line.strip() if line.isprintable() else quoted(line, 1000))
    if len(plain) <= width or plain.startswith("fix "):
        return [plain]
    return textwrap.wrap(plain, width, subsequent_indent=f"{indent}    ", break_on_hyphens=False)
