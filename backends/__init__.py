"""How the rules run fast (imported as memopt_ref.backends).

Two axes, never mixed: where the arrays live decides the array library (``resolver``); the backend chooses the
implementation for that library (``registry``). Nothing here defines an algorithm: a backend's kernel has
the bits of the reference, or declares that it has not.
"""

from . import tuning
from .registry import (
    Backend,
    BackendStatus,
    Leaf,
    StatusTable,
    Variant,
    register,
    status,
    unregister,
)
from .resolver import check_array_library, describe, library_of
from .selection import Choice, requested, select, use_backend

__all__ = [
    "Backend",
    "BackendStatus",
    "Choice",
    "Leaf",
    "StatusTable",
    "Variant",
    "check_array_library",
    "describe",
    "library_of",
    "register",
    "requested",
    "select",
    "status",
    "tuning",
    "unregister",
    "use_backend",
]
