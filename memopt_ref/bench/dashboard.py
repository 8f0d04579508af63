"""The benchmark history on one self-contained page: what each commit did to time, bytes and tightness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from math import inf
from typing import Any

from ..page import PALETTE, Sheet, document, figures, table
from ..plots import Series, lines, scatter
from .history import History
from .tracks import RULES

#: Names of the benchmarks that the page reads, as asv calls them.
LIMIT = "ratios.AgainstLimit.track_ratio"
NUMPY = "ratios.AgainstNumpy.track_ratio"
STATE = "values.State.track_state_bytes_per_parameter"
MOVED = "values.State.track_least_bytes_moved"
BORROWED = "values.Borrowed.track_borrowed_bytes"
TIGHT = "values.Tightness.track_tightness"
TIME = "times.Step.time_step"
LARGE = 2**20
#: Bytes an entry of the limit, ``w -= lr * g``.
LIMIT_BYTES = 12

#: Benchmarks that are shown as they are: title, name, what the figure is a multiple of or its unit.
OTHERS = (
    ("Two hundred small tensors", "ratios.SmallTensors.track_ratio", "x one tensor of all"),
    ("A table with 1 % active rows", "ratios.Rows.track_ratio", "x the reference"),
    ("Layouts", "ratios.Layouts.track_ratio", "x row by row"),
    ("First step of a process, kernels cached", "times.StartUp.track_first_step_from_the_cache", "s"),
    ("Smallest step", "times.StartUp.track_dispatch", "s"),
)

STYLE = """
details { border-bottom: 1px solid var(--rule); padding: .35rem 0; }
summary { cursor: pointer; }
summary .n { color: var(--faint); float: right; font-variant-numeric: tabular-nums; }
@media (max-width: 36rem) { summary .n { float: none; display: block; padding-left: 1.1rem;
  text-align: left; } }
