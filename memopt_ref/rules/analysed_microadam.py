r"""The algorithm that MicroAdam's theorem is about, which is not the one that MicroAdam runs.

I. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtarik and D. Alistarh, "MicroAdam:
accurate adaptive optimization with low space overhead and provable convergence", NeurIPS 2024: the
form that its convergence theorem analyses.

    g~ = C(g + e)
    e <- Q(e + g - g~)                   Q unbiased: stochastic rounding
    m <- beta1 m + (1 - beta1) g~
    v <- beta2 v + (1 - beta2) g~^2
    v_hat <- max(v_hat, v)               as in AMSGrad
    w <- w - lr * m / sqrt(v_hat + eps)

Unlike :class:`~memopt_ref.rules.microadam.MicroAdam`: moving averages over all steps instead of a window, a
maximum, eps inside the root, no bias correction, and a quantiser that is right in the mean. With
||C(x) - x|| <= q ||x|| and ||Q(x) - x|| <= omega ||x|| the theorem needs q_w = (1 + omega) q < 1; MicroAdam's
defaults (1 %, 4 bits) violate it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..errors import HyperparameterError
from ..parts import fields
from ..parts.compressors import Compressor, TopK
from ..parts.metric import Metric
from ..parts.quantize import Quantiser
from ..parts.scalar import maximum, ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, like_parameter, seed_slot
from .base import LeafState, Rule, Values
from .elementwise import round_to


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalysedMicroAdam(Rule):
    """AMSGrad on compressed gradients with quantised error feedback.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    beta1, beta2 : float or Schedule
        Decay of the moving averages, in [0, 1).
    eps : float or Schedule
        Added inside the root, >= 0. With eps = 0 the convention 0/0 = 0 holds.
    compressor : Compressor
        C; the default keeps 1 % of each block of 4096.
    quantiser : Quantiser or None
        Q, with bounds in the dtype of the numbers (``bounds_dtype=None``) if it is to be unbiased. None
        keeps the error exactly (omega = 0).
    seed : int
        Of stochastic rounding; each tensor derives its own from its path.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`; the theorem has none.

    Notes
    -----
    State: 16 bytes a float32 parameter (the error is held as the numbers Q(x)), with stochastic rounding a
    counter and a seed: this is the theorem's object, not a way to save memory. Numerics: bitwise.

    Surely, for gradients of norm at most G: ||e|| <= q_w G / (1 - q_w), and for Top-K
    ||g~|| <= G / (1 - q_w).

    References
    ----------
    Modoranu et al. 2024, Theorem 1.

    Examples
    --------
    >>> import numpy as np
    >>> exact = {"compressor": TopK(k=1), "quantiser": None}
    >>> rule = AnalysedMicroAdam(learning_rate=0.1, eps=0.0, beta1=0.0, beta2=0.0, **exact)
    >>> w, state = rule.update(np.zeros(2), np.array([3.0, -4.0]), rule.init(np.zeros(2)))
    >>> w, state["leaves"][""]["e"]
    (array([0. , 0.1]), array([3., 0.]))
    """

    learning_rate: Number = fields.number(1e-3)
    beta1: Number = fields.number(0.9, 0, 1, open_high=True)
    beta2: Number = fields.number(0.999, 0, 1, open_high=True)
    eps: Number = fields.number(1e-8)
    compressor: Compressor = fields.instance(TopK(density=0.01, block=4096), Compressor)
    quantiser: Quantiser | None = fields.instance(
        Quantiser(rounding="stochastic", bounds_dtype=None), Quantiser, optional=True
    )
    seed: int = fields.integer(0)
    weight_decay_mode: str = fields.choice("decoupled", "l2", "independent")

    #: The compressor sees the whole tensor.
    couples_rows: ClassVar[bool] = True

    @property
    def is_random(self) -> bool:
        """Whether the error is rounded stochastically."""
        return self.quantiser is not None and self.quantiser.rounding == "stochastic"

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``e``, ``m``, ``v``, ``v_hat``; with stochastic rounding ``t`` and ``seed``."""
        dense = like_parameter(shape, dtype)
        random = {"t": counter(), "seed": seed_slot()} if self.is_random else {}
        return {"e": dense, "m": dense, "v": dense, "v_hat": dense, **random}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """The analysed algorithm; ``g_tilde`` is the compressed gradient, ``residual`` what Q is given."""
        random: Values = {}
        if "t" in state:
            random = {"t": np.int64(int(state["t"]) + 1), "seed": state["seed"]}
        a = state["e"] + g
        g_tilde = self.compressor(a)
        residual = a - g_tilde
        e = residual
        if self.quantiser is not None:
            xi = self.quantiser.noise(int(state["seed"]), int(random["t"]), w.size) if random else None
            e = self.quantiser(residual, xi)
        m = round_to(w, self.beta1) * state["m"] + round_to(w, 1.0 - self.beta1) * g_tilde
        v = round_to(w, self.beta2) * state["v"] + round_to(w, 1.0 - self.beta2) * (g_tilde * g_tilde)
        v_hat = maximum(state["v_hat"], v)
        denominator = sqrt(v_hat + round_to(w, self.eps))
        u = ratio(m, denominator)
        return {
            "w": w - round_to(w, self.learning_rate) * u,
            "e": e,
            "m": m,
            "v": v,
            "v_hat": v_hat,
            **random,
            "a": a,
            "g_tilde": g_tilde,
            "residual": residual,
            "denominator": denominator,
            "u": u,
        }

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = diag(sqrt(v_hat + eps)) / learning rate, for the direction m."""
        return Metric.diagonal(values["denominator"] / self.learning_rate)

    def constants(self, shape: int | tuple[int, ...]) -> dict[str, float]:
        """q, omega and q_w for a tensor of this shape; the theorem asks for q_w < 1.

        Raises
        ------
        HyperparameterError
            The quantiser is not the theorem's: rounding to nearest, or bounds in a fixed dtype.

        Examples
        --------
        >>> rule = AnalysedMicroAdam(compressor=TopK(k=10), quantiser=Quantiser(8, 20, "stochastic", None))
        >>> round(rule.constants(20)["q_w"], 4)
        0.7237
        >>> round(AnalysedMicroAdam().constants(4096)["q_w"], 2)
        1.73
        """
        size = math.prod(shape) if isinstance(shape, tuple) else shape
        q, omega = math.sqrt(1.0 - self.compressor.contraction(shape)), 0.0
        if self.quantiser is not None:
            if not self.is_random or self.quantiser.bounds_dtype is not None:
                wanted = 'rounding="stochastic" and bounds_dtype=None'
                advice = "The theorem asks for an unbiased quantiser."
                raise HyperparameterError(f"{self.name}.quantiser", repr(self.quantiser), wanted, advice)
            omega = self.quantiser.omega(size)
        return {"q": q, "omega": omega, "q_w": (1.0 + omega) * q}
