"""Backends: what runs a form of a layer. A backend is an object with two operations on tensors, linear and conv."""

from equiv.backends.base import Backend
from equiv.backends.base import check_backend as check_backend
from equiv.backends.capabilities import CAPABILITIES as CAPABILITIES
from equiv.backends.capabilities import FORMS, Capabilities
from equiv.backends.capabilities import capabilities_of as capabilities_of
from equiv.backends.eager import TorchEager
from equiv.backends.eager import conv_kernel as conv_kernel
from equiv.backends.functions import Function as Function
from equiv.backends.measuring import identity as identity
from equiv.backends.measuring import measure_form
from equiv.backends.named import Plugin as Plugin
from equiv.backends.named import load_backend
from equiv.backends.named import plugins as plugins
from equiv.backends.runtimes.base import defect_of as defect_of
from equiv.backends.runtimes.base import graph_of as graph_of
from equiv.backends.runtimes.base import laid_by as laid_by
from equiv.backends.runtimes.base import runs_torch as runs_torch
from equiv.backends.runtimes.base import setting_of as setting_of
from equiv.backends.twins import Twin as Twin
from equiv.backends.twins import shallow as shallow

__all__ = ["FORMS", "Backend", "Capabilities", "TorchEager", "load_backend", "measure_form"]
