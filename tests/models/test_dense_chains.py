"""Chains of random kernels, strides and paddings: the scores that are said to be exact are, whatever the chain."""

import random
import warnings

import pytest
import torch
from classifiers import normal, seeded
from torch import nn

import equiv
from equiv import EquivError


def chain(seed: int) -> tuple[nn.Sequential, list[int]] | None:
    """A classifier and the size of its input; None where a map is empty on the way, or too large."""
    draw = random.Random(seed)
    rank, channels, layers = draw.choice([1, 2]), 2, []
    conv, largest, average, pad, adaptive = (
        getattr(nn, f"{name}{rank}d") for name in ("Conv", "MaxPool", "AvgPool", "ConstantPad", "AdaptiveAvgPool")
    )
    for _ in range(draw.randint(1, 4)):
        kernel, stride, kind = draw.randint(1, 4), draw.randint(1, 3), draw.choice("ccmap")
        around, past = draw.choice([0, 0, 1]) if kernel > 1 or kind == "c" else 0, draw.random() < 0.3
        if kind == "c":
            mode = draw.choice(["zeros", "zeros", "reflect", "circular", "replicate"])
            options = {"padding": around, "dilation": draw.choice([1, 1, 2]), "padding_mode": mode}
            layers += [conv(channels, outs := draw.randint(2, 4), kernel, stride, **options), nn.Tanh()]
            channels = outs
        elif kind == "p":
            layers.append(pad(tuple(draw.choice([0, 0, 1]) for _ in range(2 * rank)), 0.5))
        else:
            options = {"padding": around, "ceil_mode": past}
            layers.append(
                largest(kernel, stride, **options)
                if kind == "m"
                else average(kernel, stride, count_include_pad=draw.random() < 0.5, **options)
            )
    size = [draw.randint(6, 24) for _ in range(rank)]
    try:
        found = nn.Sequential(*layers).double()(normal(1, 2, *size))
    except RuntimeError:  # a map smaller than the kernel
        return None
    if not min(found.shape) > 0 or max(found.shape[2:]) > 12:
        return None
    pooled = draw.random() < 0.5
    head = [adaptive(1)] if pooled else []
    return seeded(
        nn.Sequential(*layers, *head, nn.Flatten(), nn.Linear(channels if pooled else found.numel(), 3))
    ), size


@pytest.mark.parametrize("part", range(4))
@torch.no_grad()
def test_scores_are_exact_where_it_is_said(part: int) -> None:
    tried = exact = refused = blind = 0
    for seed in range(100 * part, 100 * part + 50):
        with warnings.catch_warnings(action="ignore"):
            made = chain(seed)
        if made is None:
            continue
        model, size = made
        try:
            dense = equiv.to_fully_convolutional(model, normal(1, 2, *size))
        except EquivError as error:
            blind += "scores that depend on the input" in str(error)  # it reads nothing but padding
            refused += 1
            continue
        windows, count = dense.windows, (3,) * len(size)
        x = normal(1, 2, *(w + 2 * s for w, s in zip(windows.window, windows.stride, strict=True)), seed=seed)
        scores, right = dense(x), windows.exact_at(count)
        assert tuple(scores.shape[2:]) == count
        for place in right.nonzero().tolist():
            distance = float((scores[(..., *place)] - model(x[(..., *windows.at(*place))])).abs().max())
            assert distance < 1e-12, (seed, place, model)
        tried, exact = tried + 1, exact + int(right.sum())
    assert blind == refused
    assert tried > 15
    assert exact > tried
