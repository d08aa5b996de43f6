"""Every law of a machine-written kernel as a pytest test of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn

from equiv.laws import Result
from equiv.testing.candidates import kernel_backend
from equiv.testing.check_kernels import module_laws, module_result
from equiv.testing.parametrize import Test, parametrize_with_laws
from equiv.testing.suite import LawBroken

_OF_MODULES = ("inputs", "laws")


def parametrize_kernel(
    candidate: Callable[..., Any], like: str | nn.Module = "linear", **how: Any
) -> Callable[[Test], Test]:
    """Run what :func:`check_kernel` asks as tests, one a law. The test takes one argument, ``law``, and calls it.

    Args:
        candidate: As in :func:`check_kernel`.
        like: Likewise.
        how: Beside a function ``device``, ``dtypes`` and ``capabilities``, and all that
            :func:`parametrize_with_laws` takes. Beside a module ``inputs`` and ``laws``.

    Raises:
        EquivError: As there.

    Example:
        >>> import torch
        >>> mark = parametrize_kernel(torch.nn.functional.linear, like="linear", laws=["exact"], examples=5)
        >>> mark = parametrize_kernel(torch.nn.functional.linear, like=torch.nn.Linear(4, 2))
    """
    import pytest

    if not isinstance(like, nn.Module):
        own = {name: how.pop(name) for name in ("device", "dtypes", "capabilities") if name in how}
        backend, dtypes = kernel_backend(candidate, like, **own)
        return parametrize_with_laws(backend, dtypes=dtypes, **how)
    unknown = [name for name in how if name not in _OF_MODULES]
    if unknown:
        raise TypeError(f"parametrize_kernel() beside a module has no argument {unknown[0]!r}")
    chosen: Sequence[str] = module_laws(how.get("laws"))
    laws = [_law(candidate, like, how.get("inputs"), name) for name in chosen]
    return cast(Callable[[Test], Test], pytest.mark.parametrize("law", laws, ids=chosen))


def _law(candidate: Any, like: nn.Module, inputs: Any, name: str) -> Callable[[], Result]:
    def law() -> Result:
        __tracebackhide__ = True
        result = module_result(candidate, like, inputs, name)
        if result.failure is not None:
            raise LawBroken(result)
        if result.outcome == "not asked":
            import pytest

            pytest.skip(f"equiv: not asked: {result.not_asked[0].reason}")
        return result

    return law
