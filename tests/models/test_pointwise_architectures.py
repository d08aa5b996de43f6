"""Architectures of transformers, timm and peft, small, with random weights, converted and judged layer by layer.

No tolerance: every converted layer is judged on the input that it really has in the model, by the envelope of right
kernels; and the model converted back gives the same bits, so that nothing but these layers has changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm_alone import import_timm
from torch import nn

import equiv
from equiv.models.pointwise_layers import class_before, is_pointwise, swap_class

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGES = {"image_size": 16, "patch_size": 4, "num_channels": 3}


def text() -> dict[str, Any]:
    return {"input_ids": torch.randint(0, 60, (2, 7))}


def pixels(size: int = 16) -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def vit(t: Any) -> Any:
    return t.ViTForImageClassification(t.ViTConfig(**TOKENS, **IMAGES)), pixels()


def convnext(t: Any) -> Any:
    config = t.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])
    return t.ConvNextForImageClassification(config), pixels(64)


def segformer(t: Any) -> Any:
    config = t.SegformerConfig(
        hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16
    )
    return t.SegformerForSemanticSegmentation(config), pixels(64)


def swin(t: Any) -> Any:
    config = t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=4)
    return t.SwinForImageClassification(config), pixels(32)


def gpt2(t: Any) -> Any:
    config = t.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, bos_token_id=0, eos_token_id=1)
    return t.GPT2LMHeadModel(config), text()


def bert(t: Any) -> Any:
    return t.BertForMaskedLM(t.BertConfig(**TOKENS, vocab_size=60)), text()


def llama(t: Any) -> Any:
    return t.LlamaForCausalLM(t.LlamaConfig(**TOKENS, vocab_size=60, num_key_value_heads=2)), text()


def whisper_encoder(t: Any) -> Any:
    config = t.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        max_source_positions=20,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
    )
    return t.WhisperModel(config).get_encoder(), {"input_features": torch.randn(2, 80, 40)}


def t5(t: Any) -> Any:
    config = t.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=60)
    return t.T5ForConditionalGeneration(config), {**text(), "decoder_input_ids": torch.randint(0, 60, (2, 5))}


def mamba(t: Any) -> Any:
    return t.MambaForCausalLM(t.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=60, state_size=4)), text()


def siglip(t: Any) -> Any:
    return t.SiglipVisionModel(t.SiglipVisionConfig(**TOKENS, **IMAGES)), pixels()


def videomae(t: Any) -> Any:
    config = t.VideoMAEConfig(**TOKENS, **IMAGES, num_frames=4, tubelet_size=2)
    return t.VideoMAEModel(config), {"pixel_values": torch.randn(2, 4, 3, 16, 16)}


def mask2former(t: Any) -> Any:
    backbone = t.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = t.Mask2FormerConfig(
        backbone_config=backbone, hidden_dim=32, feature_size=32, mask_feature_size=32, num_attention_heads=4,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1, decoder_layers=2, num_queries=5,
    )  # fmt: skip
    return t.Mask2FormerForUniversalSegmentation(config), pixels(64)


def detr(t: Any) -> Any:
    backbone = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, out_features=["stage4"])
    config = t.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5,
    )  # fmt: skip
    return t.DetrForObjectDetection(config), pixels(64)


def switch(t: Any) -> Any:
    config = t.SwitchTransformersConfig(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, vocab_size=60, num_experts=3
    )
    model = t.SwitchTransformersForConditionalGeneration(config)
    return model, {**text(), "decoder_input_ids": torch.randint(0, 60, (2, 5))}


def wav2vec2(t: Any) -> Any:
    config = t.Wav2Vec2Config(
        **TOKENS, vocab_size=20, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3),
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, num_feat_extract_layers=2,
    )  # fmt: skip
    return t.Wav2Vec2ForCTC(config), {"input_values": torch.randn(2, 400)}


ARCHITECTURES: tuple[Callable[[Any], Any], ...] = (
    *(vit, convnext, segformer, swin, gpt2, bert, llama, whisper_encoder, t5, mamba, siglip, videomae),
    *(mask2former, detr, switch, wav2vec2),
)


def judge_layers(model: nn.Module, converted: nn.Module, inputs: dict[str, Any] | torch.Tensor) -> int:
    """Assert that each converted layer returns what the model's own does, on the converted model's real inputs."""
    originals = dict(model.named_modules())
    judged = 0

    def judge(name: str) -> Any:
        def called(module: nn.Module, args: Any, result: torch.Tensor) -> None:
            nonlocal judged
            layer: Any = originals[name]
            x = args[0]
            if not x.numel():
                return
            own = layer if isinstance(layer, nn.Linear) else equiv.conv_to_linear(layer)
            rows = x.reshape(-1, x.shape[-1])
            verdict = equiv.compare(
                result.reshape(len(rows), -1), layer(x).reshape(len(rows), -1), input=rows, layer=own
            )
            assert verdict.outcome in (equiv.Outcome.IDENTICAL, equiv.Outcome.ROUNDING), f"{name}: {verdict}"
            judged += 1

        return called

    handles = [m.register_forward_hook(judge(n)) for n, m in converted.named_modules() if is_pointwise(m)]
    run(converted, inputs)
    for handle in handles:
        handle.remove()
    return judged


def run(model: nn.Module, inputs: dict[str, Any] | torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    values = [result] if isinstance(result, torch.Tensor) else list(result.values())
    return [value for value in values if isinstance(value, torch.Tensor)]


def check(model: nn.Module, inputs: Any) -> Any:
    """Convert, judge, reload and convert back; the converted model."""
    model.eval()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    converted: Any = equiv.to_pointwise(model, example_inputs=inputs)
    report = converted.report
    assert len(report.converted) + sum("Linear" in row.kind for row in report.left_alone) >= len(linears)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert len(list(converted.parameters())) == len(list(model.parameters()))
    assert judge_layers(model, converted, inputs) >= sum(bool(row.calls) for row in report.converted)
    converted.load_state_dict(model.state_dict())
    model.load_state_dict(converted.state_dict())
    assert len(str(report).splitlines()) < 60
    expected = run(model, inputs)
    assert expected
    for back, own in zip(run(without_pointwise(converted), inputs), expected, strict=True):
        assert torch.equal(back, own)
    linear: Any = equiv.to_linear(converted, example_inputs=inputs)
    linear.load_state_dict(model.state_dict())
    model.load_state_dict(linear.state_dict())
    assert [value.shape for value in run(linear, inputs)] == [value.shape for value in expected]
    return converted


def without_pointwise(converted: nn.Module) -> nn.Module:
    """A copy whose converted layers have their own class again, and nothing else is changed."""
    back = copy.deepcopy(converted)
    for module in back.modules():
        if is_pointwise(module):
            swap_class(module, class_before)
    return back


@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_an_architecture_of_transformers(make: Callable[[Any], Any]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    try:
        model, inputs = make(transformers)
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])
    check(model, inputs)


TRANSFORMER = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
TIMM: dict[str, tuple[dict[str, Any], int]] = {
    "vit_tiny_patch16_224": (TRANSFORMER, 32),
    "deit_tiny_patch16_224": (TRANSFORMER, 32),
    "beit_base_patch16_224": (TRANSFORMER, 32),  # calls functional.linear on the weight of qkv
    "eva02_tiny_patch14_224": ({**TRANSFORMER, "img_size": 28, "patch_size": 14, "embed_dim": 48}, 28),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2)},
        32,
    ),
    "resnet18": ({}, 32),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}, 64),
    "efficientnet_b0": ({}, 64),
    "regnety_002": ({}, 64),
    "mixer_s32_224": ({"img_size": 64}, 64),
    "mobilenetv3_small_050": ({}, 64),  # timm's own Linear is left alone
}


@pytest.mark.parametrize("name", TIMM)
def test_a_model_of_timm(name: str) -> None:
    options, size = TIMM[name]
    torch.manual_seed(0)
    model = import_timm().create_model(name, pretrained=False, num_classes=7, **options)
    report = check(model, torch.randn(2, 3, size, size)).report
    raw = {row.module for row in report.products if "multiplies" in row.reason and "weight" in row.reason}
    idle = {row.name for row in report.converted if row.calls == 0}
    assert idle == {f"{module}.qkv" for module in raw if module != "classifier"}
    assert bool(idle) == (name.startswith(("beit", "eva")))
    assert ("classifier" in raw) == (name == "mobilenetv3_small_050")


def test_the_factors_of_lora() -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    base, inputs = bert(transformers)
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    model = peft.get_peft_model(base, config).eval()
    converted = check(model, inputs)
    names = {row.name for row in converted.report.converted}
    layer = "base_model.model.bert.encoder.layer.0.attention.self.query"
    assert {f"{layer}.base_layer", f"{layer}.lora_A.default", f"{layer}.lora_B.default"} <= names
    assert [p.requires_grad for p in converted.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(row.calls for row in converted.report.converted)
    whole, expected = converted.merge_and_unload(), copy.deepcopy(model).merge_and_unload()
    assert is_pointwise(whole.bert.encoder.layer[0].attention.self.query)
    for own, other in zip(whole.parameters(), expected.parameters(), strict=True):
        assert torch.equal(own, other)


def test_adapters_on_a_converted_model() -> None:
    peft = pytest.importorskip("peft")
    model, inputs = bert(pytest.importorskip("transformers"))
    config = peft.LoraConfig(r=4, target_modules=["query"], init_lora_weights=True)
    adapted = peft.get_peft_model(equiv.to_pointwise(model.eval()), config).eval()
    for own, expected in zip(run(adapted, inputs), run(equiv.to_pointwise(model), inputs), strict=True):
        assert torch.equal(own, expected)  # the second factor starts as zero
