r"""Where a bound is attacked: how numbers that a search may choose become a game for it.

A search knows nothing of bounds. It proposes T rows of numbers, an arena makes a game of them that meets a
bound's conditions, and the bound's own two ends say how bad it is: the regret of its rule, and the value at
level C, summed from the gradients alone. A statement that no loss sequence can touch has a reason instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import games
from .bounds import Bound
from .geometry import Array, Box, Everywhere, L2Ball, Simplex
from .losses import Quadratic
from .play import Game


@dataclass(frozen=True, eq=False)
class Arena:
    """What a round's numbers are, and the game that T rows of them make.

    Parameters
    ----------
    name : str
        For witnesses.
    shape : tuple of int
        Of the numbers of one round.
    game : function of numbers [T, *shape]
        Declared sizes are the arena's, not those of the numbers: rates are tuned to what is declared.
    limit : function of numbers [..., *shape]
        The nearest that are allowed; making them smaller keeps them allowed.
    separable : bool
        Whether N games are N coordinates of one tensor.
    exact : bool
        Whether its rules step in fractions or digits: eigendecompositions do not.
    """

    name: str
    shape: tuple[int, ...]
    game: Callable[[Array], Game]
    limit: Callable[[Array], Array]
    separable: bool = False
    exact: bool = True


def clipped(numbers: Array) -> Array:
    """Every number in [-1, 1]."""
    return np.clip(numbers, -1.0, 1.0)


def shortened(numbers: Array) -> Array:
    """Every row of norm at most 1."""
    return numbers / np.maximum(np.sqrt(np.sum(numbers**2, axis=-1, keepdims=True)), 1.0)


def _interval(g: Array) -> Game:
    return replace(games.sequence(g, name="interval"), G=1.0, G_inf=1.0)


def _disc(g: Array) -> Game:
    return replace(games.sequence(g, L2Ball(1.0, (2,)), "disc"), G=1.0 + 1e-15, G_inf=1.0)


def _table(g: Array) -> Game:
    return replace(games.sequence(g, name="table"), G=np.sqrt(g[0].size), G_inf=1.0)


#: Rows and columns of a matrix whose gradients are outer products.
OUTER = (2, 2)


def _outer(factors: Array) -> Game:
    left, right = factors[:, 0, :], factors[:, 1, :]
    g = left[:, :, None] * right[:, None, :]
    made = games.sequence(g, L2Ball(1.0, OUTER), "outer")
    return replace(made, G=1.0 + 1e-15, G_inf=1.0, rank=1)


def _line(g: Array) -> Game:
    made = games.sequence(g, Everywhere((1,)), "line")
    return replace(made, G=1.0, G_inf=1.0, against=Box.symmetric((1,)))


def _plane(g: Array) -> Game:
    made = games.sequence(g, Everywhere((2,)), "plane")
    return replace(made, G=1.0 + 1e-15, G_inf=1.0, against=L2Ball(1.0, (2,)))


def _targets(z: Array) -> Game:
    made = games.opposite_targets()
    return replace(made, name="targets", begin=lambda T: lambda t, x: Quadratic(z[t - 1]))


def _experts(losses: Array) -> Game:
    made = games.sequence(losses, Simplex(2), "experts", np.full(2, 0.5))
    return replace(made, G=np.sqrt(2.0), G_inf=1.0)


INTERVAL = Arena("interval", (1,), _interval, clipped, separable=True)
DISC = Arena("disc", (2,), _disc, shortened)
ROTATED = replace(DISC, name="rotated disc", exact=False)
TABLE = Arena("table", (2, 2), _table, clipped)
OUTER_PRODUCTS = Arena("outer products", (2, 2), _outer, shortened, exact=False)
LINE = Arena("line", (1,), _line, clipped)
PLANE = Arena("plane", (2,), _plane, shortened)
COARSE = replace(PLANE, name="coarse plane", exact=False)
TARGETS = Arena("targets", (1,), _targets, clipped, exact=False)
EXPERTS = Arena("experts", (2,), _experts, lambda losses: np.clip(losses, 0.0, 1.0), exact=False)

ARENAS = {
    arena.name: arena
    for arena in (INTERVAL, DISC, ROTATED, TABLE, OUTER_PRODUCTS, LINE, PLANE, COARSE, TARGETS, EXPERTS)
}

#: By the longest beginning of a bound's id.
PLACES: Mapping[str, Arena] = {
    "ogd": INTERVAL,
    "ogd.sc": TARGETS,
    "ogd.lstar": TARGETS,
    "ogd.adanorm": DISC,
    "momentum": PLANE,
    "adagrad": INTERVAL,
    "adagrad.trajectory": LINE,
    "adagrad.unprojected": LINE,
    "adagrad.full": ROTATED,
    "ftrl": INTERVAL,
    "sm3": TABLE,
    "shampoo": OUTER_PRODUCTS,
    "amsgrad": INTERVAL,
    "adam": INTERVAL,
    "error_feedback": PLANE,
    "count_sketch.adagrad": TABLE,
    "microadam": COARSE,
    "experts": EXPERTS,
}

_MEAN = "a mean over chance: no single sequence says anything against it"
_FIXED = "it speaks of one function, not of sequences of losses"
#: Statements that no loss sequence attacks, and why.
REASONS: Mapping[str, str] = {
    "ftrl.ratio": "an equality between two formulas, the same on all gradients",
    "amsgrad.abel": "about two sequences of numbers; nothing is played",
    "error_feedback.quantised": _MEAN,
    "error_feedback.nonconvex": _MEAN,
    "ef21": _FIXED,
    "tight_rates": f"{_FIXED}; attained: see memopt verify list --constants",
    "microadam.default": "its condition is not met, whatever the losses",
    "count_sketch.step": _MEAN,
    "count_sketch.lemma_b2": _MEAN,
    "count_sketch.size": "false by its formula alone",
    "point_queries": "exact: all hash functions are enumerated",
    "online_to_batch": "exact: all sequences of outcomes are enumerated",
}


def _longest(table: Mapping[str, Any], name: str) -> str:
    fits = [key for key in table if name == key or name.startswith(f"{key}.")]
    return max(fits, key=len, default="")


def why_not(bound: Bound) -> str:
    """Why no loss sequence attacks the bound; empty if one can.

    Examples
    --------
    >>> from memopt_ref.theory.bounds import get
    >>> why_not(get("ogd.tuned")), why_not(get("point_queries.count_min"))
    ('', 'exact: all hash functions are enumerated')
    """
    return REASONS.get(_longest(REASONS, bound.id), "")


def arena(bound: Bound) -> Arena:
    """Where a bound that can be attacked is attacked."""
    return PLACES[_longest(PLACES, bound.id)]
