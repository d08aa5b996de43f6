"""Kernels that go wrong for some batches: their size, their rank, none at all, and rows that meet."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BATCH, BOUNDARIES, EXACT, FORWARD, GRADIENTS, LAYOUT, SPECIAL_VALUES
from equiv.testing.faults.kernel import Kernel, KernelCall
from equiv.testing.faults.tools import last_off, zero_from


def _rows_from(start: int) -> Kernel:
    """Rows from ``start`` on are left at zero; negative counts from the end."""

    def wrong(c: KernelCall) -> Tensor:
        y = c.run()
        return zero_from(y.reshape(c.rows, -1), start).view(y.shape)

    return wrong


def _refused(c: KernelCall) -> Tensor:
    raise RuntimeError(f"non-empty tensor expected, got shape {tuple(c.x.shape)}")


# --- batch ------------------------------------------------------------------------------------------------------------

fault = Faults(kind="kernel", laws=(BOUNDARIES, EXACT, BATCH, FORWARD))

fault("conv-batch-64", "batch")(
    "A convolution is wrong in its last entry from 64 samples on.", "pytorch/pytorch#55781, of the batch alone"
).where(lambda c: c.is_conv and c.rows >= 64, last_off)
fault("batch-remainder-of-16", "batch modulo tile")(
    "The last row is left at zero where it is the only one beyond a multiple of 16.",
    "textbook: the remainder of a tile",
).where(lambda c: c.rows > 16 and c.rows % 16 == 1 and (c.is_linear or c.is_batched), _rows_from(-1))
fault("batch-over-128", "batch")(
    "The last entry is wrong above 128 rows.", "pytorch/pytorch#156154 family: other kernels for other batches"
).where(lambda c: c.rows > 128, last_off)
fault("conv-batch-over-160", "batch", profile="gate", laws=(BOUNDARIES, EXACT, BATCH))(
    "A convolution is wrong in its last entry above 160 samples.",
    "pytorch/pytorch#156154 family: other kernels for other batches",
).where(lambda c: c.is_conv and c.rows > 160, last_off)
fault("batch-65-alone", "batch", profile="gate")(
    "The last entry is wrong for 65 rows and no other number.", "textbook: the remainder of a tile, at one size"
).where(lambda c: c.rows == 65, last_off)
fault("batch-100-alone", "batch", profile="deep", laws=(BATCH, BOUNDARIES))(
    "A convolution is wrong in its last entry for 100 samples and no other number.", "textbook: a table of tuned sizes"
).where(lambda c: c.is_conv and c.rows == 100, last_off)
fault("linear-batch-over-65536", "boundaries: batch", profile="deep", laws=(BOUNDARIES,))(
    "linear with bias of a batch above 65,536 rows leaves those beyond at zero: their number is taken modulo 2^16.",
    "pytorch/pytorch#189495",
).where(lambda c: c.is_linear and c.bias is not None and c.rows > 2**16, _rows_from(2**16))
fault("linear-rank-3-batch-over-65536", "boundaries: batch x rank x bias", profile="deep", laws=(BOUNDARIES,))(
    "linear with bias of an input with three dimensions is wrong where the first is above 65,536.",
    "pytorch/pytorch#189495, in the rank of the thread",
).where(lambda c: c.is_linear and c.bias is not None and c.x.ndim == 3 and c.x.shape[0] > 2**16, last_off)
fault(
    "bfloat16-batch-over-32768", "boundaries: batch x dtype", profile="gate", dtypes=("bfloat16",), laws=(BOUNDARIES,)
)("The last entry is wrong in bfloat16 above 32,768 rows.", "pytorch/pytorch#189495, in 16 bits").where(
    lambda c: c.rows > 2**15 and c.x.dtype == torch.bfloat16, last_off
)
fault("unbatched-conv", "batch rank", laws=(BATCH, GRADIENTS))(
    "A convolution without a batch dimension is wrong in its last entry.",
    "textbook: the batch dimension that is put in and taken out",
).where(lambda c: c.is_conv and not c.is_batched, last_off)
fault("unbatched-conv3d-drops-bias", "batch rank x bias", laws=(BATCH, GRADIENTS))(
    "conv3d without a batch dimension drops the bias.", "textbook: the batch dimension that is put in and taken out"
).where(lambda c: c.dims == 3 and not c.is_batched and c.bias is not None, lambda c: c.run(bias=None))
fault("linear-rank-1", "batch rank", laws=(BATCH, EXACT, FORWARD))(
    "linear of a single vector is wrong in its last entry.", "textbook: a matrix-vector kernel"
).where(lambda c: c.is_linear and c.x.ndim == 1, last_off)
fault("linear-rank-6", "batch rank", laws=(BATCH, EXACT, FORWARD))(
    "linear of an input with six dimensions is wrong in its last entry.",
    "textbook: a fixed number of dimensions in an iterator",
).where(lambda c: c.is_linear and c.x.ndim == 6, last_off)
fault("linear-rank-4-without-bias", "batch rank x bias", laws=(BATCH, EXACT, FORWARD))(
    "linear without bias of an input with four dimensions is wrong in its last entry.",
    "pytorch/pytorch#180776, of the rank",
).where(lambda c: c.is_linear and c.x.ndim == 4 and c.bias is None, last_off)
fault("linear-rank-3-bias-batch-64", "batch x rank x bias", profile="gate", laws=(BATCH, EXACT, FORWARD, LAYOUT))(
    "linear with bias of an input with three dimensions is wrong in its last entry above 64 rows.",
    "pytorch/pytorch#189495, at a smaller batch",
).where(lambda c: c.is_linear and c.x.ndim == 3 and c.bias is not None and c.rows > 64, last_off)
fault("empty-batch-returns-a-row", "empty", laws=(BATCH,))(
    "The result for no rows has one row of zeros.", "pytorch/pytorch#31425, of the batch"
).where(
    lambda c: c.rows == 0 and (c.is_batched if c.is_conv else c.x.ndim == 2),
    lambda c: c.run().new_zeros((1, *c.run().shape[1:])),
)
fault("empty-batch-raises-conv", "empty", laws=(BATCH, EXACT))(
    "A convolution of no samples raises an error.", "pytorch/pytorch#31425"
).where(lambda c: c.is_conv and c.rows == 0, _refused)
fault("empty-batch-in-float32", "empty x dtype", dtypes=("bfloat16",), laws=(BATCH, EXACT))(
    "The result for no rows is float32 for a bfloat16 layer.", "pytorch/pytorch#31425, of the dtype"
).where(lambda c: c.rows == 0 and c.x.dtype == torch.bfloat16, lambda c: c.run().float())
fault("empty-batch-flattened-rank-4", "empty x rank", laws=(BATCH,))(
    "linear of an input with four dimensions and no rows returns a matrix.", "pytorch/pytorch#31425, of the rank"
).where(lambda c: c.is_linear and c.x.ndim == 4 and c.x.numel() == 0, lambda c: c.run().reshape(-1, c.outputs))
fault("nan-leaks-into-the-next-row", "batch x special values", laws=(BATCH, SPECIAL_VALUES))(
    "A row that follows one with NaN becomes NaN.", "textbook: rows that share a vector register"
).where(
    lambda c: c.x.is_floating_point() and c.rows > 1 and (c.is_batched if c.is_conv else c.x.ndim == 2),
    lambda c: (y := c.run()) + 0 * y.detach().roll(1, 0).nan_to_num(torch.nan, 0.0, 0.0),
)


def _eighth_row_copied(c: KernelCall) -> Tensor:
    y = c.run()
    mixed = torch.cat([y[8:9, :-1], y[7:8, -1:]], 1)
    return torch.cat([y[:8], mixed, y[9:]])


fault("last-output-of-row-8-copied", "batch modulo tile")(
    "linear of more than 8 rows copies the last output of row 7 to row 8.", "textbook: the boundary of a tile of 8"
).where(lambda c: c.is_linear and c.x.ndim == 2 and c.rows > 8, _eighth_row_copied)
