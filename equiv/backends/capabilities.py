"""What a backend says that it can do; what it says nothing of is found out by asking it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch

from equiv.arguments import attribute_of, check_bool, check_integer, check_several, refusal
from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.numerics import Arithmetic
from equiv.text import quoted

FORMS = ("linear", "full", "pointwise")
"""The forms of one layer: a Linear, a convolution as large as the map, a 1x1 convolution over all features.

Example:
    >>> FORMS
    ('linear', 'full', 'pointwise')
"""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a backend serves, as its attribute ``capabilities``. None, everywhere the default: find out by asking.

    What is declared is not asked for and not questioned: ``False`` appears in every report as "not asked, declared".

    Attributes:
        dtypes: For all forms alike, or by form (``linear``, ``full``, ``pointwise``): dtypes, or their names. A form
            that a mapping leaves out is asked.
        spatial_ranks: Of maps that ``conv`` takes: some of 1, 2, 3; none for a backend without convolutions.
        empty_batches: Batches of no rows.
        empty_layers: Linear layers without inputs, or without outputs. None is no where asking raises anything.
        single_samples: Inputs without a batch dimension.
        layouts: Inputs and weights that are not contiguous.
        stride: Steps other than 1 of a convolution, over maps that are larger than the kernel too.
        dilation: Dilations other than 1.
        padding: The keyword ``padding`` of ``conv``, zeros around the map.
        groups: The keyword ``groups`` of ``conv``, several groups of channels.
        gradient_order: 0 for results that carry no gradients, 1, or 2 where gradients can be differentiated again.
        forward_mode: Forward-mode differentiation.
        transforms: torch's own machinery: vmap, compile, autocast, meta, export. None is no: nobody but the backend
            knows whether its functions are meant for that.
        concurrent: Calls from several threads at once. None is yes.
        deterministic: The same call gives the same bits every time.
        arithmetic: What the envelopes of the results follow: an ``Arithmetic``; ``"measured"``, what each call is found
            to compute in; or ``"declared"``, what right kernels of the dtype and device have, as by default.
        largest: Entries of the largest input, weight or result.

    Raises:
        EquivError: A value that an attribute cannot have; the message names the attribute.

    Example:
        >>> Capabilities(spatial_ranks=(2,), gradient_order=0).gradient_order
        0
    """

    dtypes: Sequence[torch.dtype | str] | Mapping[str, Sequence[torch.dtype | str]] | None = None
    spatial_ranks: Sequence[int] | None = None
    empty_batches: bool | None = None
    empty_layers: bool | None = None
    single_samples: bool | None = None
    layouts: bool | None = None
    stride: bool | None = None
    dilation: bool | None = None
    padding: bool | None = None
    groups: bool | None = None
    gradient_order: int | None = None
    forward_mode: bool | None = None
    transforms: bool | None = None
    concurrent: bool | None = None
    deterministic: bool | None = None
    arithmetic: Arithmetic | str | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        _check_dtypes(self.dtypes)
        if self.spatial_ranks is not None:
            advice = "pass such as spatial_ranks=(2,)"
            for rank in check_several("capabilities.spatial_ranks", self.spatial_ranks, "ranks of maps", advice):
                check_integer("capabilities.spatial_ranks", rank, least=1, most=3, advice=advice)
        for name in _YES_OR_NO:
            if getattr(self, name) is not None:
                check_bool(f"capabilities.{name}", getattr(self, name), "leave it out and the backend is asked")
        if self.gradient_order is not None:
            advice = "0 is for results that carry no gradients"
            check_integer("capabilities.gradient_order", self.gradient_order, least=0, most=2, advice=advice)
        if self.largest is not None:
            advice = "pass a number of entries, or leave it out for no limit"
            check_integer("capabilities.largest", self.largest, least=1, advice=advice)
        if not (self.arithmetic in (None, "measured", "declared") or isinstance(self.arithmetic, Arithmetic)):
            expected = "an equiv.numerics.Arithmetic, 'measured' or 'declared'"
            raise refusal("capabilities.arithmetic", expected, self.arithmetic, "see equiv.numerics.declared")

    def dtypes_of(self, form: str) -> tuple[torch.dtype, ...] | None:
        """The dtypes that are declared for a form, or None.

        Example:
            >>> Capabilities(dtypes={"linear": ["float32"]}).dtypes_of("linear")
            (torch.float32,)
        """
        words = self.dtypes.get(form) if isinstance(self.dtypes, Mapping) else self.dtypes
        return None if words is None else tuple(dtype for dtype in map(_dtype_of, words) if dtype is not None)


CAPABILITIES = tuple(field.name for field in fields(Capabilities))

_YES_OR_NO = tuple(field.name for field in fields(Capabilities) if field.type == "bool | None")


def _check_dtypes(value: object) -> None:
    expected, advice = "dtypes or their names, or a mapping to them from forms", "pass such as dtypes=['float32']"
    if isinstance(value, Mapping):
        for form, dtypes in value.items():
            if form not in FORMS:
                raise refusal("capabilities.dtypes", f"forms among {', '.join(FORMS)}", form, "correct its spelling")
            _check_words(f"capabilities.dtypes[{form!r}]", dtypes, expected, advice)
    elif value is not None and not _check_words("capabilities.dtypes", value, expected, advice):
        raise refusal("capabilities.dtypes", "at least one dtype", value, "leave it out and the backend is asked")


def _check_words(argument: str, value: object, expected: str, advice: str) -> list[object]:
    found = check_several(argument, value, expected, advice)
    for one in found:
        if _dtype_of(one) is None:
            close = difflib.get_close_matches(one, map(dtype_name, DTYPES), n=1) if isinstance(one, str) else []
            raise refusal(argument, expected, one, f"did you mean {close[0]!r}?" if close else advice)
    return found


def _dtype_of(value: object) -> torch.dtype | None:
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    return found if isinstance(found, torch.dtype) else None


def capabilities_of(backend: object) -> Capabilities:
    """What a backend declares; nothing where it has no attribute ``capabilities``.

    Its older attribute ``transforms`` stands where they leave that open.

    Raises:
        EquivError: Its ``capabilities`` are none, or cannot be read.
    """
    expected = "an equiv.backends.Capabilities"
    try:
        declared = getattr(backend, "capabilities", None)
    except Exception as error:
        what = f"{type(error).__name__}: {quoted(error, 200)}"
        raise EquivError(f"backend.capabilities: expected {expected}, got {what}; correct it") from error
    if not isinstance(declared, Capabilities | None):
        raise refusal("backend.capabilities", expected, declared, "see its attributes")
    declared = declared or Capabilities()
    if declared.transforms is None:
        return replace(declared, transforms=bool(attribute_of(backend, "transforms", False)))
    return declared
