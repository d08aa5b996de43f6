"""Backends by name: how they are found, what is imported when, and what a message says."""

import pickle
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from equiv.backends import load_backend, plugins
from equiv.backends.plugins import Plugin
from equiv.backends.runtimes import SHIPPED
from equiv.errors import EquivError, MissingExtraError

PYPROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())


class Elsewhere:
    """A backend of another distribution."""

    name, device = "elsewhere", torch.device("cpu")

    def __init__(self, *, level: int = 1):
        self.level = level

    def linear(self, input, weight, bias=None):
        return torch.nn.functional.linear(input, weight, bias)

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        raise NotImplementedError


class NeedsMore(Elsewhere):
    needs: ClassVar = {"no_such_package_of_ours": "no-such-distribution"}


@pytest.fixture
def installed(monkeypatch):
    """Entry points that another distribution declares, by name."""

    def declare(**places):
        class Distribution:
            name = "acme-kernels"

        points = [
            metadata.EntryPoint(name, place, "equiv.backends")._for(Distribution()) for name, place in places.items()
        ]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "equiv.backends" else [])

    return declare


def test_entry_points_of_the_distribution_are_the_table():
    assert PYPROJECT["project"]["entry-points"]["equiv.backends"] == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_extra_is_declared_and_brings_what_the_backend_needs(name):
    plugin = plugins()[name]
    extra = getattr(plugin.maker, "extra", "")
    brought = " ".join(PYPROJECT["project"]["optional-dependencies"][extra]) if extra else ""
    assert all(distribution in brought for distribution in plugin.needs.values())
    assert plugin.summary.endswith(".")


def test_listing_imports_no_runtime():
    program = """
import sys
from equiv.backends import plugins
found = plugins()
assert "equiv.backends.runtimes.numpy" not in sys.modules
makers = [plugin.maker for plugin in found.values()]
runtimes = {"onnx", "onnxruntime", "openvino", "jax", "executorch", "ncnn", "tvm", "iree", "tinygrad", "ai_edge_litert"}
print(sorted(runtimes & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_backends_of_other_distributions_are_found(installed):
    installed(elsewhere=f"{__name__}:Elsewhere")
    assert plugins()["elsewhere"].distribution == "acme-kernels"
    assert load_backend("elsewhere?level=3").level == 3
    assert load_backend("elsewhere").level == 1


def test_two_of_one_name_are_refused(installed):
    installed(numpy=f"{__name__}:Elsewhere")
    with pytest.raises(EquivError, match="expected one backend 'numpy', got those of torch-equiv and acme-kernels"):
        plugins()


def test_what_is_missing_is_named_with_the_command_that_brings_it(installed):
    installed(more=f"{__name__}:NeedsMore", broken="no_such_module_of_ours:Thing", gone=f"{__name__}:Gone")
    with pytest.raises(
        MissingExtraError, match="got no package no_such_package_of_ours; run: pip install no-such-dist"
    ):
        load_backend("more")
    with pytest.raises(MissingExtraError, match="got no package no_such_module_of_ours; install it"):
        load_backend("broken")
    with pytest.raises(EquivError, match=r"expected 'gone' at .*:Gone of acme-kernels, got AttributeError"):
        load_backend("gone")


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(Plugin, "missing", ("numpy",))
    with pytest.raises(MissingExtraError, match=r'got no package numpy; run: pip install "torch-equiv\[numpy\]"'):
        load_backend("numpy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpi", "expected one of .*numpy.*, got 'numpi'; did you mean 'numpy'?"),
        ("numpy?", None),
        ("numpy?level", "write parameters as name=value"),
        ("numpy?level=1", "expected no parameters, got 'level'; leave it out"),
        ("elsewhere?lebel=1", "expected parameters among level, got 'lebel'; did you mean 'level'?"),
        ("elsewhere?level=high", "level: expected an integer of at least 0, got 'high'"),
        ("elsewhere?level=1,level=2", "each once"),
    ],
)
def test_what_is_typed_wrongly_is_told(installed, text, message):
    installed(elsewhere=f"{__name__}:Elsewhere")
    if message is None:
        assert load_backend(text).name == "numpy"
        return
    with pytest.raises(EquivError, match=message.replace("?", r"\?")):
        load_backend(text)


def test_an_instance_is_its_parameters():
    backend = load_backend("numpy")
    assert pickle.loads(pickle.dumps(backend)) == backend
    assert hash(backend) == hash(load_backend("numpy"))


def test_parameters_that_are_not_the_default_are_in_the_name_and_the_repr():
    backend = load_backend("torch?memory_format=channels_last&mkldnn=no")
    assert backend.name == "torch.memory_format_channels_last.mkldnn_False"
    assert repr(backend) == "Eager(memory_format='channels_last', mkldnn=False)"
    assert load_backend("torch").name == "torch"
