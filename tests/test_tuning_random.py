"""Any kernel with any setting of its knobs has the bits of the reference, for every rule that has a choice.

``MEMOPT_TUNE=random`` draws them for any other test too::

    MEMOPT_TUNE=random MEMOPT_TUNE_SEED=7 pytest tests/test_tuning_random.py tests/test_optimizer.py
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import backends
from memopt_ref.backends.tuning import modes
from memopt_ref.parts.row_sparse import RowSparse
from tests.numba_cpu.inputs import hard, same_bits
from tests.table import all_cases

#: Large enough to wake what sleeps until it pays, and of odd lengths.
SHAPE = (331, 67)


def with_a_choice():
    seen, found = set(), []
    for case in all_cases():
        if "float32" not in case.dtypes or (7, 3) not in case.shapes:
            continue
        with modes.use_mode("off"):
            choice = backends.select(case.rule, SHAPE, np.dtype(np.float32))
        kind = type(case.rule), choice.variant.name
        if (choice.rivals or choice.variant.knobs) and kind not in seen:
            seen.add(kind)
            found.append(pytest.param(case.rule, id=case.name))
    return found


def trees(optimizer):
    """All arrays of an optimizer by name."""
    leaves = optimizer.state["leaves"]
    named = {f"{path}.{slot}": x for path, slots in leaves.items() for slot, x in slots.items()}
    return named | optimizer.params


def make(rule, backend="auto"):
    params = {name: hard(SHAPE, seed=k, share=0) for k, name in enumerate("cfr")}
    params["f"] = np.asfortranarray(params["f"])
    return mo.Optimizer(params, rule, backend=backend, nonfinite="propagate")


def steps(optimizer):
    for k in range(2):
        rows = RowSparse(np.array([2, 5, 330]), hard((3, SHAPE[1]), seed=40 + k, share=0), SHAPE)
        optimizer.step(
            {"c": hard(SHAPE, seed=50 + k, share=0.01 * k), "f": hard(SHAPE, seed=60 + k), "r": rows}
        )
    return optimizer


@pytest.mark.parametrize("rule", with_a_choice())
def test_whatever_is_drawn_has_the_bits_of_the_reference(rule, monkeypatch):
    reference = trees(steps(make(rule, "numpy")))
    monkeypatch.setenv("MEMOPT_TUNE", "random")
    monkeypatch.setenv("MEMOPT_TUNE_SEED", os.environ.get("MEMOPT_TUNE_SEED", "1"))
    monkeypatch.setattr(modes, "_drawn", iter(range(1000)))
    drawn = set()
    for _ in range(3):
        optimizer = make(rule)
        drawn |= {(c.variant.name, *c.knobs.items()) for c in optimizer._choices.values()}
        found = trees(steps(optimizer))
        for name, value in reference.items():
            assert same_bits(found[name], value), f"{name} of {optimizer.explain()}"
    assert len(drawn) > 1
