"""What a step costs beside its arithmetic: for a tensor of 16 entries that is all there is.

The unit is one call of a NumPy function on the same arrays, some hundred bytes and a dispatch, so that the
bounds hold on any machine: minima of many rounds, in turn. What is counted: the gradient's new address is
looked up and put in the table, and the compiled driver called with the loop, the table and the numbers.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import Leaf, addresses

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import elementwise, engine, spread  # noqa: E402
from memopt_ref.backends.numba_cpu.bind import Form  # noqa: E402

N = 16


def in_units(functions, calls=200, rounds=30):
    """Least time of a call of each, in calls of ``np.add``."""
    x, y = np.ones(N, np.float32), np.ones(N, np.float32)
    functions = {"unit": lambda: np.add(x, y, out=x), **functions}
    least = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            for _ in range(calls):
                function()
            least[name] = min(least[name], time.perf_counter() - begin)
    return {name: seconds / least["unit"] for name, seconds in least.items()}


@pytest.fixture
def ready():
    """A leaf with its plan, the row of a launch, and what the row's addresses point to."""
    rule, w = mo.Adam(), np.ones(N, np.float32)
    leaf = Leaf(rule, w, np.ones(N, np.float32), rule.init_leaf(w), {})
    assert engine.together([leaf], 1.0, 1.0, False) == []
    plan = leaf.memo["plan"]
    loop = engine.kernel(rule.expression(leaf.state), ("m", "v"), Form(), np.dtype(np.float32))
    numbers = np.ones(len(loop.coefficients))
    row = (loop.address, plan.table_address, addresses.address_of(numbers), N)
    return leaf, plan, row, numbers


def test_a_serial_step_costs_a_few_calls_of_numpy_and_a_parallel_one_a_few_more(ready):
    leaf, plan, row, _ = ready
    rows = np.array([row], np.int64)

    def serial():
        plan.table[1] = addresses.address_of(leaf.g)
        spread.alone(row[0], row[1], N, row[2])

    def parallel():
        plan.table[1] = addresses.address_of(leaf.g)
        spread.parallel(addresses.address_of(rows), 1, N, 8)

    def without_a_plan():
        elementwise.step(*leaf[:4])

    found = in_units({"serial": serial, "parallel": parallel, "without a plan": without_a_plan})
    # Seen: 1.7, 5 and 60 units; a unit is some 0.4 microseconds where nothing else runs.
    assert found["serial"] < 4
    assert found["parallel"] < 60, "a launch that another process holds up costs more"
    assert found["without a plan"] > 8, "the bound tells the two apart"


def test_a_small_step_of_an_optimizer_costs_less_than_the_reference(ready):
    w = np.ones(N, np.float32)
    g = w.copy()
    ours, theirs = (mo.Optimizer(w.copy(), mo.Adam(), backend) for backend in ("numba", "numpy"))
    found = in_units({"numba": lambda: ours.step(g), "numpy": lambda: theirs.step(g)}, 20)
    assert found["numba"] < found["numpy"]


def test_addresses_are_numpys_own_for_every_kind_of_array():
    x = np.zeros((4, 6), np.float32)
    tried = [x, x.T, x[1:, ::2], x[::-1], x[:0], np.zeros(()), np.arange(3), x.view(np.memmap)]
    for y in tried:
        assert addresses.address_of(y) == y.ctypes.data
        assert addresses.window(y).value == y.ctypes.data
    assert addresses._Asked(x).value == x.ctypes.data
    seen = addresses.window(x)
    x.resize((1 << 20,), refcheck=False)
    assert seen.value == x.ctypes.data, "a window sees that an array has moved"
