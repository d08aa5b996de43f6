"""A measured arithmetic: the order in which a kernel adds its terms, as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv.pictures.canvas import Picture, our_style
from equiv.pictures.marks import BLACK, RED, Sheet
from equiv.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHARACTERS = 105  # of the numbers of terms, below the tree
_MANY = 70  # terms from which lines are thinner


def of_measured(measured: Any) -> Picture:
    """Of a :class:`equiv.numerics.Measured`: terms at the bottom, each addition a bracket over what it adds.

    Terms stand in the order of the tree, so that brackets do not cross, and are called by their number; the height of a
    bracket says how many additions its terms have gone through.
    """
    with our_style():
        order, evidence = measured.order.value, measured.order.evidence
        found = "ORDER OF SUMMATION NOT FOUND" if order is None else f"ORDER OF SUMMATION: {order}"
        rows, outputs, n = measured.size
        said = f"{measured.subject}: {rows} x {n} by {outputs} x {n}; {evidence}."
        drawn = order is not None and len(order.places) > 1
        sheet = Sheet(found, said, height=3.2 if drawn else 0.1)
        sheet.picture.alt = f"{found}. {said}"
        if drawn:
            axes = sheet.axes(0.65, 0.15, 6.2, 2.4)
            _draw(axes, order)
            sheet.picture.alt += _alt(order)
        return sheet.picture


def _draw(axes: Axes, order: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    n = len(order.places)
    leaves = _leaves(order.nodes, n)
    across: dict[int, float] = {leaf: float(place) for place, leaf in enumerate(leaves)}
    height = dict.fromkeys(leaves, 0)
    x: list[float | None] = []
    y: list[float | None] = []
    wide = []
    for number_of, children in enumerate(order.nodes, start=n):
        top = 1 + max(height[child] for child in children)
        for child in children:
            x += [across[child], across[child], None]
            y += [height[child], top, None]
        ends = min(across[child] for child in children), max(across[child] for child in children)
        x += [*ends, None]
        y += [top, top, None]
        across[number_of], height[number_of] = sum(ends) / 2, top
        wide += [(across[number_of], top)] * (len(children) > 2)
    clear = [[float("nan") if value is None else value for value in values] for values in (x, y)]
    axes.plot(*clear, color=BLACK, linewidth=0.9 if n < _MANY else 0.6, solid_capstyle="butt")
    top = order.depth
    axes.plot([across[n + len(order.nodes) - 1]] * 2, [top, 1.06 * top], color=BLACK, linewidth=0.9)
    if wide and len(wide) < _MANY:
        axes.plot(*zip(*wide, strict=True), "o", color=RED, markeredgecolor=BLACK, markersize=4)
    axes.set_xlim(-0.8, n - 0.2)
    axes.set_ylim(0, 1.08 * top)
    kept = range(0, n, -(-n * (1 + len(str(order.places[-1]))) // _CHARACTERS))
    axes.set_xticks(list(kept), [str(order.places[leaves[place]]) for place in kept], fontsize=7)
    axes.tick_params(axis="x", length=2)
    axes.set_xlabel("term, in the order of the tree", fontsize=8)
    axes.set_ylabel("additions gone through", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _leaves(nodes: Any, n: int) -> list[int]:
    """Terms from left to right: a running sum before what is added to it."""
    size = [1] * n
    for children in nodes:
        size.append(sum(size[child] for child in children))
    found, stack = [], [n + len(nodes) - 1]
    while stack:
        node = stack.pop()
        if node < n:
            found.append(node)
        else:
            stack += sorted(nodes[node - n], key=lambda child: -size[child])[::-1]
    return found


def _alt(order: Any) -> str:
    text = f" A tree over {counted(len(order.places), 'term')}, {order.depth} additions deep"
    if order.width > 2:
        text += f", up to {order.width} terms in one addition"
    head = ", ".join(map(str, order.sequence[:12]))
    return f"{text}; the longest running sum takes terms {head}{', ...' * (len(order.sequence) > 12)}."
