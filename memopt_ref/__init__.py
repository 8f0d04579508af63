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
    "backends": ["tuning", "use_backend"],
    "errors": ["MemoptError"],
}
_MODULES = [
    "averaging",
    "backends",
    "checkpoint",
    "clipping",
    "dialects",
    "errors",
    "interop",
    "schedules",
    "theory",
]
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # for type checkers and editors; tests/test_imports.py holds it against the table above
    from importlib.machinery import ModuleSpec

    from . import averaging as averaging
    from . import backends as backends
    from . import checkpoint as checkpoint
    from . import clipping as clipping
    from . import dialects as dialects
    from . import errors as errors
    from . import interop as interop
    from . import schedules as schedules
    from . import theory as theory
    from .backends import tuning as tuning
    from .backends import use_backend as use_backend
    from .errors import MemoptError as MemoptError
    from .optimizer import Optimizer as Optimizer
    from .parts.compressors import Identity as Identity
    from .parts.compressors import OneBit as OneBit
    from .parts.compressors import ScaledSign as ScaledSign
    from .parts.compressors import TopK as TopK
    from .parts.covers import AxisCover as AxisCover
    from .parts.covers import HashCover as HashCover
    from .parts.covers import IndexCover as IndexCover
    from .parts.fixed_hashes import LegacyHash as LegacyHash
    from .parts.fixed_hashes import TableHash as TableHash
    from .parts.frequent import FrequentItems as FrequentItems
    from .parts.hashing import Avalanche as Avalanche
    from .parts.hashing import CarterWegman as CarterWegman
    from .parts.hashing import MultiplyShift as MultiplyShift
    from .parts.quantize import Quantiser as Quantiser
    from .parts.row_sparse import RowSparse as RowSparse
    from .parts.schedule import Schedule as Schedule
    from .parts.sketches import CountMinSketch as CountMinSketch
    from .parts.sketches import CountSketch as CountSketch
    from .parts.slots import Slot as Slot
    from .planner import plan as plan
    from .planner import state_nbytes as state_nbytes
    from .rules.adafactor import Adafactor as Adafactor
    from .rules.adagrad import AdaGrad as AdaGrad
    from .rules.adagrad_forms import AdaGradNorm as AdaGradNorm
    from .rules.adagrad_forms import FullMatrixAdaGrad as FullMatrixAdaGrad
    from .rules.adagrad_forms import RowWiseAdaGrad as RowWiseAdaGrad
    from .rules.adam import Adam as Adam
    from .rules.adam import AdamW as AdamW
    from .rules.amsgrad import AMSGrad as AMSGrad
    from .rules.analysed_microadam import AnalysedMicroAdam as AnalysedMicroAdam
    from .rules.base import Rule as Rule
    from .rules.count_sketch import CountSketchAdaGrad as CountSketchAdaGrad
    from .rules.count_sketch import CountSketchMomentum as CountSketchMomentum
    from .rules.count_sketch_adam import CountSketchAdam as CountSketchAdam
    from .rules.count_sketch_adam import CountSketchRMSProp as CountSketchRMSProp
    from .rules.error_feedback import EF21 as EF21
    from .rules.error_feedback import ErrorFeedbackSGD as ErrorFeedbackSGD
    from .rules.ftrl import FTRLProximal as FTRLProximal
    from .rules.ggt import GGT as GGT
    from .rules.low_rank import LowRankAdam as LowRankAdam
    from .rules.microadam import MicroAdam as MicroAdam
    from .rules.rmsprop import RMSProp as RMSProp
    from .rules.sgd import SGD as SGD
    from .rules.shampoo import Shampoo as Shampoo
    from .rules.sm3 import SM3 as SM3
    from .rules.topk_adam import TopKAdam as TopKAdam


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
