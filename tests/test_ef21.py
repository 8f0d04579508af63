"""EF21 obeys its Lyapunov function; EF and EF21 attain their tight rates and never exceed them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from memopt_ref.parts.compressors import Compressor, TopK
from memopt_ref.rules.error_feedback import EF21, ErrorFeedbackSGD
from tests.steps import normal, trajectory
from tests.test_error_feedback import NoRate


class Accumulates(EF21):
    """d <- d + C(g): the difference to d forgotten."""

    def step(self, w, g, state):
        return super().step(w, g + state["d"], state)


def assert_lyapunov_function_falls(kind, k: int) -> None:
    """Psi_t <= (1 - gamma mu)^t Psi_0 on a quadratic, Psi = f + (gamma / theta) ||d - grad||^2."""
    d = 20
    spectrum = np.linspace(0.1, 1.0, d)
    delta = k / d
    theta = 1 - math.sqrt(1 - delta)
    beta = (1 - delta) / theta
    mu, smooth = spectrum[0], spectrum[-1]
    gamma = min(1 / (smooth * (1 + math.sqrt(2 * beta / theta))), theta / (2 * mu))
    rule, w = kind(learning_rate=gamma, compressor=TopK(k=k)), normal(d)
    state = rule.init_leaf(w)
    first = None
    for t in range(300):
        values = rule.values(w, spectrum * w, state)
        psi = 0.5 * np.sum(spectrum * w**2) + gamma / theta * np.sum((values["d"] - spectrum * w) ** 2)
        first = psi if first is None else first
        assert psi <= (1 - gamma * mu) ** t * first * (1 + 1e-12)
        w, state = values["w"], {"d": values["d"]}


@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_lyapunov_function_of_ef21_falls_at_its_rate(k):
    assert_lyapunov_function_falls(EF21, k)


def test_the_lyapunov_function_catches_a_direction_that_only_grows():
    with pytest.raises(AssertionError):
        assert_lyapunov_function_falls(Accumulates, 5)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_gradients_of_ef21_are_small_in_the_mean(k):
    """mean ||grad||^2 <= 2 f_0 / (gamma T) + ||d_0 - grad||^2 / (theta T) without any convexity, L = 1."""
    d, steps = 20, 500
    spectrum, w = np.linspace(0.1, 1.0, d), normal(d)
    theta = 1 - math.sqrt(1 - k / d)
    gamma = 1 / ((1 + math.sqrt(1 - k / d)) / (k / d))
    assert k != 5 or gamma == pytest.approx(0.13397, abs=5e-6)
    rule = EF21(learning_rate=gamma, compressor=TopK(k=k))
    every = list(trajectory(rule, w, [lambda x: spectrum * x] * steps))
    points = np.array([w, *(values["w"] for values in every)])[:-1]
    first = np.sum((every[0]["d"] - spectrum * w) ** 2)
    bound = np.sum(spectrum * w**2) / (gamma * steps) + first / (theta * steps)
    assert np.sum((spectrum * points) ** 2) / steps <= bound


def test_the_first_direction_of_ef21_is_the_compressed_gradient():
    g = normal(8)
    values = next(trajectory(EF21(compressor=TopK(k=2)), np.zeros(8), [g]))
    assert np.array_equal(values["d"], TopK(k=2)(g))


@dataclasses.dataclass(frozen=True)
class Turned(Compressor):
    """C(x) = x - s R x in the plane, R a rotation: the error has exactly the share s of the norm."""

    s: float
    angle: float

    def __call__(self, x):
        c, n = math.cos(self.angle), math.sin(self.angle)
        return x - self.s * np.array([c * x[0] - n * x[1], n * x[0] + c * x[1]])

    def contraction(self, shape):
        return 1 - self.s**2


def tight_rate(eps: float, mu: float) -> tuple[float, float]:
    """Step size and rate of one step, L = 1 (Thomsen, Taylor and Dieuleveut 2025)."""
    s = math.sqrt(eps)
    eta = 2 / (1 + mu) * (1 - s) / (1 + s)
    root = math.sqrt((1 - mu) ** 2 + 16 * mu * s / (1 + s) ** 2)
    lam = eta / (1 + mu) * ((1 - s) * (1 - mu) + (1 + s) * root)
    return eta, s + (1 + s) * (1 - mu) * lam / 4


def one_step_ratio(kind, eps: float, mu: float, w, memory, angle: float) -> float:
    """V_{k+1} / V_k from any point and any memory; V of EF and of EF21."""
    s, (eta, _) = math.sqrt(eps), tight_rate(eps, mu)
    hessian = np.array([mu, 1.0])
    rule = kind(learning_rate=eta, compressor=Turned(s, angle))
    if issubclass(kind, ErrorFeedbackSGD):
        values = rule.values(w, hessian * w, {"e": memory})

        def v(w, e):
            return np.sum((w - e) ** 2) + np.sum(e**2) / s

        return v(values["w"], values["e"]) / v(w, memory)
    g = hessian * w
    after_step = w - eta * memory
    d = memory + Turned(s, angle)(hessian * after_step - memory)

    def v21(g, d):
        return np.sum((g - d) ** 2) + s * np.sum(g**2)

    assert np.allclose(rule.values(after_step, hessian * after_step, {"d": memory})["d"], d, rtol=1e-14)
    return v21(hessian * after_step, d) / v21(g, memory)


@pytest.mark.parametrize(
    ("eps", "mu", "eta", "rho"), [(0.01, 0.1, 1.487603, 0.728505), (0.25, 0.1, 0.606061, 0.884808)]
)
@pytest.mark.parametrize("kind", [ErrorFeedbackSGD, EF21])
def test_the_tight_rate_is_never_exceeded_and_almost_attained(kind, eps, mu, eta, rho):
    """Random points, then a local search for the worst one in the plane."""
    assert tight_rate(eps, mu) == (pytest.approx(eta, abs=1e-6), pytest.approx(rho, abs=1e-6))
    rng = np.random.default_rng(0)
    best, at = 0.0, None
    for i in range(1500):
        x = rng.standard_normal(5) if i < 300 else at + 0.7 ** (i / 60) * rng.standard_normal(5)
        ratio = one_step_ratio(kind, eps, mu, x[:2], x[2:4], x[4])
        assert ratio <= rho + 1e-6
        if ratio > best:
            best, at = ratio, x
    assert best >= rho - 2e-2


def test_the_tight_rate_catches_a_doubled_error():
    with pytest.raises(AssertionError):
        test_the_tight_rate_is_never_exceeded_and_almost_attained(NoRate, 0.01, 0.1, 1.487603, 0.728505)
