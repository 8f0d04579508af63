"""memopt_ref: the executable reference for memory-efficient optimizers.

Read it like the papers, run it at the speed of memory, check its theorems::

    import memopt_ref as mo

    rule = mo.SM3(learning_rate=0.1, momentum=0.9)      # an algorithm; it holds no arrays
    state = rule.init(params)                           # one array, or a dict/list/tuple tree of arrays
    params, state = rule.update(params, grads, state)   # pure NumPy
    opt = mo.Optimizer(params, rule)                    # the same rule, in place
    opt.step(grads)

Every public name loads its module when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "rules.sgd": ["SGD"],
    "rules.adagrad": ["AdaGrad"],
    "rules.adagrad_forms": ["AdaGradNorm", "FullMatrixAdaGrad", "RowWiseAdaGrad"],
    "rules.rmsprop": ["RMSProp"],
    "rules.adam": ["Adam", "AdamW"],
    "rules.amsgrad": ["AMSGrad"],
    "rules.adafactor": ["Adafactor"],
    "rules.shampoo": ["Shampoo"],
    "rules.ggt": ["GGT"],
    "rules.ftrl": ["FTRLProximal"],
    "rules.sm3": ["SM3"],
    "rules.count_sketch": ["CountSketchAdaGrad", "CountSketchMomentum"],
    "rules.count_sketch_adam": ["CountSketchAdam", "CountSketchRMSProp"],
    "rules.low_rank": ["LowRankAdam"],
    "rules.microadam": ["MicroAdam"],
    "rules.analysed_microadam": ["AnalysedMicroAdam"],
    "rules.topk_adam": ["TopKAdam"],
    "rules.error_feedback": ["EF21", "ErrorFeedbackSGD"],
    "rules.base": ["Rule"],
    "parts.slots": ["Slot"],
    "parts.row_sparse": ["RowSparse"],
    "parts.covers": ["AxisCover", "HashCover", "IndexCover"],
    "parts.compressors": ["Identity", "OneBit", "ScaledSign", "TopK"],
    "parts.quantize": ["Quantiser"],
    "parts.sketches": ["CountMinSketch", "CountSketch"],
    "parts.frequent": ["FrequentItems"],
    "parts.hashing": ["Avalanche", "CarterWegman", "MultiplyShift"],
    "parts.fixed_hashes": ["LegacyHash", "TableHash"],
    "parts.schedule": ["Schedule"],
    "optimizer": ["Optimizer"],
    "planner": ["plan", "state_nbytes"],
    "backends": ["use_backend"],
    "errors": ["MemoptError"],
}
_MODULES = ["averaging", "backends", "clipping", "dialects", "errors", "interop", "schedules", "theory"]
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class _NotInstalled:
    """Asked last for the two packages that lie beside this one in a checkout: says why they are not found."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name in (f"{__name__}.backends", f"{__name__}.theory"):
            advice = "this checkout is not installed: run `pip install -e .` in its root"
            raise ModuleNotFoundError(f"{name} not found; {advice}", name=name)
        return None


sys.meta_path.append(_NotInstalled)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
