"""A backend of toys: the reference, with pauses or with mistakes."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from memopt_ref.backends import Backend, Variant, numpy_ref, registry
from memopt_ref.backends.tuning import machine, settle
from memopt_ref.parts.row_sparse import RowSparse

NAME = "toy_kernels"
#: Seconds of a step of the reference, and of a slow and a fast one of the toys, on their own clock.
REFERENCE, SLOW, FAST = 0.02, 0.004, 0.001
reference = numpy_ref.step


class Clock:
    """Only a toy's step moves it."""

    now = 0.0

    def __call__(self):
        return self.now


CLOCK = Clock()


def anything(rule, shape, dtype):
    return True, "it serves everything"


def vectors_alone(rule, shape, dtype):
    return len(shape) == 1, "only vectors"


def slowest(rule, w, g, state):
    CLOCK.now += REFERENCE
    reference(rule, w, g, state)


def paused(rule, w, g, state, pause=SLOW):
    CLOCK.now += pause
    reference(rule, w, g, state)


def quick(rule, w, g, state):
    CLOCK.now += FAST
    reference(rule, w, g, state)


def one_bit_off(rule, w, g, state, **settings):
    CLOCK.now += FAST / 2
    reference(rule, w, g, state)
    if w.size:
        last = w.reshape(-1)[-1:]
        last[...] = np.nextafter(last, np.inf)
        w.reshape(-1)[-1:] = last


def no_infinity(rule, w, g, state):
    reference(rule, w, np.nan_to_num(np.asarray(g), nan=0, posinf=1, neginf=-1), state)


def writes_the_gradient(rule, w, g, state):
    reference(rule, w, g, state)
    if not isinstance(g, RowSparse):
        g[...] = 0


def forgets_a_slot(rule, w, g, state):
    kept = {name: np.copy(value) for name, value in state.items()}
    reference(rule, w, g, state)
    for name, value in kept.items():
        if isinstance(state[name], np.ndarray):
            state[name][...] = value


def falls_over(rule, w, g, state):
    raise ZeroDivisionError("no kernel today")


WRONG = (one_bit_off, no_infinity, writes_the_gradient, forgets_a_slot, falls_over)


def toy(step, knobs=None, supports=anything, numerics="bitwise"):
    return Variant(f"toy.{step.__name__}", numerics, supports, step, knobs=knobs or {})


def install(monkeypatch, *variants):
    """Let these be the only kernels beside the reference, on a machine that does nothing else."""
    module = types.ModuleType(NAME)
    module.__spec__ = ModuleSpec(NAME, None)
    module.VARIANTS = variants
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setattr(numpy_ref, "VARIANTS", (Variant("numpy_ref", "bitwise", anything, slowest),))
    backend = Backend("toy", "numpy", NAME, automatic=True)
    known = {"toy": backend, "numpy": registry.known("numpy", "a test")}
    monkeypatch.setattr(registry, "_backends", known)
    monkeypatch.setattr(machine, "company", lambda: lambda: 0.0)
    settle.forget()
    return backend


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """Toys, a folder of their own, and nothing known."""
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MEMOPT_TUNE", "auto")
    monkeypatch.setattr(settle, "SMALLEST", 64)
    monkeypatch.setattr(settle, "clock", CLOCK)
    yield lambda *variants: install(monkeypatch, *variants)
    settle.forget()
