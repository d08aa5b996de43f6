"""Draws the pictures of the README into the folder of this file: ``python docs/pictures/draw.py``.

The numbers of the failure are the same on every machine: all factors are small integers over a power of two, so that
the exact sums are found without rounding.
"""

from __future__ import annotations

from pathlib import Path

import torch

import equiv
from equiv.pictures import Picture, of_forms, svg

HERE = Path(__file__).parent


def failure() -> Picture:
    """A kernel that leaves out the last of 256 terms, 0 in most rows: ``assert_close`` accepts all that it returns."""
    numbers = torch.arange(256 * 8)
    weight = ((numbers * 37 % 101 - 50) * 2.0**-20).reshape(8, 256)
    x = ((numbers * 53 % 113 - 56) * 2.0**-8).reshape(8, 256)
    x[2:, -1] = 0
    right = (x.double() @ weight.double().T).float()
    cut = (x[:, :-1].double() @ weight[:, :-1].double().T).float()
    torch.testing.assert_close(cut, right)
    return equiv.compare(cut, right, input=x, weight=weight).plot()


def pictures() -> dict[str, str]:
    """File names and their text."""
    return {"forms.svg": svg(of_forms()), "failure.svg": svg(failure())}


if __name__ == "__main__":
    for name, text in pictures().items():
        (HERE / name).write_text(text, encoding="utf-8")
