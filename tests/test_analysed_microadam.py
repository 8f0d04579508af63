"""The algorithm of MicroAdam's theorems, and the ablation without error feedback."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memopt_ref.errors import HyperparameterError
from memopt_ref.parts.compressors import Identity, TopK
from memopt_ref.parts.quantize import Quantiser
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.analysed_microadam import AnalysedMicroAdam
from memopt_ref.rules.topk_adam import TopKAdam
from tests.steps import normal, trajectory


def rosenbrock_gradient(p):
    x, y = p
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


def path(rule, steps: int = 1500):
    """Length of the path, and the sum of its turning angles."""
    start = np.array([-0.5, 1.0])
    points = [start, *(v["w"] for v in trajectory(rule, start, [rosenbrock_gradient] * steps))]
    moves = np.diff(points, axis=0)
    turns = np.diff(np.arctan2(moves[:, 1], moves[:, 0]))
    return np.linalg.norm(moves, axis=1).sum(), np.abs((turns + np.pi) % (2 * np.pi) - np.pi).sum()


def test_without_error_feedback_the_path_is_jagged():
    """Top-1 of two: half as long again as Adam's path, and ten times the turning of the one with feedback."""
    rate, top1 = 0.05, TopK(k=1)
    length, _ = path(Adam(learning_rate=rate))
    length_without, turning_without = path(TopKAdam(learning_rate=rate, compressor=top1))
    length_with, turning_with = path(TopKAdam(learning_rate=rate, compressor=top1, error_feedback=True))
    assert length_without > 1.5 * length
    assert turning_without > 10 * turning_with
    assert length_with < 1.1 * length


def test_topk_adam_that_keeps_everything_is_adam():
    w, gradients = normal(5, 3, dtype=np.float32), normal(8, 5, 3, seed=1, dtype=np.float32)
    pairs = [
        trajectory(rule, w, gradients)
        for rule in (
            TopKAdam(compressor=Identity()),
            TopKAdam(compressor=Identity(), error_feedback=True),
            Adam(),
        )
    ]
    for a, b, c in zip(*pairs, strict=True):
        assert np.array_equal(a["w"], c["w"])
        assert np.array_equal(b["w"], c["w"])


class WrongNoise(AnalysedMicroAdam):
    """The error grows by a tenth on its way through the buffer."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        return {**values, "e": values["e"] * 1.5}


def assert_error_and_compressed_gradient_are_bounded(kind) -> None:
    """||e|| <= q_w G / (1 - q_w) and ||g~|| <= G / (1 - q_w), surely; gradients along e hurt most."""
    d, norm = 20, 1.0
    rule = kind(compressor=TopK(k=10), quantiser=Quantiser(8, d, "stochastic", None))
    q_w = rule.constants(d)["q_w"]
    assert abs(q_w - 0.7237) < 5e-5
    rng = np.random.default_rng(0)
    w, state = np.zeros(d), rule.init_leaf(np.zeros(d))
    for t in range(400):
        along = np.sign(state["e"]) + (t % 3) * rng.standard_normal(d)
        g = norm * along / max(np.linalg.norm(along), 1e-300)
        values = rule.values(w, g, state)
        assert np.linalg.norm(values["e"]) <= q_w * norm / (1 - q_w)
        assert np.linalg.norm(values["e"]) <= q_w * (np.linalg.norm(state["e"]) + norm) * (1 + 1e-12)
        assert np.linalg.norm(values["g_tilde"]) <= norm / (1 - q_w)
        w, state = values["w"], {name: values[name] for name in state}


def test_error_of_the_analysed_algorithm_is_bounded_surely():
    assert_error_and_compressed_gradient_are_bounded(AnalysedMicroAdam)


def test_the_bound_of_the_error_catches_a_buffer_that_adds_noise():
    with pytest.raises(AssertionError):
        assert_error_and_compressed_gradient_are_bounded(WrongNoise)


def test_the_analysed_algorithm_is_amsgrad_on_compressed_gradients():
    """By scalar loops, bit for bit: Top-1 of each pair of entries, exact error."""
    rule = AnalysedMicroAdam(
        learning_rate=0.5, beta2=0.5, eps=0.01, compressor=TopK(k=1, block=2), quantiser=None
    )
    w = normal(6)
    x, e, m, v, v_hat = w.tolist(), [0.0] * 6, [0.0] * 6, [0.0] * 6, [0.0] * 6
    gradients = normal(9, 6, seed=1)
    for values, g in zip(trajectory(rule, w, gradients), gradients.tolist(), strict=True):
        a = [p + q for p, q in zip(e, g, strict=True)]
        for i in range(6):
            other = a[i ^ 1]
            kept = abs(a[i]) > abs(other) or (abs(a[i]) == abs(other) and i % 2 == 0)
            sent = a[i] if kept else 0.0
            e[i] = a[i] - sent
            m[i] = 0.9 * m[i] + (1 - 0.9) * sent
            v[i] = 0.5 * v[i] + (1 - 0.5) * (sent * sent)
            v_hat[i] = max(v_hat[i], v[i])
            x[i] = x[i] - 0.5 * (m[i] / math.sqrt(v_hat[i] + 0.01))
        assert values["w"].tolist() == x
        assert values["v_hat"].tolist() == v_hat


def test_the_gate_of_the_theorem_refuses_a_biased_quantiser_and_reports_the_default():
    constants = AnalysedMicroAdam().constants(4096)
    assert constants["q_w"] > 1
    assert AnalysedMicroAdam(quantiser=None).constants(4096)["omega"] == 0
    for quantiser in (Quantiser(), Quantiser(rounding="stochastic")):
        with pytest.raises(HyperparameterError, match="unbiased"):
            AnalysedMicroAdam(quantiser=quantiser).constants(4096)
