"""The report's figures: ratios against T, worst sequences, Reddi's games, memory against certificates."""

from __future__ import annotations

from collections.abc import Sequence

from .. import page
from ..page import Sheet, figures
from ..plots import Series, lines, scatter
from . import drawings
from .bounds import Bound
from .exhibits import Curve, Drawn, Duel, Price

FALSE = "known to be false"
#: Letters for which there is room beside a curve.
MOST = 12


def growth(curves: Sequence[Curve]) -> str:
    """One plot a family; statements known to be false in one of their own."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if len(curve.points) > 1:
            group = FALSE if curve.bound.known_false else curve.bound.family
            groups.setdefault(group, []).append(curve)
    drawn = []
    for group, members in groups.items():
        series = [Series(_short(c.bound), k % 10, c.points) for k, c in enumerate(members)]
        title = f"Ratio against T: {group}"
        # False statements exceed 1 by powers of T.
        far = group == FALSE
        svg = lines(
            series, title, "T", "regret / bound", log_x=True, log_y=far, level=1.0, least=-0.25, reach=1e4
        )
        drawn.append((group, svg))
    note = (
        '<p class="note">Each bound on the game of its largest ratio above, at other lengths. Below the '
        "dashed line a bound holds; a curve that stays level has the right rate.</p>\n"
    )
    return f"<h2>Ratio against T</h2>\n{note}{figures(drawn)}"


def _short(bound: Bound) -> str:
    name = bound.id.partition(".")[2]
    return name if len(name) <= MOST else name.rpartition(".")[2]


def sequences(drawn: Sequence[Drawn]) -> str:
    """Worst loss sequences with the iterates that they lead."""
    made = [(d.caption, drawings.sequence(d.gradients, d.iterates, d.caption)) for d in drawn]
    note = '<p class="note">Gradients as bars, the iterates they lead as a line; one dimension, from 0.</p>\n'
    return f"<h2>Worst sequences</h2>\n{note}{figures(made)}"


def duels(shown: Sequence[Duel]) -> str:
    """Average regret and iterates of Adam and AMSGrad."""
    made = []
    for duel in shown:
        for what, points in (("average regret", duel.regret), ("iterate", duel.iterate)):
            series = [Series(name, 2 - k, line) for k, (name, line) in enumerate(points.items())]
            title = f"{what[0].upper()}{what[1:]}: {duel.title}"
            made.append((title, lines(series, title, "round", what, log_y=False)))
    note = (
        '<p class="note">Losses on [-1, 1] whose best point is -1 (Reddi, Kale and Kumar 2018). Iterates are '
        "means over a few periods. On the first game Adam goes to +1 and its average regret does not fall; "
        "the second, the paper's experiment, needs far longer to tell the two apart by regret.</p>\n"
    )
    return f"<h2>Adam against AMSGrad</h2>\n{note}{figures(made)}"


def frontier(prices: Sequence[Price]) -> str:
    """Bytes of state against the certificate, drawn and as a table."""
    made, rows = [], []
    for game in dict.fromkeys(p.game for p in prices):
        here = [p for p in prices if p.game == game]
        series = [Series(p.rule, k % 10, ((p.bytes_per_parameter, p.price),)) for k, p in enumerate(here)]
        title = f"Memory and certificate on {game}"
        made.append(
            (
                title,
                scatter(series, title, "bytes of state a parameter", "certificate / AdaGrad's certificate"),
            )
        )
        rows += [
            (
                p.game,
                p.rule,
                f"{p.bytes_per_parameter:.3f}",
                f"{p.regret:.4g}",
                f"{p.certificate:.4g}",
                f"{p.price:.3f}",
            )
            for p in here
        ]
    columns = ("game", "rule", ">bytes a parameter", ">regret", ">certificate", ">price")
    note = (
        '<p class="note">What an optimizer can promise for the bytes that it holds (float32 state). All '
        "certificates are sqrt(2) D sum_i sqrt(nu_i), so that they differ by the second moments alone; that "
        "of AdaGrad-Norm has the Euclidean diameter. The price is the certificate in units of AdaGrad's. On "
        "these games it is the promise that becomes dear: the regret itself hardly moves.</p>\n"
    )
    return f"<h2>Memory and regret</h2>\n{note}{figures(made)}{page.table(Sheet('', columns, tuple(rows)))}"
