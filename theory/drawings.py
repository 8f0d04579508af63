"""What the report draws beside curves: a loss sequence with its iterates, and a chain as a ladder."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite

from ..plots import BOTTOM, LEFT, TOP, WIDTH, Axis, axes, svg, text
from .verify import Record

TALL = 330


def sequence(gradients: Sequence[float], iterates: Sequence[float], title: str) -> str:
    """Bars for the gradients of a one-dimensional game, a line for the iterates.

    Examples
    --------
    >>> sequence([1.0, -1.0], [0.0, -1.0], "two rounds").count("<rect")
    4
    """
    top = max([1.0, *map(abs, gradients), *map(abs, iterates)])
    x = Axis(0, len(gradients) or 1, LEFT, WIDTH - 12)
    y = Axis(-1.05 * top, 1.05 * top, TALL - BOTTOM, TOP + 20)
    body = axes(x, y, "round", "", top=TOP + 20)
    for k, name in enumerate(("gradient", "iterate")):
        at = LEFT + 90 * k
        body.append(f'<rect class="bar s{_COLOURS[k]}" x="{at}" y="{TOP}" width="10" height="10"/>')
        body.append(text(at + 14, TOP + 9, name))
    width = max(0.6, 0.7 * (x(1) - x(0)))
    for t, g in enumerate(gradients):
        high, low = sorted((y(0), y(g)))
        place = f'x="{x(t + 0.5) - width / 2:.2f}" y="{high:.1f}" width="{width:.2f}"'
        body.append(f'<rect class="bar s{_COLOURS[0]}" {place} height="{max(low - high, 0.5):.1f}"/>')
    path = " ".join(f"{x(t + 0.5):.1f},{y(v):.1f}" for t, v in enumerate(iterates[: len(gradients)]))
    body.append(f'<polyline class="line s{_COLOURS[1]}" points="{path}"/>')
    return svg(title, body, TALL)


_COLOURS = (0, 2)


def ladder(record: Record, claim: str) -> str:
    """The chain of one play: each link with its value, a bar in units of the claim, and its lemma."""
    values = dict(record.links)
    unit = abs(values.get(claim, 0.0)) or 1.0
    rows = []
    for (name, value), lemma in zip(record.links, record.lemmas, strict=True):
        width = 100 * min(max(value / unit, 0.0), 1.5) / 1.5 if isfinite(value) else 0.0
        broken = any(line.startswith(f"{before} <= {name}:") for before in values for line in record.broken)
        style = "does-not-hold" if broken else "n"
        rows.append(
            f'<tr><td>{escape(name)}</td><td class="{style}">{value:.4g}</td>'
            f'<td class="rungs"><span class="rung" style="width:{width:.1f}%"></span></td>'
            f"<td>{escape(lemma)}</td></tr>"
        )
    return (
        '<div class="wide"><table class="ladder">\n<thead><tr><th>link</th><th class="n">value</th>'
        "<th>beside the claim</th><th>because</th></tr></thead>\n"
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>\n"
    )
