"""The same 40 pairs of models told by the rules that people use, and by ``equiv.diagnose``.

Ten architectures with random weights, small ones and large ones, through which rounding grows. One pair of each is
equal up to rounding: every Linear computes as a 1x1 convolution. In the other one random layer has a defect besides:
one weight by 2^-6 of its size, two inputs exchanged, or another bias.

Every rule is its library's own function, on the final results and, for the name of the layer, on the results of each
layer when both models run freely: the first layer that it refuses. Where a library gives a number and no bound, the
bound that tells most of these pairs is taken, in hindsight. Needs transformers; Polygraphy (``pip install
polygraphy``) where its row is wanted.

    python benchmarks/side_by_side.py [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diagnosis
import torch
from torch import Tensor, nn

import equiv

OUTPUT = ""
SIZES = (0.1, 0.5)  # of what is added to the weights: with large ones rounding grows from layer to layer
Rule = Callable[[Tensor, Tensor, Tensor], bool]  # the candidate's result, the reference's, and that in float64


@dataclass
class Pair:
    """Two models with their inputs; ``where`` is the layer with the defect, None where there is none."""

    candidate: nn.Module
    reference: nn.Module
    inputs: diagnosis.Inputs
    where: str | None
    names: list[str]

    @functools.cached_property
    def results(self) -> list[dict[str, Tensor]]:
        """Results by layer, of the candidate, the reference, and the reference in float64."""
        wide, inputs = diagnosis.copy.deepcopy(self.reference).double(), dict(self.inputs)
        for name, x in inputs.items():
            inputs[name] = x.double() if x.is_floating_point() else x
        runs = ((self.candidate, self.inputs), (self.reference, self.inputs), (wide, inputs))
        return [_run(model, given, self.names) for model, given in runs]


def _run(model: nn.Module, inputs: diagnosis.Inputs, names: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _m, _x, y, name=name: found.setdefault(name, y.clone()))
        for name in names
    ]
    with torch.no_grad():
        result = model(**inputs)
    for hook in hooks:
        hook.remove()
    found[OUTPUT] = result[0]
    return found


def pairs() -> Iterator[Pair]:
    """Forty of them."""
    for place, (name, make) in enumerate(diagnosis.models().items()):
        for step, size in enumerate(SIZES):
            torch.manual_seed(place)
            model, inputs = make()
            model.eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(size * torch.randn(parameter.shape))
            rows = equiv.diagnose(model, model, kwargs=inputs).layers
            names = [row.candidate for row in rows if row.kind == "layer" and row.calls == 1]
            yield Pair(diagnosis.as_convolutions(model), model, inputs, None, names)
            seed = 2 * place + step
            candidate, where = diagnosis.planted(model, names, seed)
            print(f"{name}: {diagnosis.DEFECTS[seed % 3].__name__} in {where}")
            yield Pair(candidate, model, inputs, where, names)


def rules() -> dict[str, Rule]:
    """What libraries offer, with their own bounds."""
    from torch._dynamo.utils import same

    quiet = functools.partial(same, log_error=lambda *_: None)
    found: dict[str, Rule] = {
        "torch.testing.assert_close": lambda a, b, _: _passes(a, b),
        "inductor's same(), with float64": lambda a, b, wide: quiet(b, a, fp64_ref=wide),
        "same(cos_similarity=True), 0.99": lambda a, b, wide: quiet(b, a, fp64_ref=wide, cos_similarity=True),
    }
    try:
        from polygraphy.comparator import IterationResult, SimpleCompareFunc
        from polygraphy.logger import G_LOGGER
    except ImportError:
        warnings.warn("polygraphy is not installed, so its row is left out", stacklevel=2)
        return found
    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    compare = SimpleCompareFunc()

    def polygraphy(a: Tensor, b: Tensor, _: Tensor) -> bool:
        return all(compare(*(IterationResult({"y": t.float().contiguous().numpy()}) for t in (a, b))).values())

    return {"Polygraphy, its defaults": polygraphy, **found}


def _passes(a: Tensor, b: Tensor) -> bool:
    try:
        torch.testing.assert_close(a, b)
    except AssertionError:
        return False
    return True


def numbers() -> dict[str, Callable[[Tensor, Tensor], float]]:
    """What gives a number alone; the smaller, the closer."""
    from torch.ao.ns.fx.utils import compute_cosine_similarity, compute_normalized_l2_error, compute_sqnr

    return {
        "torch.ao.ns, SQNR": lambda a, b: -float(compute_sqnr(b.float(), a.float())),
        "torch.ao.ns, L2 error": lambda a, b: float(compute_normalized_l2_error(b.float(), a.float())),
        "torch.ao.ns, cosine": lambda a, b: 1 - float(compute_cosine_similarity(b.float(), a.float())),
        "mean of the differences": lambda a, b: float((a.double() - b.double()).abs().mean()),
        "largest difference": lambda a, b: float((a.double() - b.double()).abs().max()),
    }


def with_best_bound(number: Callable[[Tensor, Tensor], float], held: list[Pair]) -> tuple[float, Rule]:
    """The bound that tells most pairs, and the rule that it makes."""
    scores = [number(pair.results[0][OUTPUT], pair.results[1][OUTPUT]) for pair in held]

    def told(bound: float) -> int:
        return sum((score <= bound) == (pair.where is None) for score, pair in zip(scores, held, strict=True))

    best = max(scores, key=told)
    return best, lambda a, b, _: number(a, b) <= best


def judged(rule: Rule, held: list[Pair]) -> tuple[int, int, int]:
    """How many equal pairs are called so, how many defects are seen, and how many of these at their layer."""
    right = seen = named = 0
    for pair in held:
        passes = [rule(*(results[name] for results in pair.results)) for name in (OUTPUT, *pair.names)]
        right += passes[0] and pair.where is None
        seen += not passes[0] and pair.where is not None
        first = next((name for name, passed in zip(pair.names, passes[1:], strict=True) if not passed), None)
        named += pair.where is not None and first == pair.where
    return right, seen, named


def by_diagnose(held: list[Pair]) -> tuple[int, int, int]:
    """The same of ``equiv.diagnose``."""
    right = seen = named = 0
    for pair in held:
        found = equiv.diagnose(pair.candidate, pair.reference, kwargs=pair.inputs)
        first = found.first_difference
        right += found.equivalent and pair.where is None
        seen += found.outcome is equiv.Outcome.DIFFERENT and pair.where is not None
        named += pair.where is not None and first is not None and first.candidate == pair.where
    return right, seen, named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    held = list(pairs())
    rows: dict[str, Any] = {}
    for name, rule in rules().items():
        rows[name] = judged(rule, held)
    for name, number in numbers().items():
        bound, rule = with_best_bound(number, held)
        rows[f"{name}, best bound {abs(bound):.3g}"] = judged(rule, held)
    rows["equiv.diagnose"] = by_diagnose(held)
    defects = sum(pair.where is not None for pair in held)
    print(f"{'rule':<44} {'equal':>8} {'defects':>8} {'at layer':>9}  of {len(held) - defects}, {defects}, {defects}")
    for name, (right, seen, named) in rows.items():
        print(f"{name:<44} {right:>8} {seen:>8} {named:>9}")
    if options.json is not None:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
