"""MicroAdam against Adam, and against the properties that its equations imply."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from memopt_ref.errors import HyperparameterError
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.microadam import MicroAdam
from tests.steps import normal, trajectory
from tests.wrong_microadam import FlatScatter, Forgets, NewestFirst, WindowClock

EXACT = {"value_dtype": "float64", "error_bits": None}


def assert_is_adam(kind) -> None:
    """The sums of a window that forgets nothing are Adam's recursions, up to the order of rounding."""
    w, gradients = normal(7, 5), normal(25, 7, 5, seed=1)
    settings = {"learning_rate": 0.01, "weight_decay": 0.1}
    rule = kind(**settings, **EXACT, window=25, density=1.0, block=8)
    adam = Adam(**settings, weight_decay_mode="decoupled")
    pairs = zip(trajectory(rule, w, gradients), trajectory(adam, w, gradients), strict=True)
    assert max(np.abs(a["w"] - b["w"]).max() for a, b in pairs) <= 2e-15


def test_everything_kept_and_nothing_forgotten_is_adam():
    assert_is_adam(MicroAdam)


@pytest.mark.parametrize("mutant", [FlatScatter, Forgets])
def test_the_comparison_with_adam_catches(mutant):
    with pytest.raises(AssertionError):
        assert_is_adam(mutant)


def test_what_came_in_is_what_was_sent_and_what_is_held_back():
    gradients = normal(60, 400, seed=2)
    sent = np.zeros(400)
    for values in trajectory(MicroAdam(**EXACT, density=0.05, block=100), np.zeros(400), gradients):
        sent[values["taken"]] += values["a"][values["taken"]]
    # 60 additions of numbers below 32: 60 * 2^-53 * 32 < 3e-13.
    assert np.abs(gradients.sum(axis=0) - sent - values["e"]).max() < 3e-13


def test_stochastic_rounding_loses_nothing_in_the_mean_and_nearest_rounding_does():
    """The mean over 400 seeds of one quantised error, within five times u / 2 / sqrt(400)."""
    g = normal(64, seed=3)
    rule = MicroAdam(value_dtype="float64", density=0.01, rounding="stochastic")
    total, state = np.zeros(64), rule.init_leaf(g)
    for seed in range(400):
        values = rule.values(g, g, {**state, "seed": np.uint64(seed)})
        total += rule.error.load(values, g) - values["residual"]
    u = (values["e_max"] - values["e_min"]) / 15
    allowed = 5 * u / 2 / math.sqrt(400)
    assert np.abs(total / 400).max() < allowed
    values = rule.replace(rounding="nearest").values(g, g, state)
    assert np.abs(rule.error.load(values, g) - values["residual"]).max() > allowed


def assert_persistent_coordinates_speed_up(kind) -> None:
    rule = kind(learning_rate=1.0, eps=0.0, density=1.0, **EXACT)
    figures = {1: 1.0, 10: 1.0, 11: 0.995266, 100: 2.014281}
    w = np.zeros(1)
    for t, values in enumerate(trajectory(rule, w, [np.ones(1)] * 100), start=1):
        if t in figures:
            assert abs(w[0] - values["w"][0] - figures[t]) < 1e-6
        w = values["w"]


def test_a_coordinate_kept_at_every_step_moves_faster_than_under_adam():
    assert_persistent_coordinates_speed_up(MicroAdam)

    def closed_form(t):
        return (1 - 0.9**10) / (1 - 0.9**t) / math.sqrt((1 - 0.999**10) / (1 - 0.999**t))

    for t, want in {11: 0.995266, 100: 2.014281, 1000: 5.190813, 10_000: 6.527733}.items():
        assert abs(closed_form(t) - want) < 1e-6


def test_the_figures_of_the_window_catch_a_clock_that_stops_at_it():
    with pytest.raises(AssertionError):
        assert_persistent_coordinates_speed_up(WindowClock)


