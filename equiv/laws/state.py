"""What a kernel may use, but not leave changed: torch's global state, random numbers, the functions that judge it.

A snapshot is taken before a law is tried and compared after each case. What has changed is put back, so that neither
the next case nor the next item is tried under it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import default_generator
from torch.autograd import forward_ad

from equiv.numerics import flushing_is_on
from equiv.text import shown

_AUTOCAST = ("cpu", "cuda", "xpu", "mps")
_FEW = 3  # changes that a message names
_FIRST, _EVERY = 4, 16  # cases
_UNKNOWN = object()
_kept: list[Any] = []  # guards of inference mode; it ends with them


@dataclass(frozen=True)
class _Setting:
    """One part of the state: its name in words, how it is read, and how it is put back if it can be."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None = None

    def now(self) -> Any:
        """Its value; a mark that equals itself alone where torch refuses to say."""
        try:
            return self.read()
        except Exception:  # settings of a new and an old kind contradict each other
            return _UNKNOWN


class Snapshot:
    """The state at the moment in which this was made.

    Example:
        >>> before = Snapshot()
        >>> torch.set_default_dtype(torch.float64)
        >>> before.put_back(), torch.get_default_dtype()
        (['default dtype from torch.float32 to torch.float64'], torch.float32)
    """

    def __init__(self) -> None:
        self._values = [setting.now() for setting in _settings()]
        self._random = dict(_random_states())

    def renew(self) -> None:
        """Take the random numbers of others than torch as they are now."""
        self._random |= {name: state for name, state in _random_states() if name != "torch"}

    def put_back(self, *, others: bool = True) -> list[str]:
        """Make the state what it was; what had changed, in words: ``grad mode from True to False``.

        Random numbers of ``others`` than torch take longer to look at than all the rest.
        """
        changed = self._changed()
        changes = [f"{setting.name} from {shown(was, 40)} to {shown(now, 40)}" for setting, was, now in changed]
        for _ in range(2 if changed else 0):  # some settings change others with them
            for setting, was, _now in changed:
                if setting.write is not None:
                    with suppress(Exception):
                        setting.write(was)
            changed = self._changed()
        now_random = dict(_random_states(others=others))
        for name, state in self._random.items():
            if name in now_random and not now_random[name].equals(state):
                changes.append(f"the random numbers of {name} {now_random[name].since(state)}")
                state.restore()
        return changes

    def _changed(self) -> list[tuple[_Setting, Any, Any]]:
        """Each setting that is not as it was, its value then and now."""
        with suppress(Exception):  # one of them is unknown
            if [setting.read() for setting in _settings()] == self._values:
                return []
        pairs = ((setting, was, setting.now()) for setting, was in zip(_settings(), self._values, strict=True))
        return [
            (setting, was, now)
            for setting, was, now in pairs
            if now is not _UNKNOWN and was is not _UNKNOWN and now != was
        ]


@contextmanager
def unchanged() -> Iterator[list[str]]:
    """The state is afterwards what it was before; the list holds, from then on, what had changed."""
    before, changes = Snapshot(), list[str]()
    try:
        yield changes
    finally:
        changes += before.put_back()


class Watch:
    """The state over the cases of an item: what each has changed is put back, so that one snapshot serves them all.

    But for the random numbers of Python and NumPy, which Hypothesis seeds for each case that it draws: they are looked
    at around the first cases, every 16th, and each once something has changed.
    """

    def __init__(self) -> None:
        self._before, self._cases, self._has_changed = Snapshot(), 0, False

    @contextmanager
    def case(self) -> Iterator[list[str]]:
        """As :func:`unchanged`, for the next case."""
        self._cases += 1
        others, changes = self._has_changed or self._cases <= _FIRST or self._cases % _EVERY == 0, list[str]()
        if others:
            self._before.renew()
        try:
            yield changes
        finally:
            changes += self._before.put_back(others=others)
            self._has_changed |= bool(changes)


