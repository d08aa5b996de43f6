"""A plain layer computes from its own weight and bias and nothing else."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations, prune

from equiv.mapping import is_plain_layer


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    linear = nn.Linear(2, 3)
    linear.register_forward_hook(lambda *_: None)
    return linear


def without_groups():
    conv = nn.Conv1d(2, 3, 1)
    conv.groups = 0
    return conv


def test_layers_of_torch_are_plain():
    for layer in (nn.Linear(2, 3), nn.Conv1d(2, 3, 1, bias=False), nn.Conv3d(4, 2, 3, padding=1, groups=2)):
        assert is_plain_layer(layer), layer


def test_what_computes_something_else_is_no_plain_layer():
    others = [nn.ReLU(), nn.Sequential(nn.Linear(2, 3)), nn.ConvTranspose1d(2, 3, 1), nn.LazyLinear(3)]
    others += [Doubled(2, 3), hooked(), without_groups(), parametrizations.weight_norm(nn.Linear(2, 3))]
    others += [prune.random_unstructured(nn.Linear(2, 3), "weight", 1)]
    for other in (*others, 3, None, nn.Linear):
        assert not is_plain_layer(other), other
