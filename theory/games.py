r"""Games: loss sequences that are meant to hurt, or to show where adaptivity pays.

Each function returns a :class:`~.play.Game`. One-dimensional games live on [-1, 1] from x_1 = 0 unless said.
``sign(0)`` counts as +1, or a game that reacts to the player would never start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import problems
from .geometry import Array, Box, Domain, Everywhere, L2Ball, Simplex
from .losses import Abs, Logistic, Quadratic
from .play import Game, Reveal

Shape = tuple[int, ...]


def against_sign(x: Array) -> Array:
    """+1 where x >= 0, else -1."""
    return np.where(x >= 0, 1.0, -1.0)


def sequence(
    gradients: Any, domain: Domain | None = None, name: str = "sequence", x1: Array | None = None
) -> Game:
    """Given gradients, one after the other; a number stands for a vector of one entry."""
    g = np.asarray(gradients, dtype=object if np.asarray(gradients).dtype == object else np.float64)
    g = g.reshape(len(g), -1) if g.ndim == 1 else g
    domain = Box.symmetric(g.shape[1:]) if domain is None else domain
    flat = g.reshape(len(g), -1)
    square = np.max(np.sum(flat * flat, 1))
    return Game(
        name,
        domain,
        np.zeros(g.shape[1:]) if x1 is None else x1,
        lambda T: lambda t, x: g[t - 1],
        G=math.sqrt(float(square)),
        G_inf=float(np.max(np.abs(flat))),
    )


def zigzag_run(n: int, m: int, growth: float = 1.0, amplitude: float = 1.0) -> Game:
    """``n`` alternating signs (growing by ``growth`` a round), then ``m`` equal ones of size ``amplitude``.

    The zigzag spends steps and goes nowhere; the run then asks for the way to the other end. Against gradient
    descent with rate eta (n even, growth 1, amplitude 1, eta m <= 1) the regret is exactly

        m + eta (n + m) / 2 - eta m^2 / 2,

    which for eta = 1 / sqrt(T) and m = sqrt(T) is the bound sqrt(T) itself.
    """
    zigzag = [(-1.0) ** s * growth**s for s in range(n)]
    return sequence(zigzag + [amplitude] * m, name=f"zigzag_run({n}, {m})")


def wall(n: int, m: int, share: float, run: float = 1.0, domain: Domain | None = None) -> Game:
    """A kick to the wall, a zigzag of ``n`` (even) that returns to it, and a run of ``m`` away from it.

    Each gradient of the zigzag adds the part ``share`` to the sum of squares, so that all steps of AdaGrad
    are of one length and lead back to the wall, the point farthest from the best one. The run crosses the
    domain, by steps of at most 2 ``run`` / m. Both terms of the bound sqrt(2) D sqrt(G) are spent: with steps
    short beside D the zigzag earns D sqrt(G) / sqrt(2), the run as much, and what is lost is of order share
    + 1/m + exp(-n share / 2) of it. So the ratio tends to 1, like 1 - 1.45 / sqrt(T), and the constant cannot
    be improved. Played from the middle of [-1, 1].
    """
    g, total = [1.0], 1.0
    for s in range(n):
        size = math.sqrt(total * share / (1.0 - share))
        total += size * size
        g.append(size if s % 2 else -size)
    top = math.sqrt(total)
    end = [-run * math.sqrt(2.0) / m] * m
    return sequence([v / top for v in g] + end, domain, f"wall({n}, {m}, {share:.3g})")


def wall_of(T: int) -> Game:
    """:func:`wall` with numbers that suit T >= 8."""
    m = max(2, round(0.15 * T))
    n = (T - 1 - m) // 2 * 2
    return wall(n, T - 1 - n, min((4.0 + math.log2(T) / 1.6) / n, 0.5))


def falling_wall(T: int) -> Game:
    """The same against steps that fall like 1 / sqrt(t): of two steps the first, away, is shortened.

    Then both lead to the wall and back, and the last sqrt(2 T) rounds cross [-1, 1]: the ratios of the rates
    D / (G sqrt t) and D / (G sqrt(2 t)) tend to 1.
    """
    m = round(1.5 * math.sqrt(T))
    n = (T - 1 - m) // 2 * 2
    zigzag = [1.0 if s % 2 else -math.sqrt((s + 2) / (s + 3)) for s in range(n)]
    return sequence([1.0, *zigzag] + [-1.0] * (T - 1 - n), name=f"falling_wall({T})")


def there_and_back(T: int) -> Game:
    """+1 for T/5 rounds, then -1 until x >= 1, then 0; played everywhere, against [-1, 1].

    Without projection the trip away is long, so a rate tuned for the nominal diameter 2 pays for it: the
    regret of AdaGrad grows like T^1.5. The certificate with the realised distance holds, and is worse than
    linear: a trajectory's D must not be used to tune.
    """

    def begin(_: int) -> Reveal:
        done = [False]

        def reveal(t: int, x: Array) -> Array:
            if t <= T // 5:
                return np.ones(1)
            done[0] = done[0] or bool(x[0] >= 1)
            return np.zeros(1) if done[0] else -np.ones(1)

        return reveal

    return Game(
        f"there_and_back({T})", Everywhere((1,)), np.zeros(1), begin, Box.symmetric((1,)), G=1.0, G_inf=1.0
    )


def bang_bang(shape: Shape = (1,), G: float = 1.0, domain: Domain | None = None) -> Game:
    """g_t = G sign(x_t) at every entry: punishes steps that are too long."""
    size = math.prod(shape)
    return Game(
        "bang_bang",
        Box.symmetric(shape) if domain is None else domain,
        np.zeros(shape),
        lambda T: lambda t, x: G * against_sign(x),
        G=G * math.sqrt(size),
        G_inf=G,
        rank=min(shape) if len(shape) == 2 else None,
    )


def single_hot(rows: int, columns: int) -> Game:
    """bang_bang on one entry of a matrix: a cover set whose members differ."""
    return _hot("single_hot", rows, columns, [(0, 0)])


def diag_hot(rows: int, columns: int) -> Game:
    """bang_bang on the diagonal of a matrix: what a rank-1 second moment cannot say."""
    return _hot("diag_hot", rows, columns, [(i, i) for i in range(min(rows, columns))])


def _hot(name: str, rows: int, columns: int, where: Sequence[tuple[int, int]]) -> Game:
    mask = np.zeros((rows, columns))
    for i, j in where:
        mask[i, j] = 1.0
    return Game(
        f"{name}({rows}, {columns})",
        Box.symmetric((rows, columns)),
        np.zeros((rows, columns)),
        lambda T: lambda t, x: mask * against_sign(x),
        G=math.sqrt(len(where)),
        G_inf=1.0,
        rank=len(where),
    )


def cold_row(columns: int, a: float = 0.01, late: bool = False) -> Game:
    """One hot entry (bang_bang) in a row of cold ones (constant ``a``, from round 2 on if ``late``).

    The row's accumulator is hot; only the columns' say that the other entries are cold, so a rule that takes
    the largest of an entry's accumulators hardly moves them. A second row rests.
    """
    cold, hot = np.zeros((2, columns)), np.zeros((2, columns))
    cold[0, 1:], hot[0, 0] = a, 1.0
    nothing = np.zeros((2, columns))

    def reveal(t: int, x: Array) -> Array:
        return (nothing if late and t == 1 else cold) + hot * against_sign(x)

    bound = math.sqrt(1 + (columns - 1) * a * a) * (1 + 1e-15)
    name = f"cold_row({columns}, late={late})"
    return Game(
        name, Box.symmetric((2, columns)), np.zeros((2, columns)), lambda T: reveal, G=bound, G_inf=1.0
    )


def constant(value: float = 1.0, shape: Shape = (1,)) -> Game:
    """The same gradient at every entry and round."""
    g = np.full(shape, value)
    return Game(
        f"constant({value:g})",
        Box.symmetric(shape),
        np.zeros(shape),
        lambda T: lambda t, x: g,
        G=abs(value) * math.sqrt(math.prod(shape)) * (1 + 1e-15),
        G_inf=abs(value),
        rank=1,
    )


def kick(epsilon: float = 1e-6) -> Game:
    """(epsilon, -1): exposes denominators that look at the past only."""
    return sequence([epsilon, -1.0], name="kick")


def tiny_kick(n: int, K: int, q: float, amplitude: float, angle: float = 0.0) -> Game:
    """Unit disc: a zigzag of n on axis 1, then K rounds of 1 on it beside a tiny growing gradient on axis 0.

    Axis 0 is amplitude q^(k - K) in round k = 0, ..., K - 1 of the run: its metric is tiny, and a projection
    in another norm throws axis 1 back while axis 0 should give way. ``angle`` rotates the game (full matrices
    must not notice).
    """
    g = np.zeros((n + K, 2))
    g[:n, 1] = [(-1.0) ** s for s in range(n)]
    g[n:, 1] = 1.0
    g[n:, 0] = [amplitude * q ** (k - K) for k in range(K)]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return sequence(g @ turn.T, L2Ball(1.0, (2,)), f"tiny_kick({n}, {K}, {q:g}, {amplitude:g})")


def orthogonal(d: int = 3, radius: float = 1.0) -> Game:
    """g_t of norm 1, orthogonal to x_t and the sum so far: forces radius sqrt(T) on every player (d >= 3)."""

    def begin(_: int) -> Reveal:
        S = np.zeros(d)

        def reveal(t: int, x: Array) -> Array:
            nonlocal S
            _, _, v = np.linalg.svd(np.stack([x, S]))
            g = v[-1]
            S = S + g
            return g

        return reveal

    return Game(
        f"orthogonal({d})", L2Ball(radius, (d,)), np.zeros(d), begin, G=1.0 + 1e-12, G_inf=1.0 + 1e-12
    )


def rademacher(shape: Shape = (1,), seed: int = 0, domain: Domain | None = None) -> Game:
    """Independent signs at every entry: for lower bounds and for checks of links; it kills no ratio."""

    def begin(T: int) -> Reveal:
        signs = np.random.default_rng(seed).integers(0, 2, (T, *shape)) * 2.0 - 1.0
        return lambda t, x: signs[t - 1]

    size = math.prod(shape)
    return Game(
        f"rademacher{shape}",
        Box.symmetric(shape) if domain is None else domain,
        np.zeros(shape),
        begin,
        G=math.sqrt(size) * (1 + 1e-15),
        G_inf=1.0,
        rank=min(shape) if len(shape) == 2 else None,
    )


def gaussian(shape: Shape, seed: int = 0, domain: Domain | None = None) -> Game:
    """Independent normal gradients with a drift; G is not declared."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)
        drift = rng.normal(size=shape) / math.sqrt(max(T, 1))
        g = rng.normal(size=(T, *shape)) + drift
        return lambda t, x: g[t - 1]

    home = Box.symmetric(shape) if domain is None else domain
    return Game(
        f"gaussian{shape}", home, np.zeros(shape), begin, rank=min(shape) if len(shape) == 2 else None
    )


