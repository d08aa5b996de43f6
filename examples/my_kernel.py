"""A kernel of one's own under the laws: `pytest examples/my_kernel.py`. It forgets the last channel of wide layers."""

import torch
from torch import Tensor
from torch.nn import functional as F

import equiv.testing


class MyBackend:
    name = "mine"
    device = torch.device("cpu")

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(input, weight, bias)

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | tuple[int, ...] = 1,
        dilation: int | tuple[int, ...] = 1,
    ) -> Tensor:
        channels = weight.shape[1]
        used = channels - channels % 4 if channels > 16 else channels  # the defect: a tail that no loop handles
        conv = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
        return conv(input.narrow(-weight.ndim + 1, 0, used), weight[:, :used], bias, stride=stride, dilation=dilation)


@equiv.testing.parametrize_with_laws(MyBackend(), dtypes=["float32"], laws=["exact"])
def test_my_backend(law: equiv.testing.Check) -> None:
    law()
