"""One run: an optimizer trains the model from the seed's initial weights on the seed's batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite
from time import perf_counter

import numpy as np

from .contenders import Contender
from .corpus import Corpus, Split
from .model import LanguageModel
from .places import place

BATCH = 256
#: Positions on which the learning curve and the final perplexity are measured: the same for every run.
CURVE_POSITIONS, TEST_POSITIONS = 2_000, 10_000
CURVE_POINTS = 12


@dataclass(frozen=True)
class Trial:
    """What is to be run; equal trials on equal text give equal perplexities."""

    contender: Contender
    learning_rate: float
    seed: int
    steps: int
    final: bool
    backend: str = "auto"


@dataclass(frozen=True)
class Run:
    """What came out.

    ``curve`` holds (step, validation perplexity); a grid run has its last point only, and no test perplexity.
    Seconds are lower quartiles over the steps: what else the machine does counts little.
    """

    trial: Trial
    curve: tuple[tuple[int, float], ...]
    test_perplexity: float | None
    model_seconds: float
    optimizer_seconds: float
    state_nbytes: int

    @property
    def validation_perplexity(self) -> float:
        """At the end of the run; infinite where it diverged."""
        return self.curve[-1][1]


def train(corpus: Corpus, trial: Trial) -> Run:
    """Run a trial.

    Parameters
    ----------
    corpus : Corpus
    trial : Trial
        The seed sets the initial weights, the order of the batches, the negatives and the hash functions: two
        optimizers of one seed see the same.

    Returns
    -------
    Run
    """
    model = LanguageModel(vocabulary=len(corpus.vocabulary), context=corpus.context)
    params = model.init(trial.seed)
    there = place(trial.backend, params)
    optimizer = trial.contender.optimizer(
        there.params, trial.learning_rate, trial.seed, trial.steps, trial.backend
    )
    stream, noise = batches(corpus.train, trial.seed), np.random.default_rng([trial.seed, 2])
    validation = corpus.validation.spread(CURVE_POSITIONS)
    measured = curve_steps(trial.steps) if trial.final else {trial.steps}

    curve: list[tuple[int, float]] = []
    if trial.final:
        curve.append((0, model.perplexity(params, validation)))
    model_times, optimizer_times = [], []
    for step in range(1, trial.steps + 1):
        batch, negatives = next(stream), model.draw(noise)
        began = perf_counter()
        with np.errstate(all="ignore"):
            loss, grads = model.gradient(params, batch, negatives)
        model_times.append(perf_counter() - began)
        moved = there.gradients(grads)
        between = perf_counter()
        optimizer.step(moved)
        there.wait()
        optimizer_times.append(perf_counter() - between)
        there.fetch()
        if not isfinite(loss):
            curve.append((step, inf))
            break
        if step in measured:
            curve.append((step, model.perplexity(params, validation)))
    diverged = not isfinite(curve[-1][1])
    test = corpus.test.spread(TEST_POSITIONS)
    return Run(
        trial=trial,
        curve=tuple(curve),
        test_perplexity=None if not trial.final else inf if diverged else model.perplexity(params, test),
        model_seconds=float(np.quantile(model_times, 0.25)),
        optimizer_seconds=float(np.quantile(optimizer_times, 0.25)),
        state_nbytes=optimizer.state_nbytes,
    )


def batches(split: Split, seed: int, size: int = BATCH) -> Iterator[Split]:
    """Batches without end: one shuffled pass after another; a pass drops its incomplete last batch."""
    random = np.random.default_rng([seed, 1])
    size = min(size, len(split))
    while True:
        order = random.permutation(len(split))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield Split(split.contexts[chosen], split.targets[chosen])


def curve_steps(steps: int) -> set[int]:
    """Steps at which the learning curve is measured: evenly spaced, the last among them."""
    return {round(steps * k / CURVE_POINTS) for k in range(1, CURVE_POINTS + 1)} - {0}
