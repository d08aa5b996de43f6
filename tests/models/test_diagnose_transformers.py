"""Small models of transformers with random weights: identity, a rewrite, and planted defects."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
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
