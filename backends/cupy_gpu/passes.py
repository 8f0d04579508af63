"""Passes over a tensor as rows of neighbours, a leaf a warp: sums in the reference's order, and steps.

A pass is text for one entry: from the arrays that are read, by their names with ``_``, it computes what is
written, by names with ``_one``, and perhaps ``q``, which is summed. A rule's own lines come by :func:`call`.

    pass.cu         a leaf of a row a warp; sums, if there is a q, are those of the leaves
    both_sums.cu    64 rows of a leaf's columns a warp: sums along rows and down columns in one reading
    fold_leaves.cu  rows of sums, 512 to one
    fold_runs.cu    columns of sums, 64 to one
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from string import Template
from typing import Any, NamedTuple

import numpy as np

from .arrays import aligned
from .kernel import Kernel, defined, text, types_of
from .trace import trace

_STORED = {"w": "Weight", "g": "Gradient"}
#: What is not a number of the compute type: the magnitude and the place of the last entry that Top-K keeps.
_TYPES = {**_STORED, "least": "Image", "last": "long long"}


class Pass(NamedTuple):
    """What is done to each entry.

    ``arrays`` in the order of the kernel's arguments; of these ``written`` are stored, of which ``fresh`` are
    not read, ``by_row`` have a number a row and ``by_column`` a number a column of each matrix. ``numbers``
    are arguments; those ``found`` come first, from an array of numbers on the device. ``before``: the file of
    a text that the body calls.
    """

    name: str
    arrays: tuple[str, ...]
    body: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    by_row: tuple[str, ...] = ()
    by_column: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    before: str = ""

    @property
    def summed(self) -> bool:
        """Whether the leaves of ``q`` are summed."""
        return any(" q = " in line for line in self.body)

    def types(self, weight: Any, gradient: Any) -> tuple[Any, Any]:
        """The dtypes that the kernel depends on: of arrays that it does not take, the compute dtype."""
        native = np.dtype(np.float64 if weight == np.float64 else np.float32)
        return weight if "w" in self.arrays else native, gradient if "g" in self.arrays else native

    @property
    def by_entry(self) -> list[str]:
        """The arrays that a thread reads packs of."""
        return [x for x in self.arrays if x not in self.by_row]


def call(expression: Any, wanted: tuple[str, ...] = (), **given: str) -> list[str]:
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


def gradient(l2: bool) -> list[str]:
    """Statements for ``x``, the gradient of an entry as its rule sees it; with L2 decay ``w`` is read too."""
    if not l2:
        return ["const Real x = g_read;"]
    return ["const Real shrinks = decay_ * w_;", "const Real x = g_read + shrinks;"]


def begun(decay: str) -> list[str]:
    """A statement for ``begun``, the entry that its rule steps; ``decay`` as in :mod:`.bind`."""
    return ["const Real begun = w_ * decay_;" if decay == "factor" else "const Real begun = w_;"]


def pack(columns: int, arrays: Sequence[Any]) -> int:
    """Neighbours that are read at once, four if every array has them at every row's begin."""
    return 4 if columns % 4 == 0 and aligned(arrays, 4) == 4 else 1


