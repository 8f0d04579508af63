"""``transformers.optimization``: the names, arguments and defaults of version 5, without ``params``."""

# The functions have the library's names.
# ruff: noqa: N802

from __future__ import annotations

from ..errors import HyperparameterError
from ..parts.schedule import Number
from ..rules.adafactor import Adafactor as AdafactorRule
from ..rules.base import Rule

__all__ = ["Adafactor"]


def Adafactor(
    lr: Number | None = None,
    eps: tuple[float, float] = (1e-30, 1e-3),
    clip_threshold: float = 1.0,
    decay_rate: float = -0.8,
    beta1: float | None = None,
    weight_decay: float = 0.0,
    scale_parameter: bool = True,
    relative_step: bool = True,
    warmup_init: bool = False,
) -> Rule:
    """``transformers.Adafactor``: the paper's by default; momentum averages steps, learning rate included.

    Examples
    --------
    >>> Adafactor().step_size, Adafactor(lr=1e-3, relative_step=False).step_size
    ('relative', 'fixed')
    """
    where = "transformers.Adafactor(lr)"
    if relative_step and lr is not None:
        advice = "transformers refuses this too: pass relative_step=False."
        raise HyperparameterError(where, repr(lr), "None with relative_step=True", advice)
    if warmup_init and not relative_step:
        wanted, advice = "relative_step=True", "transformers refuses this too."
        raise HyperparameterError("transformers.Adafactor(warmup_init)", "True", wanted, advice)
    if lr is None and not relative_step:
        raise HyperparameterError(where, "None", "a number", "Pass lr, or relative_step=True.")
    return AdafactorRule(
        learning_rate=1e-2 if relative_step else lr,
        step_size="warm_up" if warmup_init else "relative" if relative_step else "fixed",
        scale_parameter=scale_parameter,
        eps1=eps[0],
        eps2=eps[1],
        clip_threshold=clip_threshold,
        decay_exponent=decay_rate,
        beta1=beta1 or 0.0,
        weight_decay=weight_decay,
        weight_decay_mode="decoupled",
    )
