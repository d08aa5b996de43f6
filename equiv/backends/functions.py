"""Functions as they are: a layer, a module or a function of a batch, run on rows of features in the way that it takes.

A session of a runtime takes one batch, one rank and one dtype, and returns arrays, lists or dicts. What a function
refuses is asked in other ways, and the first way that it takes is remembered. No value is rounded on the way: rows are
handed over in another dtype only if that holds all of their values. What results mean is left to those who ask.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.nn.parameter import is_lazy
from torch.utils.dlpack import from_dlpack

from equiv.backends.twins import Twin, shallow
from equiv.backends.ways import Way, narrower_ways, other_ways
from equiv.dtypes import dtype_name
from equiv.errors import EquivError
from equiv.mapping import CONVS, Conv
from equiv.numerics import gradients_recorded
from equiv.text import counted, quoted

_SECONDS = 5.0  # for finding a way
_HOPELESS = (NameError, ImportError, RecursionError)  # mistakes of the function itself


class _RefusedError(Exception):
    """What a function was given, and what it raised."""

    def __init__(self, given: Tensor, error: Exception) -> None:
        super().__init__()
        self.given, self.error = given, error
        self.message = quoted(error)

    @property
    def words(self) -> str:
        said = f": {self.message}" if self.message else ""
        return f"{type(self.error).__name__}{said}"

    @property
    def input(self) -> str:
        return f"an input of shape {tuple(self.given.shape)} of {dtype_name(self.given.dtype)}"


class Function:
    """One layer, module or function, called ``name`` in messages.

    Args:
        name: Such as ``"candidate"``.
        call: What runs. A module runs as its :class:`Twin`.
        shape: ``(C, *spatial)`` of a map, if known.
        as_map: Whether functions are given maps of that shape. A Linear never is, a convolution always.

    Example:
        >>> def session(x):  # takes one row at a time, and returns a list of arrays
        ...     if x.shape != (1, 12):
        ...         raise ValueError("expected [1, 12]")
        ...     return [x.numpy().sum(1, keepdims=True)]
        >>> function = Function("candidate", session)
        >>> function.run(torch.ones(3, 12)).tolist(), function.asked
        ([[12.0], [12.0], [12.0]], 'one row at a time')
    """

    def __init__(self, name: str, call: Any, shape: tuple[int, ...] | None = None, *, as_map: bool = False) -> None:
        self.name, self.call, self._as_map = name, call, as_map
        self.takes_map = shape is not None and (isinstance(call, Conv) or (as_map and not isinstance(call, nn.Linear)))
        # Of (n, 1) it is not known whether it is a map; rows are called so as well.
        self.shape = shape if self.takes_map or (shape is not None and shape[1:] != (1,)) else None
        self._is_layer = _is_layer(call)
        self._runs = self._twin(call) if isinstance(call, nn.Module) else call
        self._way: Way | None = None  # in which it is asked
        self._usual: Way | None = None
        self._ran: set[int] = set()  # numbers of rows of a call that ran

    def _twin(self, module: nn.Module) -> Twin:
        kind = type(module).__name__
        try:
            return Twin(module)
        except Exception as error:
            raise EquivError(
                f"{self.name}: expected a module that torch has set up, got a {kind} that raises "
                f"{type(error).__name__}: {quoted(error)}; call super().__init__() in its __init__ first"
            ) from error

    @property
    def asked(self) -> str:
        """How it is asked, if not with batches of rows or maps as they come; else empty."""
        return self._way.words(self._usual) if self._way and self._usual else ""

    @property
    def batch(self) -> int | None:
        """How many rows it takes at a time; None for any number."""
        return self._way.batch if self._way else None

    def run(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """Results for rows ``(N, n)``: ``(N, outputs)`` where there is one for each, else as they come.

        ``parameters`` are tensors that take the place of those of a layer.

        Raises:
            EquivError: It does not run in any way, or no longer as it did, or returns no tensor or array.
        """
        if self._way is None:
            if isinstance(self.call, nn.Module) and any(map(is_lazy, self.call.parameters())):
                kind = type(self.call).__name__  # to run it would give the caller's parameters their shapes
                expected = f"expected initialized parameters, got a lazy {kind}; run it once on an example input first"
                raise EquivError(f"{self.name}: {expected}")
            self._way = self._usual = Way(self.shape if self.takes_map and self.shape else (x.shape[1],))
        try:
            return self._in_pieces(self._way, x, parameters)
        except _RefusedError as refused:
            if (self._way.batch or len(x)) in self._ran:
                raise self._changed(refused) from refused.error
            self._way = self._another_way(x, refused)
        return self.run(x, **parameters)

    def _in_pieces(self, way: Way, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """All rows, as many at a time as are taken; the last ones with rows of zeros behind them."""
        if way.batch is None or not len(x):
            return self._once(way, x, parameters)
        pieces = []
        for start in range(0, len(x), way.batch):
            piece = x[start : start + way.batch]
            y = self._once(way, _filled(piece, way.batch), parameters)
            if y.shape[:1] != (way.batch,):
                rows = counted(way.batch, "row")
                raise EquivError(
                    f"{self.name}: expected a result for each of the {rows} that it is given at a time, got one of "
                    f"shape {tuple(y.shape)}; return all of them"
                )
            pieces.append(y[: len(piece)])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _once(self, way: Way, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        given = way.laid(x)
        given = given if self._is_layer else given.clone()  # a function may work in place
        try:
            with torch.no_grad():
                if parameters:
                    twin = self._runs.module
                    y = shallow(twin, _parameters={**twin._parameters, **parameters})(given)
                else:
                    y = self._runs(_as_array(given) if way.as_array else given)
        except Exception as error:
            raise _RefusedError(given, error) from error
        if way is self._way:
            self._ran.add(len(x))
        return self._in_rows(way, self._tensor(y).detach().to(x.device, copy=not self._is_layer), given, len(x))

    @staticmethod
    def _in_rows(way: Way, y: Tensor, given: Tensor, rows: int) -> Tensor:
        if way.batch == 1:
            return y.reshape(1, -1)  # whatever its shape, it belongs to that row
        leading = len(way.before)
        each = y.ndim >= leading and y.shape[:leading] == given.shape[:leading]
        return y.reshape(rows, math.prod(y.shape[leading:])) if each else y

    def recorded(self, x: Tensor, stand_ins: Mapping[int, Tensor]) -> Tensor:
        """As :meth:`run`, in the way that it has found, with gradients recorded: of ``x`` and of the ``stand_ins``.

        These take the place of a module's parameters, by the ``id`` of each.

        Raises:
            EquivError: It does not run so.
        """
        way = self._way or Way(self.shape if self.takes_map and self.shape else (x.shape[1],))
        runs = Twin(self.call, stand_ins) if isinstance(self.call, nn.Module) else self.call
        batch, pieces = way.batch or max(1, len(x)), []
        with gradients_recorded():
            for start in range(0, max(1, len(x)), batch):
                piece = x[start : start + batch]
                given = way.laid(piece if way.batch is None else _filled(piece, batch)).clone()
                try:
                    y = runs(_as_array(given.detach()) if way.as_array else given)
                except Exception as error:
                    refused = _RefusedError(given, error)
                    raise EquivError(
                        f"{self.name}: expected to run on {refused.input} while gradients are recorded, got "
                        f"{refused.words}; make it run so, or leave gradients= out"
                    ) from error
                y = self._in_rows(way, self._tensor(y).to(x.device), given, len(piece) if way.batch is None else batch)
                pieces.append(y if way.batch is None else y[: len(piece)])  # a slice would copy incoming gradients
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _tensor(self, result: Any) -> Tensor:
        """The one tensor in a result."""
        y = result
        for _ in range(8):
            if not isinstance(y, list | tuple | Mapping) or len(y) != 1:
                break
            y = next(iter(y.values() if isinstance(y, Mapping) else y))
        if not isinstance(y, Tensor):
            y = self._from_array(y)
        if y.is_nested or y.layout != torch.strided or y.is_quantized:
            kind = "nested" if y.is_nested else "quantized" if y.is_quantized else str(y.layout)
            raise EquivError(f"{self.name}: expected a strided tensor as a result, got a {kind} one; make it dense")
        if y.device.type == "meta" or isinstance(y, FakeTensor):
            kind = "one on the meta device" if y.device.type == "meta" else "a FakeTensor"
            raise EquivError(f"{self.name}: expected a result with values, got {kind}; compute it on a real device")
        return y

    def _from_array(self, y: Any) -> Tensor:
        got = type(y).__name__
        try:
            if hasattr(y, "__array__"):
                return _from_numpy(y)
            if hasattr(y, "__dlpack__"):
                return from_dlpack(y)
        except Exception as error:
            got += f", and {type(error).__name__}: {quoted(error)}"
        if isinstance(y, list | tuple | Mapping):
            got += f" of {len(y):,}"
        raise EquivError(
            f"{self.name}: expected a function that returns a tensor, got {got}; return the result alone, as a tensor "
            "or an array, or as the one member of a list or dict"
        )

    def _another_way(self, x: Tensor, refused: _RefusedError) -> Way:
        """The first way in which the function runs."""
        assert self._usual is not None
        end = time.monotonic() + _SECONDS
        messages = [refused.message]
        hopeless = self._is_layer or isinstance(refused.error, _HOPELESS)
        for way in () if hopeless else other_ways(self._usual, self.shape, x, self._ran, messages):
            problem = self._problem(way, x)
            if problem is None and self._is_meant(way, x):
                self._ran = {way.batch or len(x)}
                return way
            messages.append(problem or "")
            if time.monotonic() > end:
                break
        raise self._refused(x, refused, hopeless) from refused.error

    def _problem(self, way: Way, x: Tensor) -> str | None:
        """What the function says to the first rows in this way; None where it runs, with a result for each."""
        some = x if way.batch is None else _filled(x[: way.batch], way.batch)
        try:
            y = self._once(way, some, {})
        except _RefusedError as refused:
            return refused.message
        except EquivError:  # no result that can be used
            return ""
        return None if y.ndim == 2 and len(y) == len(some) and y.numel() else ""

    def _is_meant(self, way: Way, x: Tensor) -> bool:
        """Whether a shape that is not the usual one is taken as rows, and no other one as well.

        A convolution of maps may take a batch for the channels of one map, and features along any dimension for a map.
        """
        assert self._usual is not None
        n = x.shape[1]
        if (way.shape, way.before) == (self._usual.shape, self._usual.before):
            return True
        shape = (1, n) if way.shape == (n,) and way.before else way.shape
        if shape not in (shape[::-1], self.shape):
            rival = replace(way, shape=shape[::-1], before=(-1,))
            if self._problem(rival, x) is None:
                return False
        several = x.new_ones(way.batch or len(x), n)
        alone = torch.cat([several[:1], torch.zeros_like(several[1:])])
        try:
            y, z = (self._once(way, rows, {})[0].to(torch.complex128) for rows in (several, alone))
        except (_RefusedError, EquivError):
            return False
        return torch.allclose(y, z, rtol=0.01, atol=0.0, equal_nan=True)

    def _refused(self, x: Tensor, refused: _RefusedError, hopeless: bool) -> EquivError:
        assert self._usual is not None
        narrower = () if hopeless else narrower_ways(self._usual, x.dtype, (None, 1))
        taken = next((way for way in narrower if self._problem(way, x) is None), None)
        if taken is not None and taken.dtype is not None:
            other = dtype_name(taken.dtype)
            advice = f"it takes {other}, which does not hold all values of {dtype_name(x.dtype)}: compare it in {other}"
        else:
            advice = "it refuses other batches, ranks and arrays as well"
            if hopeless:
                advice = "correct its attributes" if self._is_layer else "make it run on such a batch"
            advice += "" if self._as_map else "; pass feature_shape= if it takes maps"
        return EquivError(f"{self.name}: expected to run on {refused.input}, got {refused.words}; {advice}")

    def _changed(self, refused: _RefusedError) -> EquivError:
        return EquivError(
            f"{self.name}: expected to run on {refused.input}, as it did before, got {refused.words}; it keeps a state "
            "or refuses some values: make it a function of its input alone that takes every input"
        )


def _as_array(x: Tensor) -> Any:
    """The same values as an array of numpy, which has bfloat16 once a package that jax brings is loaded."""
    x = x.cpu()
    return x.view(torch.int16).numpy().view("bfloat16") if x.dtype == torch.bfloat16 else x.numpy()


def _from_numpy(values: Any) -> Tensor:
    """A tensor of what tells its values to numpy, in memory of its own."""
    import numpy as np

    array = np.array(values, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _filled(x: Tensor, rows: int) -> Tensor:
    """Rows with zeros behind them, so that there are as many as this."""
    return functional.pad(x, (0, 0, 0, rows - len(x))) if len(x) < rows else x


def _is_layer(call: Any) -> bool:
    """Whether torch itself runs it, which takes batches of any size and returns new tensors."""
    kinds = (nn.Linear, *CONVS.values())
    return isinstance(call, kinds) and "forward" not in vars(call) and type(call).forward in {k.forward for k in kinds}
