"""Adafactor against the paper written out densely, its identities, and Keras's published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.errors import HyperparameterError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.schedule import Schedule
from memopt_ref.parts.sums import along_rows, down_columns, over_tensor
from memopt_ref.rules.adafactor import Adafactor, rms
from memopt_ref.rules.adam import Adam

SHAPES = [(), (1,), (7,), (6, 5), (1, 4), (4, 1), (3, 4, 5), (2, 3, 2, 3)]
# Both sides round each of at most 30 operations a step, in sums of at most 60 terms, over 8 steps.
CLOSE = 1e-13


def problem(shape, seed=0, steps=8, dtype="float64", scale=1.0):
    rng = np.random.default_rng([seed, *shape])
    grads = [scale * rng.standard_normal(shape) * np.exp(rng.standard_normal(shape)) for _ in range(steps)]
    return np.asarray(rng.standard_normal(shape), dtype), [np.asarray(g, dtype) for g in grads]


def run(rule, w, grads):
    state = rule.init(w)
    for g in grads:
        w, state = rule.update(w, g, state)
    return w, state["leaves"][""]


def steps_of(rule, w, grads):
    """Every step's values, each from the state before it."""
    state = rule.init(w)["leaves"][""]
    for g in grads:
        values = rule.values(w, g, state)
        yield w, g, state, values
        w, state = values["w"], {name: values[name] for name in state}


def paper(w, grads, *, lr=1e-2, eps1=1e-30, eps2=1e-3, d=1.0, exponent=-0.8, beta1=0.0, decay=0.0):
    """The paper, with sums where the rule has means, and roots and divisions of whole matrices."""
    R = C = V = m = 0.0
    for t, g in enumerate(grads, start=1):
        beta2 = 1 - t**exponent
        alpha = max(eps2, math.sqrt(np.mean(w**2))) * min(lr, 1 / math.sqrt(t))
        squares = g**2 + eps1
        if w.ndim >= 2:
            R = beta2 * R + (1 - beta2) * squares.sum(axis=-1, keepdims=True)
            C = beta2 * C + (1 - beta2) * squares.sum(axis=-2, keepdims=True)
            V_hat = R * C / R.sum(axis=-2, keepdims=True)
        else:
            V_hat = V = beta2 * V + (1 - beta2) * squares
        U = g / np.sqrt(V_hat)
        U = U / max(1.0, math.sqrt(np.mean(U**2)) / d)
        m = beta1 * m + (1 - beta1) * alpha * U
        w = w - decay * alpha * w - m
    return w


def assert_is_the_paper(rule, shape, **arguments):
    w, grads = problem(shape)
    wanted = paper(w, grads, **arguments)
    np.testing.assert_allclose(run(rule, w, grads)[0], wanted, rtol=0, atol=CLOSE * np.max(np.abs(wanted)))


