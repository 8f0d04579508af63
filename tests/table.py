"""The one table of rules that drives the shared tests: rows come from ``tests/cases/<family>.py``."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from memopt_ref.rules.base import Rule

SHAPES = ((), (1,), (5,), (0,), (7, 3), (1, 4), (4, 1), (0, 3), (2, 3, 5))
DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Case:
    """A rule with its arguments, and what the shared tests may ask of it.

    ``shapes`` are shapes that the rule serves, ``dtypes`` the parameters' dtypes.
    """

    name: str
    rule: Rule
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    dtypes: tuple[str, ...] = DTYPES


def dtype_of(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def all_cases() -> list[Case]:
    cases: list[Case] = []
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent / "cases")])):
        cases += importlib.import_module(f"tests.cases.{module}").CASES
    names = [case.name for case in cases]
    assert len(names) == len(set(names)), "two cases of one name"
    return cases
