"""Plain functions under the laws: which of them there are, and which keywords they have, says what is asked."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from equiv import EquivError, testing
from equiv.backends import Capabilities, measure_form
from equiv.testing import Kernels


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(input, weight, bias)


def image(input: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Any, dilation: Any) -> Tensor:
    return F.conv2d(input, weight, bias, stride=stride, dilation=dilation)


def unrolled(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of images by im2col, without stride or dilation."""
    batched = input if input.ndim == 4 else input[None]
    kernel, size = weight.shape[2:], batched.shape[2:]
    windows = batched.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1)  # (N, C, h, w, *kernel)
    y = torch.einsum("nchwij,ocij->nohw", windows, weight)
    assert y.shape[2:] == (size[0] - kernel[0] + 1, size[1] - kernel[1] + 1)
    y = y if bias is None else y + bias.view(-1, 1, 1)
    return y if input.ndim == 4 else y[0]


def last_output_lost(input: Tensor, weight: Tensor, bias: Tensor | None, **steps: Any) -> Tensor:
    return F.conv2d(input, torch.cat([weight[:-1], 0 * weight[-1:]]), bias, **steps)


def found(kernels: Kernels, **how: Any) -> list[Any]:
    return list(testing.check_backend(kernels, **{"dtypes": ["float32"], "examples": 5, "seed": 1, **how}))


# --- what they declare ------------------------------------------------------------------------------------------------


def test_what_there_is_no_function_for_is_not_asked() -> None:
    images, rows = Kernels(conv2d=image).capabilities, Kernels(linear=linear).capabilities
    assert (images.spatial_ranks, images.dtypes, images.stride, images.dilation) == ((2,), {"linear": ()}, None, None)
    assert (rows.spatial_ranks, rows.dtypes, rows.stride, rows.dilation) == ((), None, None, None)


def test_a_function_without_a_keyword_serves_one_alone() -> None:
    plain = Kernels(conv2d=unrolled)
    assert (plain.capabilities.stride, plain.capabilities.dilation) == (False, False)
    x, weight = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 2, 2)
    assert torch.equal(plain.conv(x, weight, stride=1, dilation=(1, 1)), F.conv2d(x, weight))
    with pytest.raises(NotImplementedError, match="conv2d of unrolled has no keyword stride"):
        plain.conv(x, weight, stride=(1, 2))
    mixed = Kernels(conv1d=F.conv1d, conv2d=unrolled)
    assert mixed.capabilities.stride is None  # asked: one of them serves it


def test_what_is_given_stands_beside_what_is_read() -> None:
    given = Capabilities(dtypes=["float32", "int8"], spatial_ranks=(1, 2), gradient_order=0, stride=False)
    declared = Kernels(conv2d=image, capabilities=given).capabilities
    assert (declared.spatial_ranks, declared.gradient_order, declared.stride) == ((2,), 0, False)
    assert (declared.dtypes_of("linear"), declared.dtypes_of("full")) == ((), (torch.float32, torch.int8))


def test_a_missing_function_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="linear has no conv1d"):
        Kernels(linear=linear).conv(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    with pytest.raises(NotImplementedError, match="image has no linear"):
        Kernels(conv2d=image).linear(torch.ones(1, 1), torch.ones(1, 1))


# --- what they are called ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("functions", "name"),
    [
        ({"linear": linear}, "linear"),
        ({"linear": linear, "conv2d": image}, "linear.image"),
        ({"conv2d": lambda x, w, b: x}, "conv2d"),
        ({"conv2d": functools.partial(unrolled)}, "unrolled"),
        ({"conv1d": last_output_lost, "conv2d": last_output_lost}, "last_output_lost"),
    ],
)
def test_a_name_comes_from_the_functions(functions: dict[str, Any], name: str) -> None:
    assert Kernels(**functions).name == name
    assert Kernels(**functions, name="mine").name == "mine"


def test_kernels_pickle_if_their_functions_do() -> None:
    kernels = Kernels(linear=linear, conv2d=image, name="mine", capabilities=Capabilities(gradient_order=1))
    copy = pickle.loads(pickle.dumps(kernels))
    assert (copy.name, copy.device, copy.capabilities) == (kernels.name, kernels.device, kernels.capabilities)
    assert torch.equal(copy.linear(torch.ones(1, 2), torch.ones(3, 2)), torch.full((1, 3), 2.0))
    assert repr(copy) == "Kernels(linear, conv2d, name='mine', device='cpu')"


def test_kernels_are_a_backend_like_others() -> None:
    kernels = Kernels(linear=linear, conv2d=image)
    done = measure_form(kernels, "full", dtype=torch.float32, out_features=2, feature_shape=(3, 2, 2))
    assert done.operands.value == 24


# --- the laws ---------------------------------------------------------------------------------------------------------

EACH = ["forward", "exact", "weight_recovery", "batch", "special_values", "scaling", "not_equivalent", "dense"]


@pytest.mark.parametrize(
    ("kernels", "forms"),
    [
        (Kernels(conv2d=image), {"full", "pointwise"}),
        (Kernels(conv2d=unrolled), {"full", "pointwise"}),
        (Kernels(linear=linear), {"linear"}),
        (Kernels(linear=linear, conv1d=F.conv1d, conv3d=F.conv3d, name="two"), {"linear", "full", "pointwise"}),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_right_functions_pass_every_law_about_them(kernels: Kernels, forms: set[str]) -> None:
    results = found(kernels, laws=[law for law in EACH if "full" in forms or law not in ("not_equivalent", "dense")])
    assert [result.failure for result in results] == [None] * len(results)
    assert [result.outcome for result in results] == ["holds"] * len(results)
    assert {form for result in results for form in result.forms} == forms
    ranks = {rank for result in results for rank in result.coverage.get("spatial dimensions", {})}
    assert ranks == {"1", "3"} if kernels.name == "two" else ranks <= {"2"} or forms == {"linear"}


@pytest.mark.parametrize("law", ["forward", "exact", "weight_recovery", "dense", "boundaries"])
def test_a_wrong_function_breaks_them(law: str) -> None:
    (result,) = found(Kernels(conv2d=last_output_lost), laws=[law], examples=20)
    assert result.outcome == "broken"
    assert result.failure.form in ("full", "pointwise")


def test_a_law_about_what_there_is_not_is_refused_in_words() -> None:
    with pytest.raises(EquivError, match=r"laws: .*the backend declares spatial_ranks=\(\), so that nothing"):
        testing.check_backend(Kernels(linear=linear), laws=["dense"])


@pytest.mark.parametrize("capabilities", [None, Capabilities(gradient_order=0)], ids=["found", "declared"])
def test_the_program_of_a_failure_makes_plain_functions_again(capabilities: Capabilities | None) -> None:
    mine = Kernels(conv2d=last_output_lost, name="mine", capabilities=capabilities)
    (found,) = testing.check_backend(mine, laws=["exact"], dtypes=["float32"], examples=10, seed=1).failures
    assert found.failure is not None
    assert found.failure.snippet is not None
    assert "backend = Kernels(conv2d=last_output_lost, name='mine'" in found.failure.snippet
    with pytest.raises(AssertionError):
        exec(found.failure.snippet, {})
