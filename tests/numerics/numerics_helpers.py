"""Sums in seven orders, exact sums of fractions, and probes for the tests of equiv.numerics.

References are Python's own integers and fractions, never the code under test.
"""

from __future__ import annotations

import math
import random
import threading
from fractions import Fraction

import pytest
import torch
from hypothesis import settings

from equiv.numerics import exact_case
from equiv.strategies import Values

RUN = settings(max_examples=60)


def flushing(look):
    """What ``look`` returns in a thread that flushes subnormals; the flag belongs to the thread."""
    found, raised = [], []

    def run():
        try:
            if torch.set_flush_denormal(True):
                found.append(look())
        except BaseException as error:  # else it would end with the thread
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    if not found:
        pytest.skip("this CPU cannot flush subnormals")
    return found[0]


def word(value):
    return str(value).removeprefix("torch.")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def fraction(value):
    return Fraction(float(value))


def nearest(q, fmt):
    """A fraction rounded to nearest even in a format; a float where it overflows."""
    if q == 0:
        return Fraction(0)
    exponent = abs(q.numerator).bit_length() - q.denominator.bit_length()
    if Fraction(2) ** exponent > abs(q):
        exponent -= 1
    step = Fraction(2) ** max(exponent - fmt.precision + 1, round(math.log2(fmt.min_subnormal)))
    value = round(q / step) * step
    return value if abs(value) <= fraction(fmt.max) else math.copysign(math.inf, q)


def exact_sum(x, w, b):
    """The value, the sum of magnitudes and the number of non-zero terms of one output, as fractions."""
    terms = [fraction(p) * fraction(q) for p, q in zip(x.tolist(), w.tolist(), strict=True)]
    terms += [] if b is None else [fraction(b)]
    return sum(terms, Fraction(0)), sum(map(abs, terms), Fraction(0)), sum(t != 0 for t in terms)


def sequential(terms):
    total = terms[..., 0]
    for k in range(1, terms.shape[-1]):
        total = total + terms[..., k]
    return total


def backwards(terms):
    return sequential(terms.flip(-1))


def pairwise(terms):
    while terms.shape[-1] > 1:
        half = (terms.shape[-1] + 1) // 2
        rest = terms.shape[-1] - half
        terms = torch.cat([terms[..., :rest] + terms[..., half:], terms[..., rest:half]], -1)
    return terms[..., 0]


def lanes(terms):
    """Eight partial sums, as a vector register keeps them."""
    terms = torch.nn.functional.pad(terms, (0, -terms.shape[-1] % 8))
    return pairwise(sequential(terms.unflatten(-1, (-1, 8)).transpose(-1, -2)))


def blocks(terms):
    return sequential(torch.stack([pairwise(part) for part in terms.split(5, -1)], -1))


def shuffled(terms):
    return sequential(terms[..., torch.randperm(terms.shape[-1], generator=torch.Generator().manual_seed(5))])


def tree(terms):
    chance, pool = random.Random(7), list(terms.unbind(-1))
    while len(pool) > 1:
        a, b = (pool.pop(chance.randrange(len(pool))) for _ in range(2))
        pool.append(a + b)
    return pool[0]


ORDERS = (sequential, backwards, pairwise, lanes, blocks, shuffled, tree)


def terms_of(x, w, b, accumulator, *, bias_first=False):
    """The rounded terms of every output, ``(N, O, n)`` or with the bias ``(N, O, n + 1)``."""
    terms = x.to(accumulator)[:, None, :] * w.to(accumulator)[None]
    if b is None:
        return terms
    column = b.to(accumulator)[None, :, None].expand(len(x), -1, 1)
    return torch.cat([column, terms] if bias_first else [terms, column], -1)


def accumulator_of(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def drawn(kind, n, seed, dtype):
    partner = "repeated" if kind == "cancelling" else kind if seed % 2 else "normals"
    x, w = Values(kind, seed).tensor((5, n), dtype), Values(partner, seed + 1).tensor((4, n), dtype)
    return x, w, Values(partner, seed + 2).tensor((4,), dtype) if seed % 3 else None


def products_of(x, w, b):
    """The complex layer as torch's convolution computes it, by three real products."""
    (xr, xi), (wr, wi) = ((t.real, t.imag) for t in (x, w))
    a = sequential(terms_of(xr, wr, None if b is None else b.real, xr.dtype))
    c = pairwise(terms_of(xr + xi, wr + wi, None if b is None else b.real + b.imag, xr.dtype))
    d = lanes(terms_of(xi, wi, None, xr.dtype))
    return torch.complex(a - d, c - a - d)


def four_products_of(x, w, b):
    (xr, xi), (wr, wi) = ((t.real, t.imag) for t in (x, w))
    real = blocks(terms_of(torch.cat([xr, -xi], 1), torch.cat([wr, wi], 1), None if b is None else b.real, xr.dtype))
    imag = tree(terms_of(torch.cat([xr, xi], 1), torch.cat([wi, wr], 1), None if b is None else b.imag, xr.dtype))
    return torch.complex(real, imag)


def probe(**options):
    given = {"seed": 1, "style": "dense", "rows": 3, "in_features": 5, "out_features": 4, "bias": True}
    return exact_case(**{**given, "dtype": torch.float32, **options})
