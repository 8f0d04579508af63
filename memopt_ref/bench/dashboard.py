"""The benchmark history on one self-contained page: what each commit did to time, bytes and tightness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..page import PALETTE, document, figures, table
from ..plots import Series, scatter
from . import dashboard_tables as tables
from .dashboard_plots import trend
from .dashboard_tables import BACKENDS, LARGE, LIMIT, NUMPY, PEERS, REGISTERS, REGRET, SIZES, STATE, TIGHT
from .history import History
from .tracks import RULES

#: The rules of the first drawing.
CHOSEN = ("SGD", "AdaGrad", "Adam", "AMSGrad", "SM3", "Adafactor", "MicroAdam")
#: Curves that can be told apart.
MOST = len(PALETTE) - 1

STYLE = """
h2 { margin-top: 2.6rem; }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.wide + .plots { margin-top: 1.6rem; }
details { border-bottom: 1px solid var(--rule); padding: .35rem 0; }
details .plots { margin: .8rem 0; }
summary { cursor: pointer; }
summary .n { color: var(--faint); float: right; font-variant-numeric: tabular-nums; }
code { white-space: nowrap; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper); }
table { border-collapse: separate; border-spacing: 0; }
th, td { line-height: 21px; padding-top: 5px; padding-bottom: 5px; }
@media (max-width: 36rem) { summary .n { float: none; display: block; padding-left: 1.1rem;
  text-align: left; } th, td { padding-left: 7px; padding-right: 7px; } .label, .fill { font-size: 14px; }
  .points .label, .points .fill { font-size: 12px; } }
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
    number = len(history.commits)
    span = f"{number} commit{'s' * (number > 1)}, {oldest.date:%Y-%m-%d} to {newest.date:%Y-%m-%d}"
    backends = dict.fromkeys(parameters[0] for parameters in history.parameters(BACKENDS))
    return [
        f"<h2>{escape(history.machine)}</h2>\n",
        f'<p class="note">{escape(about)}. {span}; the newest is {escape(newest.hash[:8])}.</p>\n',
        table(tables.now(history)),
        figures([("Steps against the limit", _against_limit(history)), ("Tightness", _tightness(history))]),
        "<h2>Rule by rule</h2>\n",
        *(_rule(history, name) for name in RULES if history.series(STATE, name)),
        *(["<h2>Kernels</h2>\n"] if backends or history.parameters(REGISTERS) else []),
        *(_folded(f"Backend {name}", "", table(tables.kernels(history, name))) for name in backends),
        *([_cuda(history)] if history.parameters(REGISTERS) else []),
        *([table(tables.peers(history))] if history.parameters(PEERS) else []),
        table(tables.others(history)),
        table(tables.commits(history)),
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


def _against_limit(history: History) -> str:
    series = [Series(name, k, history.series(LIMIT, name)) for k, name in enumerate(CHOSEN, 1)]
    return trend(series, f"Steps against the limit, {history.machine}", "x limit", len(history.commits))


def _tightness(history: History) -> str:
    newest = history.commits[-1]
    named = [p[0] for p in history.parameters(TIGHT) if newest.value(TIGHT, *p) is not None][:MOST]
    series = [Series(name, k, history.series(TIGHT, name)) for k, name in enumerate(named, 1)]
    title, label = f"Tightness, {history.machine}", "largest regret / bound"
    return trend(series, title, label, len(history.commits), log=False, level=1.0)


def _rule(history: History, name: str) -> str:
    newest, commits = history.commits[-1], len(history.commits)
    title = f"{name}, {history.machine}"
    curves = [("x limit", history.series(LIMIT, name))]
    curves += [(f"x NumPy, 2^{n.bit_length() - 1}", history.series(NUMPY, name, n)) for n in SIZES]
    times = [Series(label, k, points) for k, (label, points) in enumerate(curves, 1)]
    share = Series("share", 1, tables.bandwidth(history, name))
    regret = Series("regret", 2, history.series(REGRET, name))
    drawn = []
    if any(s.points for s in times):
        drawn.append(("Time", trend(times, f"{title}: time", "ratio", commits)))
    if share.points:
        plot = trend([share], f"{title}: bandwidth", "% of the limit's", commits, log=False, level=100.0)
        drawn.append(("Bandwidth", plot))
    if regret.points:
        plot = trend([regret], f"{title}: tightness", "regret / bound", commits, log=False, level=1.0)
        drawn.append(("Tightness", plot))
    limit, state = newest.value(LIMIT, name), newest.value(STATE, name)
    head = [] if state is None else [f"{tables.shown(state, 4)} B/entry"]
    head += [] if limit is None else [f"{limit:.2f} x limit"]
    shown = figures(drawn) if drawn else ""
    return _folded(name, ", ".join(head), shown + table(tables.of_rule(history, name)))


def _cuda(history: History) -> str:
    sheet = tables.cuda(history)
    spilling = sum(row[2] not in ("", "0") for row in sheet.rows)
    return _folded("CUDA", f"{len(sheet.rows)} kernels, {spilling} spill", table(sheet))


def _folded(title: str, aside: str, body: str) -> str:
    words = escape(title) + (f'<span class="n">{escape(aside)}</span>' if aside else "")
    return f"<details><summary>{words}</summary>\n{body}</details>\n"


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
        f'<p class="note">{escape(note)}</p>\n'
        f'<div class="points">{figures([("Perplexity against memory", plot)])}</div>\n'
    )