def row_active(rows: int, columns: int, seed: int = 0) -> Game:
    """One row at a time has gradients of one size: SM3 with axis sets loses nothing against AdaGrad."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)
        which, size = rng.integers(0, rows, T), rng.uniform(0.1, 1.0, T)
        signs = rng.integers(0, 2, (T, columns)) * 2.0 - 1.0

        def reveal(t: int, x: Array) -> Array:
            g = np.zeros((rows, columns))
            g[which[t - 1]] = size[t - 1] * signs[t - 1]
            return g

        return reveal

    box = Box.symmetric((rows, columns))
    return Game(f"row_active({rows}, {columns})", box, np.zeros((rows, columns)), begin, G_inf=1.0, rank=1)


def sparse_iid(rows: int, columns: int, density: float = 0.05, seed: int = 0) -> Game:
    """Each entry is hit independently: no cover fits well."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)
        hit = rng.random((T, rows, columns)) < density
        g = hit * (rng.integers(0, 2, hit.shape) * 2.0 - 1.0)
        return lambda t, x: g[t - 1]

    box = Box.symmetric((rows, columns))
    return Game(f"sparse_iid({rows}, {columns})", box, np.zeros((rows, columns)), begin, G_inf=1.0)


def power_law(d: int, seed: int = 0) -> Game:
    """|g_i| = 1 / i with the sign of the iterate: many small coordinates beside few large ones."""
    size = 1.0 / np.arange(1, d + 1)
    return Game(
        f"power_law({d})",
        Box.symmetric((d,)),
        np.zeros(d),
        lambda T: lambda t, x: size * against_sign(x),
        G_inf=1.0,
    )


