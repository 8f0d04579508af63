r"""Adam and RMSProp with their moments in count-sketch and count-min tensors.

R. Spring, A. Kyrillidis, V. Mohan and A. Shrivastava, "Compressing gradient optimizers via count-sketches",
ICML 2019, Algorithm 4. For each active row i (one with a gradient), x its weights and g its gradient:

    m = QUERY(M, i);  UPDATE(M, i, (1 - beta1)(g - m));    m = QUERY(M, i)
    v = QUERY(V, i);  UPDATE(V, i, (1 - beta2)(g^2 - v));  v = QUERY(V, i)
    x <- x - lr m_hat / (sqrt(v_hat) + eps),   m_hat = m / (1 - beta1^t),   v_hat = v / (1 - beta2^t)
    cleaning: V <- clean_factor V  before every clean_every-th step

As printed, V's values are queried from M. The paper's theorem (beta1 = 0) uses an upper bound on the old
estimate as if it were an equality (Lemma B.2), and needs a linear sketch: ``decay="global"``. The public code
reads each row's own bucket (``delta_from="row"``), has Adam's old torch form (``bias_correction="eps_hat"``)
and cleans by 0.25 every 1000 steps; its RMSProp has depth 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..parts import fields
from ..parts.metric import Metric
from ..parts.scalar import ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, like_parameter, seed_slot
from .adam import Adam
from .base import LeafState, Values
from .elementwise import returns, round_to
from .sketch_state import Manner, SketchedRule, forbid_without_count_min


@returns("w", "m_hat", "v_hat", "denominator")
def along_adam(
    w: Any, m: Any, v: Any, learning_rate: Any, correction1: Any, correction2: Any, eps: Any
) -> tuple[Any, ...]:
    """Algorithm 4's last lines."""
    m_hat = m / correction1
    v_hat = v / correction2
    denominator = sqrt(v_hat) + eps
    return w - learning_rate * ratio(m_hat, denominator), m_hat, v_hat, denominator


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountSketchRMSProp(SketchedRule):
    """RMSProp with v in a count-min sketch: Adam with beta1 = 0, the rule of the paper's theorem.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta.
    beta2 : float or Schedule
        Decay of the mean of g^2, in [0, 1).
    eps : float or Schedule
        Added to the root, >= 0.
    bias_correction : {"eps_hat", "paper", "none"}
        As in :class:`~memopt_ref.rules.adam.Adam` with beta1 = 0; the public code scales the rate by
        sqrt(1 - beta2^t), which is ``"eps_hat"``. ``t`` counts the tensor's steps, not a row's.
    combine : {"min", "median", "mean"}
        ``"min"`` is count-min; the others take signs, for comparison: they can bring v down to 0 beside a
        large g, so take eps = 0 (no step there) or a large one.
    decay : {"lazy", "global"}
    delta_from : {"query", "row"}
        See :mod:`memopt_ref.rules.sketch_state`. Lazily decayed, count-min may underestimate.
    conservative : bool
        Conservative update; needs ``decay="global"``, since lazy increments can be negative.
    clean_every, clean_factor
        Multiply V by ``clean_factor`` before every ``clean_every``-th step; 0 switches it off (the default).
        The public code has 1000 and 0.25, the paper's MegaFace runs 125 and 0.2.
    compression, depth, width, hash, seed, order
        See :class:`~memopt_ref.rules.sketch_state.SketchedRule`.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`; a row-sparse gradient decays its rows only.

    Raises
    ------
    StabilityError
        ``delta_from="row"`` with lazy decay, batched, and more than 2 / (1 - beta2) active rows in a bucket.

    Notes
    -----
    State: 4 / compression bytes a float32 parameter, a counter and a seed. Numerics: bitwise.

    References
    ----------
    Spring et al. 2019, Algorithm 4 and section 4.

    Examples
    --------
    >>> import numpy as np
    >>> rule = CountSketchRMSProp(learning_rate=0.1)
    >>> w, state = rule.update(np.zeros((4, 1)), np.eye(4, 1), rule.init(np.zeros((4, 1))))
    >>> np.round(w.ravel(), 6) + 0.0
    array([-0.1,  0. ,  0. ,  0. ])
    """

    learning_rate: Number = fields.number(1e-3)
    beta2: Number = fields.number(0.999, 0, 1, open_high=True)
    eps: Number = fields.number(1e-8)
    bias_correction: str = fields.choice("eps_hat", "paper", "none")
    combine: str = fields.choice("min", "median", "mean")
    decay: str = fields.choice("lazy", "global")
    delta_from: str = fields.choice("query", "row")
    conservative: bool = fields.flag(False)
    clean_every: int = fields.integer(0)
    clean_factor: Number = fields.number(0.25, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        forbid_without_count_min(self)

    def dense(self) -> Adam:
        """The rule whose state is compressed here; with one row a bucket both agree."""
        return Adam(
            learning_rate=self.learning_rate,
            beta1=getattr(self, "beta1", 0.0),
            beta2=self.beta2,
            eps=self.eps,
            bias_correction=self.bias_correction,
            weight_decay=self.weight_decay,
            weight_decay_mode=self.weight_decay_mode,
        )

    def manner(self) -> Manner:
        """As chosen."""
        return Manner(self.decay, self.delta_from, self.order, self.conservative)

    def keeps(self) -> dict[str, Any]:
        """beta2."""
        return {"V": self.beta2}

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """The sketch ``V``, and ``t``."""
        return {"V": self.table(shape, dtype), "t": counter(), "seed": seed_slot()}

    def follow(self, items: Any, g: Any, state: LeafState) -> Values:
        """V <- beta2 V + (1 - beta2) g^2."""
        t = state["t"] + 1
        return {"t": t, **self.track("V", items, g * g, state, self.beta2, 1.0 - self.beta2, t)}

    def finish(self, w: Any, g: Any, values: Values) -> Values:
        """Algorithm 4's last lines; without a first moment the direction is g."""
        numbers = self.dense().coefficients(int(values["t"]))
        names = ("learning_rate", "correction1", "correction2", "eps")
        members = along_adam(
            w, values.get("m", g), values["v"], *(round_to(w, numbers[name]) for name in names)
        )
        return dict(zip(along_adam.returns, members, strict=True))  # type: ignore[attr-defined]

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(denominator) / learning rate for the direction m_hat, of a dense step."""
        learning_rate = self.dense().coefficients(int(values["t"]))["learning_rate"]
        return Metric.diagonal(values["denominator"] / learning_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountSketchAdam(CountSketchRMSProp):
    """Adam with v in a count-min sketch, and m in a count-sketch, dense, or absent.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta.
    beta1 : float or Schedule
        Decay of the mean of g, in [0, 1). 0 keeps no m at all.
    moments : {"both", "second"}
        ``"both"`` sketches m and v (CS-MV); ``"second"`` keeps m dense, one row of it for each row of the
        parameter, touched with that row (CS-V).
    bias_correction : {"paper", "eps_hat", "none"}
        As in :class:`~memopt_ref.rules.adam.Adam`; the public code has ``"eps_hat"``. ``t`` counts the
        tensor's steps, not a row's.
    beta2, eps, combine, decay, delta_from, conservative, clean_every, clean_factor
        See :class:`CountSketchRMSProp`; ``combine``, ``conservative`` and cleaning concern v alone.
    compression, depth, width, hash, seed, order
        See :class:`~memopt_ref.rules.sketch_state.SketchedRule`.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`; a row-sparse gradient decays its rows only.

    Raises
    ------
    StabilityError
        ``delta_from="row"`` with lazy decay, batched, and more than 2 / (1 - beta) active rows in a bucket.

    Notes
    -----
    State: 8 / compression bytes a float32 parameter (``"second"``: 4 + 4 / compression; beta1 = 0: 4 /
    compression), a counter and a seed. Numerics: bitwise.

    References
    ----------
    Spring et al. 2019, Algorithm 4.

    Examples
    --------
    >>> import numpy as np
    >>> shape = (100, 2)
    >>> {name: slot.shape for name, slot in CountSketchAdam().slots(shape, np.float32).items()}
    {'M': (3, 6, 2), 'V': (3, 6, 2), 't': (), 'seed': ()}
    >>> list(CountSketchAdam(moments="second").slots(shape, np.float32))
    ['m', 'V', 't', 'seed']
    """

    beta1: Number = fields.number(0.9, 0, 1, open_high=True)
    moments: str = fields.choice("both", "second")
    bias_correction: str = fields.choice("paper", "eps_hat", "none")

    def keeps(self) -> dict[str, Any]:
        """beta1, if m is sketched, and beta2."""
        first = self.moments == "both" and self.beta1 != 0
        return ({"M": self.beta1} if first else {}) | {"V": self.beta2}

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``M``, ``m`` or neither; ``V``; ``t``."""
        slots = super().slots(shape, dtype)
        if self.beta1 == 0:
            return slots
        if self.moments == "both":
            return {"M": self.table(shape, dtype), **slots}
        return {"m": like_parameter(shape, dtype), **slots}

    def follow(self, items: Any, g: Any, state: LeafState) -> Values:
        """Both moments of the active rows."""
        values = super().follow(items, g, state)
        fresh1 = 1.0 - self.beta1
        if "M" in state:
            return values | self.track("M", items, g, state, self.beta1, fresh1)
        if "m" in state:
            values["m"] = round_to(g, self.beta1) * state["m"][items] + round_to(g, fresh1) * g
        return values
