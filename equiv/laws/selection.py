"""Which items there are: every law x form x dtype x backend, and how a part of them is chosen by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from equiv.arguments import refusal
from equiv.backends import FORMS, Backend, capabilities_of
from equiv.dtypes import BY_NAME, dtype_name
from equiv.errors import EquivError
from equiv.laws.capabilities import NotAsked, check_backends, declared_dtype
from equiv.laws.registry import LAWS, Law, kind_of
from equiv.text import shown


@dataclass(frozen=True)
class Item:
    """One law on one backend in one dtype: what a test suite runs as a test of its own.

    Example:
        >>> from equiv.backends import TorchEager
        >>> from equiv.laws import items
        >>> (item,) = items([TorchEager()], laws=["exact"], dtypes=["int8"])
        >>> item.id, item.law.title
        ('exact-all-int8-eager.cpu', 'exact')
    """

    law: Law
    forms: tuple[str, ...]
    dtype: torch.dtype
    backend: Backend

    @property
    def form(self) -> str:
        """The form if it is one, else ``all``."""
        return self.forms[0] if len(self.forms) == 1 else "all"

    @property
    def word(self) -> str:
        """The name of the dtype."""
        return dtype_name(self.dtype)

    @property
    def id(self) -> str:
        """``law-form-dtype-backend``, the same on every worker and machine."""
        return f"{self.law.id}-{self.form}-{self.word}-{self.backend.name}"


@dataclass(frozen=True)
class Plan:
    """What is to be run, and what is not asked of the backends since they declare that they do not serve it.

    Example:
        >>> from equiv.backends import TorchEager
        >>> both = plan([TorchEager()], laws=["exact"], dtypes=["int8"])
        >>> len(both.items), both.not_asked
        (1, ())
    """

    items: tuple[Item, ...]
    not_asked: tuple[NotAsked, ...]


def items(
    backends: Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str | torch.dtype] | None = None,
) -> list[Item]:
    """Every law x form x dtype x backend that there is, in the order of the laws' numbers; see :func:`plan`.

    Example:
        >>> from equiv.backends import TorchEager
        >>> [item.id for item in items([TorchEager()], laws=["exact"], dtypes=["int8"])]
        ['exact-all-int8-eager.cpu']
    """
    return list(plan(backends, laws=laws, forms=forms, dtypes=dtypes).items)


def plan(
    backends: Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[str | torch.dtype] | None = None,
) -> Plan:
    """Every law x form x dtype x backend, by what the backends declare; no kernel runs.

    What they leave open is found out by asking when an item runs.

    Args:
        backends: At least one.
        laws: Ids, or None for all.
        forms: Of ``linear``, ``full``, ``pointwise``, or None for all.
        dtypes: Names or dtypes, or None for all.

    Raises:
        EquivError: An unknown name, or two backends of one name.

    Example:
        >>> from equiv.backends import TorchEager
        >>> len(plan([TorchEager()], laws=["exact", "batch"], dtypes=["int8"]).items)
        2
    """
    chosen_laws = [LAWS[name] for name in _chosen("laws", laws, list(LAWS))]
    chosen_forms = _chosen("forms", forms, list(FORMS))
    chosen_dtypes = [BY_NAME[word] for word in chosen_words(dtypes)]
    found: list[Item] = []
    not_asked: dict[NotAsked, None] = {}
    for backend in check_backends(backends):
        refused = {(form, d): declared_dtype(backend, form, d)[1] for form in chosen_forms for d in chosen_dtypes}
        has_transforms = bool(capabilities_of(backend).transforms)
        for law in chosen_laws:
            for dtype in (dtype for dtype in chosen_dtypes if kind_of(dtype) in law.kinds):
                wanted = [form for form in law.forms if form in chosen_forms]
                not_asked |= dict.fromkeys(said for form in wanted if (said := refused[form, dtype]) is not None)
                item = Item(law, tuple(form for form in wanted if refused[form, dtype] is None), dtype, backend)
                if law.needs_torch and not has_transforms:
                    not_asked[replace(_NO_TRANSFORMS, backend=backend.name, law=law.id, dtype=item.word)] = None
                elif item.forms:
                    found.append(item)
    return Plan(tuple(found), tuple(not_asked))


_NO_TRANSFORMS = NotAsked("transforms", "", reason="the backend does not declare transforms=True")


def chosen_words(dtypes: object) -> list[str]:
    """Names of dtypes in the order of ``BY_NAME``, from a list of names or dtypes; all of them for None.

    Example:
        >>> chosen_words([torch.int8, "float32"])
        ['float32', 'int8']
    """
    if isinstance(dtypes, (list, tuple)):
        dtypes = [dtype_name(entry) if isinstance(entry, torch.dtype) else entry for entry in dtypes]
    return _chosen("dtypes", dtypes, list(BY_NAME))


def _chosen(argument: str, wanted: object, known: list[str]) -> list[str]:
    if wanted is None:
        return known
    expected = f"a list of names among {', '.join(known)}"
    if not isinstance(wanted, (list, tuple, set, frozenset)):
        raise refusal(argument, expected, wanted, "pass a list, also for one")
    unknown = [name for name in wanted if not (isinstance(name, str) and name in known)]
    if unknown:
        close = difflib.get_close_matches(shown(unknown[0], 40).strip("'"), known, n=1)
        advice = f"did you mean {close[0]!r}?" if close else "remove it or correct its spelling"
        raise refusal(argument, expected, unknown[0], advice)
    if not wanted:
        raise EquivError(f"{argument}: expected {expected}, got none; leave {argument} out for all")
    return [name for name in known if name in wanted]
