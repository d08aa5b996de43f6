"""Whole models with one planted defect: is it found at its layer, and is none named where there is none?

Models of transformers with random weights and small sizes. In each trial the candidate is a copy in which every Linear
computes as a 1x1 convolution, and one random layer has one defect; in as many trials it has none. ``--large`` measures
what a diagnosis of 100 million parameters costs in time and memory beside both models run once. ``--gradients`` plants
defects in the backward pass of a random layer instead, whose results are right.

    python benchmarks/diagnosis.py [--trials 50] [--only bert vit] [--gradients] [--large]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import equiv

Inputs = dict[str, Tensor]


class AsConvolution(nn.Linear):
    """A Linear that computes as a 1x1 convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """The same rows, as maps of one position."""
        rows = input.reshape(-1, self.in_features, 1, 1)
        y = functional.conv2d(rows, self.weight[:, :, None, None], self.bias)
        return y.reshape(*input.shape[:-1], self.out_features)


def as_convolutions(model: nn.Module) -> nn.Module:
    """A copy in which every plain Linear computes as a 1x1 convolution."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if type(module) is nn.Linear:
            module.__class__ = AsConvolution
    return twin


def models() -> dict[str, Callable[[], tuple[nn.Module, Inputs]]]:
    """Small models of transformers by name, each with inputs."""
    import transformers as t

    def ids(vocabulary: int = 99) -> Inputs:
        return {"input_ids": torch.randint(0, vocabulary, (2, 9))}

    def images(size: int = 32) -> Inputs:
        return {"pixel_values": torch.randn(2, 3, size, size)}

    few: Any = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    vision = {**few, "image_size": 32, "patch_size": 8}
    swin = t.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    llama = t.LlamaConfig(vocab_size=99, num_key_value_heads=2, **few)
    whisper = t.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, num_mel_bins=16, vocab_size=99,
        max_source_positions=50, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    segformer = t.SegformerConfig(
        num_encoder_blocks=2, depths=[2, 2], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2], decoder_hidden_size=32,
    )  # fmt: skip
    convnext = t.ConvNextConfig(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2, layer_scale_init_value=0.5)
    return {
        "vit": lambda: (t.ViTForImageClassification(t.ViTConfig(**vision)), images()),
        "bert": lambda: (t.BertForSequenceClassification(t.BertConfig(vocab_size=99, **few)), ids()),
        "gpt2": lambda: (t.GPT2LMHeadModel(t.GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4)), ids()),
        "llama": lambda: (t.LlamaForCausalLM(llama), ids()),
        "swin": lambda: (t.SwinForImageClassification(swin), images()),
        "convnext": lambda: (t.ConvNextForImageClassification(convnext), images()),
        "segformer": lambda: (t.SegformerForSemanticSegmentation(segformer), images(64)),
        "whisper": lambda: (
            t.models.whisper.modeling_whisper.WhisperEncoder(whisper),
            {"input_features": torch.randn(2, 16, 100)},
        ),
        "t5": lambda: (
            t.T5EncoderModel(t.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4)),
            ids(),
        ),
        "siglip": lambda: (t.SiglipVisionModel(t.SiglipVisionConfig(**vision)), images()),
    }


def _one_weight(layer: Any, generator: torch.Generator) -> None:
    flat = layer.weight.view(-1)
    flat[int(torch.randint(len(flat), (1,), generator=generator))] *= 1 + 2.0**-6


def _exchanged_inputs(layer: Any, generator: torch.Generator) -> None:
    axis = 1 if layer.weight.shape[1] > 1 else 0
    first, second = torch.randperm(layer.weight.shape[axis], generator=generator)[:2].tolist()
    order = torch.arange(layer.weight.shape[axis])
    order[first], order[second] = second, first
    layer.weight.copy_(layer.weight.index_select(axis, order))


def _dropped_bias(layer: Any, generator: torch.Generator) -> None:
    if layer.bias is None:
        _one_weight(layer, generator)
    else:
        layer.bias.normal_(generator=generator)


DEFECTS: tuple[Callable[[Any, torch.Generator], None], ...] = (_one_weight, _exchanged_inputs, _dropped_bias)


def planted(model: nn.Module, called: list[str], seed: int) -> tuple[nn.Module, str]:
    """A copy with one defect in a layer that is called, and the layer's name."""
    generator = torch.Generator().manual_seed(seed)
    twin = as_convolutions(model)
    parts = dict(twin.named_modules())
    name = called[int(torch.randint(len(called), (1,), generator=generator))]
    with torch.no_grad():
        DEFECTS[seed % len(DEFECTS)](parts[name], generator)
    return twin, name


