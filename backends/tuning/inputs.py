"""Arrays of a key's own: seeded numbers, laid out as the key says. The user's arrays are never touched."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.base import Rule

from .where import HOST, Where

#: Entries of the tensor on which a kernel is compared with the reference, before it is timed.
CHECKED = 2**17
#: A prime, so that the repeated numbers meet every lane and every bucket.
PERIOD = 65521
#: One entry in this many of the last gradient is singular.
RARE = 97
SINGULAR = (0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-39, -3e-39, 3e38, -3e38)


class Tensor(NamedTuple):
    """A parameter, gradients for it, and its state."""

    w: Any
    gradients: list[Any]
    state: dict[str, Any]


def smaller(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape alike, of at most ``CHECKED`` entries, and odd, so that every loop has a remainder.

    Examples
    --------
    >>> smaller((3, 96)), smaller((1536, 1536)), smaller((3 << 19,)), smaller((2, 2))
    ((3, 95), (192, 383), (98303,), (2, 2))
    """
    lengths = list(shape)
    while prod(lengths) > CHECKED:
        lengths[lengths.index(max(lengths))] //= 2
    if lengths and max(lengths) > 2:
        longest = lengths.index(max(lengths))
        lengths[longest] -= 1 - lengths[longest] % 2
    return tuple(lengths)


def make(
    rule: Rule, shape: tuple[int, ...], dtype: Any, layout: str, hard: bool, where: Where = HOST
) -> Tensor:
    """A tensor, always the same for the same arguments.

    Parameters
    ----------
    rule : Rule
        With numbers.
    shape, dtype
        The parameter's; gradients have them too.
    layout : {"c", "fortran", "strided"}
        Of parameter and gradients; the slots lie as the rule lays them.
    hard : bool
        Three gradients: two of numbers of many sizes, then one that holds NaN, infinities and denormals
        too. Otherwise one, of numbers with which a step can be repeated a thousand times.
    where : Where
        For the arrays, whose bits are the same everywhere.
    """
    rng = np.random.default_rng(0)
    w = _laid(_numbers(rng, shape, hard), dtype, layout, where)
    size, count = (1, 3) if hard else (1e-2, 1)
    gradients = [_numbers(rng, shape, hard) * np.float32(size) for _ in range(count)]
    if hard:
        last = gradients[-1].reshape(-1)
        last[::RARE] = np.resize(np.array(SINGULAR, np.float32), last[::RARE].shape)
    return Tensor(w, [_laid(g, dtype, layout, where) for g in gradients], where.begin(rule, w))


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], hard: bool) -> Any:
    period = rng.standard_normal(min(PERIOD, max(1, prod(shape))), dtype=np.float32)
    if hard:
        period *= np.float32(10) ** rng.integers(-4, 3, period.shape).astype(np.float32)
    return np.resize(period, shape)


def _laid(x: Any, dtype: Any, layout: str, where: Where) -> Any:
    with np.errstate(over="ignore"):
        x = where.put(x.astype(dtype))
    if layout == "fortran":
        return where.library.asfortranarray(x)
    if layout == "strided" and x.ndim:
        wide = where.library.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype)
        view = wide[::2] if x.ndim == 1 else wide[..., : x.shape[-1]]
        view[...] = x
        return view
    return x
