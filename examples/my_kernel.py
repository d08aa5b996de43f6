"""A kernel of one's own under the laws: `pytest examples/my_kernel.py`. It forgets the last channel of wide layers."""

import torch
from torch.nn import functional as F

import equiv.testing


class MyBackend:
    name = "mine"
    device = torch.device("cpu")

    def linear(self, input, weight, bias=None):
        return F.linear(input, weight, bias)

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        channels = weight.shape[1]
        used = channels - channels % 4 if channels > 16 else channels  # the defect: a tail that no loop handles
        conv = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
        return conv(input.narrow(-weight.ndim + 1, 0, used), weight[:, :used], bias, stride=stride, dilation=dilation)


@equiv.testing.parametrize_with_laws(MyBackend(), dtypes=["float32"], laws=["exact"])
def test_my_backend(law):
    law()
