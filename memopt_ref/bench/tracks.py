"""Our steps, ready to be timed, and the figures that every machine reproduces: bytes, tightness.

It asks the library through its public names alone, so that the benchmark history can hold it against older
commits.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from itertools import cycle
from math import isfinite, isqrt, prod
from typing import Any

import numpy as np

import memopt_ref as mo

#: A name that stays the same over the history -> class and arguments: every rule as people use it.
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {})
        for name in (
            *("SGD", "AdaGrad", "AdaGradNorm", "RowWiseAdaGrad", "FTRLProximal", "RMSProp", "Adam", "AdamW"),
            *("AMSGrad", "SM3", "Adafactor", "CountSketchMomentum", "CountSketchAdaGrad", "CountSketchAdam"),
            *("CountSketchRMSProp", "LowRankAdam", "MicroAdam", "TopKAdam", "ErrorFeedbackSGD", "EF21"),
            *("Shampoo", "GGT", "FullMatrixAdaGrad"),
        )
    },
    "SGD momentum": ("SGD", {"momentum": 0.9}),
    "SM3 momentum": ("SM3", {"momentum": 0.9}),
}
#: Rules whose step costs arithmetic and not memory traffic -> the most entries that are worth stepping.
MATRIX = {"Shampoo": 2**16, "GGT": 2**16, "FullMatrixAdaGrad": 2**6}

#: Entries from one gradient to the next in the array that they share: no cache line is cut anew.
SHIFT = 64

Shape = tuple[int, ...]


def shape(name: str, entries: int) -> Shape:
    """A matrix of so many entries, or of as many as the rule is worth stepping on.

    >>> shape("Adam", 2**20), shape("Shampoo", 2**20), shape("FullMatrixAdaGrad", 2**20)
    ((16384, 64), (1024, 64), (8, 8))
    """
    size = min(entries, MATRIX.get(name, entries))
    columns = min(64, isqrt(size))
    return (size // columns, columns)


def rule(name: str) -> mo.Rule:
    """The rule of this name; raises AttributeError where the library has none."""
    kind, arguments = RULES[name]
    made: mo.Rule = getattr(mo, kind)(**arguments)
    return made


def normal(shape: Shape, seed: int, scale: float = 1.0) -> Any:
    """Normal numbers in float32, the same for everybody who asks with this seed."""
    drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return drawn if scale == 1.0 else drawn * np.float32(scale)


def step(
    rule: mo.Rule,
    shapes: Shape | Mapping[str, Shape],
    backend: str = "auto",
    nonfinite: str = "propagate",
    dtype: Any = np.float32,
    layout: Callable[[Any], Any] = np.asarray,
    turns: int = 1,
) -> Callable[[], Any]:
    """One step of an Optimizer on arrays of its own, to be called again and again.

    ``turns`` gradients take turns. What a rule with error feedback keeps, and what it costs to find, depends
    on how much one gradient has of the last ones.
    """
    tree = shapes if isinstance(shapes, Mapping) else {"w": shapes}
    params = {name: layout(normal(shape, 1).astype(dtype)) for name, shape in tree.items()}
    drawn = {name: shifted(shape, turns, dtype) for name, shape in tree.items()}
    grads = [{name: layout(views[turn]) for name, views in drawn.items()} for turn in range(turns)]
    opt = mo.Optimizer(params, rule, backend=backend, nonfinite=nonfinite)  # type: ignore[arg-type]
    turn = cycle(grads)
    return lambda: opt.step(next(turn))


def shifted(shape: Shape, turns: int, dtype: Any = np.float32) -> list[Any]:
    """So many gradients of a shape, each beginning ``SHIFT`` entries later in one array.

    >>> one, two = shifted((3, 100), 2)
    >>> one.shape, bool((one.reshape(-1)[SHIFT:] == two.reshape(-1)[:-SHIFT]).all())
    ((3, 100), True)
    """
    size = prod(shape)
    drawn = normal((size + SHIFT * (turns - 1),), 2, 1e-2).astype(dtype)
    return [drawn[SHIFT * k : SHIFT * k + size].reshape(shape) for k in range(turns)]


def chosen(rows: int, active: int) -> Any:
    """``active`` of the rows, ascending, the same for everybody."""
    return np.sort(np.random.default_rng(3).choice(rows, active, replace=False))


def row_step(
    rule: mo.Rule, rows: int, active: int, columns: int, backend: str = "auto", nonfinite: str = "propagate"
) -> Callable[[], Any]:
    """One step of a table of which a few rows have gradients."""
    table = {"table": np.zeros((rows, columns), np.float32)}
    opt = mo.Optimizer(table, rule, backend=backend, nonfinite=nonfinite)  # type: ignore[arg-type]
    values = normal((active, columns), 2, 1e-2)
    grads = {"table": mo.RowSparse(chosen(rows, active), values, (rows, columns))}
    return lambda: opt.step(grads)


def state_bytes_per_parameter(rule: mo.Rule, shape: Shape) -> float:
    """Bytes of state for an entry, of an Optimizer that was made."""
    opt = mo.Optimizer(np.zeros(shape, np.float32), rule)
    return opt.state_nbytes / prod(shape)


def planner_difference(rule: mo.Rule, shape: Shape) -> int:
    """Bytes that are there and were not planned: 0."""
    opt = mo.Optimizer(np.zeros(shape, np.float32), rule)
    return opt.state_nbytes - mo.state_nbytes(rule, {"w": shape})


def least_bytes_moved(rule: mo.Rule, shape: Shape) -> float:
    """Bytes for an entry that a step moves at least: gradient read, weights and slots read and written once.

    What bandwidth is counted on. A rule that has to read the gradient twice, as Adafactor does, moves more.
    """
    slots = rule.slots(shape, np.dtype(np.float32)).values()
    return 12 + 2 * sum(prod(s.shape) * s.dtype.itemsize for s in slots) / prod(shape)


def borrowed_bytes(rule: mo.Rule, shape: Shape, backend: str = "auto", times: int = 5) -> int:
    """Bytes that a step allocates at its peak beyond what there was before it, after two to warm up.

    The least of so many steps: threads that come together by chance have their buffers at the same time.
    """
    once = step(rule, shape, backend)
    once()
    once()
    tracemalloc.start()
    try:
        return min(_peak(once) for _ in range(times))
    finally:
        tracemalloc.stop()


def _peak(once: Callable[[], Any]) -> int:
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    once()
    return tracemalloc.get_traced_memory()[1] - before


def tightness(suite: str = "core") -> dict[str, dict[str, float]]:
    """Largest ratio of what a theorem bounds to its bound, over a suite of plays; deterministic.

    Returns
    -------
    mapping
        ``"theorem"``: the ratio by theorem. ``"rule"``: by the rule that played, of regret bounds alone,
        since other statements bound something that two rules do not share.

    Notes
    -----
    Statements that are known to be false, and plays that a theorem does not speak of, are left out.
    """
    from memopt_ref.theory import suites, verify

    found: dict[str, dict[str, float]] = {"theorem": {}, "rule": {}}
    for record in suites.run(suites.SUITES[suite]()):
        if record.verdict not in (verify.HOLDS, verify.TIGHT) or not isfinite(record.ratio):
            continue
        _raise(found["theorem"], record.bound, record.ratio)
        if record.about_regret:
            _raise(found["rule"], record.player, record.ratio)
    return {of: dict(sorted(worst.items())) for of, worst in found.items()}


def _raise(worst: dict[str, float], name: str, ratio: float) -> None:
    worst[name] = max(worst.get(name, ratio), ratio)
