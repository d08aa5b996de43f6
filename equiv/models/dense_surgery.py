"""The rewriting of a traced classifier: its nodes in order, each by the rule of its operation.

What an operation becomes is said in ``equiv.models.dense_sliding`` and ``equiv.models.dense_heads``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from equiv.errors import EquivError
from equiv.models.dense_tracing import Traced
from equiv.models.dense_values import Value, name_of, refusal_at
from equiv.models.dense_windows import Axis
from equiv.text import first_line

Values: TypeAlias = Value | tuple[Value, ...]
Rule: TypeAlias = Callable[["Surgery", fx.Node, Value], Values]


class Surgery:
    """One classifier on its way.

    Args:
        traced: The classifier, which stays as it is, but shares the modules that need no change.

    Attributes:
        module: What becomes of it.
        values: What is known of the results of its nodes.
        padded: The maps that come from an operation that read padding, by the names of their nodes in the classifier.
        stands_for: The names of nodes that took the place of others, by the names of those.
    """

    def __init__(self, traced: Traced) -> None:
        original = traced.module
        self.module = fx.GraphModule(original, copy.deepcopy(original.graph), type(original).__name__)
        self.module.training = original.training
        self.results = traced.results
        self.values: dict[fx.Node, Values] = {}
        self.padded: dict[str, Value] = {}
        self.converted: dict[str, tuple[int, ...]] = {}  # the maps that Linear layers read, by their names
        self._dropped: list[fx.Node] = []
        self.stands_for: dict[str, str] = {}
        self._axes: tuple[Axis, ...] = tuple(Axis(n) for n in traced.spatial)

    def run(self, rules: Callable[[str, nn.Module | None], Rule | None]) -> list[Value]:
        """Rewrite every node; what is known of the scores that are returned."""
        scores: list[Value] = []
        for node in list(self.module.graph.nodes):
            if node.op == "placeholder":
                self._place(node)
            elif node.op == "output":
                scores = self._scores(node)
            elif node.op != "get_attr" and any(n in self.values for n in node.all_input_nodes):
                self._rewrite(node, rules)
        self._clean()
        return scores

    def shape_of(self, node: fx.Node) -> tuple[int, ...]:
        """The shape that the classifier's result has on the example."""
        return tuple(self.results[node.name].shape)

    def part(self, node: fx.Node) -> Any:
        """The module that a node calls, or the tensor that it reads."""
        found: Any = self.module
        for name in str(node.target).split("."):
            found = getattr(found, name)
        return found

    def exchange(self, node: fx.Node, module: nn.Module) -> None:
        """Put another module in the place of the one that a node calls."""
        parent, _, name = str(node.target).rpartition(".")
        setattr(self.module.get_submodule(parent), name, module)

    def call(self, node: fx.Node, function: Any, *args: Any) -> fx.Node:
        """A call of a function, right before a node."""
        with self.module.graph.inserting_before(node):
            return self.module.graph.call_function(function, args)

    def instead(self, node: fx.Node, new: fx.Node, value: Value) -> Value:
        """Let everything read another node's result, of which this is known."""
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self._dropped.append(node)
        self.stands_for[node.name] = new.name
        self.values[new] = value
        return value

    def drop(self, node: fx.Node, value: Value) -> Value:
        """Leave an operation out that does nothing to a map."""
        self._dropped.append(node)
        return value

    def _read_by(self, node: fx.Node) -> fx.Node:
        return next(n for n in node.all_input_nodes if n in self.values)

    def _place(self, node: fx.Node) -> None:
        result = self.results.get(node.name)
        if isinstance(result, Tensor) and not any(isinstance(v, Value) for v in self.values.values()):
            self.values[node] = Value(result.shape[1], self._axes, tuple(result.shape))

    def _rewrite(self, node: fx.Node, rules: Callable[[str, nn.Module | None], Rule | None]) -> None:
        result = self.results.get(node.name)
        if not isinstance(result, Tensor) and not _holds_tensors(result):
            return  # a size, or something made of sizes
        node.args = fx.node.map_arg(node.args, self._known)
        node.kwargs = fx.node.map_arg(node.kwargs, self._known)
        module = self.part(node) if node.op == "call_module" else None
        name = name_of(node, module)
        first = next(n for n in node.all_input_nodes if n in self.values)
        value = self.values[first]
        if name == "getitem" and isinstance(value, tuple):
            self.values[node] = value[node.args[1]]  # type: ignore[index]
            return
        rule = rules(name, module)
        if rule is None or not isinstance(value, Value):
            raise refusal_at(
                node, f"{name}", "which is not known to do the same on every window", "write it with convolutions, "
                "pooling, activations and Linear layers, or leave it out and apply it to the scores",
            )  # fmt: skip
        try:
            self.values[node] = rule(self, node, value)
        except EquivError:
            raise
        except Exception as error:  # arguments that a rule does not know
            why = f"with arguments that are not followed ({type(error).__name__}: {first_line(error)})"
            raise refusal_at(node, name, why, "call it with its usual arguments") from error

    def _known(self, node: fx.Node) -> Any:
        """A number that follows from sizes, as it is on the example; else the node."""
        if node in self.values or node.op in ("get_attr", "placeholder"):
            return node
        result = self.results.get(node.name)
        return node if isinstance(result, Tensor) or _holds_tensors(result) else result

    def _scores(self, node: fx.Node) -> list[Value]:
        found = []
        for given in node.all_input_nodes:
            value = self.values.get(given)
            if not isinstance(value, Value):
                raise EquivError(
                    f"model: expected outputs that are scores of its input, got {given.name}; return those"
                )
            if value.positions > 1:
                raise EquivError(
                    f"model: expected scores (N, classes) for the example, got {given.name} of shape {value.shape}, a "
                    f"map of {value.sizes} positions; pass a classifier, which pools or flattens its last map"
                )
            found.append(value)
        if not found:
            raise EquivError("model: expected outputs that are scores of its input, got none; return them")
        return found

    def _clean(self) -> None:
        graph = self.module.graph
        for node in reversed(self._dropped):
            if node.users:
                node.replace_all_uses_with(self._read_by(node))
            graph.erase_node(node)
        for node in reversed(list(graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output", "get_attr") and node not in self.values:
                graph.erase_node(node)
        graph.lint()
        self.module.delete_all_unused_submodules()
        self.module.recompile()


def _holds_tensors(result: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))
