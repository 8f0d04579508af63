"""Adafactor's expressions, bound into its passes.

A pass is text for one entry: from the arrays that are read, by their names with ``_``, it computes what is
written, and perhaps ``q``, whose leaves are summed. Text of the rule comes by :func:`~.trace.trace`; what is
between the passes is in the other files ``adafactor_*.cu``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from string import Template
from typing import Any

from memopt_ref.rules import adafactor as rule
from memopt_ref.rules.elementwise import parameters

from .kernel import Kernel, defined, text, types_of
from .trace import trace

#: Threads of a block of the kernels between the passes.
BLOCK = 256
#: What the step kernel finds in the array ``numbers``.
FOUND = ("keep", "alpha", "shrink")
_TYPES = {"w": "Weight", "g": "Gradient"}


def arrays(place: str, w: bool, m: bool = False) -> list[str]:
    """The arrays of a pass in the order in which its kernel takes them.

    ``place`` says where r and c come from: ``"rows"`` (a number a row, a number a column of each matrix),
    ``"entries"`` (arrays like the parameter) or ``"own"`` (there are none, V has the parameter's shape).
    """
    own = ["v"] if place == "own" else ["r", "c"]
    return ["g", *(["w"] if w else []), *own, *(["m"] if m else [])]


@functools.lru_cache(maxsize=256)
def size(decayed: bool, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """Leaves of the squares of w, or of ``keep`` w."""
    body = ["const Real x = w_ * keep_;" if decayed else "const Real x = w_;", "const Real q = x * x;"]
    return _pass("size", ["w"], [], body, ["keep"], "", (weight, gradient, block, vec))


@functools.lru_cache(maxsize=256)
def update(place: str, clamped: bool, l2: bool, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """Leaves of the squares of u; V of a tensor that is not factored is brought up to date here."""
    numbers = ["decay", "one", "most", "beta2", "fresh2", "eps1"]
    fresh = []
    if place == "own":
        fresh = ["const Real square = g_ * g_;", *_call(rule.averaged, v="v_", square="square + eps1_")]
        fresh = [*fresh, "v_one = v;", *_update(place, clamped, "v")]
    body = [*(fresh or _update(place, clamped)), "const Real q = u * u;"]
    written = ["v"] if place == "own" else []
    options = weight, gradient, block, vec
    return _pass("update", arrays(place, l2), written, [*_decay(l2), *body], numbers, place, options)


@functools.lru_cache(maxsize=256)
def step(
    place: str, clamped: bool, l2: bool, mean: str, weight: Any, gradient: Any, block: int, vec: int
) -> Kernel:
    """The step, ``mean`` being the momentum's: ``"none"``, ``"step"`` or ``"update"``."""
    numbers = ["decay", "one", "most", "beta1", "fresh1"]
    m = mean != "none"
    expression = {
        "none": rule.stepped,
        "step": rule.stepped_by_mean_of_steps,
        "update": rule.stepped_by_mean_of_updates,
    }[mean]
    end = [
        *_call(expression, ("w", "m") if m else ("w",), u="u"),
        "narrow_into(w_one, w);",
        *(["m_one = m;"] if m else []),
    ]
    body = [*_decay(l2), *_update(place, clamped), *end]
    written = ["w", *(["m"] if m else [])]
    options = weight, gradient, block, vec
    return _pass("step", arrays(place, True, m), written, body, numbers, place, options, found=True)


@functools.lru_cache(maxsize=256)
def squares(l2: bool, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """Sums of g^2 + eps1 along rows and down columns."""
    names = ["g", *(["w"] if l2 else [])]
    body = [*_decay(l2), "const Real square = g_ * g_;", "const Real q = square + eps1_;"]
    entry = _entry(names, [], body, ["decay", "eps1"], "square", ("lanes", "run"), place="")
    source = Template(text("adafactor_squares.cu")).substitute(
        pointers=_pointers(names, []),
        numbers=", const Real decay_, const Real eps1_",
        passed=", ".join([*(f"{x}_all" for x in names), "decay_", "eps1_"]),
    )
    whole = "\n".join((text("common.cuh"), text("adafactor_leaf.cuh"), entry, source))
    sizes = {"BLOCK": block, "VEC": vec, "CLAMPED": 0}
    return Kernel("adafactor_squares", whole, defined(**types_of(weight, gradient), **sizes))


@functools.cache
def small(name: str, native: Any, clamped: bool = False) -> Kernel:
    """Between the passes: ``leaves``, ``runs``, ``averages``, ``relative`` or ``numbers``."""
    traced = trace(rule.averaged, ("v",))
    takes = ", ".join(f"const Real {x}_" for x in parameters(rule.averaged))
    averaged = [
        f"__device__ __forceinline__ Real averaged({takes})",
        "{",
        *(f"    {line}" for line in traced.statements),
        f"    return {traced.results['v']};",
        "}",
    ]
    parts = text("common.cuh"), text("adafactor_leaf.cuh"), "\n".join(averaged), text(f"adafactor_{name}.cu")
    sizes = {"BLOCK": BLOCK, "CLAMPED": int(clamped)}
    return Kernel(f"adafactor_{name}", "\n".join(parts), defined(**types_of(native, native), **sizes))


def _decay(l2: bool) -> list[str]:
    return (
        ["const Real shrinks = decay_ * w_;", "const Real g_ = g_read + shrinks;"]
        if l2
        else ["const Real g_ = g_read;"]
    )


def _update(place: str, clamped: bool, v: str = "v_") -> list[str]:
    if place == "own":
        return _call(rule.clamped_own_update if clamped else rule.own_update, v=v)
    return _call(rule.clamped_update if clamped else rule.factored_update)


def _call(expression: Any, wanted: tuple[str, ...] = (), **given: str) -> list[str]:
    """An expression's statements in a scope of their own; its results get their names."""
    traced = trace(expression, wanted or expression.returns)
    results = {name: traced.results[name] for name in wanted or expression.returns}
    inside = " ".join(
        [
            *(f"const Real {name}_ = {value};" for name, value in given.items() if value != f"{name}_"),
            *traced.statements,
            *(f"{name}_to = {held};" for name, held in results.items()),
        ]
    )
    # A scope, since every expression's statements have the same names.
    before = " ".join(f"Real {name}_to;" for name in results)
    after = " ".join(f"const Real {name} = {name}_to;" for name in results)
    return [before, f"{{ {inside} }}", after]


def _pointers(names: Sequence[str], written: Sequence[str]) -> str:
    return ", ".join(
        f"{_TYPES.get(x, 'Real')} *{x}_all"
        if x in written
        else f"const {_TYPES.get(x, 'Real')} *__restrict__ {x}_all"
        for x in names
    )


def _entry(
    names: Sequence[str],
    written: Sequence[str],
    body: Sequence[str],
    numbers: Sequence[str],
    name: str,
    sums: Sequence[str],
    place: str,
) -> str:
    """The device function of N neighbours."""
    by_entry = [x for x in names if not (place == "rows" and x == "r")]
    at = {x: "beside" if place == "rows" and x == "c" else "at" for x in by_entry}
    held = [
        *(["const Real r_"] if place == "rows" and "r" in names else []),
        *(f"const Real {x}_" for x in numbers),
    ]
    where = ["const long long at", *(["const long long beside"] if name == "pass" else [])]
    lines = [
        "template <int N>",
        "__device__ __forceinline__ void",
        f"{name}({', '.join([_pointers(by_entry, written), *held, *where, *(f'Real *{s}' for s in sums)])})",
        "{",
        *(f"    Pack<{_TYPES.get(x, 'Real')}, N> {x}_some = get<N>({x}_all + {at[x]});" for x in by_entry),
        "#pragma unroll",
        "    for (int n = 0; n < N; ++n) {",
        *(f"        {_TYPES.get(x, 'Real')} &{x}_one = {x}_some.at[n];" for x in written),
        *(f"        const Real {_read(x)};" for x in by_entry),
        *(f"        {line}" for line in body),
        *(f"        {s}[n] = {s}[n] + q;" for s in sums if any(" q = " in line for line in body)),
        "    }",
        *(f"    put<N>({x}_all + at, {x}_some);" for x in written),
        "}",
    ]
    return "\n".join(lines)


def _read(x: str) -> str:
    """One entry as a number of the compute type; the gradient is not yet what the decay makes of it."""
    return f"{x}_{'read' if x == 'g' else ''} = {'widened' if x in _TYPES else ''}({x}_some.at[n])"


def _pass(
    what: str,
    names: list[str],
    written: list[str],
    body: list[str],
    numbers: list[str],
    place: str,
    options: tuple[Any, Any, int, int],
    found: bool = False,
) -> Kernel:
    """A kernel by ``adafactor_pass.cu``; ``found`` numbers come from an array, the others as arguments."""
    weight, gradient, block, vec = options
    summed = not found
    by_row = place == "rows" and "r" in names
    known = [*(FOUND if found else ()), *numbers]
    entry = _entry(names, written, body, known, "pass", ("lanes",), place)
    values = [
        *(["const Real r_ = r_all[row];"] if by_row else []),
        *(f"const Real {x}_ = numbers[{k}];" for k, x in enumerate(FOUND) if found),
    ]
    handed = [*(f"{x}_all" for x in names if not (by_row and x == "r")), *(["r_"] if by_row else [])]
    source = Template(text("adafactor_pass.cu")).substitute(
        name=f"adafactor_{what}",
        pointers=_pointers(names, written),
        targets=", Real *sums" if summed else ", const Real *__restrict__ numbers",
        numbers="".join(f", const Real {x}_" for x in numbers),
        values="\n    ".join(values),
        passed=", ".join([*handed, *(f"{x}_" for x in known)]),
        end="\n    ".join(
            ["const Real sum = joined(lanes);", "if (threadIdx.x % 32 == 0)", "    sums[warp] = sum;"]
            if summed
            else []
        ),
    )
    whole = "\n".join((text("common.cuh"), text("adafactor_leaf.cuh"), entry, source))
    sizes = {"BLOCK": block, "VEC": vec, "CLAMPED": 0}
    return Kernel(f"adafactor_{what}", whole, defined(**types_of(weight, gradient), **sizes))
