"""``torch.optim``: the names, arguments and defaults of version 2.13, without ``params``.

Conventions: eps outside the root and after bias correction; Adam's weight decay is L2, AdamW's is multiplied
by the learning rate; AMSGrad takes the maximum of the raw second moment and corrects it afterwards;
SparseAdam puts eps beside the uncorrected root, unlike Adam. ``foreach``, ``fused``, ``capturable`` and
``differentiable`` change no number.
"""

# The functions have the library's names.
# ruff: noqa: N802, N811

from __future__ import annotations

from typing import Any

from .. import schedules
from ..errors import HyperparameterError
from ..parts.schedule import Number, Schedule
from ..rules.adafactor import Adafactor as AdafactorRule
from ..rules.adagrad import AdaGrad
from ..rules.adam import Adam as AdamRule
from ..rules.amsgrad import AMSGrad
from ..rules.base import Rule
from ..rules.rmsprop import RMSProp
from ..rules.sgd import SGD as SGDRule
from .limits import NEGATE, must_be

__all__ = ["SGD", "Adafactor", "Adagrad", "Adam", "AdamW", "RMSprop", "SparseAdam"]


def SGD(
    lr: Number = 1e-3,
    momentum: float = 0,
    dampening: float = 0,
    weight_decay: float = 0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    fused: bool | None = None,
) -> Rule:
    """``torch.optim.SGD``.

    Examples
    --------
    >>> SGD(lr=0.1, momentum=0.9).momentum
    0.9
    """
    must_be(False, "torch.SGD(maximize)", maximize, NEGATE)
    if nesterov and (momentum <= 0 or dampening != 0):
        got, wanted = f"momentum={momentum}, dampening={dampening}", "momentum > 0 and no dampening"
        raise HyperparameterError("torch.SGD(nesterov)", got, wanted, "torch refuses this too.")
    return SGDRule(
        learning_rate=lr,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
    )


def Adagrad(
    lr: Number = 1e-2,
    lr_decay: float = 0,
    weight_decay: float = 0,
    initial_accumulator_value: float = 0,
    eps: float = 1e-10,
    foreach: bool | None = None,
    *,
    maximize: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
) -> Rule:
    """``torch.optim.Adagrad``.

    torch counts the steps of ``lr_decay`` for each tensor; here they are the steps of the whole tree, which
    is the same when every tensor has a gradient at every step.

    Examples
    --------
    >>> Adagrad(lr=0.1).eps
    1e-10
    """
    must_be(False, "torch.Adagrad(maximize)", maximize, NEGATE)
    if lr_decay != 0:
        if isinstance(lr, Schedule):
            raise HyperparameterError(
                "torch.Adagrad(lr_decay)", repr(lr_decay), "0 with a Schedule", "Multiply the schedules."
            )
        lr = schedules.InverseTime(lr, lr_decay)
    return AdaGrad(
        learning_rate=lr,
        weight_decay=weight_decay,
        initial_accumulator=initial_accumulator_value,
        eps=eps,
    )


def RMSprop(
    lr: Number = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0,
    momentum: float = 0,
    centered: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
) -> Rule:
    """``torch.optim.RMSprop``.

    With ``centered=True`` torch takes the root of a variance that may round below zero, and gets NaN; the
    rule takes 0.

    Examples
    --------
    >>> RMSprop().beta2
    0.99
    """
    must_be(False, "torch.RMSprop(maximize)", maximize, NEGATE)
    return RMSProp(
        learning_rate=lr,
        beta2=alpha,
        eps=eps,
        weight_decay=weight_decay,
        momentum=momentum,
        centered=centered,
    )


def Adam(
    lr: Number = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0,
    amsgrad: bool = False,
    *,
    foreach: bool | None = None,
    maximize: bool = False,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    decoupled_weight_decay: bool = False,
) -> Rule:
    """``torch.optim.Adam``.

    Examples
    --------
    >>> Adam(amsgrad=True).form
    'torch'
    """
    must_be(False, "torch.Adam(maximize)", maximize, NEGATE)
    shared: dict[str, Any] = {
        "learning_rate": lr,
        "beta1": betas[0],
        "beta2": betas[1],
        "eps": eps,
        "weight_decay": weight_decay,
        "weight_decay_mode": "decoupled" if decoupled_weight_decay else "l2",
    }
    return AMSGrad(form="torch", **shared) if amsgrad else AdamRule(**shared)


def AdamW(
    lr: Number = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
) -> Rule:
    """``torch.optim.AdamW``: decay multiplied by the learning rate.

    Examples
    --------
    >>> AdamW().weight_decay, AdamW().weight_decay_mode
    (0.01, 'decoupled')
    """
    return Adam(lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


def SparseAdam(
    lr: Number = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    maximize: bool = False,
) -> Rule:
    """``torch.optim.SparseAdam``: pass gradients as :class:`~memopt_ref.RowSparse`; only their rows move.

    torch also takes gradients that are sparse in single entries; a RowSparse has whole rows.

    Examples
    --------
    >>> SparseAdam().bias_correction
    'eps_hat'
    """
    must_be(False, "torch.SparseAdam(maximize)", maximize, NEGATE)
    return AdamRule(learning_rate=lr, beta1=betas[0], beta2=betas[1], eps=eps, bias_correction="eps_hat")


def Adafactor(
    lr: Number = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
    *,
    foreach: bool | None = None,
    maximize: bool = False,
) -> Rule:
    """``torch.optim.Adafactor``.

    With ``eps=(None, ...)`` torch takes the epsilon of the dtype of a group's first parameter for the whole
    group; the rule takes that of the parameter itself. With eps[0] below 1e-22 torch makes NaN of a float32
    row of zeros, since it squares eps[0]; the rule makes no step there.

    Examples
    --------
    >>> Adafactor().eps_mode
    'clamp'
    """
    must_be(False, "torch.Adafactor(maximize)", maximize, NEGATE)
    return AdafactorRule(
        learning_rate=lr,
        decay_exponent=beta2_decay,
        eps1=eps[0],
        eps2=eps[1],
        eps_mode="clamp",
        clip_threshold=d,
        weight_decay=weight_decay,
        weight_decay_mode="learning_rate",
    )
