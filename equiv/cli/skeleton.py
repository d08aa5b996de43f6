"""``equiv init-backend``: a backend that works, its test and a workflow, as files to fill in."""

from __future__ import annotations

import keyword
from pathlib import Path

from equiv.arguments import refusal
from equiv.errors import EquivError
from equiv.report.terminal import Page
from equiv.text import quoted, shown

_BACKEND = '''"""The backend {name}: what equiv calls. Put your kernels in place of torch's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from equiv.backends import Capabilities


class {kind}:
    """Raise NotImplementedError for what your kernels do not serve: it is left out, and every report says so."""

    name = "{name}"
    device = torch.device("cpu")
    capabilities = Capabilities(gradient_order=0)  # no gradients; leave it out, and equiv finds out

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(*batch, n), (O, n), (O,) -> (*batch, O)."""
        return torch.nn.functional.linear(input, weight, bias)

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        """(N, C, *spatial), (O, C / groups, *kernel), (O,) -> (N, O, *out)."""
        if weight.ndim != 4:
            raise NotImplementedError("{name} has convolutions over maps of two dimensions alone")
        return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
'''

_TEST = '''"""The laws that every right layer keeps, tried on {name}: pytest test_{name}.py -n auto"""

import equiv.testing
from {name}_backend import {kind}


@equiv.testing.parametrize_with_laws({kind}(), dtypes=["float32"])
def test_{name}(law):
    law()
'''

_WORKFLOW = """name: {name}
on: [push, pull_request]
permissions:
  contents: read
jobs:
  laws:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install "torch-equiv[test]"
      - run: pytest test_{name}.py -n auto
      - run: equiv verify --backend {name}_backend.py:{kind} --profile gate --json equiv.json
      - if: always()
        uses: actions/upload-artifact@v4
        with:
          name: equiv
          path: equiv.json
"""

_FILES = {
    "{name}_backend.py": _BACKEND,
    "test_{name}.py": _TEST,
    ".github/workflows/{name}.yml": _WORKFLOW,
}


def write(name: str, folder: str) -> None:
    """Write the files, none over another, and say what to do with them.

    Raises:
        EquivError: A name that no module can have, a file that is there already, or a folder that cannot be written.
    """
    if not (name.isidentifier() and name.isascii() and name == name.lower()) or keyword.iskeyword(name):
        raise refusal("NAME", "a name of lower-case letters, digits and underscores", name, "choose such as mykernels")
    kind = "".join(part.capitalize() for part in name.split("_")) or "Backend"
    texts = {Path(folder, path.format(name=name)): text.format(name=name, kind=kind) for path, text in _FILES.items()}
    try:
        there = next((path for path in texts if path.exists()), None)
    except (OSError, ValueError) as error:
        raise _unwritable(folder, error) from error
    if not folder:
        raise _unwritable(folder, "no folder is named so")
    if there is not None:
        raise EquivError(f"NAME: expected files that are not there, got {shown(str(there))}; choose another name")
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unwritable(folder, error) from error
    page = Page()
    page.lines([f"wrote {path}" for path in texts], hanging="  ")
    backend, test, _ = (str(path) for path in texts)
    page.lines(
        [
            "Next: put your kernels into the first file, then",
            f"  pytest {test}",
            f"  equiv verify --backend {backend}:{kind}",
        ],
        hanging="  ",
    )


def _unwritable(folder: str, why: object) -> EquivError:
    said = quoted(str(getattr(why, "strerror", None) or why), 80)
    return EquivError(f"--folder: expected one that can be written, got {shown(folder)}: {said}")
