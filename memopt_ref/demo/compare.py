"""The main job: a grid of learning rates for every contender, then the final runs over seeds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

from ..errors import HyperparameterError
from .contenders import Contender
from .corpus import Corpus
from .model import LanguageModel
from .outcome import Comparison
from .places import library_of
from .train import Run, Trial, train

#: Called with each finished run and the number of runs that are still to come.
Progress = Callable[[Run, int], None]
RunAll = Callable[[Sequence[Trial], Progress], list[Run]]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
MAX_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and how often.

    Parameters
    ----------
    steps : int
        Length of a final run; a run of the grid has a quarter of it.
    seeds : int
        Final runs of each contender; the grid runs with the first seed.
    rates : int
        Learning rates of the grid, the first of each contender's list.
    jobs : int
        Runs at a time; 0 takes one for each core that this program may use, at most 8.
    backend : {"auto", "numpy", ...}
        Whose kernels step the optimizers; the perplexities are the same.
    """

    steps: int = 800
    seeds: int = 3
    rates: int = 4
    jobs: int = 0
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name, low in (("steps", 16), ("seeds", 1), ("rates", 1), ("jobs", 0)):
            if getattr(self, name) < low:
                wanted, advice = f"an integer >= {low}", "Choose a larger number."
                raise HyperparameterError(f"--{name}", str(getattr(self, name)), wanted, advice)

    @property
    def grid_steps(self) -> int:
        """Length of a run of the grid."""
        return self.steps // 4

    @property
    def workers(self) -> int:
        """Runs at a time."""
        allowed = getattr(os, "sched_getaffinity", None)
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        return self.jobs or min(cores, MAX_WORKERS)


def compare(
    corpus: Corpus, contenders: Sequence[Contender], settings: Settings, progress: Progress | None = None
) -> Comparison:
    """Choose each contender's learning rate, then run it over the seeds.

    Parameters
    ----------
    corpus : Corpus
    contenders : sequence of Contender
    settings : Settings
    progress : callable, optional

    Returns
    -------
    Comparison
        Its perplexities depend on the corpus, the contenders and the settings, not on the number of workers.

    Raises
    ------
    BackendError
        There is no such backend, or it cannot run here.

    Notes
    -----
    Each worker is a process in which BLAS and kernels have one thread, and all are busy throughout, so that
    the seconds of all runs are taken under the same load.
    """
    library_of(settings.backend)  # before any worker is started
    tell = progress or (lambda run, left: None)
    to_come = len(contenders) * settings.seeds
    grid = [
        Trial(contender, rate, 0, settings.grid_steps, final=False, backend=settings.backend)
        for contender in contenders
        for rate in sorted(contender.rates[: settings.rates])
    ]
    with workers(corpus, settings.workers) as run_all:
        tried = run_all(grid, lambda run, left: tell(run, left + to_come))
        grids = {c.key: tuple(run for run in tried if run.trial.contender == c) for c in contenders}
        best = {key: chosen(runs) for key, runs in grids.items()}
        finals = [
            Trial(
                contender,
                best[contender.key].trial.learning_rate,
                seed,
                settings.steps,
                final=True,
                backend=settings.backend,
            )
            for seed in range(settings.seeds)
            for contender in contenders
        ]
        # The slowest first, so that no worker waits long for the last one.
        finals.sort(key=lambda trial: best[trial.contender.key].optimizer_seconds, reverse=True)
        finished = run_all(finals, tell)
    return Comparison(
        corpus=corpus,
        model=LanguageModel(vocabulary=len(corpus.vocabulary), context=corpus.context),
        steps=settings.steps,
        workers=settings.workers,
        contenders=tuple(contenders),
        grids=grids,
        finals={c.key: tuple(run for run in finished if run.trial.contender == c) for c in contenders},
    )


def chosen(runs: Sequence[Run]) -> Run:
    """The run of a grid whose learning rate is taken: the best; of equals the one with the smallest rate."""
    return min(runs, key=lambda run: (run.validation_perplexity, run.trial.learning_rate))


def number_of_runs(contenders: Sequence[Contender], settings: Settings) -> int:
    """Runs of the grid and final ones together."""
    return sum(len(contender.rates[: settings.rates]) + settings.seeds for contender in contenders)


@contextmanager
def workers(corpus: Corpus, number: int) -> Iterator[RunAll]:
    """A function that runs trials, ``number`` at a time, and returns the runs in the order of the trials.

    Even one worker is a process of its own: only there are BLAS and kernels sure to have one thread.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    # Read by the workers when they load NumPy; a worker is started when the first trial is handed in.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    executor = ProcessPoolExecutor(number, get_context("spawn"), _start_worker, (corpus,))
    try:
        yield lambda trials, tell: _side_by_side(executor, trials, tell)
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _side_by_side(executor: ProcessPoolExecutor, trials: Sequence[Trial], tell: Progress) -> list[Run]:
    places = {executor.submit(_run, trial): place for place, trial in enumerate(trials)}
    runs: dict[int, Run] = {}
    for future in as_completed(places):
        place = places[future]
        runs[place] = future.result()
        tell(runs[place], len(trials) - len(runs))
    return [runs[place] for place in range(len(trials))]


_corpus: Corpus


def _start_worker(corpus: Corpus) -> None:
    global _corpus
    _corpus = corpus
    # Workers that are as many as the processors would wait for one another's threads. Not in the environment
    # that they inherit: a Numba that runs in the parent would see the change and refuse to compile.
    os.environ["NUMBA_NUM_THREADS"] = "1"
    # An interrupt from the keyboard reaches every process: the workers end silently, the parent reports it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(trial: Trial) -> Run:
    return train(_corpus, trial)
