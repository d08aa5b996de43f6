"""The backends that equiv ships: one module each, which imports its runtime when it is first used.

The table is what ``pyproject.toml`` declares as entry points of the group ``equiv.backends``; it is here too so that
they are found in a checkout that has not been installed.
"""

from __future__ import annotations

SHIPPED = {
    "torch": "equiv.backends.runtimes.eager:Eager",
    "torch.compile": "equiv.backends.runtimes.compiled:Compiled",
    "torch.export": "equiv.backends.runtimes.exported:Exported",
    "torch.aotinductor": "equiv.backends.runtimes.aotinductor:AOTInductor",
    "torch.vmap": "equiv.backends.runtimes.vmapped:Vmapped",
    "torch.autocast": "equiv.backends.runtimes.autocast:Autocast",
    "numpy": "equiv.backends.runtimes.numpy:NumPy",
    "onnxruntime": "equiv.backends.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "equiv.backends.runtimes.openvino:OpenVino",
}
"""Names and, as ``module:class``, where they are."""
