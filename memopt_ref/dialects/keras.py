"""``keras.optimizers``: the names, arguments and defaults of Keras 3.

Conventions: Adam in the paper's second form with eps = 1e-7; Adagrad and RMSprop put eps inside the root;
Adagrad's and Ftrl's accumulators start at 0.1; Ftrl counts l2 and the shrinkage twice; the learning rate is
inside every momentum; ``weight_decay`` of every optimizer is multiplied by the learning rate.

``**common`` takes the arguments of Keras's base class: ``name`` changes no number, the others must keep their
defaults, since clipping, averaging and loss scaling are not part of a rule here.
"""

# The functions have the library's names.
# ruff: noqa: N802, N811

from __future__ import annotations

from typing import Any

from ..errors import HyperparameterError
from ..parts.schedule import Number, Schedule
from ..rules.adafactor import Adafactor as AdafactorRule
from ..rules.adagrad import AdaGrad
from ..rules.adam import Adam as AdamRule
from ..rules.amsgrad import AMSGrad
from ..rules.base import Rule
from ..rules.ftrl import FTRLProximal
from ..rules.rmsprop import RMSProp
from ..rules.sgd import SGD as SGDRule
from .limits import must_be

__all__ = ["SGD", "Adafactor", "Adagrad", "Adam", "AdamW", "Ftrl", "RMSprop"]

_AVERAGE = "Average the parameters with memopt_ref.averaging.Polyak."

#: The default of each argument of the base class, and what to do instead.
COMMON: dict[str, tuple[Any, str]] = {
    "clipnorm": (None, "Clip the gradients before the step."),
    "clipvalue": (None, "Clip the gradients before the step."),
    "global_clipnorm": (None, "Use Optimizer(max_norm=...)."),
    "use_ema": (False, _AVERAGE),
    "ema_momentum": (0.99, _AVERAGE),
    "ema_overwrite_frequency": (None, _AVERAGE),
    "loss_scale_factor": (None, "Use Optimizer.step(scale=...)."),
    "gradient_accumulation_steps": (None, "Sum the gradients before the step."),
}


def _decay(where: str, weight_decay: float | None, common: dict[str, Any]) -> dict[str, Any]:
    """The weight decay of the base class; its other arguments must keep their defaults."""
    for name, value in common.items():
        if name == "name":
            continue
        if name not in COMMON:
            wanted = "an argument of keras.optimizers." + where
            raise HyperparameterError(f"keras.{where}", repr(name), wanted, "Check the spelling.")
        must_be(COMMON[name][0], f"keras.{where}({name})", value, COMMON[name][1])
    return {"weight_decay": weight_decay or 0.0, "weight_decay_mode": "decoupled"}


def SGD(
    learning_rate: Number = 0.01,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | None = None,
    **common: Any,
) -> Rule:
    """``keras.optimizers.SGD``.

    Examples
    --------
    >>> SGD(momentum=0.9).momentum
    0.9
    """
    if momentum != 0 and isinstance(learning_rate, Schedule):
        advice = "Keras keeps the rate inside the momentum; this library's SGD does not."
        raise HyperparameterError("keras.SGD(learning_rate)", "a Schedule", "a number with momentum", advice)
    return SGDRule(
        learning_rate=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        **_decay("SGD", weight_decay, common),
    )


def Adagrad(
    learning_rate: Number = 0.001,
    initial_accumulator_value: float = 0.1,
    epsilon: float = 1e-7,
    weight_decay: float | None = None,
    **common: Any,
) -> Rule:
    """``keras.optimizers.Adagrad``.

    Examples
    --------
    >>> Adagrad().initial_accumulator, Adagrad().eps_root
    (0.1, 1e-07)
    """
    return AdaGrad(
        learning_rate=learning_rate,
        initial_accumulator=initial_accumulator_value,
        eps_root=epsilon,
        eps=0.0,
        **_decay("Adagrad", weight_decay, common),
    )


def RMSprop(
    learning_rate: Number = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    weight_decay: float | None = None,
    **common: Any,
) -> Rule:
    """``keras.optimizers.RMSprop``.

    Examples
    --------
    >>> RMSprop().beta2
    0.9
    """
    return RMSProp(
        learning_rate=learning_rate,
        beta2=rho,
        momentum=momentum,
        rate_inside=True,
        eps=0.0,
        eps_root=epsilon,
        centered=centered,
        **_decay("RMSprop", weight_decay, common),
    )


def Adam(
    learning_rate: Number = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
    weight_decay: float | None = None,
    **common: Any,
) -> Rule:
    """``keras.optimizers.Adam``.

    Examples
    --------
    >>> Adam().bias_correction, Adam(amsgrad=True).form
    ('eps_hat', 'keras')
    """
    shared: dict[str, Any] = {
        "learning_rate": learning_rate,
        "beta1": beta_1,
        "beta2": beta_2,
        "eps": epsilon,
        **_decay("Adam", weight_decay, common),
    }
    return AMSGrad(form="keras", **shared) if amsgrad else AdamRule(bias_correction="eps_hat", **shared)


def AdamW(
    learning_rate: Number = 0.001,
    weight_decay: float | None = 0.004,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
    **common: Any,
) -> Rule:
    """``keras.optimizers.AdamW``.

    Examples
    --------
    >>> AdamW().weight_decay
    0.004
    """
    return Adam(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, **common)


def Adafactor(
    learning_rate: Number = 0.001,
    beta_2_decay: float = -0.8,
    epsilon_1: float = 1e-30,
    epsilon_2: float = 1e-3,
    clip_threshold: float = 1.0,
    relative_step: bool = True,
    weight_decay: float | None = None,
    **common: Any,
) -> Rule:
    """``keras.optimizers.Adafactor``: the step is min(learning_rate, 1 / sqrt t) with any ``relative_step``.

    Keras decays before it takes the parameter's size. It also keeps a full-size ``velocity`` for every
    matrix, which the rule does not need.

    Examples
    --------
    >>> Adafactor().step_size
    'relative'
    """
    return AdafactorRule(
        learning_rate=learning_rate,
        decay_exponent=beta_2_decay,
        eps1=epsilon_1,
        eps2=epsilon_2,
        clip_threshold=clip_threshold,
        **_decay("Adafactor", weight_decay, common) | {"weight_decay_mode": "before"},
    )


def Ftrl(
    learning_rate: Number = 0.001,
    learning_rate_power: float = -0.5,
    initial_accumulator_value: float = 0.1,
    l1_regularization_strength: float = 0.0,
    l2_regularization_strength: float = 0.0,
    l2_shrinkage_regularization_strength: float = 0.0,
    beta: float = 0.0,
    weight_decay: float | None = None,
    **common: Any,
) -> Rule:
    """``keras.optimizers.Ftrl``.

    Examples
    --------
    >>> Ftrl(l2_regularization_strength=0.1).l2
    0.2
    """
    return FTRLProximal(
        learning_rate=learning_rate,
        lr_power=learning_rate_power,
        initial_accumulator=initial_accumulator_value,
        l1=l1_regularization_strength,
        l2=2 * l2_regularization_strength,
        l2_shrinkage=2 * l2_shrinkage_regularization_strength,
        beta=beta,
        **_decay("Ftrl", weight_decay, common),
    )