def fixed_direction(rows: int, columns: int, seed: int = 0, size: float = 1.0, bang: bool = True) -> Game:
    """A rank-1 direction of norm ``size`` on the Frobenius ball, with the sign of <x, direction>."""
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=rows), rng.normal(size=columns)
    direction = size * np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))

    def reveal(t: int, x: Array) -> Array:
        return direction * (1.0 if not bang or np.sum(x * direction) >= 0 else -1.0)

    name = f"fixed_direction({rows}, {columns}, {size:g})"
    ball = L2Ball(1.0, (rows, columns))
    bound = size * (1 + 1e-12)
    return Game(name, ball, np.zeros((rows, columns)), lambda T: reveal, G=bound, G_inf=bound, rank=1)


def reddi3(C: float = 3.0, x1: float = 0.0) -> Game:
    """C x in rounds 1, 4, 7, ..., else -x: Adam goes to +1, the worst point (Reddi et al., Theorem 1)."""
    return _periodic(f"reddi3({C:g})", 3, C, -1.0, x1)


def reddi101(x1: float = 0.0) -> Game:
    """1010 x in rounds 1, 102, ..., else -10 x: the paper's synthetic experiment."""
    return _periodic("reddi101", 101, 1010.0, -10.0, x1)


def _periodic(name: str, period: int, first: float, other: float, x1: float) -> Game:
    high, low = np.full(1, first), np.full(1, other)
    box = Box.symmetric((1,))
    G = max(abs(first), abs(other))
    return Game(
        name,
        box,
        np.full(1, x1),
        lambda T: lambda t, x: high if t % period == 1 else low,
        G=G,
        G_inf=G,
    )


