"""The count-sketch rules' formulas, bound into their kernels."""

from __future__ import annotations

import functools
from string import Template
from typing import Any, NamedTuple

from memopt_ref.rules.count_sketch import ahead_of_momentum, along_adagrad, along_momentum
from memopt_ref.rules.count_sketch_adam import along_adam
from memopt_ref.rules.elementwise import Expression, returns
from memopt_ref.rules.sketch_state import mean_delta, momentum_delta

from .bind import arguments, entry, passed
from .engine import native_dtype
from .kernel import Kernel, defined, text, types_of
from .trace import trace

#: What a text does not look at is defined alike, so that one kernel serves all.
PLAIN = {
    "DEPTH": 1,
    "HOW": "MINIMUM",
    "SQUARES": 0,
    "LAZY": 0,
    "BY_ROW": 0,
    "READY": 0,
    "CONSERVATIVE": 0,
    "SEQUENTIAL": 0,
    "SCAN": 0,
    "L2": 0,
}
USED = {
    "active": ("L2",),
    "locate": ("DEPTH",),
    "increments": ("DEPTH", "HOW", "SQUARES", "LAZY", "L2"),
    "ready": ("READY", "SCAN"),
    "scatter": ("SQUARES", "LAZY", "BY_ROW", "SCAN", "L2"),
    "walk": ("DEPTH", "HOW", "SQUARES", "LAZY", "BY_ROW", "CONSERVATIVE", "SEQUENTIAL", "L2"),
}

#: How QUERY combines the rows of a sketch, as the texts call it.
COMBINATIONS = {"median": "MEDIAN", "min": "MINIMUM", "mean": "MEAN"}


@returns("x")
def by_momentum(old: Any, d: Any, factor: Any) -> tuple[Any, ...]:
    """The increment of a heavy ball."""
    return (momentum_delta(old, d, factor),)


@returns("x")
def by_mean(old: Any, d: Any, factor: Any) -> tuple[Any, ...]:
    """The increment of a moving average."""
    return (mean_delta(old, d, factor),)


@returns("w", "m")
def momentum(w: Any, g: Any, m: Any, learning_rate: Any) -> tuple[Any, ...]:
    """Along the estimate."""
    return along_momentum(w, m, learning_rate)[0], m


@returns("w", "m")
def nesterov(w: Any, g: Any, m: Any, learning_rate: Any, momentum: Any) -> tuple[Any, ...]:
    """Ahead of it."""
    return ahead_of_momentum(w, g, m, learning_rate, momentum)[0], m


@returns("w", "v")
def adagrad(w: Any, g: Any, v: Any, learning_rate: Any, eps: Any) -> tuple[Any, ...]:
    """By the root of the estimate."""
    return along_adagrad(w, g, v, learning_rate, eps)[0], v


@returns("w", "v")
def rmsprop(
    w: Any, g: Any, v: Any, learning_rate: Any, correction1: Any, correction2: Any, eps: Any
) -> tuple[Any, ...]:
    """Without a first moment the direction is the gradient."""
    return along_adam(w, g, v, learning_rate, correction1, correction2, eps)[0], v


@returns("w", "m", "v")
def adam(
    w: Any, g: Any, m: Any, v: Any, learning_rate: Any, correction1: Any, correction2: Any, eps: Any
) -> tuple[Any, ...]:
    """Both moments sketched."""
    return along_adam(w, m, v, learning_rate, correction1, correction2, eps)[0], m, v


@returns("w", "m", "v")
def adam_dense(
    w: Any,
    g: Any,
    m: Any,
    v: Any,
    learning_rate: Any,
    correction1: Any,
    correction2: Any,
    eps: Any,
    beta1: Any,
    fresh1: Any,
) -> tuple[Any, ...]:
    """The first moment is a slot."""
    m = beta1 * m + fresh1 * g
    return along_adam(w, m, v, learning_rate, correction1, correction2, eps)[0], m, v


class Form(NamedTuple):
    """What the texts of one moment depend on; see ``count_sketch*.cu``.

    ``delta`` is :func:`by_momentum`, :func:`by_mean`, or None where nothing decays lazily.
    """

    depth: int
    combine: str
    squares: bool
    delta: Expression | None
    by_row: bool
    conservative: bool
    sequential: bool

    @property
    def asks_first(self) -> bool:
        """Whether increments follow from QUERY's answers."""
        return self.delta is not None and not self.by_row

    @property
    def walks(self) -> bool:
        """Whether rows are taken one after another."""
        return self.conservative or self.sequential


