"""Profiles: in which formats a layer is computed, in words, as a named cause, and as an arithmetic.

Engines round several parts together: operands to bfloat16 and results as well under autocast, operands to TF32, weights
and bias to float16 in a file, operands to steps in int8. How a profile is found is in ``equiv.causes.recognition``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from equiv.causes.mistakes import AGAIN, Cause, again
from equiv.dtypes import dtype_name
from equiv.numerics import Arithmetic, Rounding, declared, format_of, rounding_to

Kept: TypeAlias = Rounding | None


@dataclass(frozen=True)
class Profile:
    """What each part of a layer is rounded to; None where it keeps the dtype of the layer.

    ``sums`` is the dtype of the accumulator.
    """

    x: Kept
    weight: Kept
    bias: Kept
    sums: torch.dtype
    results: Kept

    @property
    def roundings(self) -> list[Rounding]:
        """Those that there are."""
        return [kept for kept in (self.x, self.weight, self.bias, self.results) if kept is not None]

    def arithmetic(self, dtype: torch.dtype) -> Arithmetic:
        """What kernels of this profile compute in, with results of ``dtype``."""
        base, sums = declared(dtype), format_of(self.sums)
        formats = {rounding.format for rounding in self.roundings}
        operands = (self.x, self.weight, self.bias)
        coarse = self.results is not None and self.results.format in ("float16", "bfloat16")
        flushes = base.flushes_inputs or "bfloat16" in formats  # as kernels of bfloat16 do
        return replace(
            base,
            name=f"{base.name.split(',')[0]}, {self.words(dtype)}",
            u=sums.u,
            accumulator_max=sums.max,
            underflow=format_of(torch.float32).min_normal if flushes else sums.min_subnormal,
            factor=1.0,
            extra_terms=4 if "steps" in formats else base.extra_terms,  # sums of integers are brought to scale
            relative=_relative(operands[:2]),
            flushes_inputs=flushes,
            flushes_outputs=flushes,
            bias_rounding="either" if coarse else base.bias_rounding,
            measured=False,
            operands=operands if any(operands) else None,
            results=self.results,
        )

    def words(self, dtype: torch.dtype) -> str:
        """The profile of a layer of ``dtype`` in one clause for each format."""
        parts: dict[str, list[str]] = {}
        for what, kept in (("inputs", self.x), ("weights", self.weight), ("bias", self.bias)):
            if kept is not None:
                parts.setdefault(str(kept), []).append(what)
        verbs = {to: "is" if what == ["bias"] else "are" for to, what in parts.items()}
        clauses = [f"{_listed(what)} {verbs[to]} rounded to {to}" for to, what in parts.items()]
        sums = dtype_name(self.sums)
        clauses.append(
            f"sums and results are {sums}" if not self.results and dtype == self.sums else f"sums are {sums}"
        )
        clauses += [f"results are rounded to {self.results}"] if self.results else []
        return ", ".join(clauses)


def cause_of_profile(profile: Profile, dtype: torch.dtype, note: str = "") -> Cause:
    """The profile as a named mistake of a layer of ``dtype``."""
    formats = {"steps" if kept.format == "steps" else str(kept) for kept in profile.roundings}
    operands = [kept for kept in (profile.x, profile.weight, profile.bias) if kept is not None]
    low = profile.sums in (torch.float16, torch.bfloat16)
    if low:
        kind, formats = "accumulated", {str(rounding_to(profile.sums))}
    elif operands and profile.results is None:
        kind = "rounded"
    elif operands:
        kind = "computed"
    else:
        kind = "output-rounded"
    name = f"{kind}-{_slug(formats)}" if formats != {"TF32 (cut off)"} or kind != "rounded" else "truncated-tf32"
    clauses = filter(None, (profile.words(dtype), note, known_as(profile)))
    return Cause(name, ", ".join(clauses), _mend(profile, name)).computed_in(profile.arithmetic(dtype))


def _mend(profile: Profile, name: str) -> str:
    """The parameters of the right layer where they alone are rounded; else the results, computed again."""
    parameters = [what for what, kept in (("weight", profile.weight), ("bias", profile.bias)) if kept is not None]
    low = profile.sums in (torch.float16, torch.bfloat16)
    if parameters and profile.x is None and profile.results is None and not low:
        return "; ".join(f"{what} = reference.{what}" for what in parameters)
    if low or (profile.x is not None and profile.weight is not None and profile.bias is None):
        return again(name)
    return AGAIN


def known_as(profile: Profile) -> str | None:
    """Where such a profile is met."""
    kinds = tuple(None if kept is None else kept.format for kept in (profile.x, profile.weight, profile.bias))
    results = None if profile.results is None else profile.results.format
    if results in ("bfloat16", "float16") and kinds in {(results,) * 3, (results, results, None)}:
        return None if profile.sums != torch.float32 else f"as under torch.autocast({results}) or in a layer of it"
    if results is None and not kinds[2] and all(kind and kind.startswith("TF32") for kind in kinds[:2]):
        return "as in kernels of TF32"
    if results is None and kinds[:2] == ("bfloat16", "bfloat16") and not kinds[2]:
        return "as where torch may round float32 products to bfloat16"
    if results is None and kinds[0] is None and kinds[1] in ("float16", "bfloat16") and kinds[2] in (kinds[1], None):
        return f"as where a file keeps parameters in {kinds[1]}"
    if kinds[:2] == ("steps", "steps"):
        return "as in int8 quantization"
    return None


def _relative(factors: tuple[Kept, Kept]) -> float:
    """What rounding its factors may change of a product, where they cannot be rounded before it."""
    u = {"float32": 2.0**-24, "TF32": 2.0**-11, "TF32 (ties away)": 2.0**-11, "TF32 (cut off)": 2.0**-10}
    u |= {"float16": 2.0**-11, "bfloat16": 2.0**-8}
    first, second = (0.0 if kept is None else u.get(kept.format, 0.0) for kept in factors)
    return (1 + first) * (1 + second) - 1


def _slug(formats: set[str]) -> str:
    return "-and-".join(sorted({"tf32" if name.startswith("TF32") else name for name in formats}))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
