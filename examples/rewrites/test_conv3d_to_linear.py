"""transformers loads a Conv3d patch embedding as a Linear (``fusion_config={"patch_embeddings": True}``)."""

import importlib

import pytest
import torch

import equiv

transformers = pytest.importorskip("transformers", minversion="5.4")
pytest.importorskip("transformers.fusion_mapping")

MODELS = {
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel",
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel",
    "qwen3_vl": "Qwen3VLVisionModel",
    "qwen3_vl_moe": "Qwen3VLMoeVisionModel",
    "qwen3_5": "Qwen3_5VisionModel",
    "glm4v": "Glm4vVisionModel",
    "glm4v_moe": "Glm4vMoeVisionModel",
    "glm_ocr": "GlmOcrVisionModel",
    "exaone4_5": "Exaone4_5_VisionModel",
}
SMALL = {
    **dict.fromkeys(("embed_dim", "hidden_size", "out_hidden_size", "intermediate_size"), 32),
    **dict.fromkeys(("depth", "num_hidden_layers"), 1),
    **dict.fromkeys(("num_heads", "num_attention_heads"), 2),
    "patch_size": 4,
    "temporal_patch_size": 2,
    "in_channels": 3,
    "image_size": 16,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}


@pytest.mark.parametrize("name", MODELS)
def test_the_fused_patch_embedding_is_the_same_function(name, tmp_path):
    try:
        module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    except ModuleNotFoundError:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    of = getattr(module, MODELS[name])
    torch.manual_seed(0)
    plain = of(of.config_class(**SMALL)).eval()
    plain.save_pretrained(tmp_path)
    fused = of.from_pretrained(tmp_path, fusion_config={"patch_embeddings": True}).eval()
    conv, linear = plain.patch_embed.proj, fused.patch_embed.linear_proj

    assert equiv.certify(linear, conv)  # the parameters, for all inputs
    equiv.assert_equivalent(linear, conv)
    x = torch.randn(7, linear.in_features)
    with torch.no_grad():  # and the modules around them
        actual, expected = fused.patch_embed(x), plain.patch_embed(x)
    assert equiv.compare(actual, expected, input=x.view(7, 3, 2, 4, 4), layer=conv).equivalent

    fused.save_pretrained(tmp_path / "again")  # and the way back
    back = of.from_pretrained(tmp_path / "again", fusion_config={"patch_embeddings": False})
    saved = dict(back.named_parameters())
    weight = saved.get("patch_embed.proj.weight", saved.get("patch_embed.linear_proj.weight"))
    assert torch.equal(weight.flatten(1), conv.weight.flatten(1))
