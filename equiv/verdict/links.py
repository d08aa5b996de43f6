"""Chains of affine layers: which modules are links of one, and what each makes of values and of their sizes.

A link is an affine map of each sample by itself. It carries exact values (float64, complex128, or int64 for integers),
and sizes: what becomes of ``|x|`` under ``|W|`` and ``|b|``. What rounding may do follows in ``equiv.verdict.chains``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from equiv.backends import shallow
from equiv.causes import BatchNorm
from equiv.errors import EquivError
from equiv.mapping import Conv, ConvTranspose, check_conv, check_conv_transpose, check_linear, plain_form

_BLOCK = 2**22  # weights of a Linear, or inputs of all windows of a convolution, in float64 at once: 32 MiB


class NotAffineError(EquivError):
    """A module that is no link of a chain."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A Linear or a convolution, transposed or not."""

    place: str
    module: Any

    def map(self, v: Tensor, *, size: bool = False, constant: bool = True) -> Tensor:
        """Its results for values, or for sizes by the sizes of its parameters; without the bias unless ``constant``."""
        given, bias = self.module.weight, self.module.bias if constant else None
        b = None if bias is None else as_wide(bias, size=size)
        if isinstance(self.module, nn.Linear):
            step = max(1, _BLOCK // max(1, given.shape[1]))
            parts = [v @ as_wide(given[start : start + step], size=size).T for start in range(0, len(given), step)]
            y = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
            return y if b is None else y + b
        weight = as_wide(given, size=size)
        twin = shallow(self.module, _parameters={"weight": weight, "bias": b})
        taps = math.prod(weight.shape[2:]) * math.prod(v.shape[2:])
        step = max(1, _BLOCK // max(1, taps))
        if self.module.groups > 1 or isinstance(self.module, ConvTranspose) or step >= weight.shape[1]:
            return cast(Tensor, twin(v))
        total: Tensor | None = None
        for start in range(0, weight.shape[1], step):  # torch unfolds all channels of a sample at once
            some = slice(start, start + step)
            own = {"weight": weight[:, some], "bias": b if total is None else None}
            part = shallow(twin, _parameters=own)(v[:, some])
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def terms(self, _shape: torch.Size) -> int:
        """The most products that an output adds, and its bias."""
        weight = self.module.weight
        if isinstance(self.module, ConvTranspose):
            count = weight.shape[0] // self.module.groups * math.prod(weight.shape[2:])
        else:
            count = weight[0].numel()
        return int(count) + (self.module.bias is not None)


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm that uses its running statistics: ``x * scale + shift`` along dimension 1."""

    place: str
    module: Any
    facts: BatchNorm
    scale: Tensor
    shift: Tensor

    def map(self, v: Tensor, *, size: bool = False, constant: bool = True) -> Tensor:
        """As for :class:`Affine`."""
        view = (-1, *(1,) * (v.ndim - 2))
        y = v * (self.scale.abs() if size else self.scale).view(view)
        if not constant:
            return y
        return y.add_((self.facts.size_of_shift if size else self.shift).view(view))

    def changed(self, scale: Tensor, shift: Tensor) -> Norm:
        """The same with another scale and shift."""
        return replace(self, scale=scale, shift=shift)

    def terms(self, _shape: torch.Size) -> int:
        """One product and an addition: what else a kernel computes is counted apart."""
        return 1


@dataclass(frozen=True, eq=False)
class Pool:
    """An average of windows, or their sum."""

    place: str
    module: Any

    def map(self, v: Tensor, *, size: bool = False, constant: bool = True) -> Tensor:  # noqa: ARG002 - a link's
        """As for :class:`Affine`."""
        y: Tensor = self.module(v)
        return y.abs() if size else y

    def terms(self, shape: torch.Size) -> int:
        """The most entries of a window."""
        if isinstance(self.module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
            kernel, rank = self.module.kernel_size, len(shape) - 2
            return math.prod(kernel if isinstance(kernel, tuple) else (kernel,) * rank)
        made = self.map(torch.empty(1, *shape[1:], device="meta")).shape
        return math.prod(-(-size // out) + 1 for size, out in zip(shape[2:], made[2:], strict=True))


@dataclass(frozen=True, eq=False)
class Reshape:
    """A link that moves or repeats entries, or adds zeros: nothing is rounded."""

    place: str
    module: Any

    def map(self, v: Tensor, *, size: bool = False, constant: bool = True) -> Tensor:  # noqa: ARG002 - a link's
        """As for :class:`Affine`."""
        y: Tensor = self.module(v)
        return y


@dataclass(frozen=True, eq=False)
class Sum:
    """Chains of the same input that are added, each times a number: a layer and its LoRA."""

    place: str
    module: Any
    parts: tuple[tuple[Chain, float], ...]

    def map(self, v: Tensor, *, size: bool = False, constant: bool = True) -> Tensor:
        """As for :class:`Affine`."""
        total = None
        for chain, factor in self.parts:
            y = v
            for link in chain:
                y = link.map(y, size=size, constant=constant)
            y = y * (abs(factor) if size else factor)
            total = y if total is None else total.add_(y)
        assert total is not None
        return total

    def terms(self, shape: torch.Size) -> int:
        """Those of all parts, as one after the other."""
        return sum(link.terms(shape) for chain, _ in self.parts for link in chain if not isinstance(link, Reshape)) + 4


Link: TypeAlias = "Affine | Norm | Pool | Reshape | Sum"
Chain: TypeAlias = "tuple[Link, ...]"

_STILL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_MOVES = (
    *(nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
)
_POOLS = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def links_of(module: object, name: str = "layer") -> Chain:
    """The links of a module that is affine, in the order in which they run; nested Sequentials are laid open.

    Raises:
        NotAffineError: A module that is not known to be affine, or may compute something else than its type says.
        EquivError: Batch norm or dropout in training mode: no function of one sample.

    Example:
        >>> chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
        >>> [type(link).__name__ for link in links_of(chain)]
        ['Affine', 'Norm', 'Reshape']
    """
    if isinstance(module, nn.Sequential):
        _check_plain(module, nn.Sequential, name)
        return tuple(link for key, part in module._modules.items() for link in links_of(part, f"{name}.{key}"))
    if isinstance(module, (nn.Linear, Conv)) and not hasattr(module, "base_layer"):
        return (Affine(name, _checked(module, name)),)
    if isinstance(module, ConvTranspose):
        return (Affine(name, _checked(module, name)),)
    if isinstance(module, _NORMS) or "FrozenBatchNorm" in type(module).__name__:
        return (_norm(module, name),)
    if isinstance(module, (*_STILL, nn.Flatten, nn.Unflatten, *_MOVES)):
        return (_reshape(module, name),)
    if isinstance(module, _POOLS):
        _check_plain(module, next(kind for kind in _POOLS if isinstance(module, kind)), name)
        return (Pool(name, module),)
    if isinstance(module, nn.Module) and hasattr(module, "base_layer") and hasattr(module, "lora_A"):
        return _lora(module, name)
    linear = plain_form(module, None)[0]
    if linear is not module:
        return (Affine(name, linear),)
    kind = type(module).__name__
    raise NotAffineError(
        f"{name}: expected affine layers alone (Linear, convolutions, batch norm in eval mode, average pooling, "
        f"reshapes), got {kind}; compare what comes before it and what comes after it by themselves"
    )


def is_chain(module: object) -> bool:
    """Whether it is more than a single Linear or convolution: a Sequential, a batch norm, a pool, a LoRA.

    Example:
        >>> is_chain(nn.Sequential(nn.Linear(2, 3))), is_chain(nn.Linear(2, 3))
        (True, False)
    """
    if not isinstance(module, nn.Module):
        return False
    kinds = (nn.Sequential, *_NORMS, *_STILL, nn.Flatten, nn.Unflatten, *_MOVES, *_POOLS)
    lora = hasattr(module, "base_layer") and hasattr(module, "lora_A")
    return isinstance(module, kinds) or lora or "FrozenBatchNorm" in type(module).__name__


def _checked(module: Any, name: str) -> Any:
    try:
        if isinstance(module, nn.Linear):
            return check_linear(module, name=name)
        return (
            check_conv_transpose(module, name=name)
            if isinstance(module, ConvTranspose)
            else check_conv(module, name=name)
        )
    except EquivError as error:
        raise NotAffineError(str(error)) from error


def _check_plain(module: Any, kind: type, name: str) -> None:
    own = "forward" in vars(module) or type(module).forward is not kind.forward  # type: ignore[attr-defined]
    if own or module._forward_hooks or module._forward_pre_hooks:
        what = "a forward of its own" if own else "forward hooks"
        raise NotAffineError(
            f"{name}: expected a {kind.__name__} that computes what its type says, got {type(module).__name__} with "
            f"{what}; pass it as a function to equiv.assert_equivalent, or its layers one by one"
        )


def _reshape(module: Any, name: str) -> Reshape:
    kind = next(kind for kind in (*_STILL, nn.Flatten, nn.Unflatten, *_MOVES) if isinstance(module, kind))
    _check_plain(module, kind, name)
    if module.training and getattr(module, "p", 0):
        raise EquivError(
            f"{name}: expected dropout in eval mode, got {module} in training mode, which is no function of its input; "
            "call eval() first"
        )
    first = {nn.Flatten: "start_dim", nn.Unflatten: "dim"}.get(kind)
    if first is not None and getattr(module, first) == 0:
        raise NotAffineError(
            f"{name}: expected a {kind.__name__} that leaves dimension 0 to the batch, got {module}; "
            "begin at dimension 1"
        )
    return Reshape(name, module)


def _norm(module: Any, name: str) -> Norm:
    frozen = not isinstance(module, _NORMS)
    if not frozen:
        _check_plain(module, next(kind for kind in _NORMS if isinstance(module, kind)), name)
        if module.training:
            raise EquivError(
                f"{name}: expected a batch norm in eval mode, got {module} in training mode, which uses the statistics "
                "of the batch and is no function of one sample; call eval() first"
            )
        if module.running_mean is None or module.running_var is None:
            raise EquivError(
                f"{name}: expected a batch norm with running statistics, got {module}, which uses those of the batch "
                "in eval mode too; build it with track_running_stats=True"
            )
    elif not all(isinstance(getattr(module, key, None), Tensor) for key in ("running_mean", "running_var")):
        raise NotAffineError(
            f"{name}: expected running statistics, got {type(module).__name__} without; fold it by hand"
        )
    gamma, beta = getattr(module, "weight", None), getattr(module, "bias", None)
    if any(t is not None and t.is_complex() for t in (gamma, beta, module.running_mean, module.running_var)):
        raise EquivError(f"{name}: expected real running statistics, got complex ones; torch has no such batch norm")
    scale, offset = (None if t is None else as_wide(t) for t in (gamma, beta))
    eps = float(getattr(module, "eps", 1e-5))
    facts = BatchNorm(scale, offset, as_wide(module.running_mean), as_wide(module.running_var), eps)
    return Norm(name, module, facts, *facts.affine())


def _lora(module: Any, name: str) -> Chain:
    """A layer of peft with its adapters: ``base(x) + scaling * B(A(x))``; in eval mode dropout does nothing."""
    base = links_of(module.base_layer, f"{name}.base_layer")
    active = [] if module.disable_adapters or module.merged else list(module.active_adapters)
    parts: list[tuple[Chain, float]] = [(base, 1.0)]
    for key in active:
        if key not in module.lora_A:
            continue
        special = getattr(module, "lora_variant", {})
        if key in special or getattr(module, "use_dora", {}).get(key, False):
            raise NotAffineError(f"{name}: expected a plain LoRA, got a variant of it ({key}); merge it first")
        chain: list[Link] = []
        if key in module.lora_dropout:
            chain += links_of(module.lora_dropout[key], f"{name}.lora_dropout.{key}")
        chain += links_of(module.lora_A[key], f"{name}.lora_A.{key}")
        chain += links_of(module.lora_B[key], f"{name}.lora_B.{key}")
        parts.append((tuple(chain), float(module.scaling[key])))
    return base if len(parts) == 1 else (Sum(name, module, tuple(parts)),)


def as_wide(values: Tensor, *, size: bool = False) -> Tensor:
    """Parameters on the CPU in the type that exact values have; with ``size`` their magnitudes.

    Example:
        >>> as_wide(torch.tensor([3 - 4j]), size=True).item()
        7.0
    """
    values = values.detach().cpu().resolve_conj().resolve_neg()
    if values.is_complex():
        return values.real.double().abs() + values.imag.double().abs() if size else values.to(torch.complex128)
    if not values.is_floating_point():
        return values.to(torch.int64)
    return values.double().abs() if size else values.double()


def real_links(chain: Chain) -> list[Any]:
    """Those that compute something."""
    return [link for link in chain if not isinstance(link, Reshape)]


def parameters_of(chain: Chain) -> list[Tensor]:
    """The parameters of Linear layers and convolutions, whose dtype is the chain's."""
    found: list[Tensor] = []
    for link in chain:
        if isinstance(link, Sum):
            found += [t for part, _ in link.parts for t in parameters_of(part)]
        elif isinstance(link, Affine):
            found += [t for t in (link.module.weight, link.module.bias) if t is not None]
    return found
