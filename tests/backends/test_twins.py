"""Twins of modules: the same results, and nothing that the caller holds changes."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from equiv.backends.twins import Twin, shallow

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    """State of every kind, tied parts and parameters, hooks, a part in a list."""

    def __init__(self):
        super().__init__()
        self.first = self.again = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight
        self.parts, self.count = [nn.Linear(6, 6)], 0
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("alias", self.scale)
        self.register_forward_pre_hook(self.scaled)
        self.register_forward_hook(lambda module, _, y: y + module.count)

    def scaled(self, module, inputs):
        return (inputs[0] * module.scale,)

    def forward(self, x):
        self.count += 1
        self.scale.add_(1)
        self.scale = self.scale + 1
        self.register_buffer("more", torch.ones(1), persistent=False)
        self.note = "seen"
        return self.parts[0](self.tied(self.again(self.first(x)))) * self.alias


def overridden():
    linear = nn.Linear(6, 3)
    linear.forward = types.MethodType(lambda self, x: nn.functional.linear(x, self.weight) * 2, linear)
    return linear


def compiled_in_place():
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    module.compile(backend="eager")
    return module


MODULES = {
    "state": Keeps,
    "forward of its own": overridden,
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(6, 3)),
    "parametrized": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)),
    "traced": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())),
    "exported": lambda: torch.export.export(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), (X,)).module(),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))),
    "compiled": lambda: torch.compile(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), backend="eager"),
    "compiled in place": compiled_in_place,
}


def held(module):
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return [(name, t if not isinstance(module, torch.jit.ScriptModule) else None, t._version) for name, t in tensors]


def same(a, b):
    return len(a) == len(b) and all(x[0] == y[0] and x[1] is y[1] and x[2] == y[2] for x, y in zip(a, b, strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", MODULES)
def test_a_twin_computes_the_same_and_changes_nothing(kind):
    torch.manual_seed(0)
    module = MODULES[kind]()
    before, own, values = held(module), dict(vars(module)), [t.clone() for t in module.state_dict().values()]
    twin = Twin(module)
    with torch.no_grad():
        first, second = twin(X), twin(X)
    assert same(held(module), before)
    assert all(map(torch.equal, module.state_dict().values(), values))
    assert vars(module).keys() == own.keys()
    with torch.no_grad():
        right = module(X)
    assert torch.equal(first, right)
    assert kind == "state" or torch.equal(second, right)  # which counts its calls in a plain attribute


def test_what_is_tied_stays_tied():
    module = Keeps()
    twin = Twin(module)
    with torch.no_grad():
        twin(X)
    whole = twin.module
    assert whole.first is whole.again
    assert whole.tied.weight is whole.first.weight is module.first.weight
    assert whole.parts is module.parts
    assert (module.count, whole.count) == (0, 1)
    assert not hasattr(module, "note")
    assert "more" not in module._buffers
    assert not module._non_persistent_buffers_set
    parts = nn.Sequential(nn.Linear(6, 6))
    parts.append(parts[0])
    assert len({*Twin(parts).module}) == 1


def test_a_shallow_module_runs_with_other_parameters_also_where_it_is_compiled():
    for compiled in (False, True):
        linear = nn.Linear(6, 2)
        if compiled:
            linear.compile(backend="eager")
        weight = torch.ones(2, 6)
        other = shallow(linear, _parameters={"weight": weight, "bias": None})
        with torch.no_grad():
            assert torch.equal(other(X), nn.functional.linear(X, weight))
            assert torch.equal(linear(X), nn.functional.linear(X, linear.weight, linear.bias))
        assert isinstance(linear.weight, nn.Parameter)
