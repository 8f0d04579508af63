"""The stop-watch: in turn, minima, ratios; with a clock of the test's own."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.numba_cpu import timing


def test_contestants_take_turns_and_the_least_of_the_rounds_counts():
    now, calls = [0.0], []
    costs = {"limit": iter([9, 2.0, 4.0, 1.0]), "step": iter([9, 6.0, 3.0, 8.0])}

    def contestant(name):
        def run():
            calls.append(name)
            now[0] += next(costs[name])

        return run

    found = timing.interleaved({n: contestant(n) for n in costs}, "limit", rounds=3, clock=lambda: now[0])
    assert calls == ["limit", "step", "limit", "step", "step", "limit", "limit", "step"]
    assert found["step"] == (3.0, 3.0, 3.0)
    assert found["limit"] == (1.0, 1.0, 1.0)


def test_a_table_of_rules_is_timed_against_the_limit():
    pytest.importorskip("numba", reason="the kernels need numba")
    found = timing.against_limit({"sm3": (mo.SM3(), (64, 300)), "adam": (mo.Adam(), (5000,))}, rounds=2)
    assert set(found) == {"w -= lr * g", "sm3", "adam"}
    assert all(np.isfinite(t.seconds) and t.seconds > 0 for t in found.values())
    with pytest.raises(KeyError, match="no compiled kernel for Shampoo"):
        timing.against_limit({"x": (mo.Shampoo(), (4, 4))})
