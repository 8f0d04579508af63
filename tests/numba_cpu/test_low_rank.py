"""Adam with a rank-one second moment, compiled against the reference: bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import low_rank
from memopt_ref.parts.row_sparse import RowSparse
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import low_rank_engine, low_rank_loops  # noqa: E402

RULES = {
    "paper": mo.LowRankAdam(),
    "decayed": mo.LowRankAdam(beta1=0.0, bias_correction="eps_hat", weight_decay=0.01),
    "decoupled": mo.LowRankAdam(weight_decay=0.01, weight_decay_mode="decoupled"),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]
SHAPES = ((), (1,), (9001,), (7, 3), (4, 1), (33, 200), (200, 33), (70, 1100), (3, 70, 52), (16, 8, 3, 3))


def through_the_engine(rule, w, g, state, **options):
    """The kernel itself: what falls back to the reference would prove nothing."""
    t = int(state["t"]) + 1
    assert low_rank_engine.step(rule, w, g, state, t, **options)
    state["t"] = np.int64(t)


def assert_same_steps(rule, w, gradients, kernel=through_the_engine):
    state = rule.init_leaf(w)
    other_w, other = w.copy(order="K"), copy.deepcopy(state)
    for g in gradients:
        before = copy.deepcopy(g)
        kernel(rule, w, g, state)
        numpy_ref.step(rule, other_w, before, other)
        assert same_bits(w, other_w)
        for name, value in other.items():
            assert same_bits(state[name], value), name


@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule):
    for k, shape in enumerate(SHAPES):
        layout = "rows" if k % 2 and len(shape) < 3 else "c"
        gradients = [hard(shape, seed=90 + k, share=0), hard(shape, seed=k, share=0.01)]
        assert_same_steps(rule, laid(hard(shape, share=0), layout), [laid(g, layout) for g in gradients])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_dtype(layout):
    for dtype in ("float32", "bfloat16", "float64") if layout == "c" else ("float32",):
        w, g = hard((67, 530), dtype, share=0), hard((67, 530), seed=1, share=0.0001)
        for gradient_layout in ("c", "fortran"):
            assert_same_steps(RULES["paper"], laid(w, layout), [laid(g, gradient_layout)])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads):
    def kernel(*arguments):
        through_the_engine(*arguments, threads=threads)

    for shape in ((700, 40), (131, 900), (40_001,)):
        assert_same_steps(RULES["paper"], hard(shape, share=0), [hard(shape, seed=1, share=0)], kernel)


def test_row_sparse_gradients_are_stepped_as_the_reference_steps_them():
    for shape in ((90, 200), (20_000,)):
        g = RowSparse(np.array([5, 1, 5]), hard((3, *shape[1:]), share=0), shape)
        assert_same_steps(RULES["paper"], hard(shape, seed=1, share=0), [g, g], low_rank.step)


def test_what_no_loop_can_walk_is_stepped_by_the_reference():
    rule = RULES["paper"]
    for w in (
        np.zeros((4, 3, 9), np.float32)[:, :2, ::2],
        np.zeros((0, 3), np.float32),
        np.zeros((4, 3), ">f4"),
    ):
        assert not low_rank_engine.step(rule, w, np.ones(w.shape, np.float32), rule.init_leaf(w), 1)
    w = np.ones((4, 6), np.float32)
    for name, wrong in (
        ("r", np.zeros(5, np.float32)),
        ("c", np.zeros(6)),
        ("m", np.zeros((6, 4), np.float32)),
    ):
        assert not low_rank_engine.step(rule, w, w.copy(), {**rule.init_leaf(w), name: wrong}, 1)
    assert np.all(w == 1)


def test_which_rules_are_served():
    f32 = np.dtype(np.float32)
    assert all(low_rank.supports(rule, (4, 3), f32)[0] for rule in RULES.values())
    assert low_rank.supports(mo.Adam(), (4, 3), f32) == (False, "")
    assert low_rank.supports(RULES["paper"], (4, 3), np.dtype(object)) == (False, "no kernel for object")
    with mo.tuning.use_mode("off"):
        assert "numba.low_rank" in mo.Optimizer(np.ones((4, 3), np.float32), mo.LowRankAdam()).explain()


# The comparison, seen to fail on deliberate mistakes


def multiplies_before_it_divides(rule, w, g, state):
    """v = (r c) / mean(r): another last bit."""
    values = rule.values(w, g, state)
    v = np.outer(values["r"], values["c"]) / np.mean(values["r"])
    through_the_engine(rule, w.copy(), g, state)
    m_hat, v_hat = values["m_hat"], v / np.float32(1 - 0.999)
    w -= np.float32(1e-3) * (m_hat / (np.sqrt(v_hat) + np.float32(1e-8)))


def forgets_a_column(rule, w, g, state):
    through_the_engine(rule, w, g, state)
    state["c"][-1] = 0


@pytest.mark.parametrize("kernel", [multiplies_before_it_divides, forgets_a_column])
def test_a_wrong_kernel_is_caught(kernel):
    with pytest.raises(AssertionError):
        assert_same_steps(
            RULES["paper"], hard((130, 600), seed=1, share=0), [hard((130, 600), share=0)], kernel
        )


def test_a_loop_that_does_not_compile_is_left_to_the_reference(monkeypatch):
    def fails(*arguments):
        raise TypeError("not today")

    low_rank_engine.kernel.cache_clear()
    monkeypatch.setattr(low_rank_loops, "loop", fails)
    with pytest.warns(RuntimeWarning, match=r"cannot be compiled, NumPy steps instead \(not today\)"):
        assert_same_steps(
            RULES["paper"], hard((90, 200), share=0), [hard((90, 200), share=0)] * 2, low_rank.step
        )
    low_rank_engine.kernel.cache_clear()
