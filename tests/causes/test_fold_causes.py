"""Mistakes in folds of batch norms: named by what they are, and mended by the line that is printed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from equiv import Cause, NotEquivalent, assert_equivalent

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import batch_norm_folds as folds


def cause_of(candidate: Any, chain: Any, shape: tuple[int, ...]) -> Cause | None:
    """The cause that is named; None where the two are equivalent, or none is."""
    try:
        assert_equivalent(candidate, chain, feature_shape=shape if len(shape) > 1 else None)
    except NotEquivalent as error:
        return error.verdict.cause
    return None


def mended(cause: Cause, layer: Any, bn: Any) -> Any:
    """The layer with what the line of a cause computes."""
    names: dict[str, Any] = {"layer": layer, "bn": bn, "torch": torch}
    exec(cause.fix, names)
    return folds.made(layer, names["weight"], names["bias"])


@pytest.mark.parametrize("name", folds.WRONG)
def test_each_mistake_is_named_and_mended(name: str) -> None:
    tried = 0
    for seed in range(12):
        dtype = (torch.float32, torch.float16, torch.bfloat16)[seed % 3 if "eps" not in name else 0]
        pair, shape = folds.random_pair(seed, dtype, small="eps" in name)
        if not folds.applies(name, pair) or len(shape) > 3:
            continue
        cause = cause_of(folds.WRONG[name](pair), nn.Sequential(*pair), shape)
        assert cause is not None
        assert cause.name == name, seed
        assert_equivalent(mended(cause, *pair), nn.Sequential(*pair), feature_shape=shape if len(shape) > 1 else None)
        tried += 1
        if tried == 3:
            return


def test_another_batch_norm_of_the_chain_is_recognised() -> None:
    pair, shape = folds.random_pair(3, torch.float32)
    other = copy.deepcopy(pair[1])
    with torch.no_grad():
        other.running_mean.normal_(generator=torch.Generator().manual_seed(1))
        other.running_var.uniform_(0.1, 3, generator=torch.Generator().manual_seed(2))
    wrong = copy.deepcopy(pair[1])
    wrong.running_mean, wrong.running_var = other.running_mean, other.running_var
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(3))
    chain = nn.Sequential(*pair, other).eval()
    from equiv import compare

    found = compare(other(wrong(pair[0](x))), chain(x), input=x, layer=chain)
    assert found.cause is not None
    assert found.cause.name == "batch-norm-statistics-of-another"


def test_other_differences_are_not_called_a_wrong_fold() -> None:
    for seed in range(20):
        pair, shape = folds.random_pair(seed, (torch.float32, torch.bfloat16)[seed % 2])
        if len(shape) > 3:
            continue
        layer = folds.by_torch(pair)
        g = torch.Generator().manual_seed(seed)
        index = tuple(int(torch.randint(size, (), generator=g)) for size in layer.weight.shape)
        change = seed % 4
        if change == 0:
            layer.weight[index] += 1
        elif change == 1:
            layer.weight.copy_(layer.weight.flip(0))
        elif change == 2:
            layer.bias[index[0]] += 1
        else:
            layer.weight.mul_(1 + torch.rand(layer.weight.shape, generator=g).to(layer.weight.dtype))
        cause = cause_of(layer, nn.Sequential(*pair), shape)
        assert cause is None, (seed, cause)
