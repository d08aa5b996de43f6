"""ExecuTorch's Qualcomm backend replaces every Linear by a 1x1 convolution."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from torch.nn.utils.parametrizations import weight_norm

pytest.importorskip("executorch")
pytest.importorskip("torchao")
name = "executorch.backends.qualcomm._passes.convert_linear_to_conv2d"
passes = pytest.importorskip(name, exc_type=ImportError)

from executorch.exir import EdgeCompileConfig, to_edge  # noqa: E402
from executorch.exir.dialects._ops import ops  # noqa: E402

LINEAR = ops.edge.aten.linear.default


class Model(nn.Module):
    """Modules and the function that uses them."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def _tied():
    embedding, head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
    head.weight = embedding.weight
    return Model(lambda m, x: m.head(m.embedding(x)), embedding=embedding, head=head)


def _two(a, b):
    return Model(lambda m, x: m.b(torch.relu(m.a(x))), a=a, b=b)


X = torch.randn(4, 6)
CONVERTED = {
    "rows": (nn.Linear(6, 5), X),
    "rows, no bias": (nn.Linear(6, 5, bias=False), X),
    "sequences": (nn.Linear(6, 5), torch.randn(2, 4, 6)),
    "sequences, no bias": (nn.Linear(6, 5, bias=False), torch.randn(2, 4, 6)),
    "maps": (nn.Linear(6, 5), torch.randn(2, 3, 4, 6)),
    "maps of channels last": (nn.Linear(6, 5), torch.randn(2, 6, 3, 4).permute(0, 2, 3, 1)),
    "float16": (nn.Linear(6, 5).half(), X.half()),
    "two layers": (_two(nn.Linear(6, 8), nn.Linear(8, 3)), X),
    "one layer twice": (Model(lambda m, x: m.a(m.a(x)), a=nn.Linear(6, 6)), X),
    "one input, two layers": (Model(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(6, 5), b=nn.Linear(6, 5)), X),
    "one weight, two biases": (
        Model(lambda m, x: linear(linear(x, m.a.weight, m.b.bias), m.a.weight), a=nn.Linear(6, 6), b=nn.Linear(6, 6)),
        X,
    ),
    "weight used elsewhere": (Model(lambda m, x: m.a(x) + m.a.weight.sum(), a=nn.Linear(6, 5)), X),
    "tied embedding": (_tied(), torch.randint(0, 9, (2, 4))),
    "linear before attention": (
        Model(lambda m, x: m.a(x).softmax(-1) @ m.b(x), a=nn.Linear(6, 4), b=nn.Linear(6, 5)),
        X,
    ),
}
FAILS = {
    "one row without a batch": (nn.Linear(6, 5), X[0]),
    "rank 5": (nn.Linear(6, 5), torch.randn(2, 3, 2, 4, 6)),
    "rank 5 after rows": (
        Model(lambda m, x: m.b(m.a(x).reshape(2, 2, 1, 1, 6)), a=nn.Linear(6, 6), b=nn.Linear(6, 5)),
        X,
    ),
    "weight norm": (weight_norm(nn.Linear(6, 5)), X),
    "transposed weight": (Model(lambda m, x: linear(x, m.a.weight.t()), a=nn.Linear(5, 6)), X),
    "scaled weight": (Model(lambda m, x: linear(x, m.a.weight * 2), a=nn.Linear(6, 5)), X),
    "weight as input": (Model(lambda _, x, w: linear(x, w)), X, torch.randn(5, 6)),
    "no rows": (nn.Linear(6, 5), X[:0]),
    "rows of any number": (nn.Linear(6, 5), X),
}


def converted(model, inputs, dynamic=None):
    """The graph before and after the pass, and the tensors that both are called with."""
    for tensor in (*model.parameters(), *inputs):  # small integers: right kernels agree bit for bit in any order
        if tensor.is_floating_point():
            tensor.data.copy_(torch.randint(-3, 4, tensor.shape))
    exported = torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic)
    config = EdgeCompileConfig(preserve_ops=[torch.ops.aten.linear.default], _check_ir_validity=False)
    program = to_edge(exported, compile_config=config).exported_program()
    before, given = copy.deepcopy(program.graph_module), iter(inputs)
    tensors = [
        program.state_dict[spec.target] if spec.target in program.state_dict else next(given)
        for spec in program.graph_signature.input_specs
    ]
    return before, passes.ConvertLinearToConv2d(program)(program.graph_module).graph_module, tensors


def run(model, inputs, dynamic):
    """The results of the graph after the pass."""
    _, after, tensors = converted(model, inputs, dynamic)
    with torch.no_grad():
        return after(*tensors)


def count(graph_module):
    return sum(node.target is LINEAR for node in graph_module.graph.nodes)


@pytest.fixture(autouse=True)
def quiet():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", CONVERTED)
def test_what_is_converted_is_the_same_function(key):
    torch.manual_seed(0)
    model, *inputs = CONVERTED[key]
    before, after, tensors = converted(model, tuple(inputs))
    assert count(before) > count(after) == 0
    with torch.no_grad():
        for actual, expected in zip(after(*tensors), before(*tensors), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", FAILS)
def test_what_it_cannot_convert(key):
    model, *inputs = FAILS[key]
    dynamic = ({0: torch.export.Dim("rows", min=2, max=64)},) if key == "rows of any number" else None
    with pytest.raises((AssertionError, RuntimeError, NameError)):
        run(model, tuple(inputs), dynamic)