OPTIONS = {
    "default": (Adafactor(), {}),
    "momentum and decay": (Adafactor(beta1=0.9, weight_decay=0.1), {"beta1": 0.9, "decay": 0.1}),
    "constants": (
        Adafactor(learning_rate=0.3, eps1=1e-2, eps2=0.9, clip_threshold=0.5, decay_exponent=-0.6),
        {"lr": 0.3, "eps1": 1e-2, "eps2": 0.9, "d": 0.5, "exponent": -0.6},
    ),
    "no clipping": (Adafactor(clip_threshold=None), {"d": math.inf}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
def test_equals_the_paper_written_out_densely(option, shape):
    rule, arguments = OPTIONS[option]
    assert_is_the_paper(rule, shape, **arguments)


class ClipsBackwards(Adafactor):
    """min(1, RMS(U) / d) where max is meant: two ports."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        shrink = 1 / min(1.0, float(values["rms_u"]) / self.clip_threshold)
        return {**values, "w": w - values["alpha"] * shrink * values["u"]}


class CorrectsBias(Adafactor):
    """Adam's schedule with a constant beta2 and no correction."""

    def coefficients(self, t):
        return {**super().coefficients(t), "beta2": 0.999, "fresh2": 0.001}


class NormalisesByColumns(Adafactor):
    """Divides by the sum of R but keeps means in C."""

    def _factored(self, g, state, k):
        values = super()._factored(g, state, k)
        return {**values, "u": values["u"] * math.sqrt(g.shape[-2])}


@pytest.mark.parametrize("wrong", [ClipsBackwards, CorrectsBias, NormalisesByColumns])
def test_check_against_the_paper_catches_wrong_rules(wrong):
    with pytest.raises(AssertionError):
        assert_is_the_paper(wrong(), (6, 5))


# The numerics that compiled code has to meet


def assert_factored_bits(rule, shape):
    w, grads = problem(shape, dtype="float32")
    f = np.float32
    for w, g, state, values in steps_of(rule, w, grads):  # noqa: B020
        t = int(state["t"]) + 1
        beta2 = 1.0 - t**-0.8
        m, n = shape[-2:]
        squares = g * g + f(1e-30)
        R = f(beta2) * state["R"] + f(1.0 - beta2) * (along_rows(squares) / f(n))
        C = f(beta2) * state["C"] + f(1.0 - beta2) * (down_columns(squares) / f(m))
        mean_R = (along_rows(R) / f(m))[..., None]
        r, c = f(1) / np.sqrt(R / mean_R), f(1) / np.sqrt(C)
        u = (g * r[..., :, None]) * c[..., None, :]
        shrink = f(1) / max(f(1), np.sqrt(over_tensor(u * u) / f(u.size)) / f(1.0))
        alpha = max(f(1e-3), np.sqrt(over_tensor(w * w) / f(w.size))) * f(min(1e-2, 1 / math.sqrt(t)))
        wanted = w - alpha * (u * shrink)
        for name, value in {"R": R, "C": C, "u": u, "w": wanted}.items():
            assert values[name].tobytes() == value.tobytes(), (name, t)


@pytest.mark.parametrize("shape", [(6, 5), (130, 1000), (3, 129, 65), (1, 513), (700, 3)])
def test_float32_bits_are_those_of_the_factored_update_over_the_fixed_sums(shape):
    assert_factored_bits(Adafactor(), shape)


class DividesByTheRoot(Adafactor):
    def _factored(self, g, state, k):
        values = super()._factored(g, state, k)
        return {**values, "u": g / np.sqrt(values["v_hat"])}


class SumsLikeNumpy(Adafactor):
    def _factored(self, g, state, k):
        values = super()._factored(g, state, k)
        R = k["beta2"] * state["R"] + k["fresh2"] * np.mean(self._squares(g, k), axis=-1)
        return {**values, "R": R}


@pytest.mark.parametrize("wrong", [DividesByTheRoot, SumsLikeNumpy])
def test_check_of_bits_catches_a_division_and_another_sum(wrong):
    with pytest.raises(AssertionError):
        assert_factored_bits(wrong(), (130, 1000))


# Identities


def test_second_moment_is_exact_where_the_squares_have_rank_one():
    rng = np.random.default_rng(0)
    rows, columns = rng.uniform(0.1, 10, 6), rng.uniform(0.1, 10, 5)
    g = np.outer(rows, columns) * rng.choice([-1, 1], (6, 5))
    w = rng.standard_normal((6, 5))
    for _, _, _, values in steps_of(Adafactor(eps1=0.0), w, [g] * 3):
        np.testing.assert_allclose(values["v_hat"], g * g, rtol=1e-14)
        np.testing.assert_allclose(values["u"], np.sign(g), rtol=1e-14)


def divergence(p, q):
    return np.sum(p * np.log(p / q) - p + q)


def assert_least_divergence(v_hat, p):
    """No rank-one matrix near v_hat is closer to p in generalised Kullback-Leibler divergence."""
    rng = np.random.default_rng(1)
    best = divergence(p, v_hat)
    for size in (1e-1, 1e-3):
        for _ in range(200):
            near = v_hat * np.outer(*(np.exp(size * rng.standard_normal(n)) for n in p.shape))
            # Rounding of sums of 30 terms of size up to 10 leaves 1e-13.
            assert divergence(p, near) >= best - 1e-13


def test_second_moment_has_the_least_divergence_among_rank_one_matrices():
    w, (g, *_) = problem((6, 5))
    assert_least_divergence(Adafactor().values(w, g, Adafactor().init(w))["v_hat"], g * g)
    geometric = np.exp(np.mean(np.log(g * g), axis=1))[:, None] * np.exp(np.mean(np.log(g * g), axis=0))
    with pytest.raises(AssertionError):
        assert_least_divergence(geometric / np.exp(np.mean(np.log(g * g))), g * g)


def test_factors_keep_the_row_and_column_sums_of_the_mean_square():
    w, grads = problem((6, 5))
    exact = 0.0
    for t, (_, g, _, values) in enumerate(steps_of(Adafactor(), w, grads), start=1):
        exact = (1 - t**-0.8) * exact + t**-0.8 * (g * g)
        np.testing.assert_allclose(values["v_hat"].sum(axis=0), exact.sum(axis=0), rtol=1e-13)
        np.testing.assert_allclose(values["v_hat"].sum(axis=1), exact.sum(axis=1), rtol=1e-13)


def test_leading_axes_are_a_batch_of_matrices_with_common_norms():
    w, grads = problem((3, 4, 5))
    free = Adafactor(clip_threshold=None, scale_parameter=False)
    whole = run(free, w, grads)[0]
    parts = np.stack([run(free, w[b], [g[b] for g in grads])[0] for b in range(3)])
    assert whole.tobytes() == parts.tobytes()


@given(st.integers(-40, 40), st.sampled_from([(6, 5), (7,), (2, 3, 4)]), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_update_does_not_depend_on_the_unit_of_the_gradient(power, shape, seed):
    """Scaling by a power of two changes no bit when eps1 is zero."""
    w, grads = problem(shape, seed, steps=3)
    rule = Adafactor(eps1=0.0)
    assert run(rule, w, grads)[0].tobytes() == run(rule, w, [2.0**power * g for g in grads])[0].tobytes()


def test_unit_of_the_gradient_matters_with_a_large_eps1():
    w, grads = problem((6, 5), steps=3)
    rule = Adafactor(eps1=1e-3)
    assert not np.array_equal(run(rule, w, grads)[0], run(rule, w, [1024 * g for g in grads])[0])


@pytest.mark.parametrize("shape", [(7,), (6, 5), (3, 4, 5)])
def test_clipped_update_has_at_most_the_threshold_and_keeps_smaller_ones(shape):
    w, grads = problem(shape, steps=20)
    clipped = 0
    for _, _, _, values in steps_of(Adafactor(clip_threshold=0.9), w, grads):
        assert rms(values["u_hat"]) <= 0.9 * (1 + 1e-15)
        if rms(values["u"]) <= 0.9:
            assert values["u_hat"].tobytes() == values["u"].tobytes()
        else:
            clipped += 1
    assert clipped > 0


def test_adam_schedule_makes_the_unfactored_moment_that_of_adam():
    w, grads = problem((6, 5))
    rule = Adafactor(factored=False, beta2_schedule="adam", beta2=0.99, eps1=0.0)
    adam = steps_of(Adam(beta2=0.99), w, grads)
    for (_, _, _, mine), (_, _, _, others) in zip(steps_of(rule, w, grads), adam, strict=True):
        np.testing.assert_allclose(mine["v"], others["v_hat"], rtol=1e-13)


def test_constant_schedule_and_cap_hold_beta2():
    assert Adafactor(beta2_schedule="constant", beta2=0.9).coefficients(1)["beta2"] == 0.9
    assert Adafactor(beta2=0.9).coefficients(1)["beta2"] == 0.0
    assert Adafactor(beta2=0.9).coefficients(10**6)["beta2"] == 0.9


def test_step_sizes_follow_their_formulas():
    paper_rho = [Adafactor().coefficients(t)["rho"] for t in (1, 10_000, 40_000)]
    assert paper_rho == [1e-2, 1e-2, 1 / 200]
    warm = Adafactor(step_size="warm_up")
    assert [warm.coefficients(t)["rho"] for t in (1, 100, 10_000, 40_000)] == [
        1e-6,
        1e-6 * 100,
        1e-2,
        1 / 200,
    ]
    assert Adafactor(learning_rate=3.0, step_size="fixed").coefficients(40_000)["rho"] == 3.0


def test_a_tensor_counts_its_own_steps():
    w, grads = problem((6, 5), steps=3)
    rule = Adafactor()
    params, state = {"a": w, "b": w}, rule.init({"a": w, "b": w})
    params, state = rule.update(params, {"a": None, "b": grads[0]}, state)
    params, state = rule.update(params, {"a": grads[1], "b": grads[1]}, state)
    alone = run(rule, w, grads[1:2])[0]
    assert params["a"].tobytes() == alone.tobytes()
    assert (state["leaves"]["a"]["t"], state["leaves"]["b"]["t"], state["step"]) == (1, 2, 2)


# Momentum and weight decay


def test_momentum_averages_scaled_steps_or_unscaled_updates():
    w, grads = problem((6, 5))
    m = 0.0
    for old, _, _, values in steps_of(Adafactor(beta1=0.9), w, grads):
        m = 0.9 * m + 0.1 * (values["alpha"] * values["u_hat"])
        # Terms of at most 0.05 may cancel, so the tolerance is absolute: a few ulp of 0.05.
        np.testing.assert_allclose(values["m"], m, rtol=0, atol=5e-17)
        np.testing.assert_allclose(values["w"], old - m, rtol=1e-14)
    m = 0.0
    for old, _, _, values in steps_of(Adafactor(beta1=0.9, momentum_of="update"), w, grads):
        m = 0.9 * m + 0.1 * values["u_hat"]
        np.testing.assert_allclose(values["w"], old - values["alpha"] * m, rtol=1e-14)


def test_momentum_schedule_that_starts_at_zero_keeps_its_slot():
    class Rising(Schedule):
        def __call__(self, step):
            return 0.0 if step == 1 else 0.5

    w, grads = problem((6, 5), steps=3)
    assert "m" in run(Adafactor(beta1=Rising()), w, grads)[1]


@pytest.mark.parametrize(
    ("mode", "rate"),
    [("decoupled", lambda v: v["alpha"]), ("learning_rate", lambda v: 0.2), ("independent", lambda v: 1.0)],
)
def test_weight_decay_multiplies_what_its_mode_says(mode, rate):
    w, grads = problem((6, 5))
    rule = Adafactor(learning_rate=0.2, weight_decay=0.1, weight_decay_mode=mode)
    for old, _, _, values in steps_of(rule, w, grads):
        wanted = old * (1 - 0.1 * rate(values)) - values["alpha"] * values["u_hat"]
        np.testing.assert_allclose(values["w"], wanted, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(values["rms_w"], math.sqrt(np.mean(old**2)), rtol=1e-14)


def test_decay_before_the_step_shrinks_the_size_that_scales_it():
    w, (g, *_) = problem((6, 5))
    rule = Adafactor(learning_rate=0.2, weight_decay=0.1, weight_decay_mode="before")
    plain = Adafactor(learning_rate=0.2)
    assert run(rule, w, [g])[0].tobytes() == run(plain, w * (1 - 0.1 * 0.2), [g])[0].tobytes()
    late = rule.replace(weight_decay_mode="learning_rate")
    assert not np.allclose(run(rule, w, [g])[0], run(late, w, [g])[0], rtol=1e-4)


def test_l2_decay_is_part_of_the_gradient():
    w, (g, *_) = problem((6, 5))
    l2 = Adafactor(weight_decay=0.1, weight_decay_mode="l2")
    assert run(l2, w, [g])[0].tobytes() == run(Adafactor(), w, [g + 0.1 * w])[0].tobytes()


# torch's epsilon


def torch_formula(w, grads, eps1, lr=1e-2):
    """As its documentation says: clamps of mean(R) and of sqrt(V_hat), nothing added to squares."""
    R = C = V = 0.0
    for t, g in enumerate(grads, start=1):
        fresh = t**-0.8
        if w.ndim >= 2:
            R = R + fresh * (np.mean(g * g, axis=-1, keepdims=True) - R)
            C = C + fresh * (np.mean(g * g, axis=-2, keepdims=True) - C)
            V_hat = R * C / np.maximum(np.mean(R, axis=-2, keepdims=True), eps1)
        else:
            V_hat = V = V + fresh * (g * g - V)
        U = g / np.maximum(np.sqrt(V_hat), eps1)
        alpha = max(1e-3, math.sqrt(np.mean(w**2))) * min(lr, 1 / math.sqrt(t))
        w = w - alpha * U / max(1.0, math.sqrt(np.mean(U**2)))
    return w


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("eps1", "scale"), [(None, 1.0), (None, 1e-9), (0.5, 0.3), (1e-3, 1e-3)])
def test_clamp_mode_is_torch_s_formula(shape, eps1, scale):
    w, grads = problem(shape, scale=scale)
    got = run(Adafactor(eps_mode="clamp", eps1=eps1), w, grads)[0]
    wanted = torch_formula(w, grads, np.finfo(np.float64).eps if eps1 is None else eps1)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=CLOSE * np.max(np.abs(wanted)))


@pytest.mark.parametrize("shape", [(7,), (6, 5)])
@pytest.mark.parametrize("rule", [Adafactor(), Adafactor(eps1=0.0), Adafactor(eps_mode="clamp")])
def test_gradients_of_zero_make_no_nan_in_float32(rule, shape):
    """eps1^2 = 1e-60 is zero in float32: torch with eps=(1e-30, 1e-3) turns these weights into NaN."""
    w, grads = problem(shape, dtype="float32", steps=4)
    grads = [np.zeros_like(w), *grads]
    for g in grads:
        g[0] = 0
    new, state = run(rule, w, grads)
    assert np.all(np.isfinite(new))
    assert new[0].tobytes() == w[0].tobytes()
    assert all(np.all(np.isfinite(value)) for value in state.values())


def test_nan_in_the_gradient_reaches_the_whole_tensor_through_the_norm():
    w, (g, *_) = problem((6, 5))
    g[2, 3] = np.nan
    assert np.all(np.isnan(run(Adafactor(), w, [g])[0]))
    free = run(Adafactor(clip_threshold=None), w, [g])[0]
    assert np.all(np.isnan(free[:, 3]))


# What is factored


def test_the_two_largest_axes_are_factored_as_if_they_were_the_last():
    w, grads = problem((5, 3, 4))
    largest = Adafactor(factor_axes="largest", clip_threshold=None, scale_parameter=False)
    last = Adafactor(clip_threshold=None, scale_parameter=False)
    got = run(largest, w, grads)[0]
    moved = run(last, w.transpose(1, 2, 0), [g.transpose(1, 2, 0) for g in grads])[0]
    assert np.ascontiguousarray(got.transpose(1, 2, 0)).tobytes() == moved.tobytes()
    assert not np.allclose(got, run(last, w, grads)[0], rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [(5, 3, 4), (4, 5, 3), (3, 5, 5), (2, 6, 2, 6), (9, 2, 3, 4), (4, 4, 4), (5, 4)]
)
def test_slots_of_the_largest_axes_are_means_over_the_other_one(shape):
    """R lacks the largest axis, C the second largest; the first of equal ones counts as smaller."""
    i, j = Adafactor(factor_axes="largest").factor_pair(shape)
    w, (g, *_) = problem(shape)
    slots = Adafactor(factor_axes="largest").slots(shape, w.dtype)
    values = Adafactor(factor_axes="largest").values(w, g, Adafactor(factor_axes="largest").init(w))
    assert sorted(shape)[-2:] == [shape[i], shape[j]]
    np.testing.assert_allclose(values["R"], np.mean(g * g, axis=j), rtol=1e-14)
    np.testing.assert_allclose(values["C"], np.mean(g * g, axis=i), rtol=1e-14)
    for name in "RC":
        assert slots[name].shape == tuple(shape[a] for a in slots[name].axes)


def test_min_dim_keeps_small_matrices_unfactored():
    rule = Adafactor(factor_axes="largest", min_dim=128)
    assert set(rule.slots((127, 1000), "float32")) == {"v", "t"}
    assert set(rule.slots((128, 1000), "float32")) == {"R", "C", "t"}
    w, grads = problem((6, 5))
    assert run(rule, w, grads)[0].tobytes() == run(Adafactor(factored=False), w, grads)[0].tobytes()


@pytest.mark.parametrize(("shape", "floats"), [((30, 20), 50), ((4, 5, 6), 44), ((6,), 6), ((), 1)])
def test_state_is_sublinear_from_two_axes_on(shape, floats):
    def count(rule):
        return sum(s.nbytes for s in rule.slots(shape, "float32").values() if not s.is_counter) // 4

    assert count(Adafactor()) == floats
    assert count(Adafactor(beta1=0.9)) == floats + math.prod(shape)


def test_row_sparse_gradient_is_stepped_on_the_dense_one_since_norms_couple_the_rows():
    w, _ = problem((6, 5), dtype="float32")
    g = RowSparse(np.array([1, 4]), np.ones((2, 5), np.float32), w.shape)
    for rule in (Adafactor(), Adafactor(factored=False)):
        assert run(rule, w, [g, g])[0].tobytes() == run(rule, w, [g.to_dense()] * 2)[0].tobytes()

    class Uncoupled(Adafactor):
        couples_rows = False

    wrong = run(Uncoupled(factored=False), w, [g, g])[0]
    assert wrong.tobytes() != run(Adafactor(factored=False), w, [g.to_dense()] * 2)[0].tobytes()


def test_bad_beta2_is_an_error_that_names_the_schedule():
    with pytest.raises(HyperparameterError, match="beta2_schedule='adam'"):
        Adafactor(beta2_schedule="adam")
    with pytest.raises(HyperparameterError, match="clip_threshold"):
        Adafactor(clip_threshold=0.0)


def test_metric_is_diagonal_and_absent_with_momentum():
    w, (g, *_) = problem((6, 5))
    rule = Adafactor(learning_rate=0.5)
    values = rule.values(w, g, rule.init(w))
    np.testing.assert_allclose(w - values["w"], rule.metric(values).solve(g), rtol=1e-12)
    heavy = Adafactor(beta1=0.9)
    assert heavy.metric(heavy.values(w, g, heavy.init(w))) is None


# Keras's own test figures, float32, printed to four decimals

KERAS_RUN = {1: [0.55] * 10, 2: [0.3031, 0.3026, 0.3025] + [0.3024] * 7}
KERAS_RUN[5] = [0.0554, 0.0548] + [0.0546] * 5 + [0.0545] * 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_keras_run_of_five_steps(dtype):
    rule = Adafactor(learning_rate=0.5, decay_exponent=-0.65, eps1=1e-15, eps2=1e-4, clip_threshold=0.9)
    w = np.ones(10, dtype)
    grads = [np.full(10, 0.01, dtype)] + [np.arange(0.1, 1.1, 0.1).astype(dtype)] * 4
    for t, (_, _, _, values) in enumerate(steps_of(rule, w, grads), start=1):
        if t in KERAS_RUN:
            np.testing.assert_allclose(values["w"], KERAS_RUN[t], rtol=0, atol=5.1e-5)


def test_keras_single_steps():
    rule = Adafactor(learning_rate=0.5)
    w, g = np.array([1.0, 2, 3, 4]), np.array([1.0, 6, 7, 2])
    np.testing.assert_allclose(run(rule, w, [g])[0], [-0.3693, 0.6307, 1.6307, 2.6307], rtol=0, atol=5.1e-5)
    matrix = run(rule, w.reshape(2, 2), [g.reshape(2, 2)])[0]
    np.testing.assert_allclose(matrix, [[0.7007, -0.0081], [1.2492, 3.4407]], rtol=0, atol=5.1e-5)
