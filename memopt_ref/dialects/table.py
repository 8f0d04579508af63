"""One optimizer's name, the algorithms that libraries give to it, and how far apart they move.

Everything here is read off the rules that the calls mean: the conventions are the fields in which such a rule
differs from the paper's, the distance is measured by running both. ``memopt dialects NAME`` prints it.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HyperparameterError
from ..rules.adafactor import Adafactor
from ..rules.adagrad import AdaGrad
from ..rules.adam import Adam, AdamW
from ..rules.amsgrad import AMSGrad
from ..rules.base import Rule
from ..rules.ftrl import FTRLProximal
from ..rules.rmsprop import RMSProp
from ..rules.sgd import SGD
from ..rules.shampoo import Shampoo
from ..rules.sm3 import SM3

__all__ = ["NAMES", "RATE", "Row", "compare", "movement"]

#: The learning rate of every call, so that the defaults of libraries do not decide.
RATE = 1e-2
SHAPE = (256, 160)
STEPS = 20

Call = tuple[str, str, dict[str, Any]]
_LR, _RATE = {"lr": RATE}, {"learning_rate": RATE}

#: Name of an optimizer: the paper's form, and the calls of libraries by (library, function, arguments).
_TABLE: dict[str, tuple[Rule, list[Call]]] = {
    "sgd": (
        SGD(learning_rate=RATE),
        [("torch", "SGD", _LR), ("optax", "sgd", _RATE), ("keras", "SGD", _RATE)],
    ),
    "adagrad": (
        AdaGrad(learning_rate=RATE),
        [("torch", "Adagrad", _LR), ("optax", "adagrad", _RATE), ("keras", "Adagrad", _RATE)],
    ),
    "rmsprop": (
        RMSProp(learning_rate=RATE, beta2=0.9, eps=0.0),
        [("torch", "RMSprop", _LR), ("optax", "rmsprop", _RATE), ("keras", "RMSprop", _RATE)],
    ),
    "adam": (
        Adam(learning_rate=RATE),
        [
            ("torch", "Adam", _LR),
            ("torch", "SparseAdam", _LR),
            ("optax", "adam", _RATE),
            ("keras", "Adam", _RATE),
        ],
    ),
    # The paper's decay is not multiplied by the learning rate: this is torch's default 0.01 times the rate.
    "adamw": (
        AdamW(learning_rate=RATE, weight_decay=1e-2 * RATE, weight_decay_mode="independent"),
        [("torch", "AdamW", _LR), ("optax", "adamw", _RATE), ("keras", "AdamW", _RATE)],
    ),
    "amsgrad": (
        AMSGrad(learning_rate=RATE),
        [
            ("torch", "Adam", {**_LR, "amsgrad": True}),
            ("optax", "amsgrad", _RATE),
            ("keras", "Adam", {**_RATE, "amsgrad": True}),
        ],
    ),
    "adafactor": (
        Adafactor(learning_rate=RATE),
        [
            ("torch", "Adafactor", _LR),
            ("optax", "adafactor", _RATE),
            ("keras", "Adafactor", _RATE),
            ("transformers", "Adafactor", {}),
            ("pytorch_optimizer", "AdaFactor", _LR),
            ("pytorch_optimizer", "AdaFactor", {**_LR, "momentum_dtype": "float32"}),
            ("pytorch_optimizer", "AdaFactor", {**_LR, "betas": (None, 0.999)}),
        ],
    ),
    "sm3": (
        SM3(learning_rate=RATE),
        [("optax", "sm3", _RATE), ("pytorch_optimizer", "SM3", _LR)],
    ),
    "shampoo": (Shampoo(learning_rate=RATE), [("pytorch_optimizer", "Shampoo", _LR)]),
    "ftrl": (
        FTRLProximal(learning_rate=RATE),
        [("keras", "Ftrl", _RATE), ("pytorch_optimizer", "FTRL", _LR)],
    ),
}

#: The names that :func:`compare` knows.
NAMES = tuple(_TABLE)


@dataclasses.dataclass(frozen=True)
class Row:
    """What one call means.

    Parameters
    ----------
    library : str
        ``"paper"`` for the first row.
    call : str
        The call's text.
    rule : Rule or None
        What it means; None if no rule does.
    differs : dict
        Fields in which the rule differs from the paper's form: name to (the paper's value, this one's).
    difference : float or None
        Relative L2 difference of the movement from that of the paper's form.
    note : str
        Why there is no rule.
    """

    library: str
    call: str
    rule: Rule | None
    differs: dict[str, tuple[Any, Any]]
    difference: float | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "library": self.library,
            "call": self.call,
            "rule": None if self.rule is None else repr(self.rule),
            "differs": {name: {"paper": a, "here": b} for name, (a, b) in self.differs.items()},
            "difference": self.difference,
            "note": self.note,
        }


def compare(name: str, *, seed: int = 0) -> list[Row]:
    """The conventions of each library for one optimizer, and the distance that they make in 20 steps.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`, in any case.
    seed : int
        Of the problem: a 256 x 160 float32 matrix of size 0.1 and 20 standard normal gradients.

    Returns
    -------
    list of Row
        The paper's form first.

    Raises
    ------
    HyperparameterError
        An unknown name.

    Examples
    --------
    >>> for row in compare("sm3"):
    ...     print(row.call, row.differs, f"{row.difference:.2g}")
    SM3(learning_rate=0.01) {} 0
    optax.sm3(learning_rate=0.01) {'momentum': (0.0, 0.9), 'eps_root': (0.0, 1e-08)} 0.2
    pytorch_optimizer.SM3(lr=0.01) {'eps_root': (0.0, 1e-30)} 0
    """
    if name.lower() not in _TABLE:
        raise HyperparameterError("dialects", repr(name), "one of " + ", ".join(NAMES), "Check the spelling.")
    paper, calls = _TABLE[name.lower()]
    base, moved = movement(paper, seed), {}
    rows = [Row("paper", _text(paper), paper, {}, 0.0)]
    for library, function, arguments in calls:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        call = f"{library}.{function}({given})"
        try:
            rule = getattr(import_module(f".{library}", __package__), function)(**arguments)
        except HyperparameterError as error:
            rows.append(Row(library, call, None, {}, None, note=str(error)))
            continue
        differs = _differences(paper, rule)
        if rule not in moved:
            moved[rule] = movement(rule, seed) if differs else base
        gap = float(np.linalg.norm(moved[rule] - base) / np.linalg.norm(base))
        rows.append(Row(library, call, rule, differs, gap))
    return rows


def movement(rule: Rule, seed: int = 0, shape: tuple[int, ...] = SHAPE, steps: int = STEPS) -> NDArray[Any]:
    """The total movement w_20 - w_0, of float32 weights and with the same gradients for every rule.

    Examples
    --------
    >>> movement(SGD(learning_rate=0.0), shape=(2,)).tolist()
    [0.0, 0.0]
    """
    rng = np.random.default_rng(seed)
    w0 = w = (0.1 * rng.standard_normal(shape)).astype(np.float32)
    state = rule.init(w)
    for _ in range(steps):
        w, state = rule.update(w, rng.standard_normal(shape).astype(np.float32), state)
    return np.asarray(w, np.float64) - np.asarray(w0, np.float64)


def _differences(paper: Rule, rule: Rule) -> dict[str, tuple[Any, Any]]:
    names = [field.name for field in dataclasses.fields(paper)]
    pairs = {name: (getattr(paper, name), getattr(rule, name)) for name in names}
    if paper.weight_decay == rule.weight_decay == 0:
        del pairs["weight_decay_mode"]
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _text(rule: Rule) -> str:
    """The rule's call with what differs from its defaults."""
    given = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule) if f.name == "learning_rate"}
    given |= {name: here for name, (_, here) in _differences(type(rule)(**given), rule).items()}
    return f"{rule.name}(" + ", ".join(f"{name}={value!r}" for name, value in given.items()) + ")"
