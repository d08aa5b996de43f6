"""Kernels that go wrong for some batches: their size, their rank, none at all, and rows that meet."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.testing.faults._build import kernel_fault
from equiv.testing.faults._kernel import Kernel, KernelCall, last_entry_off

SIZES = ("boundaries", "exact", "batch", "forward")


def _last_off(c: KernelCall) -> Tensor:
    return last_entry_off(c.run())


def _rows_from(start: int) -> Kernel:
    """Rows from ``start`` on are left at zero; negative counts from the end."""

    def wrong(c: KernelCall) -> Tensor:
        y = c.run()
        rows = y.reshape(c.rows, -1)
        return torch.cat([rows[:start], torch.zeros_like(rows[start:])]).view(y.shape)

    return wrong


def _refused(c: KernelCall) -> Tensor:
    raise RuntimeError(f"non-empty tensor expected, got shape {tuple(c.x.shape)}")


# --- batch ------------------------------------------------------------------------------------------------------------

kernel_fault(
    "conv-batch-64",
    "A convolution errs in its last entry from 64 samples on.",
    source="pytorch/pytorch#55781, of the batch alone",
    dimension="batch",
    when=lambda c: c.is_conv and c.rows >= 64,
    wrong=_last_off,
    laws=SIZES,
)
kernel_fault(
    "batch-remainder-of-16",
    "The last row is left at zero where it is the only one beyond a multiple of 16.",
    source="textbook: the remainder of a tile",
    dimension="batch modulo tile",
    when=lambda c: c.rows > 16 and c.rows % 16 == 1 and (not c.is_conv or c.is_batched),
    wrong=_rows_from(-1),
    laws=SIZES,
)
kernel_fault(
    "batch-over-128",
    "The last entry is wrong above 128 rows.",
    source="pytorch/pytorch#156154 family: other kernels for other batches",
    dimension="batch",
    when=lambda c: c.rows > 128,
    wrong=_last_off,
    laws=SIZES,
)
kernel_fault(
    "conv-batch-over-160",
    "A convolution errs in its last entry above 160 samples.",
    source="pytorch/pytorch#156154 family: other kernels for other batches",
    dimension="batch",
    profile="gate",
    when=lambda c: c.is_conv and c.rows > 160,
    wrong=_last_off,
    laws=("boundaries", "exact", "batch"),
)
kernel_fault(
    "batch-65-alone",
    "The last entry is wrong for 65 rows and no other number.",
    source="textbook: the remainder of a tile, at one size",
    dimension="batch",
    profile="gate",
    when=lambda c: c.rows == 65,
    wrong=_last_off,
    laws=SIZES,
)
kernel_fault(
    "batch-100-alone",
    "A convolution errs in its last entry for 100 samples and no other number.",
    source="textbook: a table of tuned sizes",
    dimension="batch",
    profile="deep",
    when=lambda c: c.is_conv and c.rows == 100,
    wrong=_last_off,
    laws=("batch", "boundaries"),
)
kernel_fault(
    "linear-batch-over-65536",
    "linear with bias of a batch above 65,536 rows leaves those beyond at zero: their number is taken modulo 2^16.",
    source="pytorch/pytorch#189495",
    dimension="boundaries: batch",
    profile="deep",
    when=lambda c: not c.is_conv and c.bias is not None and c.rows > 2**16,
    wrong=_rows_from(2**16),
    laws=("boundaries",),
)
kernel_fault(
    "linear-rank-3-batch-over-65536",
    "linear with bias of an input with three dimensions is wrong where the first is above 65,536.",
    source="pytorch/pytorch#189495, in the rank of the thread",
    dimension="boundaries: batch x rank x bias",
    profile="deep",
    when=lambda c: not c.is_conv and c.bias is not None and c.x.ndim == 3 and c.x.shape[0] > 2**16,
    wrong=_last_off,
    laws=("boundaries",),
)
kernel_fault(
    "unbatched-conv",
    "A convolution without a batch dimension errs in its last entry.",
    source="textbook: the batch dimension that is put in and taken out",
    dimension="batch rank",
    when=lambda c: c.is_conv and not c.is_batched,
    wrong=_last_off,
    laws=("batch", "gradients"),
)
kernel_fault(
    "unbatched-conv3d-drops-bias",
    "conv3d without a batch dimension drops the bias.",
    source="textbook: the batch dimension that is put in and taken out",
    dimension="batch rank x bias",
    when=lambda c: c.dims == 3 and not c.is_batched and c.bias is not None,
    wrong=lambda c: c.run(bias=None),
    laws=("batch", "gradients"),
)
kernel_fault(
    "linear-rank-1",
    "linear of a single vector errs in its last entry.",
    source="textbook: a matrix-vector kernel",
    dimension="batch rank",
    when=lambda c: not c.is_conv and c.x.ndim == 1,
    wrong=_last_off,
    laws=("batch", "exact", "forward"),
)
kernel_fault(
    "linear-rank-6",
    "linear of an input with six dimensions errs in its last entry.",
    source="textbook: a fixed number of dimensions in an iterator",
    dimension="batch rank",
    when=lambda c: not c.is_conv and c.x.ndim == 6,
    wrong=_last_off,
    laws=("batch", "exact", "forward"),
)
kernel_fault(
    "linear-rank-4-without-bias",
    "linear without bias of an input with four dimensions errs in its last entry.",
    source="pytorch/pytorch#180776, of the rank",
    dimension="batch rank x bias",
    when=lambda c: not c.is_conv and c.x.ndim == 4 and c.bias is None,
    wrong=_last_off,
    laws=("batch", "exact", "forward"),
)
kernel_fault(
    "linear-rank-3-bias-batch-64",
    "linear with bias of an input with three dimensions errs in its last entry above 64 rows.",
    source="pytorch/pytorch#189495, at a smaller batch",
    dimension="batch x rank x bias",
    profile="gate",
    when=lambda c: not c.is_conv and c.x.ndim == 3 and c.bias is not None and c.rows > 64,
    wrong=_last_off,
    laws=("batch", "exact", "forward", "layout"),
)
kernel_fault(
    "empty-batch-returns-a-row",
    "The result for no rows has one row of zeros.",
    source="pytorch/pytorch#31425, of the batch",
    dimension="empty",
    when=lambda c: c.rows == 0 and (c.is_batched if c.is_conv else c.x.ndim == 2),
    wrong=lambda c: c.run().new_zeros((1, *c.run().shape[1:])),
    laws=("batch",),
)
kernel_fault(
    "empty-batch-raises-conv",
    "A convolution of no samples raises an error.",
    source="pytorch/pytorch#31425",
    dimension="empty",
    when=lambda c: c.is_conv and c.rows == 0,
    wrong=_refused,
    laws=("batch", "exact"),
)
kernel_fault(
    "empty-batch-in-float32",
    "The result for no rows is float32 for a bfloat16 layer.",
    source="pytorch/pytorch#31425, of the dtype",
    dimension="empty x dtype",
    dtypes=("bfloat16",),
    when=lambda c: c.rows == 0 and c.x.dtype == torch.bfloat16,
    wrong=lambda c: c.run().float(),
    laws=("batch", "exact"),
)
kernel_fault(
    "empty-batch-flattened-rank-4",
    "linear of an input with four dimensions and no rows returns a matrix.",
    source="pytorch/pytorch#31425, of the rank",
    dimension="empty x rank",
    when=lambda c: not c.is_conv and c.x.ndim == 4 and c.x.numel() == 0,
    wrong=lambda c: c.run().reshape(-1, c.outputs),
    laws=("batch",),
)
kernel_fault(
    "nan-leaks-into-the-next-row",
    "A row that follows one with NaN becomes NaN.",
    source="textbook: rows that share a vector register",
    dimension="batch x special values",
    when=lambda c: c.x.is_floating_point() and c.rows > 1 and (c.is_batched if c.is_conv else c.x.ndim == 2),
    wrong=lambda c: (y := c.run()) + 0 * y.detach().roll(1, 0).nan_to_num(torch.nan, 0.0, 0.0),
    laws=("batch", "special_values"),
)


def _eighth_row_copied(c: KernelCall) -> Tensor:
    y = c.run()
    mixed = torch.cat([y[8:9, :-1], y[7:8, -1:]], 1)
    return torch.cat([y[:8], mixed, y[9:]])


kernel_fault(
    "last-output-of-row-8-copied",
    "linear of more than 8 rows copies the last output of row 7 to row 8.",
    source="textbook: the boundary of a tile of 8",
    dimension="batch modulo tile",
    when=lambda c: not c.is_conv and c.x.ndim == 2 and c.rows > 8,
    wrong=_eighth_row_copied,
    laws=SIZES,
)
