"""AdaGrad and its forms: identities between them, the sums of the regret proofs, published values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.errors import HyperparameterError, ShapeError
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.adagrad_forms import AdaGradNorm, FullMatrixAdaGrad, RowWiseAdaGrad

ULP = np.finfo(np.float64).eps
FIRST_THEN_RAMP = [np.full(10, 0.01), *[np.arange(0.1, 1.1, 0.1)] * 4]


def trajectory(rule, w, grads):
    """All values of every step."""
    state, steps = rule.init(w), []
    for g in grads:
        values = rule.values(w, g, state)
        w, state = rule.update(w, g, state)
        assert np.array_equal(w, values["w"])
        steps.append(values)
    return steps


def gaussian(shape, steps, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)).astype(dtype) for _ in range(steps)]


def test_first_step_is_the_sign_and_zero_over_zero_is_zero():
    g = np.array([3.0, -1e-150, 0.0, -0.0])
    values = AdaGrad(learning_rate=1.0).values(np.zeros(4), g, AdaGrad().init(np.zeros(4)))
    assert values["w"].tolist() == [-1.0, 1.0, 0.0, 0.0]


KERAS = AdaGrad(learning_rate=0.2, initial_accumulator=0.3, eps_root=1e-6)


def test_reproduces_the_published_values_of_keras():
    steps = trajectory(KERAS, np.ones(10), FIRST_THEN_RAMP)
    printed = {
        1: [0.9963] * 10,
        2: [0.9604, 0.9278, 0.9003, 0.8784, 0.8615, 0.8487, 0.8388, 0.8313, 0.8255, 0.8209],
        5: [0.856, 0.7422, 0.6604, 0.6037, 0.5644, 0.5367, 0.5168, 0.5021, 0.491, 0.4825],
    }
    for step, want in printed.items():  # printed with four decimals
        assert np.max(np.abs(steps[step - 1]["w"] - want)) <= 5.01e-5
    single = AdaGrad(learning_rate=0.5, initial_accumulator=0.1, eps_root=1e-7)
    w = np.array([1.0, 2.0, 3.0, 4.0])
    got = single.values(w, np.array([1.0, 6.0, 7.0, 2.0]), single.init(w))["w"]
    assert np.max(np.abs(got - [0.5233, 1.5007, 2.5005, 3.5061])) <= 5.01e-5


def test_published_values_tell_the_start_of_the_accumulator_apart():
    wrong = trajectory(KERAS.replace(initial_accumulator=0.31), np.ones(10), FIRST_THEN_RAMP)
    assert np.max(np.abs(wrong[0]["w"] - 0.9963)) > 5.01e-5


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(-20, 20), st.sampled_from([np.float32, np.float64]))
def test_scaling_the_gradients_by_a_power_of_two_changes_no_bit(seed, power, dtype):
    grads = gaussian((4, 3), 6, seed, dtype)
    w = np.zeros((4, 3), dtype)
    plain = trajectory(AdaGrad(), w, grads)[-1]
    scaled = trajectory(AdaGrad(), w, [g * dtype(2.0**power) for g in grads])[-1]
    assert plain["w"].tobytes() == scaled["w"].tobytes()


class PastOnly(AdaGrad):
    """Wrong: divides by the sum before the current gradient entered it."""

    def step(self, w, g, state):
        before = {"s": state["s"] + 1e-12}
        values = super().step(w, 0 * g, before)
        return {**values, "u": g / values["denominator"], "s": state["s"] + g * g}


def self_confident_ratio(rule, grads):
    """max over entries of sum_t g^2 / sqrt(s_t) over 2 sqrt(s_T): at most 1, the lemma of the proof."""
    steps = trajectory_of_direction(rule, grads)
    total = sum(g * u for g, u in zip(grads, [v["u"] for v in steps], strict=True))
    return float(np.max(total / (2 * np.sqrt(steps[-1]["s"]))))


def trajectory_of_direction(rule, grads):
    leaf, steps = rule.init_leaf(grads[0]), []
    for g in grads:
        values = rule.step(np.zeros_like(g), g, leaf)
        leaf = {"s": values["s"]}
        steps.append(values)
    return steps


@pytest.mark.parametrize("seed", range(5))
def test_sum_of_squares_over_its_own_root_is_at_most_twice_the_root(seed):
    grads = gaussian((6,), 200, seed)
    # Each of 200 terms and the sum round once: far below 1e-12 relative.
    assert self_confident_ratio(AdaGrad(), grads) <= 1 + 1e-12
    assert self_confident_ratio(PastOnly(), grads) > 1 + 1e-12


def test_norm_form_on_one_entry_is_adagrad_to_the_bit():
    for a, b in zip(
        *(trajectory(r, np.ones(1), gaussian((1,), 20)) for r in (AdaGrad(), AdaGradNorm())), strict=True
    ):
        assert a["w"].tobytes() == b["w"].tobytes()


@pytest.mark.parametrize("shape", [(), (7,), (5, 1), (4, 1, 1)])
def test_row_form_is_adagrad_to_the_bit_where_a_row_is_one_entry(shape):
    grads = [np.float32(g) for g in gaussian(shape, 20)]
    w = np.ones(shape, np.float32)
    adagrad = trajectory(AdaGrad(eps=1e-3), w, grads)
    for reduce in ("mean", "sum"):
        rows = trajectory(RowWiseAdaGrad(eps=1e-3, reduce=reduce), w, grads)
        assert [v["w"].tobytes() for v in rows] == [v["w"].tobytes() for v in adagrad]


def test_row_form_with_one_row_and_a_sum_is_the_norm_form_to_the_bit():
    grads = gaussian((1, 700), 10)
    norm = trajectory(AdaGradNorm(), np.ones((1, 700)), grads)[-1]
    rows = trajectory(RowWiseAdaGrad(reduce="sum"), np.ones((1, 700)), grads)[-1]
    mean = trajectory(RowWiseAdaGrad(reduce="mean"), np.ones((1, 700)), grads)[-1]
    assert norm["w"].tobytes() == rows["w"].tobytes() != mean["w"].tobytes()
    # A mean divides s by 700, so the steps are longer by the root of 700.
    assert np.allclose((mean["w"] - 1) / (rows["w"] - 1), np.sqrt(700), rtol=1e-12)


def test_row_form_keeps_one_number_a_row():
    assert RowWiseAdaGrad().slots((9, 4, 5), np.dtype("float32"))["s"].nbytes == 4 * 9


def test_full_matrix_on_axis_aligned_gradients_is_adagrad():
    rng = np.random.default_rng(0)
    grads = [np.eye(5)[rng.integers(5)] * rng.standard_normal() for _ in range(60)]
    full = trajectory(FullMatrixAdaGrad(), np.zeros(5), grads)
    diagonal = trajectory(AdaGrad(), np.zeros(5), grads)
    # G is diagonal: eigh permutes it exactly, and every step rounds as AdaGrad's.
    assert max(np.max(np.abs(a["w"] - b["w"])) for a, b in zip(full, diagonal, strict=True)) <= 4 * ULP


def rotation_defect(rule, seed=0):
    """How far the rule is from commuting with a rotation of the coordinates."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    grads = gaussian((6,), 30, seed)
    plain = trajectory(rule, np.zeros(6), grads)[-1]["w"]
    rotated = trajectory(rule, np.zeros(6), [Q @ g for g in grads])[-1]["w"]
    return np.max(np.abs(Q @ plain - rotated)) / np.max(np.abs(plain))


