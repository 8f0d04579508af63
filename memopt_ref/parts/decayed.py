r"""Decay of a whole sketch, S <- gamma S before every UPDATE, at the cost of the touched buckets only.

A sketch that is decayed as a whole stays linear: it is the sketch of the decayed sum. Multiplying all of it
costs depth * width * columns a step. Two forms cost what the active rows cost; both equal the plain form up
to rounding (they multiply in another order), which is why the rules multiply plainly.

* :class:`ScaledSketch`: S = c S'; decay multiplies the number c, UPDATE divides the increments by it.
* :class:`StampedSketch`: each bucket keeps the step at which it was last brought up to date.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .sketch_table import Places, add_into
from .sketches import Sketch

FOLD_BELOW = 2.0**-40


@dataclass(frozen=True, eq=False)
class ScaledSketch:
    """S = ``scale`` * ``sketch``; the scale is folded into the table when it falls below 2^-40.

    Examples
    --------
    >>> from memopt_ref.parts.sketches import CountSketch
    >>> one = np.array([1.0])
    >>> s = ScaledSketch(CountSketch.zeros(1, 4)).update([2], one).decayed(0.5).update([2], one)
    >>> s.query([2]), s.scale
    (array([1.5]), 0.5)
    """

    sketch: Sketch
    scale: float = 1.0

    def decayed(self, gamma: float) -> ScaledSketch:
        """S <- gamma S."""
        scale = self.scale * gamma
        if scale < FOLD_BELOW:
            return ScaledSketch(self.sketch.scaled(scale))
        return replace(self, scale=scale)

    def update(self, items: Any, x: Any) -> ScaledSketch:
        """S <- S + sketch(x)."""
        return replace(self, sketch=self.sketch.update(items, x / x.dtype.type(self.scale)))

    def query(self, items: Any) -> Any:
        """QUERY(S, i)."""
        x = self.sketch.query(items)
        return x * x.dtype.type(self.scale)


@dataclass(frozen=True, eq=False)
class StampedSketch:
    """``last`` [depth, width] holds the step at which each bucket was last brought up to date; ``t`` is now.

    Examples
    --------
    >>> from memopt_ref.parts.sketches import CountSketch
    >>> s = StampedSketch.of(CountSketch.zeros(1, 4), gamma=0.5).update([2], np.array([1.0])).advanced()
    >>> s.update([2], np.array([1.0])).query([2])
    array([1.5])
    """

    sketch: Sketch
    last: Any
    gamma: float
    t: int = 0

    @classmethod
    def of(cls, sketch: Sketch, gamma: float) -> StampedSketch:
        """A sketch whose buckets are all up to date at step 0."""
        return cls(sketch, np.zeros(sketch.table.shape[:2], np.int32), gamma)

    def advanced(self) -> StampedSketch:
        """S <- gamma S: only the clock moves."""
        return replace(self, t=self.t + 1)

    def _current(self, places: Places) -> tuple[Any, Any]:
        table, last = self.sketch.table.copy(), self.last.copy()
        for j, buckets in enumerate(places.buckets):
            touched = np.unique(buckets)
            factor = (self.gamma ** (self.t - last[j, touched]).astype(np.float64)).astype(table.dtype)
            table[j, touched] *= factor.reshape(-1, *[1] * (table.ndim - 2))
            last[j, touched] = self.t
        return table, last

    def update(self, items: Any, x: Any) -> StampedSketch:
        """S <- S + sketch(x)."""
        places = self.sketch.locate(items)
        table, last = self._current(places)
        add_into(table, places, x)
        return replace(self, sketch=replace(self.sketch, table=table), last=last)

    def query(self, items: Any) -> Any:
        """QUERY(S, i)."""
        places = self.sketch.locate(items)
        return replace(self.sketch, table=self._current(places)[0]).query(places)