class Backward(torch.autograd.Function):
    """What a layer returned, with a backward pass that is the layer's but for one defect, ``kind``."""

    @staticmethod
    def forward(ctx: Any, kind: str, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's own result."""
        ctx.kind, ctx.layer, ctx.held = kind, layer, [t for t in (x, weight, bias) if t is not None]
        return type(layer).forward(layer, x)

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> Any:
        """Its gradients, one of them wrong."""
        kind, low = ctx.kind, ctx.kind in LOW
        held = [t.detach().requires_grad_() for t in ctx.held]
        if low:
            held = [LOW[kind](t.detach()).requires_grad_() for t in ctx.held]
            incoming = LOW[kind](incoming)
        names = ("weight", "bias")[: len(held) - 1]
        with torch.enable_grad():
            y = torch.func.functional_call(ctx.layer, dict(zip(names, held[1:], strict=True)), (held[0],))
        x, weight, *bias = torch.autograd.grad(y, held, incoming)
        if kind == "bias averaged" and bias:
            bias = [bias[0] / (incoming.numel() // bias[0].numel())]
        elif kind == "bias averaged" or kind == "weight detached":
            weight = torch.zeros_like(weight)
        elif kind == "weight transposed":
            weight = weight.flatten(1).T.reshape(weight.shape)
        elif kind == "input halved":
            x = x / 2
        elif kind == "last output without gradient":
            weight = weight.clone()
            weight[-1] = 0
        return None, None, x, weight, bias[0] if bias else None


def _tf32(t: Tensor) -> Tensor:
    """Rounded to ten bits behind the first."""
    return ((t.view(torch.int32) + 0xFFF + ((t.view(torch.int32) >> 13) & 1)) & ~0x1FFF).view(torch.float32)


LOW: dict[str, Callable[[Tensor], Tensor]] = {"TF32": _tf32, "bfloat16": lambda t: t.bfloat16().float()}
BACKWARD = (
    "bias averaged", "weight detached", "weight transposed", "TF32", "bfloat16", "input halved",
    "last output without gradient",
)  # fmt: skip


def planted_backward(model: nn.Module, called: list[str], seed: int) -> tuple[nn.Module, str]:
    """A copy with one defect in the backward pass of a layer that is called, and the layer's name."""
    generator = torch.Generator().manual_seed(seed)
    twin = as_convolutions(model)
    name = called[int(torch.randint(len(called), (1,), generator=generator))]
    layer, kind = twin.get_submodule(name), BACKWARD[seed % len(BACKWARD)]

    class Wrong(type(layer)):  # type: ignore[misc] - a class of any layer
        def forward(self, x: Tensor) -> Tensor:
            plain = copy.copy(self)
            vars(plain).pop("forward", None)
            plain.__class__ = type(self).__base__
            return Backward.apply(kind, plain, x, self.weight, self.bias)

    layer.__class__ = Wrong
    return twin, name


def same_weight(model: nn.Module, name: str) -> set[str]:
    """The layer and those that are tied to it."""
    parts = dict(model.named_modules())
    return {other for other, part in parts.items() if getattr(part, "weight", None) is parts[name].weight}


def trials(name: str, count: int, *, gradients: bool = False) -> tuple[int, int]:
    """How often a planted defect was found at its layer, and how often none was named where there was none."""
    torch.manual_seed(0)
    model, inputs = models()[name]()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales that are no ones and zeros
            parameter.add_(0.1 * torch.randn(parameter.shape))
    called = [
        row.candidate
        for row in equiv.diagnose(model, model, kwargs=inputs).layers
        if row.kind == "layer" and row.candidate in dict(model.named_modules())
    ]
    found = quiet = 0
    for seed in range(count):
        twin, where = (planted_backward if gradients else planted)(model, called, seed)
        first = equiv.diagnose(twin, model, kwargs=inputs, gradients=gradients).first_difference
        found += first is not None and first.candidate in same_weight(twin, where)
        if first is None or first.candidate not in same_weight(twin, where):
            print(f"  {name} {seed}: planted in {where}, found at {first and first.candidate}")
        torch.manual_seed(seed)
        other = {key: torch.randn_like(x) if x.is_floating_point() else x.flip(0) for key, x in inputs.items()}
        right = equiv.diagnose(as_convolutions(model), model, kwargs=other, gradients=gradients)
        quiet += right.equivalent
        if not right.equivalent:
            print(f"  {name} {seed}: nothing planted, {right.explanation}")
    return found, quiet


class Block(nn.Module):
    """A layer of a transformer, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.act, self.fc2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then two layers."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


def large() -> None:
    """Time and memory of a diagnosis of some 100 million parameters."""
    import resource

    torch.manual_seed(0)
    model = nn.Sequential(*(Block(1024, 16) for _ in range(8))).eval()
    twin = as_convolutions(model)
    count = sum(p.numel() for p in model.parameters())
    x = torch.randn(4, 64, 1024)
    with torch.no_grad():
        model(x), twin(x)
        start = time.perf_counter()
        model(x), twin(x)
        both = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = equiv.diagnose(twin, model, x)
    took = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{count:,} parameters: {found.outcome.name}")
    print(f"both models once {both:.2f} s, diagnose {took:.2f} s: {took / both:.1f} times")
    print(f"peak memory {after / 1024:.0f} MiB, {(after - before) / 1024:.0f} MiB more than running both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    if options.large:
        large()
        return
    for name in options.only or models():
        start = time.perf_counter()
        found, quiet = trials(name, options.trials, gradients=options.gradients)
        took = time.perf_counter() - start
        print(f"{name:<10} found {found} of {options.trials}, quiet {quiet} of {options.trials}  ({took:.1f} s)")


if __name__ == "__main__":
    main()
