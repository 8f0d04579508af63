"""A rule's one expression, bound into the loop that steps a run of entries.

The loop is written out for each expression with the expression's own names, as a function of a module and no
closure, so that it is compiled once and found on disk ever after:

    def adam(table, start, stop, numbers):
        w, g, m, v = the arrays at the addresses table[0], table[1], ...
        learning_rate, beta1, ... = numbers[0], numbers[1], ... rounded once to the compute dtype
        for i in range(start, stop):
            out = expression(w[i], g[i], m[i], v[i], learning_rate, beta1, ...)
            w[i], m[i], v[i] = out[0], out[1], out[2]

Weight decay comes before it as ``Rule.decayed`` has it, and before that the gradient's scale. The arrays are
contiguous. Slots are numbers of the compute dtype; parameter and gradient may be of another kind, which is
converted in the loop. Where the arrays come from is the business of :mod:`.drive` and :mod:`.spread`.
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

from . import scalar  # and with it what expressions may call
from .cache import KernelCache
from .kinds import FLOAT32, FLOAT64, NAMES
from .memory import as_float32, as_float64, as_int64
from .options import STRICT
from .ways import WAYS, same

#: What the decay does to an entry before the expression sees it, by ``weight_decay_mode``.
DECAY = {
    "none": ("w[i]", "g[i]"),
    "l2": ("w[i]", "g[i] + decay * w[i]"),
    "factor": ("w[i] * decay", "g[i]"),
}
#: What happens to an entry of the gradient before that, as in ``memopt_ref.nonfinite.prepare`` and
#: ``memopt_ref.clipping.times``.
PREPARED = {
    "": ("g_in(g[i])",),
    "scaled": ("then_in(first_in(g[i]) * scale) * factor",),
    "zeroed": ("then_in(first_in(g[i]) * scale)", "choose(abs(g_i) < infinity, g_i, zero) * factor"),
}
KERNEL = signature(types.void, *[types.int64] * 4)


class Kernel(NamedTuple):
    """A compiled loop, and what it wants: slots and coefficients by their names, in order."""

    address: int
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    compiled: Any


class Form(NamedTuple):
    """What a loop does to an entry of the parameter and the gradient on their way in.

    Parameters
    ----------
    decay : {"none", "l2", "factor"}
        A key of ``DECAY``.
    prepared : {"", "scaled", "zeroed"}
        A key of ``PREPARED``.
    parameter, gradient : int, optional
        Kinds of the arrays; None is the kernel's own.
    flush : bool
        Slots below the smallest normal number become 0: other numbers than the reference's.
    ones : tuple of str
        Coefficients that are 1, as constants: the compiler drops what they do.
    """

    decay: str = "none"
    prepared: str = ""
    parameter: int | None = None
    gradient: int | None = None
    flush: bool = False
    ones: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers that follow the coefficients."""
        own = () if self.decay == "none" else ("decay",)
        return (*own, "scale", "factor") if self.prepared else own


def loop_text(expression: Expression, slots: tuple[str, ...], form: Form | str) -> str:
    """The loop's source.

    Parameters
    ----------
    expression : function
        Of ``w``, ``g``, slots and coefficients, marked with ``returns``.
    slots : tuple of str
        The slots that it takes, in the order of the table.
    form : Form, or the name of a decay
        Its numbers follow the coefficients.
    """
    form = Form(form) if isinstance(form, str) else form
    arrays = ("w", "g", *slots)
    names = [*(name for name in parameters(expression) if name not in arrays), *form.numbers]
    decayed = (text.replace("[i]", "_i") for text in DECAY[form.decay])
    entries = {name: f"{name}[i]" for name in slots} | dict(zip("wg", decayed, strict=True))
    call = ", ".join(entries.get(name, name) for name in parameters(expression))
    kept = "choose(abs({0}) < smallest, zero, {0})" if form.flush else "{0}"
    members = {name: k for k, name in enumerate(expression.returns)}  # type: ignore[attr-defined]
    lines = [
        "def loop(table, start, stop, numbers):",
        "    addresses, values = as_int64(table), as_float64(numbers)",
        "    w, g = w_pointer(addresses[0]), g_pointer(addresses[1])",
        *(f"    {name} = pointer(addresses[{k}])" for k, name in enumerate(slots, 2)),
        *(
            f"    {name} = number({1 if name in form.ones else f'values[{k}]'})"
            for k, name in enumerate(names)
            if name != "scale"
        ),
        *(f"    scale = wide(values[{k}])" for k, name in enumerate(names) if name == "scale"),
        "    for i in range(start, stop):",
        f"        w_i, g_i = w_in(w[i]), {PREPARED[form.prepared][0]}",
        *(f"        g_i = {text}" for text in PREPARED[form.prepared][1:]),
        f"        out = expression({call})",
        f"        w[i] = w_out(out[{members['w']}])",
        *(f"        {name}[i] = {kept.format(f'out[{members[name]}]')}" for name in slots),
    ]
    return "\n".join(lines) + "\n"


