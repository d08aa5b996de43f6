"""What a call did to the tensors that it was given: a copy of them before, a comparison after."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.laws.call import Call
from equiv.numerics import bit_equal, surely_bit_equal

Tensors = dict[str, Tensor]


def given(call: Call) -> Tensors:
    """The tensors of a call by name."""
    tensors = {"input": call.input, "weight": call.weight, "bias": call.bias}
    return {name: t for name, t in tensors.items() if t is not None}


def copies(tensors: Tensors) -> Tensors:
    """What they hold now."""
    return {name: (t.detach() if t.requires_grad else t).clone() for name, t in tensors.items()}


def changed(tensors: Tensors, before: Tensors) -> str:
    """Which of them hold other bits than before, in words; empty for none."""
    names = [name for name, t in tensors.items() if _differs(t.detach(), before[name])]
    return "" if not names else f"changes its inputs: the {' and the '.join(names)}"


def memory(call: Call) -> list[Tensor]:
    """All of the memory that the tensors of a call lie in, also what is between and around their entries, as bytes."""
    return [torch.empty(0, dtype=torch.uint8, device=t.device).set_(t.untyped_storage()) for t in given(call).values()]


def places(call: Call) -> list[tuple[object, ...]]:
    """How the tensors of a call lie in their memory, and whether they record gradients."""
    return [(t.stride(), t.storage_offset(), t.requires_grad) for t in given(call).values()]


def overlaps(t: Tensor) -> bool:
    """Whether two entries may lie in the same memory: an expanded tensor, or windows of a smaller one."""
    reach = 0
    for step, size in sorted(zip(t.stride(), t.shape, strict=True)) if t.numel() else ():
        if size > 1 and step <= reach:
            return True
        reach += (size - 1) * step
    return False


def _differs(now: Tensor, before: Tensor) -> bool:
    if surely_bit_equal(now, before):
        return False
    return now.shape != before.shape or not (torch.equal(now, before) or bit_equal(now, before))
