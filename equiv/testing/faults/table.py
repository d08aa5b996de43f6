"""docs/faults.md, made from the registry."""

from __future__ import annotations

from collections.abc import Iterator

from equiv.testing.faults.registry import FAULTS, SURVIVORS, VARIANTS, Fault

_KINDS = {
    "kernel": "Kernels: layouts, batches, sizes, strides, order",
    "gradient": "Gradients",
    "arithmetic": "Arithmetic: precision, bias, integers",
    "values": "Special values and the ends of the range",
    "effect": "Effects: memory written, shared, remembered",
    "cheat": "Cheats: how generated kernels pass a benchmark without the work",
    "transform": "Transforms and modes",
    "mapping": "Mistakes in mappings",
}

_TOP = """# The catalogue of faults

<!-- Made by `python -m equiv.testing.faults > docs/faults.md`; a test holds it against the registry. -->

An oracle is as good as what it finds and what it spares. `equiv.testing.faults` holds {faults} faults and {variants}
legal variants, each a context that changes torch's `linear` and `conv1d/2d/3d`, or one of equiv's mappings, under one
stated condition:

```python
from equiv.testing import faults

with faults.inject("channels-last-input"):
    ...  # conv2d reads a channels-last input as if it were channels-first
print(faults.FAULTS["channels-last-input"].source)  # pytorch/pytorch#32395, forward
found = faults.find("bias-doubled", seed=1)  # the first law that is broken under it
print(found.law, found.failure.note)
assert faults.find("pairwise", seed=1, examples=2, laws=["exact", "forward"]) is None  # right, in another order
```

`profile` is the one in which the laws must find a fault, and `laws` are those that are expected to find it, the
likeliest first. `tests/testing/test_faults.py` has for every fault a call at which it shows and one near it at which it
does not. `OMP_NUM_THREADS=1 python benchmarks/catalogue.py` runs every fault with ten seeds and every variant. What
equiv patches is global to the process while a context is open; it reaches everything that looks its kernels up in
`torch.nn.functional`, as `nn.Linear` and `nn.Conv1d/2d/3d` do (not direct calls of `torch.conv2d`), and modules that
hold a mapping of equiv under any name.
"""

_GAPS = """## What no law finds yet

The laws let these pass. A test fails once a law finds one, so that the list stays true.

| fault | why |
|---|---|
"""

_VARIANTS = """## Legal variants

Right kernels, other than torch's own; no law may refuse them.

| variant | how it computes | as in | dtypes |
|---|---|---|---|
"""


def page() -> str:
    """The whole page.

    Example:
        >>> page().splitlines()[0]
        '# The catalogue of faults'
    """
    return "\n".join(_parts()) + "\n"


def _parts() -> Iterator[str]:
    yield _TOP.format(faults=len(FAULTS), variants=len(VARIANTS))
    for kind, title in _KINDS.items():
        yield f"## {title}\n\n| fault | what is wrong, and when | source | dimension | profile | dtypes | laws |"
        yield "|---|---|---|---|---|---|---|"
        yield from (_row(fault) for fault in FAULTS.values() if fault.kind == kind)
        yield ""
    yield _GAPS + "\n".join(f"| `{name}` | {why} |" for name, why in SURVIVORS.items()) + "\n"
    yield _VARIANTS + "\n".join(
        f"| `{name}` | {one.title} | {one.source} | {', '.join(one.dtypes)} |" for name, one in VARIANTS.items()
    )


def _row(fault: Fault) -> str:
    profile = "none yet" if fault.name in SURVIVORS else fault.profile
    dtypes, laws = ", ".join(fault.dtypes), ", ".join(fault.laws)
    return f"| `{fault.name}` | {fault.title} | {fault.source} | {fault.dimension} | {profile} | {dtypes} | {laws} |"
