"""Every law of a backend as a pytest test of its own, with expected failures and skips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch

from equiv._options import options
from equiv.arguments import check_bool, check_choice, check_integer
from equiv.backends import Backend
from equiv.laws import MODES, profile_of
from equiv.testing.reasons import Reasons, ReasonTable, warn_of_stale
from equiv.testing.suite import LawBroken, checks, is_repeatable

Test = TypeVar("Test", bound=Callable[..., object])


def parametrize_with_laws(  # noqa: PLR0913 - keyword-only options are the interface
    backend: Backend | Sequence[Backend],
    *,
    laws: Sequence[str] | None = None,
    forms: Sequence[str] | None = None,
    dtypes: Sequence[torch.dtype | str] | None = None,
    expected_failures: Reasons | None = None,
    skips: Reasons | None = None,
    strict: bool = True,
    profile: str | None = None,
    examples: int | None = None,
    seed: int | None = None,
    arithmetic: str | None = None,
) -> Callable[[Test], Test]:
    """Run every law of a backend as a test of its own. The test takes one argument, ``law``, and calls it.

    What is said here of ``profile``, ``examples``, ``seed`` and ``arithmetic`` wins over pytest's configuration; an
    option of the command line wins over both.

    Args:
        backend: One or several; see :class:`equiv.backends.Backend`.
        laws: Ids of laws, or None for all.
        forms: Of ``linear``, ``full``, ``pointwise``, or None for all.
        dtypes: Dtypes or their names, or None for all that the backend serves.
        expected_failures: ``{id: reason}``; the id of an item or of a law, or a pattern such as ``exact-*-float16-*``.
            Or a function of a :class:`Check` that returns a reason or None. Or the path of a file with a line for
            each, ``exact-*-float16-*  # reason``. Only a broken law counts, no error of the test itself.
        skips: Likewise.
        strict: Whether an item that passes all the same fails as an unexpected pass, so that the list stays true. Where
            cases are random, a pass may be luck: there it fails only if the case that once failed was tried again.
        profile: ``dev``, ``gate`` or ``deep``.
        examples: Cases per item instead of the profile's number.
        seed: Repeats a run.
        arithmetic: ``declared`` or ``measured``; see :func:`equiv.laws.run_item`.

    Raises:
        EquivError: Names that do not exist, reasons that are none, or a line of a file that cannot be read.

    Warns:
        ExpectationWarning: Ids that no item has, with the ones that may be meant.

    Example:
        >>> from equiv.backends import TorchEager
        >>> mark = parametrize_with_laws(TorchEager(), laws=["exact"], skips={"exact-*-int8-*": "not ours"}, examples=5)
    """
    import pytest

    check_bool("strict", strict)
    how = _checked(profile=profile, examples=examples, seed=seed, arithmetic=arithmetic)
    found = checks(backend, laws=laws, forms=forms, dtypes=dtypes)
    failing, skipped = ReasonTable("expected_failures", expected_failures), ReasonTable("skips", skips)
    whole_run = ReasonTable("equiv_xfails", options.xfails)
    parameters = []
    for check in found:
        skip, own, of_run = skipped.reason(check), failing.reason(check), whole_run.reason(check)
        expected = own or of_run
        check = replace(check, **how, expected=expected, strict=strict)
        marks = [] if skip is None or check.skipped else [pytest.mark.skip(reason=skip)]
        if expected is not None:
            proof = strict and is_repeatable(check.how["profile"], check.how["seed"])
            marks.append(pytest.mark.xfail(reason=expected, strict=proof, raises=LawBroken))
        parameters.append(pytest.param(check, id=check.id, marks=marks))
    options.xfails_met |= whole_run.met
    warn_of_stale([failing, skipped], found, stacklevel=3)
    return cast(Callable[[Test], Test], pytest.mark.parametrize("law", parameters))


def _checked(*, profile: str | None, examples: int | None, seed: int | None, arithmetic: str | None) -> dict[str, Any]:
    return {
        "profile": None if profile is None else profile_of(profile).name,
        "examples": None if examples is None else check_integer("examples", examples, least=1),
        "seed": None if seed is None else check_integer("seed", seed, least=0),
        "arithmetic": None if arithmetic is None else check_choice("arithmetic", arithmetic, MODES),
    }
