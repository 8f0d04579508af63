r"""Adafactor: a second moment kept as one number a row and one a column.

N. Shazeer and M. Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018. For a
matrix X with gradient G, t = 1, 2, ...:

    rho_t   = min(1e-2, 1 / sqrt t)                          relative step size
    alpha_t = max(eps2, RMS(X)) rho_t
    beta2_t = 1 - t^(-0.8)
    R <- beta2_t R + (1 - beta2_t) mean over each row of (G^2 + eps1)
    C <- beta2_t C + (1 - beta2_t) mean over each column of (G^2 + eps1)
    V_hat = R C / mean(R)
    U = G / sqrt(V_hat)
    U_hat = U / max(1, RMS(U) / d)
    X <- X - alpha_t U_hat

Vectors and scalars keep V itself. Beyond two axes the last two are factored and the leading ones are a
batch. The paper has sums where R and C are means here and in every port; V_hat is the same.

What compiled code reproduces bit for bit: every sum has the tree of :mod:`memopt_ref.parts.sums`
(``along_rows`` for R and mean(R), ``down_columns`` for C, ``over_tensor`` for both RMS), a mean is its sum
over n, and the update is factored, so that no entry needs a root or a division:

    r = 1 / sqrt(R / mean(R)),   c = 1 / sqrt(C),   U = (G r) c,   U_hat = U (1 / max(1, RMS(U) / d))

Conventions of ports, all options here:

* Momentum averages alpha_t U_hat (T2T, transformers, optax): the learning rate is inside the average, so a
  schedule acts late. ``momentum_of="update"`` averages U_hat.
* Weight decay multiplies alpha_t (transformers), the learning rate (torch; Keras, which takes RMS(X) after
  it) or neither (optax).
* torch adds no eps1 to G^2, but keeps mean(R) >= eps1 and sqrt(V_hat) >= eps1 (``eps_mode="clamp"``); its
  default eps1 is the spacing of floats at 1, within a group of mixed dtypes that of the first parameter for
  all. It clamps V_hat at eps1^2: in float32 eps=(1e-30, 1e-3) turns zero gradients into NaN (torch 2.13).
* T2T multiplies rho_t by 0.05 where it does not scale by the parameter: a schedule and ``step_size="fixed"``.
* optax factors the two largest axes, if both have 128 entries.
* Some ports once divided by min(1, RMS(U) / d): small updates grew to the threshold, large ones stayed large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..errors import HyperparameterError
from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import maximum, minimum, ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, accumulator_dtype, counter, like_parameter
from ..parts.sums import along_rows, down_columns, over_tensor
from .base import LeafState, Rule, Values
from .elementwise import returns, round_to


@returns("u")
def factored_update(g: Any, r: Any, c: Any) -> tuple[Any, ...]:
    """U = G / sqrt(V_hat) from the inverse roots of R / mean(R) and C; compiled code runs the same lines."""
    return ((g * r) * c,)


@returns("u")
def clamped_update(g: Any, r: Any, c: Any, most: Any) -> tuple[Any, ...]:
    """The same with 1 / sqrt(V_hat) at most ``most``."""
    return (g * minimum(r * c, most),)


@returns("v")
def averaged(v: Any, square: Any, beta2: Any, fresh2: Any) -> tuple[Any, ...]:
    """The mean of squares of a tensor that is not factored."""
    return (beta2 * v + fresh2 * square,)


@returns("u")
def own_update(g: Any, v: Any) -> tuple[Any, ...]:
    """U = G / sqrt(V)."""
    return (ratio(g, sqrt(v)),)


@returns("u")
def clamped_own_update(g: Any, v: Any, one: Any, most: Any) -> tuple[Any, ...]:
    """The same with 1 / sqrt(V) at most ``most``."""
    return (g * minimum(one / sqrt(v), most),)


@returns("rms")
def mean_root(total: Any, count: Any) -> tuple[Any, ...]:
    """The root of a mean square."""
    return (sqrt(total / count),)


@returns("alpha")
def relative_rate(rms_w: Any, rho: Any, eps2: Any) -> tuple[Any, ...]:
    """alpha_t = max(eps2, RMS(X)) rho_t."""
    return (maximum(eps2, rms_w) * rho,)


@returns("shrink")
def clipping(rms_u: Any, one: Any, d: Any) -> tuple[Any, ...]:
    """1 / max(1, RMS(U) / d)."""
    return (one / maximum(one, rms_u / d),)


@returns("factor")
def tracked(factor: Any, total: Any, beta2: Any, fresh2: Any, count: Any) -> tuple[Any, ...]:
    """R or C, which average the means of G^2 along rows or down columns."""
    return (beta2 * factor + fresh2 * (total / count),)


@returns("root")
def inverse_root(x: Any, one: Any) -> tuple[Any, ...]:
    """1 / sqrt(x), 0 at zero (0/0 = 0, met only with eps1 = 0)."""
    return (ratio(one, sqrt(x)),)


@returns("root")
def unbounded_inverse_root(x: Any, one: Any) -> tuple[Any, ...]:
    """1 / sqrt(x), infinity at zero: a clamp follows."""
    return (one / sqrt(x),)


@returns("w", "u_hat")
def stepped(w: Any, u: Any, keep: Any, alpha: Any, shrink: Any) -> tuple[Any, ...]:
    """X <- keep X - alpha U_hat; ``keep`` is 1 without weight decay."""
    u_hat = u * shrink
    return w * keep - alpha * u_hat, u_hat


@returns("w", "m", "u_hat")
def stepped_by_mean_of_steps(
    w: Any, u: Any, m: Any, keep: Any, alpha: Any, shrink: Any, beta1: Any, fresh1: Any
) -> tuple[Any, ...]:
    """m averages alpha U_hat."""
    u_hat = u * shrink
    m = beta1 * m + fresh1 * (alpha * u_hat)
    return w * keep - m, m, u_hat


@returns("w", "m", "u_hat")
def stepped_by_mean_of_updates(
    w: Any, u: Any, m: Any, keep: Any, alpha: Any, shrink: Any, beta1: Any, fresh1: Any
) -> tuple[Any, ...]:
    """m averages U_hat."""
    u_hat = u * shrink
    m = beta1 * m + fresh1 * u_hat
    return w * keep - alpha * m, m, u_hat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Rule):
    """Adafactor: Adam without momentum, with a factored second moment and steps relative to the parameter.

    Parameters
    ----------
    learning_rate : float or Schedule
        The largest rho_t (``step_size="relative"``, ``"warm_up"``), or rho_t itself (``"fixed"``).
    step_size : {"relative", "warm_up", "fixed"}
        rho_t = min(learning_rate, 1 / sqrt t); min(learning_rate, 1e-6 t, 1 / sqrt t); learning_rate.
    scale_parameter : bool
        Whether alpha_t is rho_t times max(eps2, RMS(X)), or rho_t.
    eps1 : float, Schedule or None
        Added to G^2; see ``eps_mode``. None is the spacing of floats at 1 in the compute dtype.
    eps2 : float or Schedule
        The smallest size that a parameter is taken to have.
    eps_mode : {"add", "clamp"}
        ``"clamp"``: G^2 stays, mean(R) and sqrt(V_hat) are at least eps1 (torch).
    clip_threshold : float, Schedule or None
        d, the largest RMS(U); None does not clip.
    beta2_schedule : {"power", "adam", "constant"}
        beta2_t = min(beta2, 1 - t^decay_exponent); beta2 (1 - beta2^(t-1)) / (1 - beta2^t), which makes V
        Adam's corrected one; beta2.
    decay_exponent : float or Schedule
        <= 0; the paper's -0.8.
    beta2 : float or Schedule
        See ``beta2_schedule``; in [0, 1], below 1 unless it is the cap of ``"power"``.
    beta1 : float or Schedule
        Decay of the averaged step, in [0, 1). 0 keeps no state.
    momentum_of : {"step", "update"}
        m averages alpha_t U_hat and X <- X - m, or it averages U_hat and X <- X - alpha_t m.
    factored : bool
        False keeps V of every tensor.
    factor_axes : {"last", "largest"}
        Which two axes R and C belong to; of the two largest, R keeps the smaller.
    min_dim : int
        Factor only if both axes have at least this many entries.
    weight_decay : float or Schedule
        lambda, >= 0.
    weight_decay_mode : {"decoupled", "learning_rate", "independent", "before", "l2"}
        X is multiplied by 1 - lambda alpha_t, by 1 - lambda learning_rate or by 1 - lambda between RMS(X)
        and the step. ``"before"``: by 1 - lambda learning_rate before RMS(X). ``"l2"``: G <- G + lambda X.

    Raises
    ------
    HyperparameterError
        beta2 = 1 where it is not a cap.

    Notes
    -----
    State: for [..., m, n] 4 (1/m + 1/n) bytes a float32 parameter, for vectors 4, with momentum 4 more; one
    counter, the tensor's own t. Passes: G for the sums, G for RMS(U), G and X for the step, X for RMS(X).
    Numerics: bitwise. V_hat is exact where the mean of G^2 + eps1 has rank one, and of all rank-one
    matrices it has the least generalised Kullback-Leibler divergence from it. No regret bound is known. A
    row-sparse gradient is stepped on the dense one.

    References
    ----------
    Shazeer and Stern 2018; its relative step sizes, update clipping and increasing decay are all on by
    default.

    Examples
    --------
    >>> import numpy as np
    >>> rule, w = Adafactor(), np.full((2, 2), 3.0)
    >>> values = rule.values(w, np.array([[1.0, 2.0], [10.0, 20.0]]), rule.init(w))
    >>> values["R"], values["C"]                # the squares have rank one: V_hat is exact, U the sign
    (array([  2.5, 250. ]), array([ 50.5, 202. ]))
    >>> values["w"]
    array([[2.97, 2.97],
           [2.97, 2.97]])
    """

    learning_rate: Number = fields.number(1e-2)
    step_size: str = fields.choice("relative", "warm_up", "fixed")
    scale_parameter: bool = fields.flag(True)
    eps1: Number = fields.number(1e-30, optional=True)
    eps2: Number = fields.number(1e-3)
    eps_mode: str = fields.choice("add", "clamp")
    clip_threshold: Number = fields.number(1.0, open_low=True, optional=True)
    beta2_schedule: str = fields.choice("power", "adam", "constant")
    decay_exponent: Number = fields.number(-0.8, -math.inf, 0.0)
    beta2: Number = fields.number(1.0, 0, 1)
    beta1: Number = fields.number(0.0, 0, 1, open_high=True)
    momentum_of: str = fields.choice("step", "update")
    factored: bool = fields.flag(True)
    factor_axes: str = fields.choice("last", "largest")
    min_dim: int = fields.integer(0)
    weight_decay_mode: str = fields.choice("decoupled", "learning_rate", "independent", "before", "l2")

    #: Both RMS are over the whole tensor.
    couples_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta2_schedule != "power" and self.beta2 == 1:
            wanted = f"a number in [0, 1) for beta2_schedule={self.beta2_schedule!r}"
            raise HyperparameterError("Adafactor.beta2", "1", wanted, "Pass beta2, such as 0.999.")

    def factor_pair(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The axes (i, j) that R and C are indexed by, or None where V is kept."""
        if not self.factored or len(shape) < 2:
            return None
        last = len(shape) - 2, len(shape) - 1
        i, j = last if self.factor_axes == "last" else sorted(range(len(shape)), key=shape.__getitem__)[-2:]
        return None if min(shape[i], shape[j]) < self.min_dim else (i, j)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``R`` (without axis j) and ``C`` (without axis i), or ``v``; ``m`` if there is momentum; ``t``."""
        pair, axes = self.factor_pair(shape), range(len(shape))
        if pair is None:
            slots = {"v": like_parameter(shape, dtype)}
        else:
            kept = [tuple(a for a in axes if a != gone) for gone in (pair[1], pair[0])]
            R, C = (Slot(tuple(shape[a] for a in k), accumulator_dtype(dtype), axes=k) for k in kept)
            slots = {"R": R, "C": C}
        return slots | ({} if self.beta1 == 0 else {"m": like_parameter(shape, dtype)}) | {"t": counter()}

    def coefficients(self, t: int) -> dict[str, float]:
        """The numbers of the tensor's step ``t``, in float64; ``fresh`` is 1 - beta."""
        rho = self.learning_rate
        if self.step_size != "fixed":
            rho = min(rho, 1.0 / math.sqrt(t), 1e-6 * t if self.step_size == "warm_up" else math.inf)
        beta2 = self.beta2
        if self.beta2_schedule == "power":
            beta2 = min(beta2, 1.0 - t**self.decay_exponent)
        elif self.beta2_schedule == "adam":
            beta2 = beta2 * (1.0 - beta2 ** (t - 1)) / (1.0 - beta2**t)
        return {
            "rho": rho,
            "beta2": beta2,
            "fresh2": 1.0 - beta2,
            "beta1": self.beta1,
            "fresh1": 1.0 - self.beta1,
        }

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The paper's equations, then momentum, in this order; a decay after RMS(X) is here."""
        k = self.numbers(int(state["t"]) + 1, w)
        rms_w = rms(w)
        alpha = self.relative(rms_w, k)
        values = self._factored(g, state, k) if "R" in state else self._dense(g, state, k)
        u = values["u"]
        rms_u = rms(u)
        shrink = self.shrink(rms_u, k)
        values |= {"rms_w": rms_w, "rms_u": rms_u, "alpha": alpha, "shrink": shrink}
        keep = self.keep(alpha, k)
        if "m" not in state:
            w, u_hat = stepped(w, u, keep, alpha, shrink)
        else:
            w, values["m"], u_hat = self.mean_step()(
                w, u, state["m"], keep, alpha, shrink, k["beta1"], k["fresh1"]
            )
        return {"w": w, **values, "u_hat": u_hat, "rho": k["rho"], "t": np.int64(int(state["t"]) + 1)}

    # The parts of a step between its passes over the tensor, which compiled code takes from here

    def numbers(self, t: int, w: Any) -> dict[str, Any]:
        """All the numbers of the tensor's step ``t``, in the dtype of ``w``."""
        eps1 = np.finfo(w.dtype).eps if self.eps1 is None else self.eps1
        d = math.inf if self.clip_threshold is None else self.clip_threshold
        given = {**self.coefficients(t), "one": 1.0, "eps1": eps1, "eps2": self.eps2, "d": d}
        return {name: round_to(w, value) for name, value in given.items()}

    def relative(self, rms_w: Any, k: Mapping[str, Any]) -> Any:
        """alpha_t from RMS(X)."""
        return relative_rate(rms_w, k["rho"], k["eps2"])[0] if self.scale_parameter else k["rho"]

    def shrink(self, rms_u: Any, k: Mapping[str, Any]) -> Any:
        """1 / max(1, RMS(U) / d)."""
        return k["one"] if self.clip_threshold is None else clipping(rms_u, k["one"], k["d"])[0]

    def factors(self, rows: Any, columns: Any, R: Any, C: Any, k: Mapping[str, Any]) -> tuple[Any, ...]:
        """New R, C, mean(R), R / mean(R), r and c, from the sums along rows and down columns.

        ``rows`` and R have the shape [..., m], ``columns`` and C [..., n].
        """
        m, n = rows.shape[-1], columns.shape[-1]
        (R,) = tracked(R, rows, k["beta2"], k["fresh2"], max(n, 1))
        (C,) = tracked(C, columns, k["beta2"], k["fresh2"], max(m, 1))
        mean_R = (along_rows(R) / max(m, 1))[..., None]
        if self.eps_mode == "clamp":
            mean_R = maximum(mean_R, k["eps1"])
        relative = ratio(R, mean_R)
        root = inverse_root if self.eps_mode == "add" else unbounded_inverse_root
        with np.errstate(divide="ignore"):
            return R, C, mean_R, relative, root(relative, k["one"])[0], root(C, k["one"])[0]

    def mean_step(self) -> Any:
        """The step with momentum."""
        return stepped_by_mean_of_steps if self.momentum_of == "step" else stepped_by_mean_of_updates

    def _factored(self, g: Any, state: LeafState, k: Mapping[str, Any]) -> Values:
        i, j = self.factor_pair(g.shape)  # type: ignore[misc]
        at_i, at_j = i - (j < i), j - (i < j)  # where axis i stands in R, and axis j in C
        squares = np.moveaxis(self._squares(g, k), (i, j), (-2, -1))  # [batch, m, n]
        R, C = np.moveaxis(state["R"], at_i, -1), np.moveaxis(state["C"], at_j, -1)
        R, C, mean_R, relative, r, c = self.factors(along_rows(squares), down_columns(squares), R, C, k)
        R, mean_R, relative, r = (np.moveaxis(x, -1, at_i) for x in (R, mean_R, relative, r))
        C, c = (np.moveaxis(x, -1, at_j) for x in (C, c))
        r, c = np.expand_dims(r, j), np.expand_dims(c, i)
        v_hat = np.expand_dims(relative, j) * np.expand_dims(C, i)
        clamped = self.eps_mode == "clamp"
        (u,) = clamped_update(g, r, c, self.most(k)) if clamped else factored_update(g, r, c)
        return {"R": R, "C": C, "mean_R": mean_R, "r": r, "c": c, "v_hat": v_hat, "u": u}

    def _dense(self, g: Any, state: LeafState, k: Mapping[str, Any]) -> Values:
        (v,) = averaged(state["v"], self._squares(g, k), k["beta2"], k["fresh2"])
        clamped = self.eps_mode == "clamp"
        (u,) = clamped_own_update(g, v, k["one"], self.most(k)) if clamped else own_update(g, v)
        return {"v": v, "v_hat": v, "u": u}

    def _squares(self, g: Any, k: Mapping[str, Any]) -> Any:
        return g * g + k["eps1"] if self.eps_mode == "add" else g * g

    def most(self, k: Mapping[str, Any]) -> Any:
        """The largest 1 / sqrt(V_hat), if that is clamped."""
        with np.errstate(divide="ignore"):
            return 1 / k["eps1"]

    def decayed(self, w: Any, g: Any) -> tuple[Any, Any]:
        """``"before"`` and L2 alone: the other modes wait for RMS(X)."""
        return (w, g) if self._decays_late() else super().decayed(w, g)

    def decay_rate(self, w: Any) -> Any:
        """The learning rate, for ``"before"``."""
        return self.learning_rate

    def _decays_late(self) -> bool:
        return self.weight_decay != 0 and self.weight_decay_mode not in ("before", "l2")

    def keep(self, alpha: Any, k: Mapping[str, Any]) -> Any:
        """What the parameter is multiplied by between RMS(X) and the step."""
        if not self._decays_late():
            return k["one"]
        rates = {"decoupled": alpha, "learning_rate": self.learning_rate, "independent": 1.0}
        return 1.0 - self.weight_decay * rates[self.weight_decay_mode]

    def metric(self, values: Mapping[str, Any]) -> Metric | None:
        """H = diag(sqrt(V_hat)) / (alpha_t / max(1, RMS(U) / d)); none with momentum."""
        if "m" in values:
            return None
        root = sqrt(values["v_hat"])
        if self.eps_mode == "clamp":
            root = maximum(root, self.numbers(1, root)["eps1"])
        return Metric.diagonal(root / (values["alpha"] * values["shrink"]))


def rms(x: Any) -> Any:
    """Root of the mean square, summed in the order of :func:`~memopt_ref.parts.sums.over_tensor`; 0 if empty.

    Examples
    --------
    >>> float(rms(np.array([3.0, -3.0])))
    3.0
    """
    return root_of_mean(over_tensor(x * x), np.size(x))


def root_of_mean(total: Any, count: int) -> Any:
    """sqrt(total / count); 0 of nothing."""
    return mean_root(total, max(count, 1))[0]