"""


def html(histories: Sequence[History], main_job: Mapping[str, Any] | None = None) -> str:
    """The page.

    Parameters
    ----------
    histories : sequence of History
        One section each.
    main_job : mapping, optional
        The record that ``memopt compare --json`` printed.

    Returns
    -------
    str
        HTML that needs nothing beside itself and no network.
    """
    parts = ["<h1>Benchmark history</h1>\n"]
    parts.append(
        "<p>Times are ratios: least over least, every contestant in turn in one process. The limit is "
        "<code>w -= lr * g</code> over as many float32 entries. Bytes and tightness are the same on every "
        "machine.</p>\n"
    )
    for history in histories:
        parts += _machine(history)
    if main_job is not None:
        parts.append(_quality(main_job))
    record = {
        "histories": [
            {"machine": h.machine, "commits": [c.hash for c in h.commits], "latest": _latest(h)}
            for h in histories
        ]
    }
    return document("memopt dashboard", "".join(parts), style=STYLE, record=json.dumps(record))


def _machine(history: History) -> list[str]:
    newest, oldest = history.commits[-1], history.commits[0]
    about = ", ".join(
        f"{label} {history.about[key]}"
        for key, label in (("cpu", "processor"), ("num_cpu", "cores"), ("ram", "memory"), ("os", "system"))
        if history.about.get(key)
    )
    span = f"{len(history.commits)} commits, {oldest.date:%Y-%m-%d} to {newest.date:%Y-%m-%d}"
    return [
        f"<h2>{escape(history.machine)}</h2>\n",
        f'<p class="note">{escape(about)}. {span}; the newest is {escape(newest.hash[:8])}.</p>\n',
        table(_now(history)),
        figures([("Steps against the limit", _against_limit(history)), ("Tightness", _tightness(history))]),
        "<h2>Rule by rule</h2>\n",
        *(_rule(history, name) for name in RULES if history.series(STATE, name)),
        table(_others(history)),
        table(_commits(history)),
    ]


def _latest(history: History) -> dict[str, dict[str, float | None]]:
    newest = history.commits[-1]
    return {
        name: {
            "of_limit": newest.value(LIMIT, name),
            "of_numpy": newest.value(NUMPY, name, LARGE),
            "state": newest.value(STATE, name),
        }
        for name in RULES
    }


def _now(history: History) -> Sheet:
    rows = []
    for name in RULES:
        values = [history.series(benchmark, name) for benchmark in (STATE, MOVED, BORROWED, LIMIT)]
        if not values[0]:
            continue
        state, moved, borrowed, limit = (found[-1][1] if found else None for found in values)
        share = None if limit is None or moved is None else moved / LIMIT_BYTES / limit
        reference = history.series(NUMPY, name, LARGE)
        rows.append(
            (
                name,
                _shown(state, 4),
                _shown(moved, 1),
                _shown(borrowed, 2),
                _shown(limit, 2),
                "" if share is None else f"{100 * share:.0f} %",
                _shown(reference[-1][1] if reference else None, 3),
                _change(values[3]),
            )
        )
    columns = (
        *("rule", ">state B/entry", ">least moved B/entry", ">borrowed B/entry"),
        *(">x limit", ">share of its bandwidth", ">x NumPy", ">x limit, since the first commit"),
    )
    note = (
        "State and moved: of a 512 x 128 float32 tensor. Borrowed: the peak of what a step allocates, 2^20 "
        "entries. The share counts the bytes that have to be moved at least, so a rule that reads twice has "
        "less of it."
    )
    return Sheet("Now", columns, tuple(rows), note)


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _change(points: Sequence[tuple[float, float]]) -> str:
    if len(points) < 2:
        return ""
    return f"{100 * (points[-1][1] / points[0][1] - 1):+.0f} %"


def _against_limit(history: History) -> str:
    chosen = ("SGD", "AdaGrad", "Adam", "AMSGrad", "SM3", "Adafactor", "MicroAdam")
    series = [Series(name, k, history.series(LIMIT, name)) for k, name in enumerate(chosen, 1)]
    return lines(
        series, f"Steps against the limit, {history.machine}", "commit, the oldest is 1", "x limit", reach=inf
    )


def _tightness(history: History) -> str:
    names = [p[0] for p in history.parameters(TIGHT)]
    names = [name for name in names if history.commits[-1].value(TIGHT, name) is not None][:9]
    series = [Series(name, k % len(PALETTE), history.series(TIGHT, name)) for k, name in enumerate(names, 1)]
    title = f"Tightness, {history.machine}"
    return lines(series, title, "commit, the oldest is 1", "largest regret / bound", log_y=False, level=1.0)


def _rule(history: History, name: str) -> str:
    drawn = [
        (label, series)
        for k, (label, points) in enumerate(
            (
                ("x limit", history.series(LIMIT, name)),
                ("x NumPy, 2^20", history.series(NUMPY, name, LARGE)),
                ("x NumPy, 2^12", history.series(NUMPY, name, 2**12)),
            ),
            1,
        )
        if (series := Series(label, k, points)).points
    ]
    newest = history.commits[-1]
    limit, state = newest.value(LIMIT, name), newest.value(STATE, name)
    head = [f"{state:.4g} B/entry"] if state is not None else []
    head += [f"{limit:.2f} x limit"] if limit is not None else []
    title = f"{name}, {history.machine}"
    plot = lines([s for _, s in drawn], title, "commit, the oldest is 1", "ratio", reach=inf) if drawn else ""
    columns = ("commit", ">state B/entry", ">x limit", ">x NumPy, 2^12 entries", ">2^20")
    rows = tuple(
        (
            commit.hash[:8],
            _shown(commit.value(STATE, name), 4),
            _shown(commit.value(LIMIT, name), 2),
            *(_shown(commit.value(NUMPY, name, n), 3) for n in (2**12, LARGE)),
        )
        for commit in reversed(history.commits)
    )
    sheet = table(Sheet("", columns, rows))
    shown = figures([(name, plot)]) if plot else ""
    words = f'{escape(name)}<span class="n">{", ".join(head)}</span>'
    return f"<details><summary>{words}</summary>\n{shown}{sheet}</details>\n"


def _others(history: History) -> Sheet:
    rows = []
    for title, benchmark, unit in OTHERS:
        for parameters in history.parameters(benchmark):
            points = history.series(benchmark, *parameters)
            what = f"{title}: {', '.join(parameters)}" if parameters else title
            rows.append((what, f"{points[-1][1]:.3g} {unit}", _change(points)))
    return Sheet("Beside the plain tensor", ("what", ">newest", ">since the first commit"), tuple(rows))


def _commits(history: History) -> Sheet:
    rows = tuple(
        (c.hash[:8], f"{c.date:%Y-%m-%d %H:%M}", c.environment, str(len(c.values)))
        for c in reversed(history.commits)
    )
    return Sheet("Commits", ("commit", "date (UTC)", "environment", ">figures"), rows)


def _quality(main_job: Mapping[str, Any]) -> str:
    found = [o for o in main_job["optimizers"] if o.get("test_perplexity") is not None]
    points = [
        Series(
            o["key"],
            k % len(PALETTE),
            ((o["state_per_parameter"], o["test_perplexity"]),),
            o.get("spread") or 0.0,
        )
        for k, o in enumerate(found)
    ]
    plot = scatter(points, "Perplexity against memory", "bytes of state a parameter", "test perplexity")
    note = (
        f"memopt compare: {main_job['steps']} steps, {main_job['seeds']} seeds, "
        f"{main_job['model']['parameters']:,} parameters; the line through a point is the spread over seeds."
    )
    return (
        "<h2>State against perplexity</h2>\n"
        f'<p class="note">{escape(note)}</p>\n{figures([("Perplexity against memory", plot)])}'
    )