def changes_in_words(changes: list[str]) -> str:
    """What a form does that leaves the state changed."""
    more = f"; and {len(changes) - _FEW} more" if len(changes) > _FEW else ""
    return f"leaves torch's global state changed: {'; '.join(changes[:_FEW])}{more}"


# --- settings ---------------------------------------------------------------------------------------------------------


@cache
def _settings() -> tuple[_Setting, ...]:
    """Those that this torch has. Modes come first: what is read afterwards is read without them."""
    return tuple(setting for part in (_modes, _of_autograd, _of_numbers, _of_kernels, _functions) for setting in part())


def _modes() -> Iterator[_Setting]:
    for kind in ("function", "dispatch"):
        length, pop = (getattr(torch._C, f"_{what}_torch_{kind}_stack", None) for what in ("len", "pop"))
        if length is not None and pop is not None:
            yield _Setting(f"number of torch's {kind} modes", length, _popping(length, pop))
    yield _Setting("default device", _explicit_device, torch.set_default_device)
    for device in _AUTOCAST:
        yield _Setting(
            f"autocast on {device}",
            partial(torch.is_autocast_enabled, device),
            partial(torch.set_autocast_enabled, device),
        )
        yield _Setting(
            f"autocast's dtype on {device}",
            partial(torch.get_autocast_dtype, device),
            partial(torch.set_autocast_dtype, device),
        )
    yield _Setting("autocast's cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)


def _popping(length: Callable[[], int], pop: Callable[[], Any]) -> Callable[[int], None]:
    def shorten(before: int) -> None:
        while length() > before:
            pop()

    return shorten


def _explicit_device() -> torch.device | None:
    """What ``torch.set_default_device`` has set, in this thread; None if nothing."""
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    return None if context is None else context.device


def _of_autograd() -> Iterator[_Setting]:
    yield _Setting("inference mode", torch.is_inference_mode_enabled, _set_inference_mode)
    yield _Setting("grad mode", torch.is_grad_enabled, torch._C._set_grad_enabled)
    yield _Setting(
        "anomaly mode",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda values: torch.set_anomaly_enabled(*values),
    )
    yield _Setting("level of forward-mode differentiation", lambda: forward_ad._current_level, _set_forward_level)
    for name, read, write in (
        ("forward-mode differentiation", "_is_fwd_grad_enabled", "_set_fwd_grad_enabled"),
        ("threads of autograd", "_is_multithreading_enabled", "_set_multithreading_enabled"),
    ):
        if hasattr(torch._C, read) and hasattr(torch._C, write):
            yield _Setting(name, getattr(torch._C, read), getattr(torch._C, write))


def _set_inference_mode(on: bool) -> None:
    guard = torch.inference_mode(on)
    guard.__enter__()
    _kept.append(guard)


def _set_forward_level(level: int) -> None:
    while forward_ad._current_level > level:
        forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]


