"""Arrays and training loops of other libraries. Each module loads when it is first touched.

* ``interop.torch.Optimizer``: any rule as a ``torch.optim.Optimizer``.
* ``interop.arrays``: what lets ``rule.init``, ``rule.update`` and ``rule.values`` take arrays of JAX, torch
  or any other library, and give results in the same one.

>>> import memopt_ref as mo, numpy as np
>>> mo.interop.as_numpy(np.ones(2))
array([1., 1.])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import as_numpy as as_numpy

_MODULES = ("arrays", "torch")

__all__ = ["arrays", "as_numpy", "torch"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name == "as_numpy":
        value = import_module(".arrays", __name__).as_numpy
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
