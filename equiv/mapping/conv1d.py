"""The ``Conv1D`` of transformers (GPT-2 and its kin): a linear layer that holds its weight transposed, ``(nx, nf)``.

transformers is not imported to tell one: a class of that name with ``nf`` is taken for one if its forward, run on small
integers in place of the weights, returns ``x @ weight + bias`` exactly. So copies of the class are served as well, and
others that share the name alone are refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equiv.arguments import check_integer
from equiv.errors import EquivError
from equiv.mapping.checks import described
from equiv.mapping.plain import check_ready, check_shapes
from equiv.text import first_line

_ROWS, _WEIGHT, _BIAS = [[1, -2, 3], [0, 4, -1]], [[5, -7], [2, 3], [-1, 6]], [8, -9]


def check_conv1d(layer: Any, name: str = "conv") -> nn.Module:
    """Return the module if it is such a layer by its own weight and bias and nothing else.

    Raises:
        EquivError: Hooks, parameters that are computed or not there yet, other parameters, buffers or modules, shapes
            that do not agree with ``nf`` and ``nx``, or a forward that computes something else.
    """
    check_ready(layer, name)
    held = [*layer._buffers, *layer._modules, *(key for key in layer._parameters if key not in ("weight", "bias"))]
    if held:
        raise EquivError(
            f"{name}: expected a Conv1D of weight and bias alone, got {described(layer)} that also holds "
            f"{', '.join(held)}, which may change the result; copy weight and bias into a plain one"
        )
    # Older versions have no nx.
    nf, nx = (
        check_integer(f"{name}.{key}", vars(layer).get(key, size), least=0, advice="make attributes and weight agree")
        for key, size in (("nf", None), ("nx", layer.weight.shape[0] if layer.weight.ndim else 0))
    )
    check_shapes(layer, "(nx, nf)", (nx, nf), nf, name)
    _check_forward(layer, name)
    return layer  # type: ignore[no-any-return]


@torch.inference_mode(False)
@torch.no_grad()
def _check_forward(layer: nn.Module, name: str) -> None:
    """Refuse a module that, with a weight (3, 2) in place of its own, is not ``x @ weight + bias``."""
    x, weight, bias = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (_ROWS, _WEIGHT, _BIAS))
    expected = x @ weight
    twin: Any = object.__new__(type(layer))
    twin.__dict__.update(vars(layer), nf=2, nx=3)
    twin._parameters = {"weight": nn.Parameter(weight, requires_grad=False), "bias": None}
    if layer._parameters["bias"] is not None:
        twin._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
        expected = expected + bias
    try:
        with torch.autocast("cpu", enabled=False):
            result = twin(x)
        same = isinstance(result, torch.Tensor) and torch.equal(result, expected)
        got = "another result"
    except Exception as error:
        same, got = False, f"{type(error).__name__}: {first_line(error)}"
    if not same:
        raise EquivError(
            f"{name}: expected a Conv1D that returns x @ weight + bias, got {described(layer)}, which gives {got} with "
            "a weight of small integers; if it computes that all the same, copy weight and bias into a torch.nn.Linear"
        )
