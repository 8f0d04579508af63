"""What the report shows beside verdicts: ratios against T, worst sequences, Reddi's games, memory's price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import state_nbytes
from ..rules.adam import Adam
from ..rules.amsgrad import AMSGrad
from ..schedules import InverseSqrt
from . import games, search
from .bounds import Bound, get
from .bounds.count_sketch import CountMinAdaGrad
from .geometry import Array, Box
from .play import Game, Reveal, play
from .suites import Entry
from .verify import NOT_APPLICABLE, Record, verify

#: Horizons of the curves; those of statements that are not false stop one earlier.
HORIZONS = (16, 64, 256, 1024)

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curve:
    """The ratio of one bound on one game, against T."""

    bound: Bound
    game: str
    points: Points


def hardest(entries: Sequence[Entry], records: Sequence[Record]) -> dict[str, tuple[Entry, Record]]:
    """For each bound its play with the largest ratio."""
    found: dict[str, tuple[Entry, Record]] = {}
    for entry, record in zip(entries, records, strict=True):
        if record.verdict == NOT_APPLICABLE or not np.isfinite(record.ratio):
            continue
        before = found.get(record.bound)
        if before is None or (record.ratio, record.T) > (before[1].ratio, before[1].T):
            found[record.bound] = entry, record
    return found


def curve(entry: Entry, record: Record) -> Curve:
    """The same game, longer and shorter."""
    # A false statement may need long games to be seen through.
    longest = 1024 if entry.bound.known_false else 256
    points = []
    for T in HORIZONS:
        if longest >= T:
            found = verify(entry.bound, entry.game(T), T)
            if found.verdict != NOT_APPLICABLE and np.isfinite(found.ratio):
                points.append((float(T), found.ratio))
    return Curve(entry.bound, record.game, tuple(points))


@dataclass(frozen=True)
class Drawn:
    """A loss sequence and the iterates that it leads."""

    caption: str
    gradients: tuple[float, ...]
    iterates: tuple[float, ...]


def worst_sequences() -> Iterator[Drawn]:
    """One-dimensional sequences that attain a bound, come closest to it, or break a wrong claim."""
    mirror, tuned, T = get("adagrad.mirror"), get("ogd.tuned"), 16
    signs = search.exhaustive(search.player(mirror, T), T).signs
    shown: list[tuple[str, Bound, Game, int, float]] = [
        ("Gradient descent attains its bound", tuned, games.zigzag_run(56, 8), 64, 1.0),
        ("Gradient descent with twice its step", tuned, games.zigzag_run(60, 4), 64, 2.0),
        (f"AdaGrad: the worst of all 2^{T} sign sequences", mirror, games.sequence(signs), T, 1.0),
        ("AdaGrad with twice its step", mirror, games.witness("double"), len(games.W2), 2.0),
        ("AdaGrad with half its step", mirror, games.witness("half"), len(games.W_HALF), 0.5),
        (
            "AdaGrad without projection, there and back",
            get("adagrad.unprojected"),
            games.there_and_back(60),
            60,
            1.0,
        ),
        ("Adam's own theorem, early on Reddi's game", get("adam.thm41"), games.reddi3(), 60, 1.0),
        ("Dual averaging without delta", get("adagrad.dual.nodelta"), games.kick(), 2, 1.0),
    ]
    for caption, bound, game, rounds, factor in shown:
        rule = bound.rule(game, rounds)
        if factor != 1.0:
            rule = rule.replace(learning_rate=factor * rule.learning_rate)
        trace = play(rule, game, rounds, keep=True)
        record = verify(bound, game, rounds, rule)
        assert trace.g is not None
        assert trace.x is not None
        yield Drawn(
            f"{caption}: ratio {record.ratio:.3f}",
            tuple(float(g[0]) for g in trace.g),
            tuple(float(x[0]) for x in trace.x),
        )


@dataclass(frozen=True)
class Duel:
    """Average regret and iterates of two rules on one game, against t."""

    title: str
    regret: dict[str, Points]
    iterate: dict[str, Points]


def duels() -> Iterator[Duel]:
    """Adam and AMSGrad on the games that were made to tell them apart."""
    for title, game, T, numbers in (
        ("3 x every third round, else -x", games.reddi3(), 1500, (0.5, 0.0, 0.1)),
        ("1010 x every 101st round, else -10 x", games.reddi101(), 3030, (0.5, 0.9, 0.99)),
    ):
        alpha, beta1, beta2 = numbers
        rate = InverseSqrt(alpha)
        players = {
            "Adam": Adam(learning_rate=rate, beta1=beta1, beta2=beta2, eps=0.0, bias_correction="none"),
            "AMSGrad": AMSGrad(learning_rate=rate, beta1=beta1, beta2=beta2),
        }
        regret, iterate = {}, {}
        for name, rule in players.items():
            trace = play(rule, game, T, keep=True)
            g = np.ravel(np.array(trace.g))
            x = np.ravel(np.array(trace.x))[:T]
            # The best of [-1, 1] against the sum S earns -|S|.
            average = (np.cumsum(g * x) + np.abs(np.cumsum(g))) / np.arange(1, T + 1)
            step = T // 150
            at = range(step, T + 1, step)
            regret[name] = tuple((float(t), float(average[t - 1])) for t in at)
            iterate[name] = tuple((float(t), float(np.mean(x[t - step : t]))) for t in at)
        yield Duel(f"{title} (beta1 = {beta1:g}, beta2 = {beta2:g})", regret, iterate)


@dataclass(frozen=True)
class Price:
    """What one certificate costs and what it is worth on one game: ``price`` is in units of AdaGrad's."""

    game: str
    rule: str
    bytes_per_parameter: float
    regret: float
    certificate: float
    price: float


#: A small embedding table, and how long it is played.
TABLE, ROUNDS = (24, 16), 120


def long_tail(rows: int, columns: int, seed: int = 0) -> Game:
    """Row i is drawn with probability in proportion to 1 / i, as words are, and has random signs."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)
        share = 1.0 / np.arange(1, rows + 1)
        which = rng.choice(rows, T, p=share / np.sum(share))
        signs = rng.integers(0, 2, (T, columns)) * 2.0 - 1.0

        def reveal(t: int, x: Array) -> Array:
            g = np.zeros((rows, columns))
            g[which[t - 1]] = signs[t - 1]
            return g

        return reveal

    box = Box.symmetric((rows, columns))
    return Game(f"long_tail({rows}, {columns})", box, np.zeros((rows, columns)), begin, G_inf=1.0, rank=1)


def frontier() -> Iterator[Price]:
    """Bytes of state against the certificate, all with the constant sqrt(2) D: only the memory differs."""
    players: list[tuple[str, Bound]] = [
        ("AdaGrad", get("adagrad.mirror")),
        ("SM3-I", get("sm3.I.eta")),
        ("SM3-II", get("sm3.II.eta")),
        *((f"count-min {width}", CountMinAdaGrad(width=width)) for width in (2, 4, 8, 16)),
        ("AdaGrad-Norm", get("ogd.adanorm")),
    ]
    makers: Iterable[Callable[[], Game]] = (
        lambda: long_tail(*TABLE),
        lambda: games.sparse_iid(*TABLE),
    )
    for make in makers:
        unit = None
        for name, bound in players:
            game = make()
            record = verify(bound, game, ROUNDS)
            unit = record.value if unit is None else unit
            held = state_nbytes(bound.rule(game, ROUNDS), {"w": game.shape}) / np.prod(game.shape)
            yield Price(game.name, name, float(held), record.measured[0], record.value, record.value / unit)