@functools.lru_cache(maxsize=256)
def one(todo: Pass, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """A pass of its own: ``pass.cu``."""
    values = [
        *(f"const {_type(x)} {x}_ = {x}_all[row];" for x in todo.by_row),
        *(f"const Real {x}_ = numbers[{k}];" for k, x in enumerate(todo.found)),
    ]
    end = ["const Real sum = joined(lanes);", "if (threadIdx.x % 32 == 0)", "    sums[warp] = sum;"]
    known = [*todo.found, *todo.numbers]
    handed = [*(f"{x}_all" for x in todo.by_entry), *(f"{x}_" for x in (*todo.by_row, *known))]
    source = Template(text("pass.cu")).substitute(
        name=todo.name,
        pointers=pointers(todo.arrays, todo.written),
        targets=(", Real *sums" if todo.summed else "")
        + (", const Real *__restrict__ numbers" if todo.found else ""),
        numbers=_arguments(todo.numbers),
        values="\n    ".join(values),
        passed=", ".join(handed),
        end="\n    ".join(end if todo.summed else []),
    )
    before = [text(todo.before)] if todo.before else []
    parts = *before, _entry(todo, ("lanes",)), source
    return whole(todo.name, parts, *todo.types(weight, gradient), BLOCK=block, VEC=vec)


@functools.lru_cache(maxsize=256)
def both(todo: Pass, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """Sums of ``q`` along rows and down columns: ``both_sums.cu``."""
    source = Template(text("both_sums.cu")).substitute(
        name=todo.name,
        pointers=pointers(todo.arrays, todo.written),
        numbers=_arguments(todo.numbers),
        passed=", ".join([*(f"{x}_all" for x in todo.arrays), *(f"{x}_" for x in todo.numbers)]),
    )
    parts = _entry(todo, ("lanes", "run"), one_place=True), source
    return whole(todo.name, parts, *todo.types(weight, gradient), BLOCK=block, VEC=vec)


@functools.cache
def fold(name: str, native: Any, block: int) -> Kernel:
    """``fold_leaves`` or ``fold_runs``."""
    return whole(name, (text(f"{name}.cu"),), native, native, BLOCK=block)


def whole(name: str, parts: Sequence[str], weight: Any, gradient: Any, **sizes: int) -> Kernel:
    """The kernel of a text that leaves are known to."""
    source = "\n".join((text("common.cuh"), text("leaf.cuh"), *parts))
    return Kernel(name, source, defined(**types_of(weight, gradient), **sizes))


def pointers(names: Sequence[str], written: Sequence[str]) -> str:
    """The arrays as arguments of a function."""
    return ", ".join(
        f"{_type(x)} *{x}_all" if x in written else f"const {_type(x)} *__restrict__ {x}_all" for x in names
    )


def _type(x: str) -> str:
    return _TYPES.get(x, "Real")


def _arguments(numbers: Sequence[str]) -> str:
    return "".join(f", const Real {x}_" for x in numbers)


def _entry(todo: Pass, sums: Sequence[str], one_place: bool = False) -> str:
    """The device function of N neighbours."""
    at = {x: "beside" if x in todo.by_column else "at" for x in todo.by_entry}
    held = [f"const {_type(x)} {x}_" for x in (*todo.by_row, *todo.found, *todo.numbers)]
    where = ["const long long at", *([] if one_place else ["const long long beside"])]
    taken = [pointers(todo.by_entry, todo.written), *held, *where, *(f"Real *{s}" for s in sums)]
    begun = {x: "" if x in todo.fresh else f" = get<N>({x}_all + {at[x]})" for x in todo.by_entry}
    lines = [
        "template <int N>",
        "__device__ __forceinline__ void",
        f"pass({', '.join(taken)})",
        "{",
        *(f"    Pack<{_type(x)}, N> {x}_some{value};" for x, value in begun.items()),
        "#pragma unroll",
        "    for (int n = 0; n < N; ++n) {",
        *(f"        {_type(x)} &{x}_one = {x}_some.at[n];" for x in todo.written),
        *(f"        const Real {_read(x)};" for x in todo.by_entry if x not in todo.fresh),
        *(f"        {line}" for line in todo.body),
        *(f"        {s}[n] = {s}[n] + q;" for s in sums if todo.summed),
        "    }",
        *(f"    put<N>({x}_all + at, {x}_some);" for x in todo.written),
        "}",
    ]
    return "\n".join(lines)


def _read(x: str) -> str:
    """One entry as a number of the compute type; the gradient is not yet what the decay makes of it."""
    return f"{x}_{'read' if x == 'g' else ''} = {'widened' if x in _STORED else ''}({x}_some.at[n])"
