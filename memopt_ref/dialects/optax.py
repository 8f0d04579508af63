"""``optax``: the names, arguments and defaults of version 0.2.8.

Conventions: adagrad, rmsprop and sm3 put eps inside the root, with defaults that change results for small
gradients; adagrad's accumulator starts at 0.1; rmsprop keeps the learning rate inside its momentum; amsgrad
corrects the second moment before the maximum; adafactor factors the two largest axes, if both have 128
entries. optax computes Adafactor's decay in float32, also for float64 parameters, and 1 - b^t in the dtype of
the parameters, which these rules do not imitate. Its schedules count from 0, those of this library from 1.
"""

from __future__ import annotations

from typing import Any

from ..errors import HyperparameterError
from ..parts.schedule import Number
from ..rules.adafactor import Adafactor
from ..rules.adagrad import AdaGrad
from ..rules.adam import Adam, AdamW
from ..rules.amsgrad import AMSGrad
from ..rules.base import Rule
from ..rules.rmsprop import RMSProp
from ..rules.sgd import SGD
from ..rules.sm3 import SM3
from .limits import must_be

__all__ = ["adafactor", "adagrad", "adam", "adamw", "amsgrad", "rmsprop", "scale_by_sm3", "sgd", "sm3"]

_DTYPE = "Accumulators have the parameter's dtype, and at least float32."
_NESTEROV = "Nesterov's Adam is not in this library; leave nesterov out."
_MASK = "Put the leaves in groups: Optimizer(groups=[(pattern, rule)])."


def sgd(
    learning_rate: Number,
    momentum: float | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> Rule:
    """``optax.sgd``.

    Examples
    --------
    >>> sgd(0.1, momentum=0.9).dampening
    0.0
    """
    must_be(None, "optax.sgd(accumulator_dtype)", accumulator_dtype, _DTYPE)
    return SGD(
        learning_rate=learning_rate, momentum=momentum or 0.0, nesterov=nesterov and momentum is not None
    )


def adagrad(learning_rate: Number, initial_accumulator_value: float = 0.1, eps: float = 1e-7) -> Rule:
    """``optax.adagrad``.

    Examples
    --------
    >>> adagrad(0.1).initial_accumulator, adagrad(0.1).eps_root
    (0.1, 1e-07)
    """
    return AdaGrad(
        learning_rate=learning_rate, initial_accumulator=initial_accumulator_value, eps_root=eps, eps=0.0
    )


def rmsprop(
    learning_rate: Number,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Rule:
    """``optax.rmsprop``.

    With ``centered=True`` optax takes the root of a variance that may round below -eps, and gets NaN; the
    rule floors it.

    Examples
    --------
    >>> rmsprop(0.1).eps, rmsprop(0.1, eps_in_sqrt=False).eps
    (0.0, 1e-08)
    """
    return RMSProp(
        learning_rate=learning_rate,
        beta2=decay,
        eps=0.0 if eps_in_sqrt else eps,
        eps_root=eps if eps_in_sqrt else 0.0,
        momentum=momentum or 0.0,
        nesterov=nesterov,
        rate_inside=True,
        centered=centered,
        bias_correction=bias_correction,
        initial_accumulator=initial_scale,
    )


def adam(
    learning_rate: Number,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Rule:
    """``optax.adam``.

    Examples
    --------
    >>> adam(0.1, eps_root=1e-12).eps_root
    1e-12
    """
    must_be(None, "optax.adam(mu_dtype)", mu_dtype, _DTYPE)
    must_be(False, "optax.adam(nesterov)", nesterov, _NESTEROV)
    return Adam(learning_rate=learning_rate, beta1=b1, beta2=b2, eps=eps, eps_root=eps_root)


def adamw(
    learning_rate: Number,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    weight_decay: Number = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> Rule:
    """``optax.adamw``: decay multiplied by the learning rate.

    Examples
    --------
    >>> adamw(0.1).weight_decay
    0.0001
    """
    must_be(None, "optax.adamw(mu_dtype)", mu_dtype, _DTYPE)
    must_be(None, "optax.adamw(mask)", mask, _MASK)
    must_be(False, "optax.adamw(nesterov)", nesterov, _NESTEROV)
    return AdamW(
        learning_rate=learning_rate, beta1=b1, beta2=b2, eps=eps, eps_root=eps_root, weight_decay=weight_decay
    )


def amsgrad(
    learning_rate: Number,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> Rule:
    """``optax.amsgrad``.

    Examples
    --------
    >>> amsgrad(0.1).form, amsgrad(0.1, bias_correction_mu=False, bias_correction_nu=False).form
    ('optax', 'paper')
    """
    must_be(None, "optax.amsgrad(mu_dtype)", mu_dtype, _DTYPE)
    if bias_correction_mu != bias_correction_nu:
        got, wanted = "one of two bias corrections", "both (optax's form) or none (the paper's)"
        raise HyperparameterError("optax.amsgrad", got, wanted, "Set both flags alike.")
    form = "optax" if bias_correction_nu else "paper"
    return AMSGrad(learning_rate=learning_rate, beta1=b1, beta2=b2, eps=eps, eps_root=eps_root, form=form)


def adafactor(
    learning_rate: Number | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: float = 0.8,
    decay_offset: int = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: float | None = 1.0,
    momentum: float | None = None,
    dtype_momentum: Any = "float32",
    weight_decay_rate: Number | None = None,
    eps: float = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
) -> Rule:
    """``optax.adafactor``.

    Without a learning rate optax does not fall back on the paper's relative step: the step is the parameter's
    scale itself. ``dtype_momentum`` must be float32, and is the parameter's dtype here.

    Examples
    --------
    >>> adafactor(0.01).step_size, adafactor().learning_rate
    ('fixed', 1.0)
    """
    must_be(0, "optax.adafactor(decay_offset)", decay_offset, "Start the state at step 0.")
    must_be(None, "optax.adafactor(weight_decay_mask)", weight_decay_mask, _MASK)
    name = getattr(dtype_momentum, "__name__", str(dtype_momentum))
    must_be("float32", "optax.adafactor(dtype_momentum)", name, _DTYPE)
    return Adafactor(
        learning_rate=1.0 if learning_rate is None else learning_rate,
        step_size="fixed",
        scale_parameter=multiply_by_parameter_scale,
        eps1=eps,
        clip_threshold=clipping_threshold,
        decay_exponent=-decay_rate,
        beta1=momentum or 0.0,
        factored=factored,
        factor_axes="largest",
        min_dim=min_dim_size_to_factor,
        weight_decay=weight_decay_rate or 0.0,
        weight_decay_mode="independent",
    )


def sm3(learning_rate: Number, momentum: float = 0.9) -> Rule:
    """``optax.sm3``: SM3-II with momentum on by default. optax itself cannot step a 0-d parameter.

    Examples
    --------
    >>> sm3(0.1).momentum, sm3(0.1).eps_root
    (0.9, 1e-08)
    """
    return SM3(learning_rate=learning_rate, momentum=momentum, eps_root=1e-8)


def scale_by_sm3(b1: float = 0.9, b2: float = 1.0, eps: float = 1e-8) -> Rule:
    """``optax.chain(optax.scale_by_sm3(...), optax.scale(-1))``: a step along minus the update.

    ``scale_by_sm3().replace(learning_rate=...)`` has another rate.

    Examples
    --------
    >>> scale_by_sm3(b2=0.9).ema
    'overwrite'
    """
    return SM3(learning_rate=1.0, momentum=b1, beta2=b2, ema="overwrite", eps_root=eps)
