"""The law about convolutions: right kernels pass, those that are wrong with padding, groups or dilation are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import find
from torch import Tensor
from torch.nn import functional

from equiv import laws
from equiv.backends import TorchEager
from equiv.laws import Call, Trial, read_case
from equiv.laws.damage import ends_in_padding
from equiv.strategies import ConvolutionRecipe, build_convolution, convolutions
from equiv.testing import Kernels
from equiv.testing.faults.kernel import KernelCall, instead
from equiv.testing.faults.tools import last_off

CONVS = (functional.conv1d, functional.conv2d, functional.conv3d)


def tried(backend: Any, dtype: str = "float32", examples: int = 25, seed: int = 1) -> laws.Result:
    (item,) = laws.items([backend], laws=["convolution"], dtypes=[dtype])
    return laws.run_item(item, examples=examples, seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "uint8"])
def test_torch_keeps_it(dtype: str) -> None:
    assert tried(TorchEager(), dtype, examples=10).failure is None


WRONG: dict[str, Callable[[KernelCall], bool]] = {
    "several groups of several channels": lambda c: c.groups > 1 and c.channels > 1,
    "unequal padding": lambda c: len({*_padding(c)}) > 1,
    "3x3 over 16 channels": lambda c: c.channels >= 16 and c.kernel == (3, 3) and c.slides,
}


def _padding(c: KernelCall) -> tuple[int, ...]:
    return (c.padding,) if isinstance(c.padding, int) else tuple(c.padding) or (0,)


@pytest.mark.parametrize("name", WRONG)
def test_a_kernel_that_is_wrong_in_the_last_corner_is_found(name: str) -> None:
    with instead(lambda c: last_off(c) if c.is_conv and WRONG[name](c) else c.run()):
        found = tried(TorchEager(), examples=80).failure
    assert found is not None
    assert found.snippet is not None
    assert "build_convolution(ConvolutionRecipe(" in found.case
    assert found.stored is not None
    assert repr(read_case(found.stored).case) == found.case


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "is_met"),
    [(1, 2, 2, True), (2, 3, 2, True), (1, 1, 2, False), (1, 2, 1, False), (3, 2, 2, False)],
)
def test_a_float16_convolution_that_reads_no_column_is_not_made(
    size: int, stride: int, dilation: int, is_met: bool
) -> None:
    recipe = ConvolutionRecipe(16, 16, (3, size), (2, 1), (1, stride), (0, 1), (1, dilation), dtype=torch.float16)
    case, trial = build_convolution(recipe), Trial(TorchEager(), torch.float16, ("full",))
    laws.LAWS["convolution"].try_on(trial, case)
    finding = "dilated-width-of-one-in-padding"
    is_met = is_met and ends_in_padding(finding)
    assert (trial.coverage["known defect of torch"][finding] > 0) == is_met


@pytest.mark.parametrize("leaf", ["x", "weight", "bias"])
def test_a_wrong_gradient_with_padding_is_found(leaf: str) -> None:
    def wrong(c: KernelCall) -> Tensor:
        t = getattr(c, leaf)
        if not c.is_conv or t is None or not t.requires_grad or max(_padding(c)) == 0:
            return c.run()
        doubled = t + (t - t.detach())
        return c.run(**{leaf: doubled})

    with instead(wrong):
        found = tried(TorchEager(), examples=40).failure
    assert found is not None
    assert f"gradient of the {'input' if leaf == 'x' else leaf}" in found.note


def conv2d(x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    return functional.conv2d(x, w, b, stride, padding, dilation, groups)


def test_a_plain_function_with_all_keywords_is_asked_for_them() -> None:
    found = tried(Kernels(conv2d=conv2d))
    assert found.failure is None
    assert not {"padding", "groups"} & {one.what for one in found.not_asked}


@pytest.mark.parametrize(
    ("keywords", "lacks"), [((), {"padding", "groups"}), (("padding",), {"groups"}), (("groups",), {"padding"})]
)
def test_a_backend_whose_conv_has_not_the_keyword_is_not_asked(keywords: tuple[str, ...], lacks: set[str]) -> None:
    class Further:
        name, device = "further", torch.device("cpu")

        def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return functional.linear(input, weight, bias)

        def conv(self, *tensors: Any, **options: Any) -> Tensor:
            for word in options:
                if word not in ("stride", "dilation", *keywords):
                    raise TypeError(f"conv() got an unexpected keyword argument '{word}'")
            return CONVS[tensors[1].ndim - 3](*tensors, **options)

    found = tried(Further())
    assert found.failure is None
    assert {(one.what, one.how) for one in found.not_asked} == {(word, "found") for word in lacks}


def test_keywords_are_sent_where_they_are_not_the_default() -> None:
    x, weight = torch.ones(1, 2, 4), torch.ones(2, 1, 2)
    assert Call("full", x, weight, None).options == {"stride": (1,), "dilation": (1,)}
    assert Call("full", x, weight, None, padding=(1,), groups=2).options["padding"] == (1,)
    y = Call("full", x, weight, None, padding=(1,), groups=2).result(TorchEager())
    assert torch.equal(y, functional.conv1d(x, weight, padding=1, groups=2))


def test_a_recipe_builds_the_same_again_and_prints_as_its_call() -> None:
    made = find(convolutions(), lambda one: one.recipe.groups > 1 and max(one.recipe.padding) > 0)
    again = eval(
        repr(made), {"build_convolution": build_convolution, "ConvolutionRecipe": ConvolutionRecipe, "torch": torch}
    )
    assert torch.equal(made.x, again.x)
    assert torch.equal(made.weight, again.weight)
    assert made.module.groups == made.recipe.groups
    assert tuple(made.module(made.x).shape[2:]) == made.recipe.positions


# --- what is tried beside the result ----------------------------------------------------------------------------------


class Steps(Kernels):
    """torch's convolutions, to be wrong in one way."""

    def __init__(self) -> None:
        super().__init__(conv1d=self.run, conv2d=self.run, conv3d=self.run, name="steps")
        self.kept: dict[Any, Any] = {}

    def run(self, x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
        raise NotImplementedError


class Plan(Steps):
    """Finds its dilation by the shapes alone: another dilation before it is used again, where it fits."""

    def run(self, x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
        conv = CONVS[w.ndim - 3]
        y = conv(x, w, b, **options)
        plan = self.kept.setdefault((x.shape, w.shape, *(options.get(key) for key in ("stride", "padding"))), options)
        again = conv(x, w, b, **{**options, "dilation": plan["dilation"]})
        return again if again.shape == y.shape else y


class Patches(Steps):
    """Patches of 14 x 14 and more one after another by columns."""

    def run(self, x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
        y = CONVS[w.ndim - 3](x, w, b, **options)
        square = w.ndim == 4 and y.shape[-1] == y.shape[-2] and options["stride"] == tuple(w.shape[2:])
        return y.transpose(-1, -2).contiguous() if square and w.shape[-1] >= 14 else y


class Tf32(Steps):
    """Factors of ten bits where channels and outputs are multiples of 32."""

    def run(self, x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
        if w.shape[0] % 32 == w.shape[1] % 32 == 0 and x.dtype == torch.float32:
            kept = (t.detach().view(torch.int32).bitwise_and(-(2**13)).view(torch.float32) for t in (x, w))
            x, w = (t + (short - t.detach()) for t, short in zip((x, w), kept, strict=True))
        return CONVS[w.ndim - 3](x, w, b, **options)


class Twofold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


class Strided(torch.autograd.Function):
    """Right, but for second derivatives through the input gradient, which are twice as large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, options: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.options, ctx.has_bias = options, b is not None
        return CONVS[w.ndim - 3](x, w, b, **options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, w), rank = grads, ctx.saved_tensors, ctx.saved_tensors[1].ndim - 2
        options = {"stride": (1,) * rank, "padding": (0,) * rank, "dilation": (1,) * rank, "groups": 1, **ctx.options}
        batch = grad if x.ndim == w.ndim else grad[None]
        steps = (options["stride"], options["padding"], options["dilation"], False, [0] * rank, options["groups"])
        given = x if x.ndim == w.ndim else x[None]
        of_x, of_w, _ = torch.ops.aten.convolution_backward(batch, given, w, None, *steps, [True, True, False])
        bias = batch.transpose(0, 1).flatten(1).sum(1) if ctx.has_bias else None
        return Twofold.apply(of_x.view(x.shape)), of_w, bias, None


class SecondOrder(Steps):
    def run(self, x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
        return Strided.apply(x, w, b, options)


class Saturates(Steps):
    """The bias gradient of float32 is summed in steps of 2^-10 of its size."""

    def run(self, x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
        class Rounded(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, t: Tensor) -> Tensor:
                return t.clone()

            @staticmethod
            def backward(ctx: Any, *grads: Tensor) -> Tensor:
                return grads[0].half().float()

        return CONVS[w.ndim - 3](x, w, b if b is None else Rounded.apply(b), **options)


@pytest.mark.parametrize(
    ("kernels", "says"),
    [
        (Plan, "after a call on a map"),
        (Patches, "stride (14, 14)"),
        (Tf32, "exact is"),
        (SecondOrder, "second order"),
        (Saturates, "gradient of the bias"),
    ],
)
def test_what_is_wrong_beside_the_result_is_found(kernels: type[Steps], says: str) -> None:
    found = tried(kernels(), examples=160, seed=0).failure
    assert found is not None
    assert says in found.note
