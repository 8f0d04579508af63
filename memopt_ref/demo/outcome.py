"""What the runs add up to: one summary a contender, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from statistics import fmean, stdev

import numpy as np

from .contenders import YARDSTICK, Contender
from .corpus import Corpus
from .model import LanguageModel
from .train import Run

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Summary:
    """A contender's figures over its seeds; None where there is nothing to say.

    ``spread`` is the sample standard deviation of the test perplexities. ``steps_to`` and ``seconds_to`` lead
    to the final validation perplexity of AdaGrad's run of the same seed, and are given if every seed got
    there.
    """

    contender: Contender
    learning_rate: float
    at_edge: bool
    test_perplexity: float
    spread: float | None
    curve: tuple[tuple[float, float], ...]
    steps_to: float | None
    seconds_to: float | None
    reached: int
    state_nbytes: int
    state_per_parameter: float
    table_nbytes: int
    optimizer_seconds: float
    model_seconds: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that was measured: the grid's runs and the final ones by contender."""

    corpus: Corpus
    model: LanguageModel
    steps: int
    workers: int
    contenders: tuple[Contender, ...]
    grids: dict[str, tuple[Run, ...]]
    finals: dict[str, tuple[Run, ...]]

    @property
    def seeds(self) -> int:
        """Final runs of each contender."""
        return len(next(iter(self.finals.values())))

    @property
    def parameters(self) -> int:
        """Entries of the model."""
        return sum(w.size for group in self.model.init(0).values() for w in group.values())

    def summaries(self) -> tuple[Summary, ...]:
        """One a contender, in their order."""
        return tuple(self.summary(contender) for contender in self.contenders)

    def summary(self, contender: Contender) -> Summary:
        """The figures of one contender."""
        runs, rates = (
            self.finals[contender.key],
            [run.trial.learning_rate for run in self.grids[contender.key]],
        )
        tests = self.tests(contender.key)
        rate = runs[0].trial.learning_rate
        optimizer, model = fmean(r.optimizer_seconds for r in runs), fmean(r.model_seconds for r in runs)
        reached = [steps for run in runs if (steps := self._steps_to(run)) is not None]
        steps_to = fmean(reached) if len(reached) == len(runs) else None
        return Summary(
            contender=contender,
            learning_rate=rate,
            at_edge=len(rates) > 2 and rate in (min(rates), max(rates)),
            test_perplexity=fmean(tests),
            spread=stdev(tests) if len(tests) > 1 and all(map(isfinite, tests)) else None,
            curve=mean_curve([run.curve for run in runs]),
            steps_to=steps_to,
            seconds_to=None if steps_to is None else steps_to * (optimizer + model),
            reached=len(reached),
            state_nbytes=runs[0].state_nbytes,
            state_per_parameter=runs[0].state_nbytes / self.parameters,
            table_nbytes=self.table_nbytes(contender),
            optimizer_seconds=optimizer,
            model_seconds=model,
        )

    def tests(self, key: str) -> list[float]:
        """Test perplexities of a contender by seed; infinite where a run diverged."""
        return [inf if run.test_perplexity is None else run.test_perplexity for run in self.finals[key]]

    def table_nbytes(self, contender: Contender) -> int:
        """Bytes of accumulators (counters and seeds apart) beside the two tables."""
        shape = (self.model.vocabulary, self.model.width)
        slots = contender.on_tables.slots(shape, np.dtype(np.float32)).values()
        return 2 * sum(slot.nbytes for slot in slots if not slot.is_counter)

    def _steps_to(self, run: Run) -> float | None:
        rivals = [rival for rival in self.finals.get(YARDSTICK, ()) if rival.trial.seed == run.trial.seed]
        return crossing(run.curve, rivals[0].validation_perplexity) if rivals else None


def crossing(curve: Curve, level: float) -> float | None:
    """The step at which a curve first reaches ``level``, interpolated in log perplexity; None if never.

    Examples
    --------
    >>> crossing([(0, 400.0), (10, 200.0), (20, 50.0)], 100.0)
    15.0
    >>> crossing([(0, 400.0), (10, 200.0)], 100.0) is None
    True
    """
    if not isfinite(level):
        return None
    for k, (step, perplexity) in enumerate(curve):
        if perplexity <= level:
            if k == 0:
                return float(step)
            before, worse = curve[k - 1]
            return before + (step - before) * log(worse / level) / log(worse / perplexity)
    return None


def mean_curve(curves: Sequence[Curve]) -> tuple[tuple[float, float], ...]:
    """The geometric mean of curves at the steps that all of them have.

    Examples
    --------
    >>> mean_curve([[(0, 4.0), (1, 1.0)], [(0, 16.0)]])
    ((0, 8.0),)
    """
    shared = min(len(curve) for curve in curves)
    return tuple(
        (
            points[0][0],
            round_off(exp(fmean(log(p) for _, p in points))) if all(isfinite(p) for _, p in points) else inf,
        )
        for points in ([curve[k] for curve in curves] for k in range(shared))
    )


def round_off(value: float) -> float:
    """Twelve digits: what is left of exp(log(x)) is x."""
    return float(f"{value:.12g}")