class Table(NamedTuple):
    """How the weights' kernel knows a moment: ``"asked"`` of a sketch, ``"found"``, or a ``"slot"``."""

    name: str
    kind: str
    combine: str = "median"


@functools.lru_cache(maxsize=256)
def of_moment(
    name: str,
    form: Form,
    weight: Any,
    gradient: Any,
    block: int,
    vec: int,
    l2: bool,
    scan: bool = False,
) -> Kernel:
    """One of the kernels of a moment: ``active``, ``locate``, ``increments``, ``scatter`` or ``walk``.

    Parameters
    ----------
    form : Form
    weight, gradient : dtype
        As stored; tables are of the compute dtype.
    block, vec : int
        Threads of a block, entries of a pack.
    l2 : bool
        The weights are added to it.
    scan : bool
        The keys of the scatter are not sorted.
    """
    known = {
        "DEPTH": form.depth,
        "HOW": COMBINATIONS[form.combine],
        "SQUARES": int(form.squares),
        "LAZY": int(form.delta is not None),
        "BY_ROW": int(form.delta is not None and form.by_row),
        "READY": int(form.asks_first),
        "CONSERVATIVE": int(form.conservative),
        "SEQUENTIAL": int(form.sequential),
        "SCAN": int(scan),
        "L2": int(l2),
    }
    used = USED["ready" if name == "scatter" and form.asks_first else name]
    definitions = {key: known.get(key) if key in used else plain for key, plain in PLAIN.items()}
    types = types_of(weight, gradient) if "L2" in used else types_of(native := native_dtype(weight), native)
    lazily = _towards(form.delta if "LAZY" in used else None)
    name = f"count_sketch_{name}"
    source = "\n".join((text("common.cuh"), text("count_sketch.cuh"), lazily, text(f"{name}.cu")))
    return Kernel(name, source, defined(**types, BLOCK=block, VEC=vec, **definitions))


def _towards(delta: Expression | None) -> str:
    """The lazy increment as a function."""
    traced = trace(delta or by_mean, ("x",))
    lines = (
        "__device__ __forceinline__ Real towards(const Real old_, const Real d_, const Real factor_)",
        "{",
        *(f"    {line}" for line in traced.statements),
        f"    return {traced.results['x']};",
        "}",
    )
    return "\n".join(lines) + "\n"


@functools.lru_cache(maxsize=256)
def step(
    expression: Expression,
    moments: tuple[Table, ...],
    depth: int,
    decay: str,
    weight: Any,
    gradient: Any,
    block: int,
    vec: int,
) -> Kernel:
    """The kernel that steps the weights: ``count_sketch_step.cu``."""
    parts = entry(expression, tuple(x.name for x in moments), decay)
    given, opened, closed = [], [], []
    for x, kind, combine in moments:
        if kind == "slot":
            given.append(f"Real *{x}_all, const long long {x}_pitch")
            opened.append(f"Numbers {x}_some = get<VEC>({x}_all + own * {x}_pitch + column);")
            closed.append(f"put<VEC>({x}_all + own * {x}_pitch + column, {x}_some);")
            continue
        if kind == "found":
            given.append(f"const Real *__restrict__ {x}_found")
            answer = f"get<VEC>({x}_found + row * columns + column)"
        else:
            given.append(f"const Real *__restrict__ {x}_table, const Word *__restrict__ {x}_places")
            how = COMBINATIONS[combine]
            answer = f"estimate<{how}>({x}_table, {x}_places + row * DEPTH, column, columns)"
        opened.append(f"Numbers {x}_some = {f'floored({answer})' if x == 'v' else answer};")
    known = {
        "name": "count_sketch_step",
        "moments": "".join(f"{x}, " for x in given),
        "numbers": arguments(parts.numbers),
        "passed": passed(parts.numbers),
        "entries": ", ".join(f"{x}_some.at[k]" for x in parts.arrays),
        "open": "\n        ".join(opened),
        "close": "\n        ".join(closed),
    }
    own = Template(text("count_sketch_step.cu")).substitute(known)
    source = "\n".join((text("common.cuh"), parts.text, text("count_sketch.cuh"), own))
    sizes = {"BLOCK": block, "VEC": vec, "DEPTH": depth}
    return Kernel("count_sketch_step", source, defined(**types_of(weight, gradient), **sizes))


@functools.cache
def small(name: str, weight: Any, block: int) -> Kernel:
    """``scale`` or ``rest``: what is multiplied with a number."""
    name = f"count_sketch_{name}"
    source = text("common.cuh") + "\n" + text(f"{name}.cu")
    return Kernel(name, source, defined(**types_of(weight, weight), BLOCK=block))
