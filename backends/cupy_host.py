"""Rules without a CUDA kernel on a device's arrays: to the host, one step of the reference, and back.

This is a backend of its own, ``Optimizer(..., backend="cupy-host")``, and never chosen but by its name, since
nothing leaves a device silently. Leaves that have a kernel are stepped by it; ``explain()`` tells which are
not. What it is for: rules that LAPACK bounds (Shampoo, GGT, full-matrix AdaGrad), whose reference makes
NumPy's arrays on its way and so cannot run on CuPy's, and options that no kernel has.
"""

from __future__ import annotations

from typing import Any

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.base import Rule

from . import numpy_ref
from .cupy_gpu import VARIANTS as KERNELS
from .cupy_gpu.leaves import placed, to_host
from .registry import Variant
from .resolver import library_of


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """Every rule, shape and dtype for which there is no kernel."""
    for kernel in KERNELS:
        if kernel.numerics == "bitwise" and kernel.supports(rule, shape, dtype)[0]:
            return False, f"{kernel.name} serves it"
    return True, "copied to the host and back at every step"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any]) -> None:
    """Step one tensor in place: the reference on copies in the host's memory, which are then copied back.

    An error of the rule leaves the tensor as it was.

    Notes
    -----
    Moves parameter, gradient and slots to the host and all but the gradient back, and waits for both ways;
    the host holds a copy of one tensor and its slots meanwhile. Numerics: the reference's own bits.
    """
    here_w, here = to_host(w), {name: to_host(x) for name, x in state.items()}
    numpy_ref.step(rule, here_w, _to_host(g), here)
    for name, x in {"w": w, **state}.items():
        if library_of(x) == "cupy":
            x[...] = placed(here_w if name == "w" else here[name], w)
        else:
            state[name] = here[name]


def _to_host(g: Any) -> Any:
    if not isinstance(g, RowSparse):
        return to_host(g)
    return RowSparse(to_host(g.indices), to_host(g.rows), g.shape)


VARIANTS = (*KERNELS, Variant("numpy_ref on a host copy", "bitwise", supports, step))
