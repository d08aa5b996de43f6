"""A classifier as a fully convolutional model: on a larger map, the scores of every window at once.

Reads the classifier's graph (``equiv.models.dense_tracing``), rewrites it node by node (``dense_surgery`` and the rules
of ``dense_rules``), and checks the result on a small example (``dense_check``).
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph_module import reduce_graph_module

from equiv.arguments import check_choice
from equiv.errors import EquivError
from equiv.models.dense_check import NoInformationError, check_whole, check_windows
from equiv.models.dense_rules import rule_of
from equiv.models.dense_surgery import Surgery
from equiv.models.dense_tracing import Traced, check_example, check_model, check_sizes, traced
from equiv.models.dense_windows import Axis, WholeWindows, Windows, windows_of
from equiv.numerics import plain_torch, subnormals_kept
from equiv.text import first_line


class FullyConvolutional(fx.GraphModule):
    """What :func:`to_fully_convolutional` returns: ``windows`` says which part of the input each score is about."""

    @property
    def windows(self) -> Windows:
        """Size, stride and exactness of the windows."""
        found: Windows = self.meta["windows"]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """As of a graph module; what is read back is of this class again."""
        return _rebuilt, (*super().__reduce__()[1], self.windows)


def _rebuilt(body: dict[str, Any], imports: str, windows: Windows) -> FullyConvolutional:
    return _dressed(reduce_graph_module(body, imports), windows)


def _dressed(module: Any, windows: Windows) -> FullyConvolutional:
    dense = FullyConvolutional(module, module.graph, type(module).__name__)
    dense.training = module.training
    dense.meta["windows"] = windows
    return dense


@plain_torch()
@subnormals_kept()
def to_fully_convolutional(model: nn.Module, example_input: Tensor, *, padding: str = "keep") -> FullyConvolutional:
    """Write a classifier as a model that takes larger inputs, and returns a map with the scores of every window.

    The last map of features is pooled and flattened no more: a Linear that reads it becomes a convolution whose kernel
    is the map, later ones become convolutions of kernel 1, BatchNorm1d the norm of maps, softmax that over axis 1, a
    global or adaptive pooling one with a fixed kernel. The features stay as they are. For OverFeat, FCN and heat maps.

    Args:
        model: In eval mode. ``(N, C, *spatial)`` -> ``(N, classes)``, or a tuple or dict of such, with 1, 2 or 3
            spatial axes. It is not touched: the parameters of the result are copies.
        example_input: A batch of the size that the model classifies, on its device; its values do not matter.
        padding: What becomes of padding inside the features, which surrounds a window with zeros where a larger input
            has more of itself. ``"keep"`` leaves it: each score is what follows the features, applied to a window of
            the features of the whole input. It equals the classifier on the window of the input where ``windows.exact``
            says so. ``"valid"`` keeps the scores that read no padding at all: each equals the network without padding
            on ``windows.window`` entries of the input.

    Returns:
        A module ``(N, C, *larger)`` -> ``(N, classes, *positions)``; for the example's size ``(N, classes, 1, 1)``, or
        as many ones as there are spatial axes (with ``"valid"``, where no layer pads). Names of parameters and
        buffers, dtype, device, and training mode are those of the model, and so are shapes, but for weights of Linear
        layers. ``.windows`` is a :class:`Windows`.

    Raises:
        EquivError: It names the first layer that is not the same function on each window of a larger input (adaptive
            pooling with uneven kernels, SAME padding computed from the size, attention, LSTM, statistics over
            positions, positional embeddings), and says what would be. Or the result was checked against the model, on
            an input one stride larger in each axis, and found wrong.

    Example:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 10)
        ... ).eval()
        >>> dense = to_fully_convolutional(model, torch.zeros(1, 3, 8, 8))
        >>> x = torch.randn(1, 3, 20, 12)
        >>> dense(x).shape, dense.windows.stride, dense.windows.exact
        (torch.Size([1, 10, 7, 3]), (2, 2), ('all', 'all'))
        >>> window = x[(..., *dense.windows.at(4, 1))]
        >>> torch.allclose(dense(x)[:, :, 4, 1], model(window), atol=1e-5)
        True
    """
    check_choice("padding", padding, ("keep", "valid"))
    checked, example = check_model(model), check_example(example_input)
    check_sizes(checked, example)
    found = traced(checked, example)
    surgery, axes = _converted(found)
    windows = windows_of(axes, found.spatial, "keep")
    rounding = _checked(found, surgery, windows)
    if padding == "valid" and any(word != "all" for word in windows.exact):
        _keep_whole(surgery, axes)
        windows = windows_of(axes, found.spatial, padding)
        check_whole(found, surgery, windows, rounding)
    dense = _dressed(surgery.module, windows)
    _order(dense, checked)
    return dense


def _checked(found: Traced, surgery: Surgery, windows: Windows) -> float:
    """How far float32 rounds the scores, which equal the classifier's on their windows."""
    try:
        for seed in range(5):
            if seed == 2:  # such as a last layer that is all zero
                found = _drawn(found)
                surgery = _converted(found)[0]
            with suppress(NoInformationError):
                return check_windows(found, surgery, windows, seed)
    except EquivError:
        raise
    except Exception as error:
        raise EquivError(
            f"model: expected one that runs in float64 on the CPU, where the result is checked, got "
            f"{type(error).__name__}: {first_line(error)}; take out what needs a dtype or a device"
        ) from error
    raise EquivError(
        "model: expected finite scores that depend on the input, got others, from drawn parameters too: nothing shows "
        "whether the result is right; check that activations do not overflow, and that it reads more than padding"
    )


