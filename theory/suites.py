"""Suites: lists of plays with the verdicts that are right for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..parts.compressors import TopK
from . import bounds as bounds_module
from . import games, kernels, problems
from .bounds import Bound
from .bounds.amsgrad import ConstantBeta, Theorem4WithoutAlpha
from .bounds.count_sketch import OneStep
from .bounds.ef21 import MeanGradient, PolyakLojasiewicz
from .bounds.error_feedback import TopKTuned
from .bounds.tight_rates import CompressedRate, EF21Rate, FeedbackRate, attaining
from .comparators import Polytope, SpectralBall
from .geometry import L2Ball
from .play import Game
from .problems import Turn, freely
from .verify import HOLDS, NOT_APPLICABLE, TIGHT, VACUOUS, VIOLATED, Record, verify


@dataclass(frozen=True)
class Entry:
    """One line of a suite: a bound, a game for a horizon, and the verdicts that are right."""

    bound: Bound
    game: Callable[[int], Game]
    T: int
    expected: tuple[str, ...] = (HOLDS, TIGHT)
    dtype: str = "float64"


#: Families that need games of their own.
APART = (
    "sm3",
    "shampoo",
    "momentum",
    "error_feedback",
    "ef21",
    "tight_rates",
    "microadam",
    "count_sketch",
    "point_queries",
    "online_to_batch",
    "experts",
)


def _ball(shape: tuple[int, ...], r: float = 1.0) -> L2Ball:
    return L2Ball(r, shape)


def core() -> list[Entry]:
    """Links of every bound on dull games, and the sharp endpoints that take little time."""
    get = bounds_module.get
    entries = [Entry(get("ogd.tuned"), games.BY_NAME["zigzag_run"], 4**k, (TIGHT,)) for k in range(1, 6)]
    entries.append(Entry(get("ogd.tuned"), games.BY_NAME["orthogonal"], 256, (TIGHT,)))
    dull: list[Callable[[int], Game]] = [
        lambda T: games.rademacher((3,)),
        lambda T: games.tiny_kick(T // 2, T // 2, 1.3, 0.05),
        lambda T: games.bang_bang((2,)),
    ]
    curved = [games.BY_NAME[name] for name in ("logistic", "absolute", "opposite_targets")]
    for bound in bounds_module.all_bounds().values():
        if bound.known_false or bound.family in APART:
            continue
        if bound.id in ("ogd.sc", "ogd.lstar"):
            entries.append(Entry(bound, games.BY_NAME["opposite_targets"], 200))
            continue
        weak = (HOLDS, TIGHT, VACUOUS) if bound.family == "amsgrad" else (HOLDS, TIGHT)
        entries += [Entry(bound, make, 80, weak) for make in dull]
        if bound.kind == "chain" and bound.family in ("ogd", "adagrad", "ftrl"):
            entries += [Entry(bound, make, 40, (HOLDS, TIGHT, NOT_APPLICABLE)) for make in curved]
    entries.append(Entry(get("ogd.lstar"), games.BY_NAME["realizable"], 200, (HOLDS, VACUOUS)))
    for name in ("sm3.I", "sm3.II", "sm3.I.eta", "sm3.II.eta"):
        entries += [
            Entry(get(name), lambda T: games.rademacher((4, 6)), 100),
            Entry(get(name), lambda T: games.sparse_iid(6, 5), 150, (HOLDS, VACUOUS)),
            Entry(get(name), lambda T: games.row_active(6, 5), 150),
            Entry(get(name), lambda T: games.single_hot(20, 20), 100),
            Entry(get(name), lambda T: games.cold_row(50), 100),
        ]
    counted = get("count_sketch.adagrad")
    for make in (games.sparse_iid, games.row_active):
        entries.append(Entry(counted, _of_size(make, 8, 2), 120, (HOLDS, VACUOUS)))
    entries.append(Entry(counted, lambda T: games.power_law(20), 120, (HOLDS, VACUOUS)))
    for name in ("shampoo.eta", "shampoo.tuned"):
        entries += [
            Entry(get(name), lambda T: games.fixed_direction(4, 3), 100),
            Entry(get(name), lambda T: games.rademacher((3, 2), domain=_ball((3, 2))), 60),
            Entry(get(name), lambda T: games.rademacher((4,), domain=_ball((4,))), 60),
        ]
    entries += [
        Entry(get("shampoo.eta"), spectral, 60),
        Entry(get("ogd.const"), halfspace, 80),
        Entry(get("adagrad.mirror"), halfspace, 80),
        Entry(get("ogd.sc"), games.BY_NAME["leading_bowls"], 100, (TIGHT,)),
        Entry(get("adagrad.mirror"), games.BY_NAME["wall"], 256),
    ]
    entries.append(Entry(get("experts.hedge"), games.BY_NAME["heaviest"], 300))
    entries.append(Entry(get("adagrad.mirror"), lambda T: games.rademacher((3,)), 300, (HOLDS,), "float32"))
    entries.append(Entry(get("sm3.II"), lambda T: games.rademacher((4, 6)), 100, (HOLDS,), "float32"))
    return [*entries, *unprojected(), *enumerated(), *known_false()]


def spectral(T: int) -> Game:
    """One direction on the Frobenius ball, against the spectral ball inside it."""
    inside = SpectralBall(1.0 / np.sqrt(3.0), (4, 3))
    return dataclasses.replace(games.fixed_direction(4, 3), name="against a spectral ball", against=inside)


def halfspace(T: int) -> Game:
    """Random signs on a cube, against the half of it whose entries sum to 0 or more."""
    cube = -np.ones(3), np.ones(3)
    half = Polytope(*cube, -np.ones((1, 3)), np.zeros(1))
    return dataclasses.replace(games.rademacher((3,)), name="against half a cube", against=half)


def unprojected() -> list[Entry]:
    """Momentum and compressed steps, whose proofs need play without projection."""
    get = bounds_module.get
    free: list[Callable[[int], Game]] = [
        lambda T: problems.slow_side(2),
        lambda T: problems.slow_side(6),
        lambda T: freely(games.rademacher((3,))),
        lambda T: problems.crossed_lines(),
    ]
    entries: list[Entry] = []
    for name in ("momentum.eta", "momentum.tuned", "momentum.nesterov"):
        entries += [Entry(get(name), make, 80) for make in free]
    for name in ("error_feedback.eta", "error_feedback.topk", "error_feedback.sign"):
        entries += [Entry(get(name), make, 80) for make in free]
        entries.append(Entry(get(name), free[1], 80, (HOLDS,), "float32"))
    entries.append(
        Entry(get("error_feedback.quantised"), lambda T: freely(games.rademacher((64,)), 4.0), 100)
    )
    entries.append(Entry(get("error_feedback.nonconvex"), lambda T: problems.bumps(), 1000))
    steep = _curvatures(12)
    entries += [Entry(get(name), steep, 80) for name in ("ef21.mean", "ef21.pl")]
    entries.append(Entry(get("ef21.mean"), lambda T: problems.bumps(noise=0.0), 100))
    entries.append(Entry(get("ef21.mean"), games.BY_NAME["bumps"], 100, (NOT_APPLICABLE,)))
    for bound in (FeedbackRate(), EF21Rate(), CompressedRate()):
        entries.append(Entry(bound, _attained(bound, 0.1), 6, (TIGHT,)))
        entries.append(Entry(bound, _attained(bound, 0.5), 6, (TIGHT,), "float32"))
        entries.append(Entry(bound, steep, 60))
    for name in ("microadam.error", "microadam.sent"):
        entries.append(Entry(get(name), lambda T: games.rademacher((20,)), 100, (HOLDS,)))
    entries.append(
        Entry(get("microadam.default"), lambda T: games.rademacher((4096,)), 10, (NOT_APPLICABLE,))
    )
    return entries


def _curvatures(d: int) -> Callable[[int], Game]:
    return lambda T: problems.quadratic(np.linspace(0.1, 1.0, d))


def _attained(bound: FeedbackRate, mu: float) -> Callable[[int], Game]:
    return lambda T: attaining(bound, 1.0, mu)


def enumerated() -> list[Entry]:
    """Statements whose mean or probability is taken over all cases."""
    get = bounds_module.get
    exact = ("count_sketch", "count_min", "heavy", "heavy_min")
    entries = [Entry(get(f"point_queries.{name}"), games.BY_NAME["constant"], 1, (TIGHT,)) for name in exact]
    entries.append(Entry(get("point_queries.median"), games.BY_NAME["constant"], 1, (HOLDS,)))
    for depth, width in ((1, 1), (2, 3), (1, 6)):
        bound = OneStep(depth=depth, width=width)
        entries.append(Entry(bound, lambda T: problems.cosh_wells(), 60, (HOLDS,)))
    entries += [
        Entry(get("online_to_batch.mean"), lambda T: problems.all_sequences(T), 10, (TIGHT,)),
        Entry(get("online_to_batch.mean"), lambda T: problems.all_sequences(T, curved=True), 10, (HOLDS,)),
        Entry(get("online_to_batch.tail"), lambda T: problems.all_sequences(T), 10, (HOLDS,)),
    ]
    return entries


def _of_size(make: Callable[..., Game], *size: float) -> Callable[[int], Game]:
    return lambda T: make(*size)


def known_false() -> list[Entry]:
    """Statements that are kept to be caught."""
    get = bounds_module.get
    return [
        Entry(get("adagrad.unprojected"), games.there_and_back, 100, (VIOLATED,)),
        Entry(get("adagrad.dual.nodelta"), lambda T: games.kick(), 2, (VIOLATED,)),
        Entry(get("amsgrad.thm4.noalpha"), lambda T: games.constant(), 1000, (VIOLATED,)),
        Entry(get("amsgrad.abel"), lambda T: games.constant(), 16, (VIOLATED,)),
        Entry(get("adam.thm41"), lambda T: games.reddi3(), 1500, (VIOLATED,)),
        Entry(get("error_feedback.none"), lambda T: problems.crossed_lines(), 200, (VIOLATED,)),
        Entry(get("count_sketch.lemma_b2"), lambda T: problems.three_heavy(), 100, (VIOLATED,)),
        Entry(get("count_sketch.size"), lambda T: games.constant(1.0, (2,)), 50, (VIOLATED,)),
        Entry(get("online_to_batch.last"), lambda T: problems.all_sequences(T, 0.5, True), 10, (VIOLATED,)),
        Entry(get("online_to_batch.ahead"), lambda T: problems.all_sequences(T, 0.9), 10, (VIOLATED,)),
    ]


def full() -> list[Entry]:
    """The core suite, longer horizons, and the adversaries that need them."""
    get = bounds_module.get
    entries = core()
    entries += [Entry(get("ogd.tuned"), games.BY_NAME["zigzag_run"], 4**6, (TIGHT,))]
    for T in (256, 1024, 4096):
        for name in (
            "ogd.sqrt",
            "ogd.sqrt2",
            "ogd.adanorm",
            "adagrad.mirror",
            "adagrad.full",
            "ftrl.proximal",
        ):
            entries.append(Entry(get(name), games.BY_NAME["bang_bang"], T))
            entries.append(Entry(get(name), games.BY_NAME["zigzag_run"], T))
    false = Theorem4WithoutAlpha(alpha=0.001)
    entries.append(Entry(false, lambda T: games.constant(), 10_000, (VIOLATED,)))
    for T in (300, 3000):
        entries.append(Entry(ConstantBeta(alpha=0.5, beta1=0.0, beta2=0.1), games.BY_NAME["reddi3"], T))
        entries.append(Entry(get("amsgrad.constant"), games.BY_NAME["bang_bang"], T, (HOLDS, VACUOUS)))
    entries += [
        Entry(get("adagrad.unprojected"), games.there_and_back, 10_000, (VIOLATED,)),
        Entry(get("ogd.sc"), games.BY_NAME["opposite_targets"], 10_000),
        Entry(get("sm3.I"), lambda T: games.single_hot(100, 100), 100),
        Entry(get("sm3.II"), lambda T: games.single_hot(30, 30), 400),
        Entry(get("sm3.II"), lambda T: games.cold_row(1000), 400),
        Entry(get("adagrad.mirror"), lambda T: games.power_law(600), 1000),
        Entry(get("shampoo.tuned"), lambda T: games.fixed_direction(4, 3), 1000),
        Entry(get("shampoo.tuned"), lambda T: small_tensor(), 100, (HOLDS, VACUOUS)),
        Entry(get("experts.hedge"), games.BY_NAME["heaviest"], 10_000),
    ]
    return [*entries, *longer_descents()]


def longer_descents() -> list[Entry]:
    """More compressors, rotations and hashes, and longer runs."""
    get = bounds_module.get
    entries: list[Entry] = []
    for T in (300, 3000):
        entries += [
            Entry(get("error_feedback.topk"), lambda T: problems.slow_side(10), T),
            Entry(get("error_feedback.sign"), lambda T: problems.crossed_lines(), T),
            Entry(get("momentum.tuned"), lambda T: problems.crossed_lines(), T),
            Entry(get("error_feedback.nonconvex"), lambda T: problems.bumps(), T),
        ]
    steep = _curvatures(20)
    for k in (1, 5, 10):
        top = TopK(k=k)
        entries.append(Entry(TopKTuned(compressor=top), lambda T: problems.slow_side(20), 500))
        entries += [Entry(kind(compressor=top), steep, 300) for kind in (MeanGradient, PolyakLojasiewicz)]
        entries += [
            Entry(kind(compressor=top), steep, 200) for kind in (FeedbackRate, EF21Rate, CompressedRate)
        ]
    for s in (0.1, 0.5, 0.9):
        for angle in (0.0, 1.0, 2.0, 3.0):
            for kind in (FeedbackRate, EF21Rate, CompressedRate):
                bound = kind(compressor=Turn(s, angle))
                entries.append(Entry(bound, _attained(bound, 0.1), 4, (TIGHT,)))
    for seed in range(3):
        step = OneStep(depth=3, width=4, hash_seed=seed)
        entries.append(Entry(step, _of_size(problems.cosh_wells, 8, 0.3, seed), 100, (HOLDS,)))
    return entries


def small_tensor() -> Game:
    """An order-3 tensor with gradients of rank 1 along every axis."""

    def begin(T: int) -> Any:
        rng = np.random.default_rng(0)
        a, b, c = rng.normal(size=(T, 2)), rng.normal(size=(T, 3)), rng.normal(size=(T, 2))
        g = np.einsum("ti,tj,tk->tijk", a, b, c)
        return lambda t, x: g[t - 1]

    shape = (2, 3, 2)
    return Game("rank-1 tensors", L2Ball(1.0, shape), np.zeros(shape), begin, rank=1)


#: Rounds of a residual run.
RESIDUAL_ROUNDS = 60


def first_plays(entries: Iterable[Entry], most: int) -> dict[str, tuple[Bound, Game, int]]:
    """The first play of the list for each bound, of at most ``most`` rounds, that meets its conditions."""
    found: dict[str, tuple[Bound, Game, int]] = {}
    for entry in entries:
        T = min(entry.T, most)
        if entry.bound.known_false or entry.bound.id in found:
            continue
        game = entry.game(T)
        if not entry.bound.gate(game, T):
            found[entry.bound.id] = entry.bound, game, T
    return found


def residuals() -> list[Entry]:
    """One residual run of every fast kernel that can run here, in both dtypes; none where there is none."""
    fine = (HOLDS, TIGHT, VACUOUS)
    runs = kernels.plays(first_plays(core(), RESIDUAL_ROUNDS))
    return [Entry(bound, _only(game), T, fine, dtype) for bound, game, T, dtype in runs]


def _only(game: Game) -> Callable[[int], Game]:
    return lambda T: game


SUITES: dict[str, Callable[[], list[Entry]]] = {
    "core": core,
    "full": full,
    "kernels": residuals,
}


def run(entries: Iterable[Entry]) -> Iterator[Record]:
    """Verify the lines of a suite, one after the other."""
    for entry in entries:
        record = verify(entry.bound, entry.game(entry.T), entry.T, dtype=np.dtype(entry.dtype))
        record.expected = entry.expected
        yield record


def exit_code(records: Iterable[Record]) -> int:
    """0 if every verdict is as expected, 3 if only comparators are not known well enough, else 1."""
    bad = [record for record in records if not record.ok]
    if not bad:
        return 0
    return 3 if all(record.undecided for record in bad) else 1
