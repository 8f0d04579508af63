"""``pytorch_optimizer``: the names, arguments and defaults of version 4.1.0, without ``params``.

Conventions: SM3 has eps = 1e-30 inside the root, and a moving average (``beta``) never lowers its
accumulators; AdaFactor has momentum in bfloat16 by default and caps its decay at betas[1]; FTRL divides by
sqrt(n) whatever ``lr_power`` is. ``foreach`` changes no number.
"""

# The functions have the library's names.
# ruff: noqa: N802, N811

from __future__ import annotations

from typing import Any

from ..errors import HyperparameterError
from ..parts.schedule import Number
from ..rules.adafactor import Adafactor
from ..rules.base import Rule
from ..rules.ftrl import FTRLProximal
from ..rules.shampoo import Shampoo as ShampooRule
from ..rules.sm3 import SM3 as SM3Rule
from .limits import NEGATE, must_be

__all__ = ["FTRL", "SM3", "AdaFactor", "Shampoo"]


def SM3(
    lr: Number = 1e-1,
    momentum: float = 0.0,
    beta: float = 0.0,
    eps: float = 1e-30,
    maximize: bool = False,
    foreach: bool | None = None,
) -> Rule:
    """``pytorch_optimizer.SM3`` on dense gradients.

    On sparse gradients with beta = 0 that library resets the accumulators of untouched rows; the rule keeps
    them. With beta > 0 its 0-d parameters overwrite where all others, and the rule, ratchet.

    Examples
    --------
    >>> SM3().beta2, SM3(beta=0.9).ema
    (1.0, 'ratchet')
    """
    must_be(False, "pytorch_optimizer.SM3(maximize)", maximize, NEGATE)
    return SM3Rule(
        learning_rate=lr,
        momentum=momentum,
        beta2=beta if beta > 0 else 1.0,
        ema="ratchet" if beta > 0 else "overwrite",
        eps_root=eps,
    )


def Shampoo(
    lr: Number = 1e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    weight_decouple: bool = False,
    fixed_decay: bool = False,
    preconditioning_compute_steps: int = 1,
    matrix_eps: float = 1e-6,
    maximize: bool = False,
) -> Rule:
    """``pytorch_optimizer.Shampoo``, which steps a 0-d parameter by plain gradient descent.

    Examples
    --------
    >>> Shampoo().eps
    1e-06
    """
    where = "pytorch_optimizer.Shampoo"
    must_be(False, f"{where}(maximize)", maximize, NEGATE)
    mixes = "That library mixes the gradient with the last update; use memopt_ref.Shampoo(momentum=...)."
    must_be(0.0, f"{where}(momentum)", momentum, mixes)
    stalls = "That library does not move until its first root; use memopt_ref.Shampoo(interval=...)."
    must_be(1, f"{where}(preconditioning_compute_steps)", preconditioning_compute_steps, stalls)
    return ShampooRule(learning_rate=lr, eps=matrix_eps, **_decay(weight_decay, weight_decouple, fixed_decay))


def FTRL(
    lr: Number = 1e-3,
    lr_power: float = -0.5,
    beta: float = 0.0,
    lambda_1: float = 0.0,
    lambda_2: float = 0.0,
    maximize: bool = False,
    foreach: bool | None = None,
) -> Rule:
    """``pytorch_optimizer.FTRL``.

    Examples
    --------
    >>> FTRL(lambda_1=0.1).l1
    0.1
    """
    where = "pytorch_optimizer.FTRL"
    must_be(False, f"{where}(maximize)", maximize, NEGATE)
    advice = "That library divides by sqrt(n) for every lr_power; use memopt_ref.FTRLProximal(lr_power=...)."
    must_be(-0.5, f"{where}(lr_power)", lr_power, advice)
    return FTRLProximal(learning_rate=lr, beta=beta, l1=lambda_1, l2=lambda_2)


def AdaFactor(
    lr: Number | None = 1e-3,
    betas: tuple[float | None, float] = (0.9, 0.999),
    decay_rate: float = -0.8,
    weight_decay: float = 0.0,
    weight_decouple: bool = True,
    fixed_decay: bool = False,
    clip_threshold: float = 1.0,
    ams_bound: bool = False,
    scale_parameter: bool = True,
    relative_step: bool = True,
    warmup_init: bool = False,
    eps1: float = 1e-30,
    eps2: float = 1e-3,
    momentum_dtype: Any = "bfloat16",
    foreach: bool | None = None,
    maximize: bool = False,
) -> Rule:
    """``pytorch_optimizer.AdaFactor``.

    ``momentum_dtype`` (a name, or torch's dtype) must be that of the parameters if there is momentum, so the
    library's default call has no rule: pass ``betas=(None, 0.999)`` or another ``momentum_dtype``.

    Examples
    --------
    >>> AdaFactor(betas=(None, 0.999)).beta2
    0.999
    """
    where = "pytorch_optimizer.AdaFactor"
    must_be(False, f"{where}(maximize)", maximize, NEGATE)
    must_be(False, f"{where}(ams_bound)", ams_bound, "No rule bounds a factored second moment so.")
    if not relative_step and lr is None:
        raise HyperparameterError(f"{where}(lr)", "None", "a number", "Pass lr, or relative_step=True.")
    name = str(momentum_dtype).rpartition(".")[2]
    if betas[0] is not None and name not in ("float32", "float64"):
        wanted, advice = "float32 or float64 with momentum", "Pass momentum_dtype, or betas=(None, 0.999)."
        raise HyperparameterError(f"{where}(momentum_dtype)", name, wanted, advice)
    return Adafactor(
        learning_rate=1e-2 if relative_step else lr,
        step_size="fixed" if not relative_step else "warm_up" if warmup_init else "relative",
        scale_parameter=scale_parameter,
        eps1=eps1,
        eps2=eps2,
        clip_threshold=clip_threshold,
        decay_exponent=decay_rate,
        beta2=betas[1],
        beta1=betas[0] or 0.0,
        **_decay(weight_decay, weight_decouple, fixed_decay),
    )


def _decay(weight_decay: float, weight_decouple: bool, fixed_decay: bool) -> dict[str, Any]:
    mode = "l2" if not weight_decouple else "independent" if fixed_decay else "decoupled"
    return {"weight_decay": weight_decay, "weight_decay_mode": mode}
