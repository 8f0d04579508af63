"""SM3-II's expressions, bound into its kernels."""

from __future__ import annotations

import functools
from string import Template
from typing import Any

from memopt_ref.parts.scalar import maximum
from memopt_ref.rules.elementwise import Expression, returns
from memopt_ref.rules.sm3 import accumulated, descended, descended_along_mean

from .bind import arguments, entry, passed, pointers
from .kernel import Kernel, defined, text, types_of


@returns("w", "least")
def sm3(
    w: Any, g: Any, least: Any, learning_rate: Any, kept: Any, fresh: Any, eps_root: Any, eps: Any
) -> tuple[Any, ...]:
    """A step from the least of an entry's accumulators, and what takes its place: nu'."""
    (nu,) = accumulated(least, g, kept, fresh)
    w, _, _ = descended(w, g, nu, learning_rate, eps_root, eps)
    return w, nu


@returns("w", "m", "least")
def sm3_mean(
    w: Any,
    g: Any,
    m: Any,
    least: Any,
    learning_rate: Any,
    momentum: Any,
    share: Any,
    kept: Any,
    fresh: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """The same with momentum."""
    (nu,) = accumulated(least, g, kept, fresh)
    w, m, _, _ = descended_along_mean(w, g, nu, m, learning_rate, momentum, share, eps_root, eps)
    return w, m, nu


@returns("w", "least")
def sm3_ratchet(
    w: Any, g: Any, least: Any, learning_rate: Any, kept: Any, fresh: Any, eps_root: Any, eps: Any
) -> tuple[Any, ...]:
    """For a vector, whose accumulators are its entries' own: they never fall."""
    stepped, nu = sm3(w, g, least, learning_rate, kept, fresh, eps_root, eps)
    return stepped, maximum(least, nu)


@returns("w", "m", "least")
def sm3_mean_ratchet(
    w: Any,
    g: Any,
    m: Any,
    least: Any,
    learning_rate: Any,
    momentum: Any,
    share: Any,
    kept: Any,
    fresh: Any,
    eps_root: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """The same with momentum."""
    stepped, m, nu = sm3_mean(w, g, m, least, learning_rate, momentum, share, kept, fresh, eps_root, eps)
    return stepped, m, maximum(least, nu)


def expression(mean: bool, ratchet: bool = False) -> Expression:
    """The expression with or without momentum, for a tensor or, where accumulators never fall, a vector."""
    if ratchet:
        return sm3_mean_ratchet if mean else sm3_ratchet
    return sm3_mean if mean else sm3


@functools.lru_cache(maxsize=256)
def matrix(mean: bool, decay: str, weight: Any, gradient: Any, block: int, vec: int, listed: bool) -> Kernel:
    """The pass over a matrix: ``sm3.cu``."""
    slots = ("m", "least") if mean else ("least",)
    parts = entry(expression(mean), slots, decay)
    arrays = parts.arrays[:-1]
    types = {"w": "Weight", "g": "Gradient"}
    get = [
        f"Pack<{types.get(x, 'Real')}, VEC> {x}_some = "
        f"get<VEC>({x}_all + {'row' if x == 'g' else 'own'} * {x}_pitch + column);"
        for x in arrays
    ]
    put = [f"put<VEC>({x}_all + own * {x}_pitch + column, {x}_some);" for x in arrays if x != "g"]
    source = Template(text("sm3.cu")).substitute(
        name="sm3",
        pointers=pointers(arrays),
        pitches=", ".join(f"const long long {x}_pitch" for x in arrays),
        numbers=arguments(parts.numbers),
        passed=passed(parts.numbers),
        entries=", ".join(f"{x}_some.at[n]" for x in arrays),
        get="\n            ".join(get),
        put="\n            ".join(put),
        **_rows(listed, "row"),
    )
    sizes = {"BLOCK": block, "VEC": vec}
    whole = "\n".join((text("common.cuh"), parts.text, source))
    return Kernel("sm3", whole, defined(**types_of(weight, gradient), **sizes))


@functools.cache
def small(name: str, native: Any, block: int, listed: bool = False) -> Kernel:
    """One of the kernels around the pass: ``sm3_least``, ``sm3_finish`` or ``sm3_fold``."""
    source = Template(text(f"{name}.cu")).safe_substitute(_rows(listed, "thread"))
    whole = text("common.cuh") + "\n" + source
    return Kernel(name, whole, defined(**types_of(native, native), BLOCK=block))


def _rows(listed: bool, row: str) -> dict[str, str]:
    """How a row of the gradient is found in the other arrays."""
    if not listed:
        return {"listed": "", "own": row}
    return {"listed": "const long long *__restrict__ listed, ", "own": f"listed[{row}]"}
