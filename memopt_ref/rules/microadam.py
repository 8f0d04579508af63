r"""MicroAdam: Adam from a window of sparse gradients, with an error feedback of four bits.

I. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtarik and D. Alistarh, "MicroAdam:
accurate adaptive optimization with low space overhead and provable convergence", NeurIPS 2024, Algorithm 1.

    a <- g + Q^{-1}(e, delta, Delta)                    what earlier steps held back comes on top
    I_s <- Top-K_j(|a|) of every block j, V_s <- a[I_s] row s = (t - 1) mod window of a ring
    a[I_s] <- 0                                         what stays is the new error
    e, delta, Delta <- Q(a)                             min and max of each bucket, after the zeroing
    m = sum_i beta1^{r_i} V_i,  v = sum_i beta2^{r_i} V_i^2
                                                        row i is r_i = (t - 1 - i) mod window steps old
    m_hat = (1 - beta1) / (1 - beta1^t) m,  v_hat = (1 - beta2) / (1 - beta2^t) v
    w <- w - lr * m_hat / (sqrt(v_hat) + eps)

The analysed algorithm of the paper's theorem is another one: :mod:`~memopt_ref.rules.analysed_microadam`.

* t in 1 - beta^t is the true step and not min(t, window), as the authors run it. A coordinate that is kept
  at every step therefore moves faster than under Adam: |update| / lr of a constant gradient grows from 1 (up
  to t = window) to (1 - beta1^window) / sqrt(1 - beta2^window), 6.53 at the defaults.
* t and the ring are each tensor's own. The authors' code counts steps outside its state and for all tensors
  at once: after a resume, or for a tensor without a gradient, the ages of the rows are wrong.
* The authors' code takes bfloat16 gradients only. Of a float32 gradient the window keeps bfloat16, and that
  rounding (up to 2^-9 of a kept entry) is not fed back; ``value_dtype`` keeps more.
* Its blocks follow from the GPU's shared memory (20864 on an A100) and its buckets are 100,000 or 64 long.
  Here both belong to the algorithm and are the same on every machine.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from ..parts import fields
from ..parts.error_buffer import ErrorBuffer
from ..parts.quantize import DTYPES
from ..parts.scalar import ratio, sqrt
from ..parts.schedule import Number
from ..parts.slots import Slot, counter, zeros_like
from ..parts.top_k import Blocks
from .base import LeafState, Rule, Values
from .elementwise import round_to


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroAdam(Rule):
    """Adam on the Top-K entries of the last ``window`` error-corrected gradients.

    Parameters
    ----------
    learning_rate : float or Schedule
        eta, >= 0.
    beta1, beta2 : float or Schedule
        Decay of the sums of V and V^2, in [0, 1).
    eps : float or Schedule
        Added to the root, >= 0. With eps = 0 the convention 0/0 = 0 holds.
    window : int
        m, the rows of the ring, >= 1.
    density : float
        In (0, 1]: k_j = ceil(density * len_j) entries of a block are kept, at least 1.
    block : int
        Length of a Top-K block of the flattened tensor, at most 32768, as indices are int16 relative to the
        block. A short tensor is one block.
    bucket : int
        Entries of the error that share a minimum and a maximum, >= 1.
    rounding : {"nearest", "stochastic"}
        How the error is quantised; stochastic needs a seed.
    value_dtype : {"bfloat16", "float32", "float64"}
        How V and the bounds of the buckets are kept.
    error_bits : int or None
        Bits of a code, 1 to 8 (up to 4: two codes a byte). None keeps the error exactly, in the compute
        dtype; 0 keeps none at all.
    seed : int
        Of stochastic rounding; each tensor derives its own from its path.
    weight_decay, weight_decay_mode
        See :class:`~memopt_ref.rules.base.Rule`; decoupled unless told otherwise.

    Notes
    -----
    State: error_bits / 8 + (2 + b) * window * density + 2 b / bucket bytes a parameter, b being the bytes of
    ``value_dtype`` (0.9625 at the defaults, apart from ceilings), and a counter. Slots: ``I`` and ``V``, flat
    in the order [block, ring row, kept entry], so that a block's window is contiguous and a short last block
    takes no padding; ``e``; ``e_min`` and ``e_max``, the paper's delta and Delta. Within a row no index
    occurs twice, across rows it may, so rows are added one after the other, in storage order; ``m`` and
    ``v`` exist during the step only.

    The quantiser's bounds are rounded to ``value_dtype`` and codes are clamped; see
    :mod:`~memopt_ref.parts.quantize` and :mod:`~memopt_ref.parts.top_k` for the choices that fix every bit.
    Passes over memory: one with a fused kernel. Numerics: bitwise. With density 1, window >= t,
    ``error_bits=None`` and an exact ``value_dtype`` this is Adam.

    References
    ----------
    Modoranu et al. 2024, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> rule = MicroAdam(learning_rate=0.1, density=0.5)
    >>> w, state = rule.update(np.zeros(4), np.array([3.0, -4.0, 1.0, 0.5]), rule.init(np.zeros(4)))
    >>> np.round(w, 6)
    array([-0.1,  0.1,  0. ,  0. ])
    >>> state["leaves"][""]["I"][:2], state["leaves"][""]["V"][:2].astype(float)
    (array([0, 1], dtype=int16), array([ 3., -4.]))
    """

    learning_rate: Number = fields.number(1e-3)
    beta1: Number = fields.number(0.9, 0, 1, open_high=True)
    beta2: Number = fields.number(0.999, 0, 1, open_high=True)
    eps: Number = fields.number(1e-8)
    window: int = fields.integer(10, 1)
    density: float = fields.number(0.01, 0, 1, open_low=True, scheduled=False)
    block: int = fields.integer(4096, 1, 32768)
    bucket: int = fields.integer(64, 1)
    rounding: str = fields.choice("nearest", "stochastic")
    value_dtype: str = fields.choice("bfloat16", "float32", "float64")
    error_bits: int | None = fields.integer(4, 0, 8, optional=True)
    seed: int = fields.integer(0)
    weight_decay_mode: str = fields.choice("decoupled", "l2", "independent")

    #: A compressor and a quantiser see the whole tensor.
    couples_rows: ClassVar[bool] = True

    def blocks(self, size: int) -> Blocks:
        """The Top-K blocks of a tensor with ``size`` entries."""
        return Blocks(size, self.block, self.density)

    @property
    def error(self) -> ErrorBuffer:
        """How the error is kept."""
        return ErrorBuffer(self.error_bits, self.bucket, self.rounding, self.value_dtype)

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``I`` and ``V``, the error's slots, and ``t``."""
        ring = (self.window * self.blocks(math.prod(shape)).kept,)
        kept = np.dtype(object) if dtype == object else DTYPES[self.value_dtype]
        window = {"I": Slot(ring, np.dtype(np.int16), merge="same"), "V": Slot(ring, kept, merge="same")}
        return {**window, **self.error.slots(shape, dtype), "t": counter()}

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """Algorithm 1; ``taken``: the kept entries of the flattened tensor; ``residual``: what Q is given."""
        t = int(state["t"]) + 1
        row, blocks = (t - 1) % self.window, self.blocks(w.size)
        a = g + self.error.load(state, w)
        flat = a.reshape(-1)
        within = blocks.select(flat)
        taken = blocks.offsets + within
        I = blocks.with_row(state["I"], self.window, row, within)  # noqa: E741
        V = blocks.with_row(state["V"], self.window, row, flat[taken])
        residual = flat.copy()
        residual[taken] = 0
        residual = residual.reshape(w.shape)
        m, v = self.statistics(w, I, V, t)
        m_hat = round_to(w, (1.0 - self.beta1) / (1.0 - self.beta1**t)) * m
        v_hat = round_to(w, (1.0 - self.beta2) / (1.0 - self.beta2**t)) * v
        u = ratio(m_hat, sqrt(v_hat) + round_to(w, self.eps))
        return {
            "w": w - round_to(w, self.learning_rate) * u,
            "I": I,
            "V": V,
            **self.error.store(residual, state, t),
            "t": np.int64(t),
            "a": a,
            "taken": taken,
            "residual": residual,
            "m": m,
            "v": v,
            "m_hat": m_hat,
            "v_hat": v_hat,
            "u": u,
        }

    def statistics(self, w: Any, I: Any, V: Any, t: int) -> tuple[Any, Any]:  # noqa: E741
        """The sums m and v of the window at step ``t``, rows added in storage order, shaped like ``w``."""
        blocks = self.blocks(w.size)
        m, v = zeros_like(w.reshape(-1)), zeros_like(w.reshape(-1))
        for i in range(min(t, self.window)):
            age = (t - 1 - i) % self.window
            at = blocks.offsets + blocks.row(I, self.window, i)
            x = blocks.row(V, self.window, i).astype(w.dtype)
            m[at] += round_to(w, self.beta1**age) * x
            v[at] += round_to(w, self.beta2**age) * (x * x)
        return m.reshape(w.shape), v.reshape(w.shape)
