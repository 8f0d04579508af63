r"""Gradient descent with compressed steps: error feedback (EF) and EF21.

S. P. Karimireddy, Q. Rebjock, S. Stich and M. Jaggi, "Error feedback fixes signSGD and other gradient
compression schemes", ICML 2019 (EF-SGD); F. Seide, H. Fu, J. Droppo, G. Li and D. Yu, "1-bit
stochastic gradient descent", Interspeech 2014; D. Alistarh, T. Hoefler, M. Johansson, S. Khirirat, N.
Konstantinov and C. Renggli, "The convergence of sparsified gradient methods", NeurIPS 2018 (C = Top-K).

    p = e + lr * g
    D = C(p)
    w <- w - D
    e <- p - D,   or Q(p - D) for a quantised buffer

P. Richtarik, I. Sokolov and I. Fatkhullin, "EF21: a new, simpler, theoretically better, and practically
faster error feedback", NeurIPS 2021 (one worker).

    d <- d + C(g - d)                    (d = 0 before the first step, so d_0 = C(g_0))
    w <- w - lr * d

The error of EF is in the units of w: it holds learning rates of earlier steps. With an exact buffer w - e
takes the steps of plain gradient descent, which is what every proof uses; a projection of w would break it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..parts import fields
from ..parts.compressors import Compressor, TopK
from ..parts.error_buffer import ErrorBuffer
from ..parts.metric import Metric
from ..parts.schedule import Number
from ..parts.slots import Slot, like_parameter
from .base import LeafState, Rule, Values
from .elementwise import round_to


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorFeedbackSGD(Rule):
    """Gradient descent along C(e + lr g), what C drops being added to the next step.

    Parameters
    ----------
    learning_rate : float or Schedule
        gamma, >= 0.
    compressor : Compressor
        C: :class:`~memopt_ref.parts.compressors.TopK`, ``ScaledSign`` (EF-signSGD), ``OneBit`` (1-bit SGD) or
        ``Identity``.
    error_bits : int or None
        None keeps the error exactly, in the compute dtype; 1 to 8 bits quantise it bucket by bucket; 0
        keeps none (compressed descent without feedback).
    bucket : int
        Entries of a quantised error that share a minimum and a maximum, >= 1.
    rounding : {"nearest", "stochastic"}
        How the error is quantised; stochastic needs a seed.
    bounds_dtype : {"bfloat16", "float32", "float64"}
        How the bounds of a bucket are kept.
    seed : int
        Of stochastic rounding; each tensor derives its own from its path.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 4 bytes a float32 parameter, or bits / 8 (a whole byte from 5 bits on) and two bounds a bucket.
    Numerics: bitwise.

    With an exact buffer, ||C(x) - x|| <= q ||x|| and gradients of norm at most G:
    ||e|| <= q gamma G / (1 - q), surely, and the regret against u on convex losses is at most
    ||w_1 - u||^2 / (2 gamma) + gamma T G^2 (1/2 + q / (1 - q)).

    References
    ----------
    Karimireddy et al. 2019.

    Examples
    --------
    >>> import numpy as np
    >>> rule = ErrorFeedbackSGD(learning_rate=0.5, compressor=TopK(k=1))
    >>> w, state = rule.update(np.zeros(2), np.array([1.0, -2.0]), rule.init(np.zeros(2)))
    >>> w, state["leaves"][""]["e"]
    (array([0., 1.]), array([0.5, 0. ]))
    """

    learning_rate: Number = fields.number(1e-2)
    compressor: Compressor = fields.instance(TopK(density=0.01), Compressor)
    error_bits: int | None = fields.integer(None, 0, 8, optional=True)
    bucket: int = fields.integer(64, 1)
    rounding: str = fields.choice("nearest", "stochastic")
    bounds_dtype: str = fields.choice("bfloat16", "float32", "float64")
    seed: int = fields.integer(0)

    #: The compressor sees the whole tensor.
    couples_rows: ClassVar[bool] = True

    @property
    def error(self) -> ErrorBuffer:
        """How the error is kept."""
        return ErrorBuffer(self.error_bits, self.bucket, self.rounding, self.bounds_dtype)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``e``, or its codes and bounds."""
        return self.error.slots(shape, dtype)

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """EF-SGD; ``residual`` is p - D, which the buffer keeps or quantises."""
        t = int(state["t"]) + 1 if "t" in state else 0
        p = self.error.load(state, w) + round_to(w, self.learning_rate) * g
        D = self.compressor(p)
        residual = p - D
        values = {"w": w - D, **self.error.store(residual, state, t), "p": p, "D": D, "residual": residual}
        return {**values, "t": np.int64(t)} if "t" in state else values


@dataclasses.dataclass(frozen=True, kw_only=True)
class EF21(Rule):
    """Gradient descent along d, an estimate of the gradient that is corrected by compressed differences.

    Parameters
    ----------
    learning_rate : float or Schedule
        gamma, >= 0; for L-smooth losses at most 1 / (L (1 + sqrt(beta / theta))), theta = 1 - sqrt(1 -
        delta), beta = (1 - delta) / theta.
    compressor : Compressor
        C, delta-contractive.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`.

    Notes
    -----
    State: 4 bytes a float32 parameter. Numerics: bitwise.

    References
    ----------
    Richtarik, Sokolov and Fatkhullin 2021.

    Examples
    --------
    >>> import numpy as np
    >>> rule = EF21(learning_rate=0.5, compressor=TopK(k=1))
    >>> w, state = rule.update(np.zeros(2), np.array([1.0, -2.0]), rule.init(np.zeros(2)))
    >>> w, state["leaves"][""]["d"]
    (array([0., 1.]), array([ 0., -2.]))
    """

    learning_rate: Number = fields.number(1e-2)
    compressor: Compressor = fields.instance(TopK(density=0.01), Compressor)

    #: The compressor sees the whole tensor.
    couples_rows: ClassVar[bool] = True

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``d``, element-wise."""
        return {"d": like_parameter(shape, dtype)}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """Correct d, then move along it; ``c`` is the compressed difference."""
        c = self.compressor(g - state["d"])
        d = state["d"] + c
        return {"w": w - round_to(w, self.learning_rate) * d, "d": d, "c": c}

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """H = I / lr, for the direction d."""
        return Metric.scalar(1.0 / self.learning_rate, values["w"].shape)
