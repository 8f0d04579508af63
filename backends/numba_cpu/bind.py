"""A rule's one expression, bound into the loop that steps a run of entries.

The loop is written out for each expression with the expression's own names, as a function of a module and no
closure, so that it is compiled once and found on disk ever after:

    def adam(table, start, stop, numbers):
        w, g, m, v = the arrays at the addresses table[0], table[1], ...
        learning_rate, beta1, ... = numbers[0], numbers[1], ... rounded once to the compute dtype
        for i in range(start, stop):
            out = expression(w[i], g[i], m[i], v[i], learning_rate, beta1, ...)
            w[i], m[i], v[i] = out[0], out[1], out[2]

Weight decay comes before it as ``Rule.decayed`` has it. The arrays are contiguous numbers of the compute
dtype; where they come from is the business of :mod:`.drive`.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.core.ccallback import CFunc
from numba.core.typing import signature

from memopt_ref.rules.elementwise import Expression, parameters

from . import scalar  # noqa: F401  (registers what expressions may call)
from .cache import KernelCache
from .memory import as_float32, as_float64, as_int64
from .options import STRICT

#: What the decay does to an entry before the expression sees it, by ``weight_decay_mode``.
DECAY = {
    "none": ("w[i]", "g[i]"),
    "l2": ("w[i]", "g[i] + decay * w[i]"),
    "factor": ("w[i] * decay", "g[i]"),
}
KERNEL = signature(types.void, *[types.int64] * 4)


class Kernel(NamedTuple):
    """A compiled loop, and what it wants: slots and coefficients by their names, in order."""

    address: int
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    compiled: Any


def loop_text(expression: Expression, slots: tuple[str, ...], decay: str) -> str:
    """The loop's source.

    Parameters
    ----------
    expression : function
        Of ``w``, ``g``, slots and coefficients, marked with ``returns``.
    slots : tuple of str
        The slots that it takes, in the order of the table.
    decay : {"none", "l2", "factor"}
        A key of ``DECAY``; the number ``decay`` is the last of ``numbers``.
    """
    arrays = ("w", "g", *slots)
    names = [name for name in parameters(expression) if name not in arrays]
    if decay != "none":
        names.append("decay")
    entries = {name: f"{name}[i]" for name in slots} | dict(zip("wg", DECAY[decay], strict=True))
    call = ", ".join(entries.get(name, name) for name in parameters(expression))
    members = {name: k for k, name in enumerate(expression.returns)}  # type: ignore[attr-defined]
    written = [name for name in arrays if name != "g"]
    lines = [
        "def loop(table, start, stop, numbers):",
        "    addresses, values = as_int64(table), as_float64(numbers)",
        *(f"    {name} = pointer(addresses[{k}])" for k, name in enumerate(arrays)),
        *(f"    {name} = number(values[{k}])" for k, name in enumerate(names)),
        "    for i in range(start, stop):",
        f"        out = expression({call})",
        *(f"        {name}[i] = out[{members[name]}]" for name in written),
    ]
    return "\n".join(lines) + "\n"


def bind(expression: Expression, slots: tuple[str, ...], decay: str, dtype: Any, disk: bool = True) -> Kernel:
    """Compile the loop of an expression, or load it.

    Raises
    ------
    numba.core.errors.NumbaError
        The expression does what only NumPy can.
    """
    wide = np.dtype(dtype) == np.float64
    namespace = {
        "__name__": __name__,
        "as_int64": as_int64,
        "as_float64": as_float64,
        "pointer": as_float64 if wide else as_float32,
        "number": np.float64 if wide else np.float32,
        "expression": numba.njit(**STRICT)(expression),
    }
    text = loop_text(expression, slots, decay)
    exec(compile(text, f"<loop of {expression.__name__}>", "exec"), namespace)  # noqa: S102
    name = f"{expression.__name__}-{decay}-{np.dtype(dtype)}-{_digest(expression, text)}"
    compiled = compiled_function(namespace["loop"], KERNEL, name, disk)
    arrays = ("w", "g", *slots)
    coefficients = tuple(name for name in parameters(expression) if name not in arrays)
    return Kernel(compiled.address, slots, coefficients, compiled)


def compiled_function(function: Any, kind: Any, name: str, disk: bool = True) -> Any:
    """A C function with an ``address``, compiled or found on disk under its name."""
    compiled: Any = CFunc(function, (kind.args, kind.return_type), {}, dict(STRICT))
    if disk:
        compiled._cache = KernelCache(name)
    compiled.compile()
    return compiled


def _digest(expression: Expression, text: str) -> str:
    """What tells two expressions of one name apart: someone else's is not among the hashed sources."""
    code = expression.__code__
    what = (text, code.co_code, code.co_names, code.co_varnames, code.co_consts)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]
