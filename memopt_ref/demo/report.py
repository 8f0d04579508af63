"""The comparison as tables of words (for the terminal and for the page) and as one JSON record."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from .. import __version__
from ..page import Sheet
from ..rules import rows as row_steps
from ..sizes import format_size
from .contenders import YARDSTICK, Contender
from .directions import verdicts
from .outcome import Comparison, Summary

NOTHING = "-"


def results(comparison: Comparison) -> Sheet:
    """The main table, best test perplexity first."""
    columns = ("optimizer", ">perplexity", ">±", ">steps to", ">s to", ">state", ">B/param")
    ranked = sorted(comparison.summaries(), key=lambda s: s.test_perplexity)
    note = (
        f"Test perplexity: mean and standard deviation over {_count(comparison.seeds, 'seed')}. Steps and "
        f"seconds (s) to the final validation perplexity of {YARDSTICK} with the same seed. State: what the "
        "optimizer holds, counters and seeds included, and its bytes a parameter; the model has "
        f"{comparison.parameters:,} parameters ({format_size(4 * comparison.parameters)})."
    )
    return Sheet("Results", columns, tuple(_result(comparison, s) for s in ranked), note)


def times(comparison: Comparison) -> Sheet:
    """Milliseconds of one step."""
    rows = tuple(
        (s.contender.label, f"{1e3 * s.optimizer_seconds:.2f}", f"{1e3 * s.model_seconds:.2f}")
        for s in comparison.summaries()
    )
    backend = next(iter(comparison.finals.values()))[0].trial.backend
    note = (
        "Milliseconds, lower quartiles over the steps of the final runs. All runs were under one load: "
        f"{comparison.workers} at a time, each a process with one thread for BLAS and kernels; optimizers "
        f"with backend={backend!r}, the model in NumPy."
    )
    if backend.startswith("cupy"):
        note += " Copies of gradients to the device and of parameters back count for neither."
    return Sheet("Time of one step", ("optimizer", ">optimizer", ">model"), rows, note)


def _result(comparison: Comparison, s: Summary) -> tuple[str, ...]:
    never = f"{s.reached}/{comparison.seeds} seeds" if s.reached else NOTHING
    return (
        s.contender.label,
        shown(s.test_perplexity),
        NOTHING if s.spread is None else f"{s.spread:.1f}",
        never if s.steps_to is None else f"{s.steps_to:,.0f}",
        NOTHING if s.seconds_to is None else f"{s.seconds_to:.1f}",
        format_size(s.state_nbytes),
        f"{s.state_per_parameter:.3f}",
    )


def shown(perplexity: float) -> str:
    """A perplexity in words.

    Examples
    --------
    >>> shown(81.77), shown(3e250), shown(float("inf"))
    ('81.8', '3e+250', 'diverged')
    """
    if perplexity < 1e6:
        return f"{perplexity:.1f}"
    return f"{perplexity:.2g}" if isfinite(perplexity) else "diverged"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def scopes(comparison: Comparison) -> Sheet:
    """Which rule applies where, and how it takes the row-sparse gradients of the tables."""
    rows = tuple((c.key, c.label, c.scope, on_tables(comparison, c)) for c in comparison.contenders)
    return Sheet("What ran", ("--rules", "optimizer", "applies to", "gradient of the two tables"), rows)


def on_tables(comparison: Comparison, contender: Contender) -> str:
    """How the rule takes a row-sparse gradient of a table."""
    shape = (comparison.model.vocabulary, comparison.model.width)
    return row_steps.lazy(contender.on_tables, shape, np.dtype(np.float32))[1]


def grids(comparison: Comparison) -> Sheet:
    """Validation perplexity at the end of each run of the grid; the chosen rate in brackets."""
    most = max(len(runs) for runs in comparison.grids.values())
    steps = next(iter(comparison.grids.values()))[0].trial.steps
    rows = []
    for contender in comparison.contenders:
        chosen = comparison.finals[contender.key][0].trial.learning_rate
        edge = "*" if comparison.summary(contender).at_edge else ""
        cells = []
        for run in comparison.grids[contender.key]:
            rate, perplexity = run.trial.learning_rate, run.validation_perplexity
            text = f"{rate:g}: {shown(perplexity)}"
            cells.append(f"[{text}]{edge}" if rate == chosen else text)
        rows.append((contender.key, *cells, *[""] * (most - len(cells))))
    note = (
        f"Learning rate: validation perplexity after {steps} steps, a quarter of a run, with the first seed; "
        "the [best] is taken. * it is at the end of its grid: a wider grid might do better."
    )
    return Sheet("The grid", ("optimizer", *[">"] * most), tuple(rows), note)


def directions(comparison: Comparison) -> Sheet:
    """What the papers say, and whether it holds here."""
    rows = tuple((v.claim, v.measured, v.outcome, v.source) for v in verdicts(comparison))
    note = (
        '"As good as" means a test perplexity less than 5 % above, seed by seed; figures are ratios less '
        "one, from the best seed to the worst. This is one small model and a short run: it shows a picture "
        "and proves no theorem."
    )
    return Sheet("What the papers say", ("direction", "measured", "outcome", "after"), rows, note)


#: The order in which they are shown.
SHEETS = (results, directions, times, grids, scopes)


def record(comparison: Comparison) -> dict[str, Any]:
    """Everything as plain values; what is infinite or missing is None."""
    corpus, model = comparison.corpus, comparison.model
    plain: dict[str, Any] = _plain(
        {
            "memopt_ref": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": f"{platform.system()} {platform.machine()}",
            "workers": comparison.workers,
            "corpus": {
                "name": corpus.name,
                "sha256": corpus.sha256,
                "files": corpus.files,
                "skipped_files": corpus.skipped,
                "words": corpus.words,
                "kinds": corpus.kinds,
                "unknown_share": corpus.unknown_share,
                "positions": {
                    "train": len(corpus.train),
                    "validation": len(corpus.validation),
                    "test": len(corpus.test),
                },
            },
            "model": {**asdict(model), "parameters": comparison.parameters},
            "steps": comparison.steps,
            "seeds": comparison.seeds,
            "optimizers": [_record(comparison, s) for s in comparison.summaries()],
            "directions": [asdict(verdict) for verdict in verdicts(comparison)],
        }
    )
    return plain


def _record(comparison: Comparison, s: Summary) -> dict[str, Any]:
    figures = {name: value for name, value in vars(s).items() if name != "contender"}
    key = s.contender.key
    return {
        "key": key,
        "label": s.contender.label,
        "applies_to": s.contender.scope,
        "gradient_of_tables": on_tables(comparison, s.contender),
        "grid": [(run.trial.learning_rate, run.validation_perplexity) for run in comparison.grids[key]],
        "test_perplexity_by_seed": comparison.tests(key),
        **figures,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def json_text(comparison: Comparison) -> str:
    """The record as strict JSON."""
    return json.dumps(record(comparison), indent=2, allow_nan=False)