def reddi_stochastic(seed: int = 0) -> Game:
    """1010 x with probability 0.01, else -10 x; realised regret is noise until T is far above 2.6e5."""

    def begin(T: int) -> Reveal:
        rare = np.random.default_rng(seed).random(T) < 0.01
        return lambda t, x: np.full(1, 1010.0 if rare[t - 1] else -10.0)

    return Game("reddi_stochastic", Box.symmetric((1,)), np.zeros(1), begin, G=1010.0, G_inf=1010.0)


def opposite_targets(mu: float = 1.0) -> Game:
    """(mu / 2)(x - z)^2 with z the far end of [-1, 1]: strongly convex, and reacts to the player."""

    def reveal(t: int, x: Array) -> Quadratic:
        return Quadratic(-against_sign(x), mu)

    box = Box.symmetric((1,))
    return Game(
        "opposite_targets",
        box,
        np.zeros(1),
        lambda T: reveal,
        G=2.0 * mu,
        G_inf=2.0 * mu,
        mu=mu,
        smoothness=mu,
        nonnegative=True,
    )


def leading_bowls(mu: float = 1.0) -> Game:
    """mu-strongly convex losses with gradients +1, -1, +1, ... wherever the player stands.

    Descent with rates 1 / (mu t) is always at the minimum of the losses so far: nothing is lost in its proof,
    and its regret is the bound.
    """

    def reveal(t: int, x: Array) -> Quadratic:
        return Quadratic(x - (-1.0) ** (t - 1) / mu, mu)

    # From 0 the first step is the longest, 1 / mu.
    return Game(
        "leading_bowls",
        Box.symmetric((1,), 1.0 / mu),
        np.zeros(1),
        lambda T: reveal,
        G=1.0 + 1e-12,
        G_inf=1.0 + 1e-12,
        mu=mu,
        smoothness=mu,
        nonnegative=True,
    )


def realizable(d: int = 3, noise: float = 0.0, seed: int = 0) -> Game:
    """Quadratics around one point: L* = 0 without ``noise``, so the regret must not grow with T."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)
        centre = rng.uniform(-0.5, 0.5, d)
        z = centre + noise * rng.normal(size=(T, d))
        return lambda t, x: Quadratic(z[t - 1])

    box = Box.symmetric((d,))
    return Game(
        f"realizable({d}, {noise:g})", box, np.zeros(d), begin, mu=1.0, smoothness=1.0, nonnegative=True
    )


def logistic(d: int = 4, seed: int = 0) -> Game:
    """Logistic losses of separable data with noise."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)
        a, truth = rng.normal(size=(T, d)), rng.normal(size=d)
        b = np.where(a @ truth + rng.normal(size=T) > 0, 1.0, -1.0)
        return lambda t, x: Logistic(a[t - 1], float(b[t - 1]))

    return Game(f"logistic({d})", Box.symmetric((d,)), np.zeros(d), begin)


