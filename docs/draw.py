"""Draws the pictures of the story: `python docs/draw.py [FOLDER]`.

Sums are added in written-out orders, by operations on single float32 numbers, so that every machine draws the same.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

U = 2.0**-24
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#666666"  # told apart by every eye
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "equiv", "font.family": "sans-serif", "font.size": 10}


def from_the_front(terms: Tensor) -> Tensor:
    """Sums over the last dimension, one term after another."""
    total = torch.zeros_like(terms[..., 0])
    for term in terms.unbind(-1):
        total = total + term
    return total


def eight_sums(terms: Tensor) -> Tensor:
    """Eight running sums, as a kernel with registers of eight numbers has them, and these from the front."""
    lanes = torch.nn.functional.pad(terms, (0, -terms.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return from_the_front(from_the_front(lanes.transpose(-1, -2)))


def in_pairs(terms: Tensor) -> Tensor:
    """Neighbours first, then sums of neighbours, and so on."""
    while terms.shape[-1] > 1:
        terms = torch.nn.functional.pad(terms, (0, terms.shape[-1] % 2))
        terms = terms[..., ::2] + terms[..., 1::2]
    return terms[..., 0]


def terms_of(n: int, outputs: int, seed: int = 0) -> Tensor:
    """The products of inputs and weights between -1 and 1, `(outputs, n)`."""
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.rand(outputs, n, generator=generator) * 2 - 1 for _ in range(2))
    return x * w


def order() -> Figure:
    """One sum of four terms in two orders."""
    figure = Figure((7.2, 3.1), layout="constrained")
    leaves = [2.0**24, 1.0, 1.0, -(2.0**24)]
    for axes, title, pairs in zip(
        figure.subplots(1, 2),
        ("one after another", "neighbours first"),
        ([(0, 1), (4, 2), (5, 3)], [(0, 1), (2, 3), (4, 5)]),
        strict=True,
    ):
        places, values = [(float(i), 0.0) for i in range(4)], [torch.tensor(v) for v in leaves]
        for left, right in pairs:
            (x1, y1), (x2, y2) = places[left], places[right]
            place = ((x1 + x2) / 2, max(y1, y2) + 1)
            for x, y in (places[left], places[right]):
                axes.plot([x, place[0]], [y + 0.16, place[1] - 0.16], color=GREY, lw=1, zorder=1)
            places.append(place)
            values.append(values[left] + values[right])
        for i, ((x, y), value) in enumerate(zip(places, values, strict=True)):
            last = i == len(values) - 1
            box = {"boxstyle": "round,pad=0.3", "fc": "#fff3d6" if last else "white", "ec": ORANGE if last else GREY}
            axes.text(x, y, f"{value.item():,.0f}", ha="center", va="center", bbox=box, fontsize=8.5)
        axes.set(title=f"{title}: {values[-1].item():.0f}", xlim=(-0.7, 3.7), ylim=(-0.4, 3.4))
        axes.axis("off")
    figure.suptitle("16,777,216 + 1 + 1 - 16,777,216 is 2. In float32:")
    return figure


def luck() -> Figure:
    """How often two right kernels return the same bits."""
    figure = Figure((7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    sizes = [2, 4, 8, 16, 64, 256, 1024, 4096]
    for place, n in enumerate(sizes):
        terms = terms_of(n, 512)
        same = (in_pairs(terms) == from_the_front(terms)).double().mean().item()
        axes.bar(place, 100 * same, color=BLUE, width=0.7)
        axes.text(place, 100 * same + 2, f"{100 * same:.0f} %", ha="center")
    axes.set_xticks(range(len(sizes)), [f"{n:,}" for n in sizes])
    axes.set(xlabel="terms in each sum", ylabel="outputs with the same bits, %", ylim=(0, 112))
    axes.set_title("Two right kernels: one after another, and neighbours first")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def allclose() -> Figure:
    """What a fixed tolerance refuses, and what it lets pass."""
    figure = Figure((7.2, 3.6), layout="constrained")
    right, wrong = figure.subplots(1, 2, sharey=True)
    terms = terms_of(4096, 256) * 4
    y, s = from_the_front(terms), terms.double().sum(-1)
    reach = 4096 * U * terms.double().abs().sum(-1)
    refused = _beside(right, s, (y - s).abs(), reach)
    right.set_title(f"right: {refused} of 256 outputs refused")
    small = terms / 2**26
    refused = _beside(wrong, small.double().sum(-1), small.double().sum(-1).abs(), reach / 2**26)
    wrong.set_title(f"all zeros: {refused} of 256 outputs refused")
    right.set_ylabel("error of the output")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _beside(axes: Axes, exact: Tensor, error: Tensor, reach: Tensor) -> int:
    """Errors over sizes, the tolerance of assert_close as a line and the envelope as a band. How many are refused."""
    size = exact.abs().clamp(min=1e-12)
    across = torch.logspace(size.min().log10().item(), size.max().log10().item(), 60).double()
    tolerance = 1e-5 + 1.3e-6 * across
    axes.fill_between(across, 1e-12, reach.mean().expand(60), color=GREEN, alpha=0.2, lw=0, label="envelope")
    axes.plot(across, tolerance, color=RED, lw=2, label="tolerance of assert_close")
    axes.scatter(size, error.clamp(min=1e-11), s=7, color=BLUE, label="outputs")
    axes.set(xscale="log", yscale="log", xlabel="size of the exact value", ylim=(1e-11, 10))
    return int((error > 1e-5 + 1.3e-6 * size).sum())


def envelope() -> Figure:
    """Where right and wrong kernels lie, in units of the envelope."""
    figure = Figure((7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    terms = terms_of(64, 48)
    s = terms.double().sum(-1)
    reach = 64 * U * terms.double().abs().sum(-1)
    kernels: list[tuple[str, Callable[[Tensor], Tensor], str]] = [
        ("one after another", from_the_front, BLUE),
        ("from the back", lambda t: from_the_front(t.flip(-1)), BLUE),
        ("neighbours first", in_pairs, BLUE),
        ("eight running sums", eight_sums, BLUE),
        ("products in bfloat16", lambda t: from_the_front(t.bfloat16().float()), RED),
        ("last term left out", lambda t: from_the_front(t[..., :-1]), RED),
    ]
    axes.axvspan(1e-5, 1, color=GREEN, alpha=0.2, lw=0)
    axes.axvline(1, color=GREEN, lw=2)
    for row, (_, kernel, color) in enumerate(kernels):
        share = ((kernel(terms).double() - s).abs() / reach).clamp(min=2e-5)
        axes.scatter(share, torch.full_like(share, -row), s=12, color=color, marker="o" if color == BLUE else "X")
    axes.set_yticks([-row for row in range(len(kernels))], [name for name, _, _ in kernels])
    axes.set(xscale="log", xlim=(1e-5, 1e6), xlabel="error as a share of the envelope (1 is its edge)")
    axes.text(1.6e-5, 0.55, "envelope: right kernels", color="#00664b", va="center")
    axes.text(3, 0.55, "outside: a defect", color="#9c4400", va="center")
    axes.set_ylim(-len(kernels) + 0.4, 0.95)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def networks() -> Figure:
    """The forum's two networks: how far apart they are after each layer, and how far right ones may be."""
    figure = Figure((7.2, 3.6), layout="constrained")
    for axes, title, weight, activation in zip(
        figure.subplots(1, 2),
        ("weights 1, ELU", "weights 0.001, sigmoid"),
        (1.0, 0.001),
        (torch.nn.functional.elu, torch.sigmoid),
        strict=True,
    ):
        rows = _networks(weight, activation, 1.0 if weight == 1 else 0.25)
        for values, label, color, style in zip(
            zip(*rows, strict=True),
            ("largest value", "apart at most, if right", "apart"),
            (GREY, GREEN, BLUE),
            ("-", "--", "-"),
            strict=True,
        ):
            axes.plot(range(4), values, color=color, ls=style, marker="o", ms=4, label=label)
        axes.set_xticks(range(4), ["256\nto 64", "64\nto 128", "128\nto 256", "256\nto 4"])
        axes.set(title=title, yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _networks(weight: float, activation: Callable[[Tensor], Tensor], slope: float) -> list[tuple[float, ...]]:
    """For every layer: the largest result, how far apart two right networks may be, how far apart they are."""
    first = second = torch.randn(80, 256, generator=torch.Generator().manual_seed(0))
    apart, rows = torch.zeros(80, 1, dtype=torch.float64), []
    for n, outputs in ((256, 64), (64, 128), (128, 256), (256, 4)):
        # All rows of a weight are alike: one output stands for all of them.
        results = [add(x * weight) + weight for x, add in ((first, from_the_front), (second, eight_sums))]
        reach = (n + 1) * U * (weight * (first.double().abs().sum(-1, keepdim=True) + 1))
        apart = 2 * reach + weight * n * apart
        difference = (results[0].double() - results[1].double()).abs().max().item()
        rows.append((results[0].abs().max().item(), apart.max().item(), max(difference, 1e-12)))
        first, second = (activation(y)[:, None].expand(-1, outputs) for y in results)
        apart = slope * apart + 8 * U * first.double().abs().amax(-1, keepdim=True)
    return rows


def same_weights() -> Figure:
    """A layer over a flattened map, the closest 1x1 convolution as such a matrix, and what no 1x1 convolution has."""
    figure = Figure((7.2, 2.9), layout="constrained")
    generator = torch.Generator().manual_seed(1)
    w = torch.rand(8, 8, generator=generator) * 2 - 1
    kernel = w.view(2, 4, 2, 4).diagonal(dim1=1, dim2=3).mean(-1)
    conv = torch.kron(kernel, torch.eye(4))
    for axes, matrix, title in zip(
        figure.subplots(1, 3), (w, conv, w - conv), ("the layer", "the 1x1 convolution", "the difference"), strict=True
    ):
        image = axes.imshow(matrix.numpy(), cmap="PuOr", vmin=-1, vmax=1)
        for place, value in zip(torch.nonzero(torch.ones(8, 8)), matrix.flatten(), strict=True):
            if value == 0:
                axes.plot(place[1], place[0], ".", color=GREY, ms=2)
        axes.set(title=title, xticks=[1.5, 5.5], yticks=[1.5, 5.5])
        axes.set_xticklabels(["channel 0", "channel 1"])
        axes.set_yticklabels(["output 0", "output 1"] if title == "the layer" else ["", ""], rotation=90, va="center")
        axes.tick_params(length=0)
        axes.axhline(3.5, color="black", lw=0.6)
        axes.axvline(3.5, color="black", lw=0.6)
    figure.colorbar(image, ax=figure.axes, shrink=0.8, label="weight")
    return figure


PICTURES = (order, luck, allclose, envelope, networks, same_weights)


def main(folder: Path) -> None:
    """Write every picture to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        with matplotlib.rc_context(STYLE):
            target = folder / f"{picture.__name__.replace('_', '-')}.svg"
            picture().savefig(target, format="svg", metadata={"Date": None, "Creator": "docs/draw.py"})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "story" / "pictures")
