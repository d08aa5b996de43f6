"""ExecuTorch's Cadence backend replaces a convolution as large as its map by a Linear."""

import copy
import typing

import pytest
import torch

import equiv

if not hasattr(typing, "override"):  # executorch 1.5.1 imports it, and says that it runs on Python 3.10
    typing.override = lambda method: method
pytest.importorskip("executorch")
pytest.importorskip("executorch.backends.cadence.aot.ref_implementations")
replace_ops = pytest.importorskip("executorch.backends.cadence.aot.replace_ops")

from executorch.exir.dialects._ops import ops  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

SHAPES = {1: ((96, 7), 192), 2: ((6, 7, 7), 12), 3: ((2, 3, 4, 5), 6)}  # the first two are those of its own test
SEEDS = 30


def rewritten(x, weight, bias, stride=1):
    """A graph of one convolution, and what the pass makes of it."""
    rank = x.ndim - 2
    op = getattr(ops.edge.cadence, f"conv{rank}d").default
    options = ([stride] * rank, [0] * rank, [1] * rank, 1)
    graph, mode = torch.fx.Graph(), FakeTensorMode()
    given = [graph.placeholder(name) for name in ("x", "weight", "bias")]
    for node, tensor in zip(given, (x, weight, bias), strict=True):
        node.meta["val"] = mode.from_tensor(tensor)
    node = graph.call_function(op, (*given, *options))
    node.meta["val"] = mode.from_tensor(op(x, weight, bias, *options))
    graph.output((node,))
    before = torch.fx.GraphModule(torch.nn.Module(), graph)
    result = replace_ops.ReplaceTrivialConvWithLinear()(copy.deepcopy(before))
    return before, result


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("rows", [1, 4])
def test_the_linear_is_the_same_function(rank, rows):
    shape, outputs = SHAPES[rank]
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        x, weight, bias = torch.randn(rows, *shape), torch.randn(outputs, *shape), torch.randn(outputs)
        before, result = rewritten(x, weight, bias, stride=1 + seed % 2)
        assert result.modified
        actual, expected = result.graph_module(x, weight, bias)[0], before(x, weight, bias)[0]
        assert equiv.compare(actual, expected, input=x, weight=weight, bias=bias).equivalent
        ones = torch.randint(-8, 9, x.shape).float(), torch.randint(-8, 9, weight.shape).float(), bias.round()
        assert torch.equal(result.graph_module(*ones)[0], before(*ones)[0])  # sums of small integers are exact


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 4, 4)])
def test_what_slides_is_left_alone(shape):
    x, weight, bias = torch.randn(1, *shape), torch.randn(4, 3, 3, 3), torch.randn(4)
    assert not rewritten(x, weight, bias)[1].modified
