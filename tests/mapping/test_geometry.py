"""Padding, reach and output positions are those of torch, and a map that does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mapping_helpers import MODES, assert_dense_is_the_convolution, conv_of, integers
from torch import nn

from equiv.errors import EquivError
from equiv.mapping import conv_to_linear


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_padding_with_an_even_kernel_pads_more_behind(mode: str, groups: int) -> None:
    conv = conv_of(integers((8, 4 // groups, 2, 4)), padding="same", dilation=(1, 2), padding_mode=mode, groups=groups)
    assert_dense_is_the_convolution(conv, (4, 5, 7))


@pytest.mark.parametrize("mode", MODES[1:])
def test_negative_padding_crops_where_torch_crops(mode: str) -> None:
    assert_dense_is_the_convolution(conv_of(integers((2, 2, 2, 2)), padding=-1, padding_mode=mode), (2, 5, 4))


def test_options_set_to_integers_or_lists_are_understood() -> None:
    conv = conv_of(integers((2, 3, 2, 2)))
    conv.stride, conv.padding, conv.dilation = 2, 1, 2
    assert_dense_is_the_convolution(conv, (3, 5, 4))
    conv.stride, conv.padding, conv.dilation = [1, 2], [2], [2, 1]
    assert_dense_is_the_convolution(conv, (3, 5, 4))


@pytest.mark.parametrize(
    ("conv", "shape", "message"),
    [
        (nn.Conv2d(3, 4, 1), (3, 5), r"2 spatial dimensions for a Conv2d, got \(3, 5\) with 1; .*without the batch"),
        (nn.Conv1d(3, 4, 1), (9, 3, 5), r"1 spatial dimensions for a Conv1d, got \(9, 3, 5\) with 2"),
        (nn.Conv2d(3, 4, 1), (4, 2, 2), r"3 channels first \(= conv\.in_channels\), got \(4, 2, 2\); pass \(C"),
        (nn.Conv2d(3, 4, 1), (5, 5, 3), r"got \(5, 5, 3\) \(which looks like channels last\); pass \(C, \*spatial\)"),
        (nn.Conv2d(3, 4, 3), (3, 2, 5), r"at least \(3, 3\), the reach of the kernel, got \(2, 5\), padded \(2, 5\)"),
        (
            nn.Conv2d(3, 4, 3, dilation=2, padding=1),
            (3, 2, 5),
            r"at least \(5, 5\).*padded \(4, 7\); pass a larger map",
        ),
        (
            nn.Conv1d(3, 4, 3, padding=2, padding_mode="reflect"),
            (3, 2),
            r"reflect padding is smaller than each.*\(2,\)",
        ),
        (
            nn.Conv1d(3, 4, 3, padding=3, padding_mode="circular"),
            (3, 2),
            r"circular padding is no larger.*another padding",
        ),
    ],
)
def test_a_map_that_does_not_fit_the_convolution_is_refused(conv: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(EquivError, match=r"^feature_shape: expected .*" + message):
        conv_to_linear(conv, shape)


def test_negative_zero_padding_is_refused() -> None:
    with pytest.raises(
        EquivError,
        match=r"^conv\.padding: expected an integer of at least 0, or .*, got \(-1,\); .*crop the input instead$",
    ):
        conv_to_linear(nn.Conv1d(3, 4, 1, padding=-1), (3, 5))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_is_taken_on_the_map_that_it_covers_where_no_other_is_given(dims: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    conv = kind(3, 5, (2, 3, 2)[:dims])
    linear = conv_to_linear(conv)
    assert torch.equal(linear.weight, conv.weight.flatten(1))
    assert torch.equal(linear.weight, conv_to_linear(conv, (3, *conv.kernel_size)).weight)
    wide = kind(4, 6, 2, dilation=3, groups=2)
    assert torch.equal(conv_to_linear(wide).weight, conv_to_linear(wide, (4, *(4,) * dims)).weight)
