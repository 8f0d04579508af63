"""The comparison as one self-contained HTML page: tables, plots and the JSON record, no external address."""

from __future__ import annotations

from html import escape

from ..page import document, table
from ..page import figures as drawings
from ..plots import Series, bars, lines, scatter
from . import report
from .contenders import CONTENDERS
from .outcome import Comparison

COLOURS = {contender.key: k for k, contender in enumerate(CONTENDERS)}


def html(comparison: Comparison) -> str:
    """The page.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    str
        HTML that needs nothing beside itself; the record is in its ``<script type="application/json">``.
    """
    sections = [table(report.results(comparison)), _plots(comparison)]
    sections += [table(sheet(comparison)) for sheet in report.SHEETS[1:]]
    body = f"""<h1>Optimizers on real text: perplexity against memory</h1>
<p>{escape(introduction(comparison))}</p>
<p class="note">Text: {escape(comparison.corpus.describe())}.</p>
{"".join(sections)}"""
    return document("memopt compare", body, record=report.json_text(comparison))


def introduction(comparison: Comparison) -> str:
    """What was done, in a paragraph."""
    model, seeds = comparison.model, comparison.seeds
    return (
        f"A word-level language model (embedding table and softmax table of {model.vocabulary:,} rows of "
        f"{model.width}, a tanh layer between, {comparison.parameters:,} parameters) learns to predict a "
        f"word from the {model.context} before it: {comparison.steps:,} steps, sampled softmax in training, "
        "full softmax in evaluation. Every optimizer starts from the same weights and sees the same batches; "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; each learning rate is the best of a small grid on the "
        "validation words, constant and then falling to zero over the last quarter of the steps."
    )


def _plots(comparison: Comparison) -> str:
    summaries = comparison.summaries()
    colour = {s.contender.key: COLOURS[s.contender.key] for s in summaries}
    curves = [
        Series(s.contender.key, colour[s.contender.key], tuple(p for p in s.curve if p[0])) for s in summaries
    ]
    points = [
        Series(
            s.contender.key,
            colour[s.contender.key],
            ((s.state_per_parameter, s.test_perplexity),),
            s.spread or 0.0,
        )
        for s in summaries
    ]
    # Seconds of training alone: steps times the time of one.
    seconds = [
        Series(
            line.label,
            line.colour,
            tuple((at * (s.model_seconds + s.optimizer_seconds), p) for at, p in line.points),
        )
        for s, line in zip(summaries, curves, strict=True)
    ]
    times = [(s.contender.key, (1e3 * s.model_seconds, 1e3 * s.optimizer_seconds)) for s in summaries]
    figures = (
        (
            "Learning curves (mean over seeds)",
            lines(curves, "Learning curves", "step", "validation perplexity"),
        ),
        (
            "Perplexity against memory",
            scatter(
                points, "Perplexity against memory", "bytes of optimizer state a parameter", "test perplexity"
            ),
        ),
        (
            "Learning curves against time",
            lines(seconds, "Learning curves against time", "seconds", "validation perplexity", log_x=True),
        ),
        ("Time of one step", bars(times, ("model", "optimizer"), "Time of one step", "milliseconds")),
    )
    return f"<h2>Plots</h2>\n{drawings(figures)}"
