"""A rule's one expression, bound into the kernels that step an array.

The text of a kernel is ``common.cuh``, then the rule as a function of one entry and of a pack of neighbours,
then one of three templates: ``packed.cu`` for contiguous arrays, ``strided.cu`` for any others and for rows,
``table.cu`` for many tensors at once. An array ``m`` is called ``m_all`` whole, ``m_some`` where it is a
pack, ``m_one`` where it is one entry, and ``m_`` where this is a number of the compute type:

    template <int N> __device__ ... void step_pack(Weight *w_all, const Gradient *g_all, Real *m_all, ...)
    {
        Pack<Weight, N> w_some = get<N>(w_all + from);  ...
        for (int k = 0; k < N; ++k)
            step_entry(w_some.at[k], g_some.at[k], m_some.at[k], ...);
        put<N>(w_all + from, w_some);  ...
    }
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from string import Template
from typing import Any, NamedTuple

from memopt_ref.rules.elementwise import Expression, parameters

from .kernel import Kernel, defined, text, types_of
from .trace import trace

#: What the decay does to an entry before the expression sees it, by the kinds of ``numba_cpu.bind.DECAY``.
DECAY = {
    "none": ("const Real w_ = widened(w_one);", "const Real g_ = widened(g_one);"),
    "l2": (
        "const Real w_ = widened(w_one);",
        "const Real shrinks = decay * w_;",
        "const Real g_ = widened(g_one) + shrinks;",
    ),
    "factor": ("const Real w_ = widened(w_one) * decay;", "const Real g_ = widened(g_one);"),
}


class Shape(NamedTuple):
    """How a kernel is launched: all that a tuner may change. It never changes a bit.

    ``block`` threads, packs of at most ``vec`` neighbours, and at most ``per_processor`` blocks for each of
    the device's processors, whose threads then take several packs (0: a thread takes one).
    """

    block: int = 256
    vec: int = 4
    per_processor: int = 0


class Entry(NamedTuple):
    """The rule as text, and what its kernels take: arrays (``w``, ``g``, slots) and numbers, in order."""

    text: str
    arrays: tuple[str, ...]
    numbers: tuple[str, ...]


def _type(array: str) -> str:
    return {"w": "Weight", "g": "Gradient"}.get(array, "Real")


def pointers(arrays: Sequence[str]) -> str:
    """The arrays as arguments of a function; only the gradient is never written."""
    return ", ".join(
        f"const {_type(x)} *__restrict__ {x}_all" if x == "g" else f"{_type(x)} *{x}_all" for x in arrays
    )


def names_of(numbers: Sequence[str]) -> list[str]:
    """The numbers' names in the text; the decay is no argument of the expression and has no ``_``."""
    return [name if name == "decay" else f"{name}_" for name in numbers]


def arguments(numbers: Sequence[str]) -> str:
    """The numbers as further arguments of a function."""
    return "".join(f", const Real {name}" for name in names_of(numbers))


def passed(numbers: Sequence[str]) -> str:
    """The numbers as further arguments of a call."""
    return "".join(f", {name}" for name in names_of(numbers))


@functools.lru_cache(maxsize=256)
def entry(expression: Expression, slots: tuple[str, ...], decay: str) -> Entry:
    """The rule as functions of one entry and of a pack.

    Raises
    ------
    UntraceableError
        The expression has no text with its bits.
    """
    arrays = ("w", "g", *slots)
    numbers = tuple(name for name in parameters(expression) if name not in arrays)
    numbers += () if decay == "none" else ("decay",)
    written = tuple(x for x in arrays if x != "g")
    traced = trace(expression, written)
    one = ", ".join(f"const {_type(x)} {x}_one" if x == "g" else f"{_type(x)} &{x}_one" for x in arrays)
    body = [
        *DECAY[decay],
        *(f"const Real {x}_ = {x}_one;" for x in slots),
        *traced.statements,
        f"narrow_into(w_one, {traced.results['w']});",
        *(f"{x}_one = {traced.results[x]};" for x in slots),
    ]
    some = ", ".join(f"{x}_some.at[k]" for x in arrays)
    lines = [
        f"__device__ __forceinline__ void step_entry({one}{arguments(numbers)})",
        "{",
        *(f"    {line}" for line in body),
        "}",
        "",
        "template <int N>",
        "__device__ __forceinline__ void",
        f"step_pack({pointers(arrays)}, const long long from{arguments(numbers)})",
        "{",
        *(f"    Pack<{_type(x)}, N> {x}_some = get<N>({x}_all + from);" for x in arrays),
        "#pragma unroll",
        "    for (int k = 0; k < N; ++k)",
        f"        step_entry({some}{passed(numbers)});",
        *(f"    put<N>({x}_all + from, {x}_some);" for x in written),
        "}",
    ]
    return Entry("\n".join(lines) + "\n", arrays, numbers)


@functools.lru_cache(maxsize=1024)
def bind(
    form: str,
    expression: Expression,
    slots: tuple[str, ...],
    decay: str,
    weight: Any,
    gradient: Any,
    shape: Shape,
    listed: bool = False,
) -> Kernel:
    """The kernel of an expression.

    Parameters
    ----------
    form : {"packed", "strided", "table"}
        The template.
    expression : function
        Of ``w``, ``g``, slots and coefficients, marked with ``returns``.
    slots : tuple of str
        The slots that it takes, in the order of the kernel's arguments.
    decay : {"none", "l2", "factor"}
        The number ``decay`` comes last.
    weight, gradient : dtype
        As stored; slots are of the compute dtype.
    shape : Shape
    listed : bool
        The rows of all arrays but the gradient are looked up in a list (``"strided"``).
    """
    parts = entry(expression, slots, decay)
    arrays, numbers = parts.arrays, parts.numbers
    known = {
        "name": f"{expression.__name__}_{form}",
        "pointers": pointers(arrays),
        "arrays": ", ".join(f"{x}_all" for x in arrays),
        "numbers": arguments(numbers),
        "passed": passed(numbers),
    }
    if form == "strided":
        base = {x: f"layout[leading + {k} * (leading + 1) + axis]" for k, x in enumerate(arrays)}
        known["advance"] = "\n        ".join(
            f"{x}_all += {'place' if x == 'g' else 'own'} * {base[x]};" for x in arrays
        )
        known["widths"] = "\n    ".join(
            f"const long long {x}_apart = layout[leading + {k} * (leading + 1) + leading];"
            for k, x in enumerate(arrays)
        )
        known["entries"] = ", ".join(f"{x}_all[column * {x}_apart]" for x in arrays)
        known["listed"] = "const long long *__restrict__ listed, " if listed else ""
        known["own"] = "axis == 0 ? listed[place] : place" if listed else "place"
    elif form == "table":
        known["row"] = str(len(arrays) + 2)
        known["addresses"] = "\n    ".join(
            f"{'const ' if x == 'g' else ''}{_type(x)} *{x}_all = "
            f"reinterpret_cast<{'const ' if x == 'g' else ''}{_type(x)} *>(row[{k}]);"
            for k, x in enumerate(arrays)
        )
        known["coefficients"] = "\n    ".join(
            f"const Real {name} = numbers[tensor * {len(numbers)} + {k}];"
            for k, name in enumerate(names_of(numbers))
        )
    source = "\n".join((text("common.cuh"), parts.text, Template(text(f"{form}.cu")).substitute(known)))
    sizes = {"BLOCK": shape.block} | ({} if form == "strided" else {"VEC": shape.vec})
    return Kernel(known["name"], source, defined(**types_of(weight, gradient), **sizes))