def test_an_update_is_at_most_window_times_density_dense():
    d = 10_000
    for values in trajectory(MicroAdam(block=1000), np.zeros(d), normal(15, d, seed=4)):
        density = np.count_nonzero(values["u"]) / d
        assert density <= 0.1
    assert density > 0.095


@pytest.mark.parametrize(
    ("buffer", "figures"),
    [
        (EXACT, {1: 0.95, 10: 2.59, 50: 3.93, 100: 4.00}),
        ({"value_dtype": "float64"}, {1: 0.95, 10: 2.63, 50: 4.16, 100: 4.35}),
    ],
)
def test_the_error_stays_at_the_norm_that_the_specification_measured(buffer, figures):
    """Gaussian gradients of norm 1, d = 10^4. Seeds scatter by 3 %; the buffers differ by 8 %."""
    d, q = 10_000, math.sqrt(0.99)
    rng = np.random.default_rng(1)
    gradients = (g / np.linalg.norm(g) for g in (rng.standard_normal(d) for _ in range(100)))
    rule = MicroAdam(**buffer, block=10_000)
    for t, values in enumerate(trajectory(rule, np.zeros(d), gradients), start=1):
        if t in figures:
            norm = np.linalg.norm(rule.error.load(values, np.zeros(d)))
            assert abs(norm / figures[t] - 1) < 0.03
            assert norm <= q / (1 - q)


def test_the_first_step_moves_the_kept_entries_by_the_learning_rate_and_no_other():
    g = normal(300, seed=5)
    rule = MicroAdam(learning_rate=0.25, eps=0.0, density=0.1, **EXACT)
    values = next(trajectory(rule, np.zeros(300), [g]))
    want = np.zeros(300)
    want[values["taken"]] = -0.25 * np.sign(g[values["taken"]])
    # m_hat and the root of v_hat carry a few roundings each.
    np.testing.assert_allclose(values["w"], want, rtol=4e-16, atol=0)
    assert np.count_nonzero(values["w"]) == 30


def window_sums(rule, values, w):
    """m and v by loops over scalars, rows in storage order, for a tensor of one block."""
    t, k = int(values["t"]), rule.blocks(w.size).kept
    m, v = np.zeros(w.size, w.dtype), np.zeros(w.size, w.dtype)
    for i in range(min(t, rule.window)):
        age = (t - 1 - i) % rule.window
        for j in range(k):
            at, x = values["I"][i * k + j], values["V"][i * k + j].astype(w.dtype)
            m[at] = m[at] + w.dtype.type(rule.beta1**age) * x
            v[at] = v[at] + w.dtype.type(rule.beta2**age) * (x * x)
    return m, v


def assert_rows_are_added_in_storage_order(kind) -> None:
    w = normal(50, dtype=np.float32)
    rule = kind(window=4, density=0.5)
    for values in trajectory(rule, w, normal(11, 50, seed=6, dtype=np.float32)):
        m, v = window_sums(rule, values, w)
        assert np.array_equal(values["m"], m)
        assert np.array_equal(values["v"], v)


def test_rows_of_the_window_are_added_in_storage_order_bit_for_bit():
    assert_rows_are_added_in_storage_order(MicroAdam)


@pytest.mark.parametrize("mutant", [NewestFirst, FlatScatter])
def test_the_order_of_the_sums_catches(mutant):
    with pytest.raises(AssertionError):
        assert_rows_are_added_in_storage_order(mutant)


def test_the_window_keeps_bfloat16_and_the_error_loses_its_rounding():
    g = normal(100, seed=7, dtype=np.float32)
    values = next(trajectory(MicroAdam(density=0.1), np.zeros(100, np.float32), [g]))
    assert np.array_equal(values["V"][:10], g[values["taken"]].astype(values["V"].dtype))
    assert not np.array_equal(values["V"][:10].astype(np.float32), g[values["taken"]])
    assert np.all(values["residual"][values["taken"]] == 0)


