"""Small models of transformers with random weights: identity, a rewrite, and planted defects."""

import copy
import sys
from pathlib import Path

import pytest
import torch

import equiv

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
diagnosis = pytest.importorskip("diagnosis")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "llama", "swin", "convnext", "segformer", "whisper"])
def test_a_planted_defect_is_found_and_none_where_there_is_none(name: str) -> None:
    assert diagnosis.trials(name, 4) == (4, 4)


@pytest.mark.filterwarnings("ignore")
def test_one_architecture() -> None:
    assert diagnosis.trials("llama", 1) == (1, 1)


@pytest.mark.filterwarnings("ignore")
def test_experts_whose_grouped_products_torch_lacks_in_float64() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.MixtralConfig(**sizes, intermediate_size=64, vocab_size=60, num_local_experts=4)
    torch.manual_seed(0)
    old = transformers.MixtralForCausalLM(config).eval()
    new = copy.deepcopy(old)
    new.set_attn_implementation("eager")
    tokens = {"input_ids": torch.arange(16).view(2, 8)}
    assert equiv.diagnose(new, old, kwargs=tokens).outcome is equiv.Outcome.ROUNDING
    new.model.layers[1].post_attention_layernorm.variance_epsilon = 1e-3
    first = equiv.diagnose(new, old, kwargs=tokens).first_difference
    assert first is not None
    assert first.candidate == "model.layers.1.post_attention_layernorm"
