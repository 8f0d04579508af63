"""Which of the kernels with the same bits is the fastest here: measured once, kept, and used ever after.

A choice never changes a result, because only kernels with the bits of the reference compete, and each is
compared with it before it is timed. ``MEMOPT_TUNE`` says when to measure: see :data:`MODES`. Read in this
order: :mod:`.settle` (from a leaf to its kernel), :mod:`.key` (what a choice holds for), :mod:`.candidates`,
:mod:`.where`, :mod:`.inputs` and :mod:`.measure` (on the host or a device: compared, then timed),
:mod:`.machine` and :mod:`.store` (the next process), :mod:`.exchange` and :mod:`.ahead` (by hand).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .modes import MODES, mode, use_mode
from .settle import forget, recalled, settled

if TYPE_CHECKING:
    from .ahead import tune as tune
    from .exchange import export_wisdom as export_wisdom
    from .exchange import import_wisdom as import_wisdom
    from .store import clear as clear
    from .store import entries as entries
    from .store import folder as folder

#: Loaded when they are first used.
_HOME = {
    "clear": "store",
    "entries": "store",
    "export_wisdom": "exchange",
    "folder": "store",
    "import_wisdom": "exchange",
    "tune": "ahead",
}

__all__ = [
    "MODES",
    "clear",
    "entries",
    "export_wisdom",
    "folder",
    "forget",
    "import_wisdom",
    "mode",
    "recalled",
    "settled",
    "tune",
    "use_mode",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value