def _converted(found: Traced) -> tuple[Surgery, tuple[Axis, ...]]:
    surgery = Surgery(found)
    scores = surgery.run(rule_of)
    first, *others = [value.axes for value in scores]
    for axes in others:
        if [a.stride for a in axes] != [a.stride for a in first]:
            strides = [tuple(a.stride for a in each) for each in (first, axes)]
            raise EquivError(f"model: expected outputs of one stride, got {strides[0]} and {strides[1]}; convert one")
        first = tuple(a.joined(b) for a, b in zip(first, axes, strict=True))
    return surgery, first


def _drawn(found: Traced) -> Traced:
    """The same graph with parameters and statistics that are drawn."""
    module = copy.deepcopy(found.module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, held in (*module.named_parameters(), *module.named_buffers()):
            if held.is_floating_point():
                values = torch.randn(held.shape, generator=generator, dtype=torch.float64)
                if held.ndim > 1:
                    values *= (2 / max(1, held[0].numel())) ** 0.5  # sizes stay from layer to layer
                elif name.endswith(("weight", "var")):
                    values = values.abs() / 4 + 0.5
                held.copy_(values if held.ndim > 1 or name.endswith(("weight", "var")) else values / 8)
    return Traced(module, found.results, found.example)


def _order(dense: nn.Module, model: nn.Module) -> None:
    """Give parameters, buffers and modules the order that they have in the model, which optimizers count by."""
    for path, part in dense.named_modules():
        try:
            source = model.get_submodule(path)
        except AttributeError:  # what was added
            continue
        for kind in ("_parameters", "_buffers", "_modules"):
            held, order = getattr(part, kind), [*getattr(source, kind)]
            for key in sorted(held, key=lambda k: order.index(k) if k in order else len(order)):
                held[key] = held.pop(key)


def _keep_whole(surgery: Surgery, axes: tuple[Axis, ...]) -> None:
    """Let every output pass on only the scores that read no padding."""
    graph, module = surgery.module.graph, surgery.module
    x = next(node for node in graph.nodes if node.op == "placeholder")
    name = "whole_windows"
    while hasattr(module, name):
        name += "_"
    module.add_submodule(name, WholeWindows(axes))
    output = next(node for node in graph.nodes if node.op == "output")
    for node in output.all_input_nodes:
        with graph.inserting_before(output):
            kept = graph.call_module(name, (node, x))
        output.replace_input_with(node, kept)
    module.recompile()