def absolute(d: int = 2, seed: int = 0) -> Game:
    """|<a, x> - b| for random a and b: kinks."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(T, d)), rng.normal(size=T)
        return lambda t, x: Abs(a[t - 1], float(b[t - 1]))

    return Game(f"absolute({d})", Box.symmetric((d,)), np.zeros(d), begin)


def heaviest(n: int = 2) -> Game:
    """Loss 1 for the expert that the player trusts most: prediction with expert advice."""

    def reveal(t: int, x: Array) -> Array:
        return np.eye(n)[np.argmax(x)]

    return Game(f"heaviest({n})", Simplex(n), np.full(n, 1.0 / n), lambda T: reveal, G=1.0, G_inf=1.0)


def leader_trap() -> Game:
    """1/2, then -1, +1, -1, ...: following the leader loses every round."""

    def reveal(t: int, x: Array) -> Array:
        return np.full(1, 0.5 if t == 1 else (-1.0) ** (t - 1))

    return Game("leader_trap", Box.symmetric((1,)), np.zeros(1), lambda T: reveal, G=1.0, G_inf=1.0)


#: 1-D sequences on [-1, 1] with the ratio AdaGrad (D = 2) reaches when its step is doubled or halved.
W2 = [-0.03, 0.03, -0.06, 0.07, -0.09, 0.12, -0.15, 0.19, -0.24, 0.31, -0.37, 0.46, -0.47, 0.55, -1.0]
W_HALF = [
    *(0.004, -0.002, 0.01, -0.009, 0.012, -0.27, 0.024, 0.036, 0.035, 0.045, 0.056, 0.044, 0.042, -0.066),
    *(0.067, -0.063, 0.064, -0.05, 0.051, -1.0, -0.169, -0.158, -0.15, -0.146, -0.141, -0.137, -0.135),
    *(-0.133, -0.132, -0.13, -0.13, -0.129),
]


def witness(which: str) -> Game:
    """``"double"`` or ``"half"``: the sequence on which AdaGrad's step times 2, or 1/2, breaks its bound."""
    return sequence(W2 if which == "double" else W_HALF, name=f"witness({which})")


#: Games by name for the command line and for suites: each makes a game for a horizon T.
BY_NAME: dict[str, Callable[[int], Game]] = {
    "zigzag_run": lambda T: zigzag_run(T - math.isqrt(T), math.isqrt(T)),
    "bang_bang": lambda T: bang_bang(),
    "wall": lambda T: wall_of(max(T, 8)),
    "falling_wall": lambda T: falling_wall(max(T, 16)),
    "constant": lambda T: constant(),
    "rademacher": lambda T: rademacher((3,)),
    "gaussian": lambda T: gaussian((3,)),
    "orthogonal": lambda T: orthogonal(),
    "reddi3": lambda T: reddi3(),
    "reddi101": lambda T: reddi101(),
    "there_and_back": there_and_back,
    "leader_trap": lambda T: leader_trap(),
    "opposite_targets": lambda T: opposite_targets(),
    "leading_bowls": lambda T: leading_bowls(),
    "realizable": lambda T: realizable(),
    "logistic": lambda T: logistic(),
    "absolute": lambda T: absolute(),
    "heaviest": lambda T: heaviest(),
    "free_signs": lambda T: problems.freely(rademacher((3,))),
    "slow_side": lambda T: problems.slow_side(10),
    "crossed_lines": lambda T: problems.crossed_lines(),
    "biased_coin": lambda T: problems.biased_coin(),
    "quadratic": lambda T: problems.quadratic(np.linspace(0.1, 1.0, 12)),
    "bumps": lambda T: problems.bumps(),
    "cosh_wells": lambda T: problems.cosh_wells(),
}
