"""The expression of AdaGrad with one number a tensor or a row, bound into its kernels."""

from __future__ import annotations

import functools
from string import Template
from typing import Any

from memopt_ref.rules.adagrad_forms import descended
from memopt_ref.rules.elementwise import returns

from . import passes
from .kernel import Kernel, text
from .passes import Pass, begun, call, gradient

#: The numbers of the step; the kernel of short rows has one more, ``share``, before them.
NUMBERS = ("decay", "learning_rate", "eps_root", "eps")


@returns("w", "s")
def own_row(w: Any, g: Any, s: Any, learning_rate: Any, eps_root: Any, eps: Any) -> tuple[Any, ...]:
    """The step of a vector, whose entries are rows of their own."""
    s = s + g * g
    w, _, _ = descended(w, g, s, learning_rate, eps_root, eps)
    return w, s


@functools.lru_cache(maxsize=256)
def squares(l2: bool, weight: Any, gradient_: Any, block: int, vec: int) -> Kernel:
    """Leaves of the squares of g, or of what the decay makes of it."""
    arrays = ("g", "w") if l2 else ("g",)
    todo = Pass("row_wise_squares", arrays, (*gradient(l2), "const Real q = x * x;"), ("decay",))
    return passes.one(todo, weight, gradient_, block, vec)


@functools.lru_cache(maxsize=256)
def step(decay: str, by_row: bool, weight: Any, gradient_: Any, block: int, vec: int) -> Kernel:
    """The step, s being an array of one number, or of one a row."""
    body = (*gradient(decay == "l2"), *_descent(decay), "narrow_into(w_one, w);")
    todo = Pass("row_wise_step", ("g", "w"), body, NUMBERS, ("w",), found=("s",))
    if by_row:
        todo = todo._replace(arrays=("g", "w", "s"), by_row=("s",), found=())
    return passes.one(todo, weight, gradient_, block, vec)


@functools.lru_cache(maxsize=256)
def rows(decay: str, listed: bool, weight: Any, gradient_: Any, block: int, vec: int) -> Kernel:
    """Sums and step of rows of at most a leaf: ``row_wise_rows.cu``."""
    numbers = "".join(f", const Real {x}_" for x in ("share", *NUMBERS))
    l2 = decay == "l2"
    entries = [
        "template <int N>",
        "__device__ __forceinline__ void square(const Gradient *__restrict__ g_from, const Weight *w_from, "
        f"Real *x_to, Real *lanes{numbers})",
        "{",
        "    const Pack<Gradient, N> g_some = get<N>(g_from);",
        *(["    const Pack<Weight, N> w_some = get<N>(w_from);"] if l2 else []),
        "#pragma unroll",
        "    for (int n = 0; n < N; ++n) {",
        "        const Real g_read = widened(g_some.at[n]);",
        *(["        const Real w_ = widened(w_some.at[n]);"] if l2 else []),
        *(f"        {line}" for line in gradient(l2)),
        "        x_to[n] = x;",
        "        lanes[n] = lanes[n] + x * x;",
        "    }",
        "}",
        "",
        "template <int N>",
        "__device__ __forceinline__ void",
        f"descend(Weight *w_from, const Real *x_from, const Real s_{numbers})",
        "{",
        "    Pack<Weight, N> w_some = get<N>(w_from);",
        "#pragma unroll",
        "    for (int n = 0; n < N; ++n) {",
        "        const Real w_ = widened(w_some.at[n]);",
        "        const Real x = x_from[n];",
        *(f"        {line}" for line in _descent(decay)),
        "        narrow_into(w_some.at[n], w);",
        "    }",
        "    put<N>(w_from, w_some);",
        "}",
    ]
    source = Template(text("row_wise_rows.cu")).substitute(
        listed="const long long *__restrict__ listed, " if listed else "",
        own="listed[row]" if listed else "row",
        numbers=numbers,
        passed="".join(f", {x}_" for x in ("share", *NUMBERS)),
    )
    parts = "\n".join(entries), source
    return passes.whole("row_wise_rows", parts, weight, gradient_, BLOCK=block, VEC=vec)


@functools.cache
def settle(native: Any, block: int) -> Kernel:
    """What brings the numbers of rows up to date: ``row_wise_settle.cu``."""
    return passes.whole("row_wise_settle", (text("row_wise_settle.cu"),), native, native, BLOCK=block)


def _descent(decay: str) -> list[str]:
    return [*begun(decay), *call(descended, ("w",), w="begun", g="x")]
