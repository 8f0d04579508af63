"""A trend: curves over the commits of a history, a dot a commit, so that one commit alone is seen too."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..plots import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Series, axes, svg, text

#: Most numbers along the commits.
TICKS = 10
#: Room for a letter and for a line, at the size that a phone shows them in.
LETTER, LINE = 8.4, 15.0


class Commits(Axis):
    """The numbers of the commits: whole ones alone are ticks."""

    def ticks(self) -> list[float]:
        """Every number, or every second, third, ... one."""
        count = int(self.high)
        return [float(k) for k in range(1, count + 1, -(-count // TICKS))]


def trend(
    series: Sequence[Series],
    title: str,
    y_label: str,
    commits: int,
    *,
    log: bool = True,
    level: float | None = None,
) -> str:
    """Curves with their labels at their ends.

    Parameters
    ----------
    series : sequence of Series
        Points are (number of the commit from 1, value); values are positive for a logarithmic axis.
    title, y_label : str
    commits : int
        How many there are.
    log : bool
        Whether the axis is logarithmic; an even one begins at 0 or below.
    level : float, optional
        A height that is marked, and within the range.
    """
    drawn = [s for s in series if s.points]
    if not drawn:
        return svg(title, [text(LEFT, HEIGHT / 2, "nothing to draw")])
    room = 22 + LETTER * max(len(s.label) for s in drawn)
    x = Commits(1.0, float(commits), LEFT + 12, WIDTH - room)
    heights = [p[1] for s in drawn for p in s.points] + ([] if level is None else [level])
    if log:
        y = Axis(min(heights) / 1.06, max(heights) * 1.06, HEIGHT - BOTTOM, TOP + 4, log=True)
    else:
        low, high = min(0.0, *heights), max(heights)
        y = Axis(low, high + 0.04 * ((high - low) or 1.0), HEIGHT - BOTTOM, TOP + 4)
    body = axes(x, y, "commit, the oldest is 1", y_label)
    if level is not None:
        body.append(f'<path class="level" d="M{LEFT} {y(level):.1f}H{x.end:.1f}"/>')
    ends = _spread([y(s.points[-1][1]) for s in drawn])
    for s, end in zip(drawn, ends, strict=True):
        places = [(x(px), y(py)) for px, py in s.points]
        last_x, last_y = places[-1]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        body.append(
            f'<polyline class="line s{s.colour}" points="{path}"><title>{escape(s.label)}</title></polyline>'
        )
        body += [f'<circle class="dot s{s.colour}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in places]
        at = x.end + 6
        body.append(
            f'<path class="leader s{s.colour}" d="M{last_x + 4:.1f} {last_y:.1f}L{at + 3:.1f} {end:.1f}"/>'
        )
        body.append(text(at + 6, end + 4, s.label, f"fill s{s.colour}"))
    return svg(title, body)


def _spread(heights: Sequence[float]) -> list[float]:
    """The heights moved so that labels of one line do not touch, from the top down, then back within."""
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    moved, floor = list(heights), TOP + 6.0
    for k in order:
        moved[k] = floor = max(moved[k], floor)
        floor += LINE
    ceiling = float(HEIGHT - BOTTOM)
    for k in reversed(order):
        moved[k] = ceiling = min(moved[k], ceiling)
        ceiling -= LINE
    return moved
