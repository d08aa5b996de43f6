"""The order of summation of a kernel, from its results alone: a tree whose leaves are the terms, its nodes additions.

The method is FPRev (Xie, Gao, Wang & Xue, "Revealing floating-point accumulation orders in software/hardware
implementations", USENIX ATC 2025). One term is a huge ``M``, another ``-M``, all others are one unit, too small to
change ``M``. Every unit that is added to either of the two before they meet is lost; the rest survives and is counted
in the result. So ``terms - result`` is the number of leaves under the lowest common ancestor of the two places; these
numbers for enough pairs determine the tree. A node with more than two children is a sum of several terms at once, as
tensor cores and some dot-product instructions do it.

Here a function from pairs of places to counts stands for the kernel; ``order`` makes it from one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Nodes = tuple[tuple[int, ...], ...]
"""Inner nodes of a tree over leaves ``0..n-1``, as children; node ``k`` has the number ``n + k``, the root is last."""

LostCounts = Callable[[Sequence[tuple[int, int]]], Sequence[int | None]]
"""For each pair of places the number of leaves under their lowest common ancestor, both included, or None."""


@dataclass(frozen=True)
class Order:
    """The order in which a kernel adds its terms.

    Attributes:
        kind: ``"single"`` (one term), ``"sequential"``, ``"reversed"``, ``"permuted"`` (one after the other, in another
            order), ``"fused"`` (one after the other, several terms at a time), ``"pairwise"``, ``"blocked"``
            (neighbours first), ``"interleaved"`` (several running sums side by side) or ``"mixed"``.
        block: Terms in a block if blocked, running sums if interleaved, terms at a time if fused (at least these, if
            not all were probed); else None.
        depth: Largest number of additions that a term goes through: no term is rounded more often than that.
        width: Most operands of one addition; 2 for ordinary ones.
        sequence: Places in the order in which they are added, for one running sum; where several, those of the first.
        places: Which features were probed.
        nodes: The tree over ``places``; see :data:`Nodes`.
        total: Number of features of the layer; ``places`` is a sample of them where it is shorter.

    Example:
        >>> import torch
        >>> from equiv.numerics import measure
        >>> def in_order(x, weight, bias):
        ...     total = torch.zeros(len(x), len(weight))
        ...     for column, weights in zip(x.unbind(1), weight.unbind(1), strict=True):
        ...         total = total + column[:, None] * weights
        ...     return total if bias is None else total + bias
        >>> found = measure(in_order, dtype=torch.float32, rows=1, out_features=1, in_features=8)
        >>> found.order.value.kind
        'sequential'
    """

    kind: str
    block: int | None
    depth: int
    width: int
    sequence: tuple[int, ...]
    places: tuple[int, ...]
    nodes: Nodes
    total: int

    def __str__(self) -> str:
        text, whole = self.kind, len(self.places) == self.total
        if self.block is not None:
            at_once = "{} terms at a time" if whole else "at least {} terms at a time"
            unit = {"blocked": "blocks of {}", "interleaved": "{} running sums", "fused": at_once}[self.kind]
            text += ", " + unit.format(self.block)
        text += f", depth {self.depth}"
        return text if whole else f"{text} ({len(self.places)} of {self.total:,} terms probed)"


def reveal(lost: LostCounts, leaves: int) -> Nodes | None:
    """The tree of a sum of ``leaves`` terms; None if no tree explains the counts.

    Pivots are taken from the middle, so that a sum in order and one in reverse both take about ``n*log2(n)`` pairs.

    Example:
        >>> in_order = lambda pairs: [max(pair) + 1 for pair in pairs]
        >>> reveal(in_order, 4)
        ((0, 1), (4, 2), (5, 3))
    """
    nodes: list[tuple[int, ...]] = []

    def build(members: list[int]) -> tuple[int, int] | None:
        """Node over ``members``, and the leaves under it: more than the members where it is not a subtree."""
        if len(members) == 1:
            return members[0], 1
        pivot = members[len(members) // 2]
        others = [leaf for leaf in members if leaf != pivot]
        counts = lost([(pivot, leaf) for leaf in others])
        groups: dict[int, list[int]] = {}
        for leaf, count in zip(others, counts, strict=True):
            if count is None or not 2 <= count <= leaves:
                return None
            groups.setdefault(count, []).append(leaf)
        node, size = pivot, 1
        for count in sorted(groups):
            found = build(groups[count])
            if found is None:
                return None
            below, under = found
            children: tuple[int, ...] = (below,)
            if under == count:  # no subtree of its own: these are siblings in this very node
                children = nodes[below - leaves]
                nodes[below - leaves] = ()
            elif under != len(groups[count]):
                return None
            size += len(groups[count])
            nodes.append((node, *children))
            node = leaves + len(nodes) - 1
        return node, max(groups)

    found = build(list(range(leaves)))
    if found is None or found[1] != leaves:
        return None
    return _renumbered(nodes, leaves)


def _renumbered(nodes: list[tuple[int, ...]], leaves: int) -> Nodes:
    """Children before parents, without the nodes that were dissolved; the children by their first leaf."""
    number, first = {leaf: leaf for leaf in range(leaves)}, list(range(leaves))
    kept: list[tuple[int, ...]] = []
    for old, children in enumerate(nodes):
        if children:
            renamed = sorted((number[child] for child in children), key=lambda child: first[child])
            number[leaves + old] = leaves + len(kept)
            kept.append(tuple(renamed))
            first.append(first[renamed[0]])
    return tuple(kept)


def describe(nodes: Nodes, places: Sequence[int], total: int) -> Order:
    """Name the order that a tree over ``places`` stands for.

    Example:
        >>> str(describe(((0, 1), (2, 3), (4, 5)), range(4), 4))
        'pairwise, depth 2'
    """
    n = len(places)
    chains, depth = _chains(nodes, n), _depth(nodes, n)
    width = max(map(len, nodes), default=1)
    longest = max(chains, key=lambda steps: sum(map(len, steps)))
    sequence = tuple(places[leaf] for step in longest for leaf in step)
    kind, block = _kind(chains, depth, width, n)
    if kind == "fused" and n < total:  # of most steps the sample holds a part
        block = max(len(step) for step in chains[0])
    return Order(kind, block, depth, width, sequence, tuple(places), nodes, total)


def _kind(chains: list[list[list[int]]], depth: int, width: int, n: int) -> tuple[str, int | None]:
    if n == 1:
        return "single", None
    if len(chains) == 1:
        steps = chains[0]
        if width > 2:
            return "fused", Counter(len(step) for step in steps).most_common(1)[0][0]
        order = [leaf for step in steps for leaf in step]
        if order == list(range(n)):
            return "sequential", None
        # The two terms of the first addition have no order.
        return (
            "reversed" if [max(order[:2]), min(order[:2]), *order[2:]] == list(range(n))[::-1] else "permuted"
        ), None
    sizes = [sum(map(len, steps)) for steps in chains]
    if max(sizes) <= 2 and depth == math.ceil(math.log2(n)):
        return "pairwise", None
    long = sorted(sorted(leaf for step in steps for leaf in step) for steps in chains if sum(map(len, steps)) > 1)
    common, times = Counter(size for size in sizes if size > 1).most_common(1)[0] if long else (1, 0)
    if 2 * sum(map(len, long)) < n:
        return "mixed", None
    if all(a[-1] < b[0] for a, b in pairwise(long)):
        return ("blocked", common) if 2 * common * times >= n else ("mixed", None)
    return ("interleaved", len(long)) if max(sizes) <= 2 * common else ("mixed", None)


def _chains(nodes: Nodes, n: int) -> list[list[list[int]]]:
    """The maximal running sums of a tree, each as its steps, each step as the leaves that it adds."""
    chain: list[list[list[int]] | None] = [[[leaf]] for leaf in range(n)]
    for children in nodes:
        inner = [child for child in children if child >= n]
        outer = [child for child in children if child < n]
        if not inner:
            chain.append([outer])
            continue
        before = chain[inner[0]]
        chain.append(None if len(inner) > 1 or before is None else [*before, outer])
    found, stack = [], [n + len(nodes) - 1]
    while stack:
        node = stack.pop()
        steps = chain[node]
        if steps is None:
            stack.extend(nodes[node - n])
        else:
            found.append(steps)
    return found


def _depth(nodes: Nodes, n: int) -> int:
    depth = [0] * n
    for children in nodes:
        depth.append(1 + max(depth[child] for child in children))
    return depth[-1]