def bind(
    expression: Expression, slots: tuple[str, ...], form: Form | str, dtype: Any, disk: bool = True
) -> Kernel:
    """Compile the loop of an expression, or load it.

    Parameters
    ----------
    expression, slots, form
        As for :func:`loop_text`.
    dtype : dtype
        What the loop computes with: float32 or float64.
    disk : bool
        Whether to look there, and to keep it there.

    Raises
    ------
    numba.core.errors.NumbaError
        The expression does what only NumPy can.
    """
    form = Form(form) if isinstance(form, str) else form
    double = np.dtype(dtype) == np.float64
    own = FLOAT64 if double else FLOAT32
    number, pointer = (np.float64, as_float64) if double else (np.float32, as_float32)
    kinds = [own if kind is None else kind for kind in (form.parameter, form.gradient)]
    # A number is scaled in the wider of its kind and the kernel's, then rounded once to the kernel's.
    early = kinds[1] == FLOAT64 and not double
    (w_pointer, w_in, w_out), (g_pointer, g_in, _) = (_way(kind, own) for kind in kinds)
    namespace = {
        "__name__": __name__,
        "as_int64": as_int64,
        "as_float64": as_float64,
        "pointer": pointer,
        "number": number,
        "wide": np.float64 if early else number,
        "w_pointer": w_pointer,
        "w_in": w_in,
        "w_out": w_out,
        "g_pointer": g_pointer,
        "first_in": same if early else g_in,
        "then_in": g_in if early else same,
        "g_in": g_in,
        "choose": scalar.choose,
        "zero": number(0),
        "infinity": number(np.inf),
        "smallest": number(np.finfo(number).tiny),
        "expression": numba.njit(**STRICT)(expression),
    }
    text = loop_text(expression, slots, form)
    exec(compile(text, f"<loop of {expression.__name__}>", "exec"), namespace)  # noqa: S102
    marks = (form.prepared, "flush" if form.flush else "")
    words = (form.decay, *filter(None, marks), *(NAMES[k] for k in kinds if k != own))
    name = f"{expression.__name__}-{'-'.join(words)}-{np.dtype(dtype)}-{_digest(expression, text, *kinds)}"
    compiled = compiled_function(namespace["loop"], KERNEL, name, disk)
    arrays = ("w", "g", *slots)
    coefficients = tuple(name for name in parameters(expression) if name not in arrays)
    return Kernel(compiled.address, slots, coefficients, compiled)


def _way(kind: int, own: int) -> tuple[Any, Any, Any]:
    """How an array's numbers are read, brought to the kernel's kind, and back."""
    if kind == own:
        return (as_float64 if own == FLOAT64 else as_float32), same, same
    pointer, _, inwards, outwards = WAYS[kind, own]
    return pointer, inwards, outwards


def compiled_function(function: Any, kind: Any, name: str, disk: bool = True) -> Any:
    """A C function with an ``address``, compiled or found on disk under its name."""
    compiled: Any = CFunc(function, (kind.args, kind.return_type), {}, dict(STRICT))
    if disk:
        compiled._cache = KernelCache(name)
    compiled.compile()
    return compiled


def _digest(expression: Expression, text: str, *kinds: int) -> str:
    """What tells two expressions of one name apart: someone else's is not among the hashed sources."""
    code = expression.__code__
    what = (text, kinds, code.co_code, code.co_names, code.co_varnames, code.co_consts)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]