def test_indices_reach_the_last_entry_of_the_longest_block():
    g = np.zeros(32768 + 3, np.float32)
    g[[32767, 32770]] = 1.0
    values = next(trajectory(MicroAdam(block=32768, density=1e-5), g, [g]))
    assert values["I"].dtype == np.int16
    assert values["taken"].tolist() == [32767, 32770]
    assert values["I"][[0, 10]].tolist() == [32767, 2]
    with pytest.raises(HyperparameterError, match=r"MicroAdam.block: got 32769"):
        MicroAdam(block=32769)


@pytest.mark.parametrize("size", [1, 63, 100, 4096, 4097, 10_000, 124_439_808])
def test_state_is_half_a_byte_and_the_window_and_the_bounds(size):
    """0.5 d + 4 m K + 4 bytes a bucket; GPT-2 as one tensor: 62,219,904 + 49,824,560 + 7,777,488."""
    slots = MicroAdam().slots((size,), np.dtype(np.float32))
    kept = (size // 4096) * 41 + math.ceil(0.01 * (size % 4096))
    want = (size + 1) // 2 + 4 * 10 * kept + 4 * math.ceil(size / 64)
    assert sum(slot.nbytes for slot in slots.values() if not slot.is_counter) == want
    if size == 124_439_808:
        assert want == 119_821_952


def test_leaves_of_a_tree_draw_different_noise_and_equal_ones_the_same():
    g = normal(64, seed=8, dtype=np.float32)
    rule = MicroAdam(rounding="stochastic")
    params, grads = {"a": g, "b": g}, {"a": g, "b": g}
    _, state = rule.update(params, grads, rule.init(params))
    _, again = rule.update(params, grads, rule.init(params))
    _, other = rule.replace(seed=1).update(params, grads, rule.replace(seed=1).init(params))
    codes = [s["leaves"][leaf]["e"].tobytes() for s, leaf in ((state, "a"), (state, "b"), (other, "a"))]
    assert len(set(codes)) == 3
    assert again["leaves"]["a"]["e"].tobytes() == codes[0]


def test_a_tensor_without_a_gradient_keeps_the_ages_of_its_rows():
    """Skipping a step leaves t and the ring alone, so the next step is the one due."""
    gradients = normal(6, 20, seed=9)
    rule = MicroAdam(density=0.2, window=3, **EXACT)
    params = {"a": np.zeros(20), "b": np.zeros(20)}
    state = rule.init(params)
    for t, g in enumerate(gradients):
        params, state = rule.update(params, {"a": g, "b": None if t % 2 else g}, state)
    *_, want = trajectory(rule, np.zeros(20), gradients[::2])
    assert np.array_equal(params["b"], want["w"])
    assert int(state["leaves"]["b"]["t"]) == 3


def test_not_a_number_is_kept_first_and_shows_in_the_weights():
    g = np.ones(300, np.float32)
    g[[7, 290]] = np.nan
    values = next(trajectory(MicroAdam(block=200), np.zeros(300, np.float32), [g]))
    assert values["taken"].tolist() == [0, 7, 290]
    assert np.flatnonzero(np.isnan(values["w"])).tolist() == [7, 290]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 0),
        ("density", 0.0),
        ("density", 1.5),
        ("bucket", 0),
        ("error_bits", 9),
        ("value_dtype", "int8"),
    ],
)
def test_bad_hyper_parameters_are_named(field, value):
    with pytest.raises(HyperparameterError, match=f"MicroAdam.{field}"):
        MicroAdam(**{field: value})


def test_every_value_that_the_paper_names_is_there():
    values = next(trajectory(MicroAdam(), np.zeros(5), [np.ones(5)]))
    assert {"w", "a", "taken", "residual", "I", "V", "e", "e_min", "e_max", "t"} <= set(values)
    assert {"m", "v", "m_hat", "v_hat", "u"} <= set(values)
    assert {f.name for f in dataclasses.fields(MicroAdam)} >= {"window", "density", "block", "bucket"}