def test_full_matrix_commutes_with_rotations_and_the_diagonal_does_not():
    # eigh's relative error is about ulp times the condition of the root, here below 1e6.
    assert rotation_defect(FullMatrixAdaGrad(eps_root=1e-3)) <= 1e-9
    assert rotation_defect(AdaGrad(eps_root=1e-3)) > 1e-2


@pytest.mark.parametrize(("eps_root", "eps"), [(0.3, 0.0), (0.0, 0.3), (0.2, 0.1)])
def test_full_matrix_inverts_the_root_with_ridge_and_delta(eps_root, eps):
    grads = gaussian((2, 3), 12, 4)
    rule = FullMatrixAdaGrad(learning_rate=1.0, eps_root=eps_root, eps=eps)
    values = trajectory(rule, np.zeros((2, 3)), grads)[-1]
    H = (values["basis"] * values["denominator"]) @ values["basis"].T
    root = H - eps * np.eye(6)
    G = sum(np.outer(g, g) for g in grads)
    scale = np.linalg.norm(G)
    assert np.linalg.norm(root @ root - G - eps_root * np.eye(6)) <= 1e-13 * scale
    assert np.linalg.norm(H @ values["u"].ravel() - grads[-1].ravel()) <= 1e-13 * np.linalg.norm(H)


def trace_lemma_ratio(grads, *, past_only=False):
    """sum g^T (G_t^{1/2})^+ g over 2 tr G_T^{1/2}."""
    rule = FullMatrixAdaGrad()
    steps = trajectory(rule, np.zeros(grads[0].shape), grads)
    used = [None, *steps[:-1]] if past_only else steps
    total = sum(
        g @ ((v["basis"] / (v["denominator"] + 1e-12)) @ (v["basis"].T @ g))
        for g, v in zip(grads, used, strict=True)
        if v is not None
    )
    return total / (2 * np.sum(steps[-1]["denominator"]))


def test_trace_lemma_of_the_full_matrix_bound_and_a_wrong_order_that_breaks_it():
    grads = gaussian((5,), 100, 1)
    assert trace_lemma_ratio(grads) <= 1 + 1e-9
    assert trace_lemma_ratio(grads, past_only=True) > 1 + 1e-9


def test_full_matrix_pseudo_inverse_ignores_rounding_noise_in_unseen_directions():
    g = np.array([1.0, 2.0, 3.0]) / 7
    u = trajectory(FullMatrixAdaGrad(), np.zeros(3), [g, g])[-1]["u"]
    assert np.allclose(u, g / np.linalg.norm(g) / np.sqrt(2), rtol=1e-12)


def test_full_matrix_refuses_large_tensors_before_it_allocates():
    with pytest.raises(ShapeError, match=r"shape \(100, 100\) with 10000 entries.*Shampoo"):
        FullMatrixAdaGrad().init(np.zeros((100, 100)))
    FullMatrixAdaGrad(max_entries=10).init(np.zeros(10))


def test_starting_value_is_a_number_and_not_a_schedule():
    @dataclasses.dataclass(frozen=True)
    class Constant(mo.Schedule):
        def __call__(self, step):
            return 0.1

    with pytest.raises(HyperparameterError, match="initial_accumulator"):
        AdaGrad(initial_accumulator=Constant())
    with pytest.raises(HyperparameterError, match="initial_accumulator"):
        AdaGrad(initial_accumulator=-0.1)
