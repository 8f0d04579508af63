"""Three kinds of plot as inline SVG: lines, labelled points, stacked bars; and what others are drawn with.

They take their colours from the page's style sheet (classes ``s0`` ... ``s9``, ``axis``, ``grid``), so they
follow its light and dark theme, need no other library and no file beside the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, inf, isfinite, log10

WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 48, 92, 10, 40
LETTER, LINE = 6.6, 13.0
REACH = 6.0


@dataclass(frozen=True)
class Series:
    """Points of one colour: ``points`` in data units, ``error`` above and below each."""

    label: str
    colour: int
    points: tuple[tuple[float, float], ...]
    error: float = 0.0


@dataclass(frozen=True)
class Axis:
    """Data units to the interval [start, end] of the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value stands; one below the range stands at its low end."""
        low, high, at = (log10(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)

    def ticks(self) -> list[float]:
        """Round numbers within the range: 1, 2, 5 times powers of ten, or even steps of such a number."""
        if self.log and self.high > 3 * self.low:
            decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            # Over a short range there is room for more numbers, over a long one for powers of ten only.
            ratio = self.high / self.low
            digits = (1, 1.5, 2, 3, 4, 5, 6, 8) if ratio < 8 else (1, 2, 5) if ratio < 300 else (1,)
            return [d * 10.0**k for k in decades for d in digits if self.low <= d * 10.0**k <= self.high]
        rough = (self.high - self.low) / 5
        power = 10.0 ** floor(log10(rough))
        step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough * 0.999)
        return [k * step for k in range(ceil(self.low / step), floor(self.high / step + 1e-9) + 1)]


def lines(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = True,
    level: float | None = None,
    least: float = -inf,
    reach: float = REACH,
) -> str:
    """Curves, each with its label at its end, over a logarithmic y axis or (``log_y=False``) an even one.

    What lies above ``reach`` times the lowest point of a logarithmic axis is cut off: the first steps tell
    little; so is what lies below ``least`` on an even one. ``level`` is a height that is marked and always
    within the range.
    """
    drawn = [s for s in (_finite(s) for s in series) if s.points]
    if not drawn:
        return svg(title, [text(LEFT, HEIGHT / 2, "nothing to draw")])
    across = [p[0] for s in drawn for p in s.points]
    x = Axis(0.9 * min(across) if log_x else 0, max(across) or 1.0, LEFT, WIDTH - RIGHT, log=log_x)
    heights = [p[1] for s in drawn for p in s.points] + ([] if level is None else [level])
    if log_y:
        y = _log_axis([min(h, reach * min(heights)) for h in heights], HEIGHT - BOTTOM, TOP)
    else:
        low, high = min(0.0, *(max(h, least) for h in heights)), max(heights)
        margin = 0.04 * ((high - low) or 1.0)
        y = Axis(low - margin * (low < 0), high + margin, HEIGHT - BOTTOM, TOP)
    frame = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    clip = "clip-" + "-".join(title.lower().split())
    body = [*axes(x, y, x_label, y_label), f'<clipPath id="{clip}"><rect {frame}/></clipPath>']
    if level is not None:
        body.append(f'<path class="level" d="M{LEFT} {y(level):.1f}H{x.end:.1f}"/>')
    ends = _apart([y(s.points[-1][1]) for s in drawn], TOP + 6, HEIGHT - BOTTOM)
    for s, end in zip(drawn, ends, strict=True):
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in s.points)
        last_x, last_y = x(s.points[-1][0]), max(TOP, y(s.points[-1][1]))
        body += [
            f'<polyline class="line s{s.colour}" clip-path="url(#{clip})" points="{path}">'
            f"<title>{escape(s.label)}</title></polyline>",
            f'<path class="leader s{s.colour}" d="M{last_x:.1f} {last_y:.1f}L{last_x + 9:.1f} {end:.1f}"/>',
            text(last_x + 12, end + 4, s.label, f"fill s{s.colour}"),
        ]
    return svg(title, body)


def scatter(series: Sequence[Series], title: str, x_label: str, y_label: str) -> str:
    """One labelled point a series on logarithmic axes; x = 0 stands at the left end, under a 0."""
    drawn = [s for s in (_finite(s) for s in series) if s.points]
    if not drawn:
        return svg(title, [text(LEFT, HEIGHT / 2, "nothing to draw")])
    positive = [p[0] for s in drawn for p in s.points if p[0] > 0] or [1.0]
    has_zero = any(p[0] == 0 for s in drawn for p in s.points)
    x = Axis(min(positive) / (4 if has_zero else 1.5), max(positive) * 1.5, LEFT + 8, WIDTH - 30, log=True)
    # A spread beyond half the value would leave the logarithmic axis.
    spans = [(max(s.points[0][1] - s.error, s.points[0][1] / 2), s.points[0][1] + s.error) for s in drawn]
    heights = [end for span in spans for end in span]
    y = _log_axis(heights, HEIGHT - BOTTOM, TOP + 8)
    body = axes(x, y, x_label, y_label, zero=has_zero)
    dots = [(x(s.points[0][0]), y(s.points[0][1])) for s in drawn]
    taken = [(dx - 5, dy - 5, dx + 5, dy + 5) for dx, dy in dots]
    for s, (dx, dy), (low, high) in zip(drawn, dots, spans, strict=True):
        body.append(
            f'<path class="leader s{s.colour}" d="M{dx:.1f} {y(low):.1f}V{y(high):.1f}"/>'
            f'<circle class="dot s{s.colour}" cx="{dx:.1f}" cy="{dy:.1f}" r="4.5"/>'
        )
        left, base = _free_place(dx, dy, LETTER * len(s.label), taken)
        taken.append((left, base - 10, left + LETTER * len(s.label), base + 3))
        body.append(text(left, base, s.label, f"fill s{s.colour}"))
    return svg(title, body)


def bars(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], title: str, x_label: str) -> str:
    """One horizontal bar a row, stacked from ``parts``; part k has colour k."""
    x = Axis(0, max((sum(v) for _, v in rows), default=1.0) or 1.0, LEFT + 44, WIDTH - 50)
    step = (HEIGHT - BOTTOM - TOP - 24) / max(1, len(rows))
    body = axes(x, None, x_label, "", top=TOP + 20)
    at = x.start
    for k, part in enumerate(parts):
        body.append(f'<rect class="bar s{k}" x="{at:.1f}" y="{TOP}" width="10" height="10"/>')
        body.append(text(at + 14, TOP + 9, part))
        at += 14 + LETTER * len(part) + 18
    for k, (label, values) in enumerate(rows):
        top, left = TOP + 22 + k * step, x.start
        body.append(text(x.start - 6, top + step / 2 + 4, label, anchor="end"))
        for colour, value in enumerate(values):
            width = x(value) - x.start
            body.append(
                f'<rect class="bar s{colour}" x="{left:.1f}" y="{top + 2:.1f}" width="{width:.1f}" '
                f'height="{max(1.0, step - 4):.1f}"><title>{escape(parts[colour])} {value:.2f}</title></rect>'
            )
            left += width
        body.append(text(left + 4, top + step / 2 + 4, f"{sum(values):.1f}"))
    return svg(title, body)


def _finite(series: Series) -> Series:
    points = tuple(p for p in series.points if all(map(isfinite, p)))
    return Series(series.label, series.colour, points, series.error if isfinite(series.error) else 0.0)


def _log_axis(values: Sequence[float], start: float, end: float) -> Axis:
    return Axis(max(min(values), 1e-12) / 1.04, max(values) * 1.04, start, end, log=True)


def axes(
    x: Axis, y: Axis | None, x_label: str, y_label: str, *, zero: bool = False, top: float = TOP
) -> list[str]:
    """Axes with their grid, numbers and names; ``zero`` writes 0 at the left end of a logarithmic one."""
    floor_y = HEIGHT - BOTTOM
    body = []
    ticks = [(x(value), f"{value:g}") for value in x.ticks()]
    # The left end of a logarithmic axis is lent to 0.
    ticks = [(x.start, "0"), *(t for t in ticks if t[0] > x.start + 40)] if zero else ticks
    for at, name in ticks:
        body.append(f'<path class="grid" d="M{at:.1f} {top}V{floor_y}"/>')
        body.append(text(at, floor_y + 16, name, anchor="middle"))
    for at, name in ((y(value), f"{value:g}") for value in y.ticks()) if y else ():
        body.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{x.end:.1f}"/>')
        body.append(text(LEFT - 6, at + 4, name, anchor="end"))
    body.append(f'<path class="axis" d="M{x.start if y is None else LEFT:.1f} {top}V{floor_y}H{x.end:.1f}"/>')
    body.append(text((x.start + x.end) / 2, HEIGHT - 6, x_label, anchor="middle"))
    if y_label:
        middle = (TOP + floor_y) / 2
        body.append(
            text(12, middle, y_label, anchor="middle", turn=f' transform="rotate(-90 12 {middle:.0f})"')
        )
    return body


def _apart(heights: Sequence[float], low: float, high: float) -> list[float]:
    """The heights moved as little as needed for labels of one line not to touch, kept within [low, high]."""
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    moved = list(heights)
    for before, k in pairwise(order):
        moved[k] = max(moved[k], moved[before] + LINE)
    ceiling = high
    for k in reversed(order):
        moved[k] = min(moved[k], ceiling)
        ceiling = moved[k] - LINE
    return [max(low, m) for m in moved]


def _free_place(x: float, y: float, width: float, taken: Sequence[tuple[float, ...]]) -> tuple[float, float]:
    """Left end and base line of a label beside (x, y) that covers nothing taken, if there is one."""
    places = [
        (left, y + 4 + dy)
        for dy in (0, -12, 12, -24, 24, -36, 36)
        for left in (x + 8, x - 8 - width)
        if left >= LEFT and left + width <= WIDTH
    ]
    for left, base in places:
        if all(left > t[2] or left + width < t[0] or base - 10 > t[3] or base + 3 < t[1] for t in taken):
            return left, base
    return places[0] if places else (x + 8, y + 4)


def text(x: float, y: float, words: str, style: str = "label", anchor: str = "start", turn: str = "") -> str:
    """Words at a place; ``style`` is a class of the page's style sheet."""
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(words)}</text>'
    )


def svg(title: str, body: Sequence[str], height: float = HEIGHT) -> str:
    """The drawing, scaled to the width of where it stands."""
    inside = "\n".join(body)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>\n{inside}\n</svg>"
    )
