"""The heart of the project on one screen: when a Linear and a Conv2d are the same function, and when they are not."""

import torch
from hypothesis import given
from hypothesis import strategies as st

import equiv
from equiv import strategies as est
from equiv.numerics import address_coded_weight, tolerance


@given(data=st.data(), out_features=st.integers(1, 64), device=est.devices(), dtype=est.dtypes(kinds=("float",)))
def test_linear_equals_both_conv2d_forms(data, out_features, device, dtype):
    channels, height, width = feature_shape = data.draw(est.feature_shapes(spatial_dims=(2,)))
    batch_shape = data.draw(est.batch_shapes(max_rows=64))
    n = channels * height * width
    ordinary = {"dtype": dtype, "device": device, "kinds": ("normals", "small_integers")}
    linear = data.draw(est.layers(in_features=n, out_features=out_features, **ordinary))
    x = data.draw(est.tensors((*batch_shape, n), **ordinary))

    full = equiv.linear_to_full_conv(linear, feature_shape)  # the kernel is as large as the map
    pointwise = equiv.linear_to_pointwise_conv(linear)  # a 1x1 kernel over all features as channels

    expected = linear(x).reshape(-1, out_features)
    for conv, maps in ((full, equiv.to_feature_map(x, feature_shape)), (pointwise, equiv.to_channels(x))):
        actual = conv(maps.reshape(-1, *maps.shape[-3:])).flatten(1)
        # Not guessed: the width of the interval that every right kernel stays in, output by output.
        width = tolerance(x.reshape(-1, n), linear.weight, linear.bias)
        torch.testing.assert_close(actual.double().cpu() / width, expected.double().cpu() / width, rtol=0, atol=1)


@given(feature_shape=est.feature_shapes(spatial_dims=(2,), min_positions=2, max_features=64))
def test_a_1x1_kernel_on_a_larger_map_is_not_the_flattened_layer(feature_shape):
    channels, height, width = feature_shape
    linear = torch.nn.Linear(channels * height * width, height * width, bias=False)
    linear.weight.data = address_coded_weight(linear.out_features, linear.in_features, torch.float32)

    found = equiv.counterexample(linear, feature_shape)  # the closest 1x1 convolution, and where it fails
    assert not found.equivalent
    assert found.witness.count_nonzero() == 1

    x = found.witness[None].float()
    verdict = equiv.compare(found.conv(x).flatten(1), linear(x.flatten(1)), input=x, layer=linear)
    assert verdict.outcome is equiv.Outcome.DIFFERENT
