r"""Adam on sparsified gradients: the ablation that shows why MicroAdam feeds the error back.

I. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtarik and D. Alistarh, "MicroAdam:
accurate adaptive optimization with low space overhead and provable convergence", NeurIPS 2024, is what is
left out here.

    g~ = C(g)                            (with error feedback: g~ = C(g + e), e <- g + e - g~)
    m <- beta1 m + (1 - beta1) g~
    v <- beta2 v + (1 - beta2) g~^2
    w <- w - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

An entry that is never among the K largest never moves, and v_hat of one that rarely is stays small, so that
it jumps: on Rosenbrock's function with K = 1 of 2 the path is longer than Adam's by half and turns ten times
as much as with error feedback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ..parts import fields
from ..parts.compressors import Compressor, TopK
from ..parts.metric import Metric
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, like_parameter
from .adam import Adam
from .base import LeafState, Rule, Values


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopKAdam(Rule):
    """Adam on C(g), nothing fed back unless asked for.

    Parameters
    ----------
    learning_rate, beta1, beta2, eps
        See :class:`~memopt_ref.rules.adam.Adam`.
    compressor : Compressor
        C; the default keeps 1 % of each block of 4096.
    error_feedback : bool
        Add what was held back to the next gradient, exactly.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`; decoupled unless told otherwise.

    Notes
    -----
    State: 8 bytes a float32 parameter and a counter (12 with error feedback): it saves nothing. Numerics:
    bitwise.

    References
    ----------
    Modoranu et al. 2024.

    Examples
    --------
    >>> import numpy as np
    >>> rule = TopKAdam(learning_rate=0.1, compressor=TopK(k=1))
    >>> w, state = rule.update(np.zeros(2), np.array([3.0, -4.0]), rule.init(np.zeros(2)))
    >>> np.round(w, 6)
    array([0. , 0.1])
    """

    learning_rate: Number = fields.number(1e-3)
    beta1: Number = fields.number(0.9, 0, 1, open_high=True)
    beta2: Number = fields.number(0.999, 0, 1, open_high=True)
    eps: Number = fields.number(1e-8)
    compressor: Compressor = fields.instance(TopK(density=0.01, block=4096), Compressor)
    error_feedback: bool = fields.flag(False)
    weight_decay_mode: str = fields.choice("decoupled", "l2", "independent")

    #: The compressor sees the whole tensor.
    couples_rows: ClassVar[bool] = True

    @property
    def adam(self) -> Adam:
        """The rule that steps along the compressed gradient."""
        return Adam(learning_rate=self.learning_rate, beta1=self.beta1, beta2=self.beta2, eps=self.eps)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``m``, ``v``, ``t``; with error feedback ``e``."""
        dense = like_parameter(shape, dtype)
        return {"m": dense, "v": dense, "t": counter()} | ({"e": dense} if self.error_feedback else {})

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """Compress, then Adam; ``g_tilde`` is the compressed gradient."""
        a = state["e"] + g if "e" in state else g
        g_tilde = self.compressor(a)
        kept = {"e": a - g_tilde} if "e" in state else {}
        moments = {name: state[name] for name in ("m", "v", "t")}
        return {**self.adam.step(w, g_tilde, moments), **kept, "a": a, "g_tilde": g_tilde}

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """Adam's, for the direction m_hat."""
        return self.adam.metric(values)
