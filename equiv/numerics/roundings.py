"""Values as a narrower format keeps them: what engines do to operands before a product, and to results after it.

Knows the formats and nothing of layers. Dtype and shape of the values stay; parts of complex numbers are treated one by
one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiv.numerics.formats import round_nearest

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Rounding:
    """Rounding to a format, or to steps: the multiples of one number, as int8 quantization keeps values.

    Attributes:
        format: ``"float32"``, ``"TF32"``, ``"TF32 (ties away)"`` as tensor cores convert, ``"TF32 (cut off)"``,
            ``"float16"``, ``"bfloat16"`` or ``"steps"``.
        step: The step; 0 where it follows from the values: ``largest / levels``, or ``(largest - smallest) / levels``
            with 0 among them where ``ranged``.
        levels: How many steps there are up to the largest value, or over the whole range.
        ranged: The range decides, not the largest size.
        by_row: Every row of a matrix has a step of its own.
        least: The smallest multiple that is kept, in steps; what lies below becomes it.
        most: The largest.
        by_inverse: Values are multiplied by 1 / step, rounded, not divided by the step: rarely another multiple.

    Example:
        >>> values = torch.tensor([1 + 2**-10, 1 + 2**-12, 0.3])
        >>> Rounding("TF32")(values).tolist()[:2], Rounding("steps", 0.25)(values).tolist()
        ([1.0009765625, 1.0], [1.0, 1.0, 0.25])
    """

    format: str
    step: float = 0.0
    levels: float = 0.0
    ranged: bool = False
    by_row: bool = False
    least: float = -math.inf
    most: float = math.inf
    by_inverse: bool = False

    def __call__(self, values: Tensor) -> Tensor:
        """The values rounded; integers are left alone."""
        if values.is_complex():
            return torch.view_as_complex(self(torch.view_as_real(values).contiguous()))
        if not values.is_floating_point():
            return values
        if self.format == "steps":
            wide = values.to(torch.promote_types(values.dtype, torch.float32))  # as engines do, not in float64
            step = self.step_of(wide)
            counts = wide * (1 / step) if self.by_inverse else wide / step
            return (counts.round().clamp(self.least, self.most) * step).to(values.dtype)
        if self.format in _DTYPES:
            return round_nearest(values.double(), _DTYPES[self.format]).to(values.dtype)
        bits = values.to(torch.float32).contiguous().view(torch.int32)
        if "away" in self.format:
            bits = bits + 0x1000
        elif "cut" not in self.format:
            bits = bits + 0xFFF + ((bits >> 13) & 1)
        return (bits & ~0x1FFF).view(torch.float32).to(values.dtype)

    def step_of(self, values: Tensor) -> Tensor:
        """The step that these values are kept in, in their dtype: one, or ``(rows, 1)``."""
        if self.step or not values.numel():
            return values.new_tensor(self.step or 1.0)
        rows = values if self.by_row else values.reshape(1, -1)
        high, low = rows.amax(-1, keepdim=True).clamp(min=0.0), rows.amin(-1, keepdim=True).clamp(max=0.0)
        step = (high - low if self.ranged else torch.maximum(high, -low)) / self.levels
        step = torch.where(step > 0, step, 1.0)
        return step if self.by_row else step.reshape(())

    def __str__(self) -> str:
        """The format in words."""
        if self.format != "steps":
            return self.format
        if not self.step:
            of = "range" if self.ranged else "largest size"
            return f"steps of their {of}{' in a row' if self.by_row else ''} over {self.levels:g}"
        power = math.log2(self.step)
        words = f"steps of 2^{power:.0f}" if power == round(power) else f"steps of {self.step:.6g}"
        if math.isinf(self.least):
            return words
        return f"{words} from {self.least * self.step:.6g} to {self.most * self.step:.6g}"


def rounding_to(dtype: torch.dtype) -> Rounding:
    """The rounding to nearest, ties to even, of a floating dtype.

    Example:
        >>> str(rounding_to(torch.bfloat16))
        'bfloat16'
    """
    return Rounding(next(name for name, known in _DTYPES.items() if known == dtype))
