"""What the papers say, held against what was measured.

A direction is a ratio of test perplexities (seed by seed: both contenders saw the same weights and batches)
or of bytes, and a limit on it, set before anything was measured: "as good as" means less than 5 % above, and
bytes may exceed a fraction by 1 %. A direction of perplexities holds if it holds for every seed, does not
hold if it holds for none, and is undecided otherwise. Nothing is tuned until it looks right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from .contenders import COMPRESSION, CONTENDERS
from .outcome import Comparison

AS_GOOD = 1.05
#: Sizes are rounded to whole rows and columns.
ROUNDING = 1.01


@dataclass(frozen=True)
class Verdict:
    """A direction and its outcome: ``"holds"``, ``"does not hold"``, ``"undecided"`` or ``"not run"``."""

    claim: str
    source: str
    measured: str
    outcome: str


@dataclass(frozen=True)
class Direction:
    """The perplexity of the worst of ``ours``, divided by that of ``theirs``, is below ``limit``.

    With ``state`` it is the bytes beside the two tables instead, and a limit of None is 1 / width of the
    model.
    """

    claim: str
    source: str
    ours: tuple[str, ...]
    theirs: str
    limit: float | None
    state: bool = False

    def judge(self, comparison: Comparison) -> Verdict:
        """The outcome on these runs."""
        ours = [key for key in self.ours if key in comparison.finals]
        if not ours or self.theirs not in comparison.finals:
            return Verdict(self.claim, self.source, "-", "not run")
        if self.state:
            return Verdict(self.claim, self.source, *self._state(comparison))
        return Verdict(self.claim, self.source, *self._perplexity(comparison, ours))

    def _state(self, comparison: Comparison) -> tuple[str, str]:
        limit = ROUNDING * (1 / comparison.model.width if self.limit is None else self.limit)
        by_key = {contender.key: contender for contender in comparison.contenders}
        small, large = (comparison.table_nbytes(by_key[key]) for key in (self.ours[0], self.theirs))
        measured = f"{small:,} of {large:,} bytes, 1/{large / small:.1f}"
        return measured, "holds" if small <= limit * large else "does not hold"

    def _perplexity(self, comparison: Comparison, ours: Sequence[str]) -> tuple[str, str]:
        assert self.limit is not None
        by_seed = zip(*(comparison.tests(key) for key in (self.theirs, *ours)), strict=True)
        ratios = sorted(max(rest) / theirs if isfinite(theirs) else inf for theirs, *rest in by_seed)
        below = sum(ratio < self.limit for ratio in ratios)
        percent = [f"{100 * (ratio - 1):+.1f} %" for ratio in dict.fromkeys((ratios[0], ratios[-1]))]
        measured = f"{' to '.join(percent)}, in {below} of {len(ratios)} seed" + "s" * (len(ratios) > 1)
        return measured, "holds" if below == len(ratios) else "does not hold" if below == 0 else "undecided"


_SM3 = "Anil et al. 2019 (SM3)"
_SKETCH = "Spring et al. 2019"
_MICRO = "Modoranu et al. 2024 (MicroAdam)"

DIRECTIONS = (
    Direction("SM3 is as good as AdaGrad", _SM3, ("sm3",), "adagrad", AS_GOOD),
    Direction("... with 1/width of its state on the tables", _SM3, ("sm3",), "adagrad", None, state=True),
    Direction("One accumulator a row is as good as AdaGrad", "practice", ("rowwise",), "adagrad", AS_GOOD),
    Direction(
        "Count-min AdaGrad is as good as AdaGrad", _SKETCH + ", Table 6", ("cms-adagrad",), "adagrad", AS_GOOD
    ),
    Direction(
        "... with a fifth of its state on the tables",
        _SKETCH,
        ("cms-adagrad",),
        "adagrad",
        1 / COMPRESSION,
        state=True,
    ),
    Direction(
        "Adam with V sketched is as good as Adam", _SKETCH + ", Table 4", ("cs-adam-v",), "adam", AS_GOOD
    ),
    Direction(
        "To sketch V alone is better than to sketch M and V",
        _SKETCH + ", Table 4",
        ("cs-adam-v",),
        "cs-adam",
        1.0,
    ),
    Direction(
        "Adafactor is as good as Adam", "Shazeer and Stern 2018 (Adafactor)", ("adafactor",), "adam", AS_GOOD
    ),
    Direction("MicroAdam is as good as Adam", _MICRO, ("microadam",), "adam", AS_GOOD),
    Direction("AdaGrad is better than SGD", "Duchi et al. 2011 (AdaGrad)", ("adagrad",), "sgd", 1.0),
    Direction(
        "SGD is the worst of all",
        "practice",
        tuple(contender.key for contender in CONTENDERS if contender.key != "sgd"),
        "sgd",
        1.0,
    ),
)


def verdicts(comparison: Comparison) -> tuple[Verdict, ...]:
    """Every direction, judged."""
    return tuple(direction.judge(comparison) for direction in DIRECTIONS)
