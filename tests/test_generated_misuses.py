"""Whatever is handed to whatever is public: the right answer, or one sentence of ours.

Names are read from ``__all__`` of every package; one argument of a right call, sometimes two, is replaced by an odd
value, alone or inside a container. ``EQUIV_MISUSES=100000 pytest tests/test_generated_misuses.py`` tries so many.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from types import FunctionType
from typing import Any, Protocol

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from odd_values import COMPILED, SLOW, VALUES, Make
from right_calls import USES, Use, public_names
from torch import nn

import equiv
from equiv import EquivError, NotEquivalent, numerics

LONGEST = 1000  # characters of a message, a quoted one of 500 included
MANY = int(os.environ.get("EQUIV_MISUSES", "1500"))

Wrap = Callable[[Any], Any]
WRAPS: tuple[Wrap, ...] = (
    *[lambda value: value] * 8,
    lambda value: [value],
    lambda value: (value,),
    lambda value: (3, value, 2),
    lambda value: {"exact": value},
)


@dataclasses.dataclass(frozen=True)
class Odd:
    """An odd value to be made, and what it is put into; prints as its name."""

    key: str
    wrap: int

    def __call__(self) -> Any:
        return WRAPS[self.wrap](VALUES[self.key]())


def takes_arguments(value: Any) -> bool:
    """Whether it is a function, or a class that is no record: records are made by equiv, and only read by users."""
    if not isinstance(value, type):
        return isinstance(value, FunctionType)
    return not (
        dataclasses.is_dataclass(value) or issubclass(value, (BaseException, Enum)) or Protocol in value.__mro__
    )


def test_every_public_function_has_a_right_call() -> None:
    used = {use.name.rpartition(".")[2] for use in USES}
    public = {name for name, value in public_names() if takes_arguments(value)}
    needs_transformers = {"equiv.linear_to_transformers_conv1d", "equiv.mapping.linear_to_transformers_conv1d"}
    needs_onnx = {"equiv.testing.check_transformation"}  # tests/testing/test_transformation.py
    # They start processes: tests/testing/test_hostile_backends.py.
    processes = {"equiv.laws.Pool", "equiv.laws.run_isolated", "equiv.laws.close_shared_pool"}
    without = {name for name in public if name.rpartition(".")[2] not in used}
    assert without == needs_transformers | needs_onnx | processes
    assert len(public) > 70


@pytest.mark.parametrize("use", USES, ids=[f"{i}-{use.name}" for i, use in enumerate(USES)])
def test_a_right_call_is_served(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use.call()


@pytest.fixture(autouse=True)
def nothing_global_changes() -> Iterator[None]:
    state, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    yield
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)


@pytest.fixture
def in_an_empty_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an odd value may be the name of a file to write


PLACES = [(use, name) for use in USES for name in use.parameters if name != "progress"]  # the caller's own errors pass


@st.composite
def misuses(draw: st.DrawFn) -> tuple[Use, dict[str, Make]]:
    use, name = draw(st.sampled_from(PLACES))
    names = {name}
    if draw(st.integers(0, 7)) == 7:
        names.add(draw(st.sampled_from(use.parameters)))
    replaced = {}
    for name in sorted(names - {"progress"}):
        key = draw(st.sampled_from([key for key in VALUES if key not in SLOW.get(name, ())]))
        replaced[name] = Odd(key, draw(st.integers(0, len(WRAPS) - 1)))
    return use, replaced


def said_by(use: Use, **makes: Make) -> str | None:
    """The message of the refusal; None where the call was served."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on the way
        try:
            use.call(**{name: make() for name, make in makes.items()})
        except EquivError as error:
            return str(error)
        except NotEquivalent:
            return None
    return None


@pytest.mark.usefixtures("in_an_empty_folder")
@settings(
    max_examples=MANY,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(misuses())
def test_a_misuse_is_served_or_refused_in_one_sentence(misuse: tuple[Use, dict[str, Make]]) -> None:
    use, replaced = misuse
    message = said_by(use, **replaced)
    if message is None:
        return
    assert message.isprintable(), message
    assert len(message) <= LONGEST, message
    head, expected, rest = message.partition(": expected ")
    assert expected, message
    assert head.isprintable()
    assert ", got " in rest, message
    assert "; " in rest, message


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("against", ["module_linear", "module_none", "call_raises", "jagged", "subclass"])
@pytest.mark.slow
def test_a_compiled_module_against_a_strange_one(name: str, against: str) -> None:
    for use in (use for use in USES if use.name in ("equiv.assert_equivalent", "equiv.certify")):
        message = said_by(use, candidate=COMPILED[name], reference=VALUES[against])
        assert message is None or ": expected " in message


class Stop(BaseException):
    """As KeyboardInterrupt, which no pytest run survives."""


def stops(*_: Any, **__: Any) -> Any:
    raise Stop


class Stopping(nn.Module):
    def forward(self, *_: Any) -> Any:
        raise Stop


@pytest.mark.parametrize(
    "call",
    [
        lambda: equiv.assert_equivalent(stops, nn.Linear(2, 2, device="meta").to_empty(device="cpu")),
        lambda: equiv.certify(Stopping(), lambda x: x, in_features=2),
        lambda: numerics.measure(stops, dtype=torch.float32, rows=1, out_features=1, in_features=1),
        lambda: equiv.compare(torch.ones(1), torch.ones(1), rtol=type("R", (), {"__repr__": stops})()),  # type: ignore[arg-type]
    ],
    ids=["assert_equivalent", "certify", "measure", "repr"],
)
def test_what_is_no_exception_passes_through(call: Callable[[], Any]) -> None:
    with pytest.raises(Stop):
        call()
