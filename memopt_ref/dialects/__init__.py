"""Other libraries' constructor calls as the exact rules that they mean.

``mo.dialects.torch.Adagrad(lr=0.1)`` has the name, the argument names and the defaults of
``torch.optim.Adagrad`` without ``params``, and returns a rule of this library that makes the same steps. None
of these libraries is needed. An argument that changes no number (``foreach``, ``fused``, ``name``) is
accepted; one whose meaning no rule has (``maximize``, clipping inside the optimizer) raises
:class:`~memopt_ref.errors.HyperparameterError` and says what to do.

Where a library takes a number for the learning rate, a :class:`~memopt_ref.parts.schedule.Schedule` may stand
too; it counts from 1. Recorded trajectories of the libraries are replayed through these functions in every
test run.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["keras", "optax", "pytorch_optimizer", "table", "torch", "transformers"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)