def _of_numbers() -> Iterator[_Setting]:
    yield _Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield _Setting("flushing of subnormals", flushing_is_on, torch.set_flush_denormal)
    yield _Setting(
        "precision of float32 products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    )
    for name in ("cuda.matmul", "cudnn"):
        yield _flag(name, "allow_tf32")
    for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        yield _flag("cuda.matmul", name)
    read, write = (getattr(torch._C, f"_{what}_fp32_precision_{what}ter", None) for what in ("get", "set"))
    if read is not None and write is not None:
        for backend in ("generic", "cuda", "mkldnn"):
            for op in ("all",) if backend == "generic" else ("all", "matmul", "conv", "rnn"):
                yield _Setting(
                    f"float32 precision of {backend}, {op}",
                    partial(read, backend, op),
                    partial(write, backend, op),
                )


def _of_kernels() -> Iterator[_Setting]:
    yield _Setting("number of threads", torch.get_num_threads, torch.set_num_threads)
    yield _Setting("number of threads between operations", torch.get_num_interop_threads)
    yield _Setting(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda values: torch.use_deterministic_algorithms(values[0], warn_only=values[1]),
    )
    filling: Any = torch.utils.deterministic
    name = "fill_uninitialized_memory"
    yield _Setting("filling of uninitialized memory", partial(getattr, filling, name), partial(setattr, filling, name))
    yield _Setting("mkldnn", lambda: torch._C._get_mkldnn_enabled(), lambda on: torch._C._set_mkldnn_enabled(on))
    yield _flag("mkldnn", "deterministic")
    yield _Setting("nnpack", lambda: torch._C._get_nnpack_enabled(), lambda on: torch._C._set_nnpack_enabled(on))
    for name in ("enabled", "benchmark", "deterministic"):
        yield _flag("cudnn", name)
    yield _Setting("warnings each time", torch.is_warn_always_enabled, torch.set_warn_always)


def _flag(module: str, name: str) -> _Setting:
    """``torch.backends.cudnn.benchmark`` and the like."""
    place: Any = torch.backends
    for part in module.split("."):
        place = getattr(place, part, None)
    return _Setting(f"{module}.{name}", lambda: getattr(place, name), lambda value: setattr(place, name, value))


_FUNCTIONS = {
    "time": "time time_ns perf_counter perf_counter_ns monotonic monotonic_ns process_time",
    "timeit": "default_timer",
    "torch": "allclose equal isclose matmul mm addmm bmm einsum conv1d conv2d conv3d",
    "torch.nn.functional": "linear conv1d conv2d conv3d",
    "torch.testing": "assert_close",
    "torch.cuda": "synchronize Event current_stream",
    "torch.cuda.Event": "record elapsed_time synchronize",
    "numpy": "allclose array_equal",
    "numpy.testing": "assert_allclose",
}


def _functions() -> Iterator[_Setting]:
    """Clocks, comparisons and reference kernels, by which a caller judges; of modules that are loaded."""
    for place, names in _FUNCTIONS.items():
        module, _, inner = (place, "", "") if place in sys.modules else place.rpartition(".")
        held: Any = sys.modules.get(module)
        held = getattr(held, inner, None) if inner else held
        for name in names.split() if held is not None else ():
            if hasattr(held, name):
                yield _Setting(f"{place}.{name}", partial(getattr, held, name), partial(setattr, held, name))


# --- random numbers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Random:
    """The state of a source of random numbers: its seed where it has one, and how to set it again."""

    state: Any
    write: Callable[[Any], object]
    seed: int | None = None

    def equals(self, other: _Random) -> bool:
        """Whether the same numbers come next."""
        if isinstance(self.state, torch.Tensor):
            states = (self.state, other.state)
            if all(state.numel() % 8 == 0 for state in states):  # bytes one by one take ten times as long
                states = (self.state.view(torch.int64), other.state.view(torch.int64))
            return torch.equal(*states)
        return bool(self.state == other.state)

    def since(self, before: _Random) -> str:
        """How this state came of one before."""
        if self.seed == before.seed:
            return "drawn from" if self.seed is not None else "drawn from or seeded"
        return f"seeded with {self.seed}"

    def restore(self) -> None:
        """Make the same numbers come next."""
        self.write(self.state)


def _random_states(*, others: bool = True) -> Iterator[tuple[str, _Random]]:
    """By name, torch's, and of others those of modules that are loaded."""
    yield "torch", _Random(default_generator.get_state(), default_generator.set_state, default_generator.initial_seed())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number, generator in enumerate(torch.cuda.default_generators):
            yield f"cuda:{number}", _Random(generator.get_state(), generator.set_state, generator.initial_seed())
    if not others:
        return
    yield "Python", _Random(random.getstate(), random.setstate)
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        kind, keys, *rest = numpy.get_state()
        yield "NumPy", _Random((kind, keys.tobytes(), *rest), partial(_set_numpy, keys))


def _set_numpy(keys: Any, state: Any) -> None:
    kind, _, *rest = state
    sys.modules["numpy.random"].set_state((kind, keys, *rest))
