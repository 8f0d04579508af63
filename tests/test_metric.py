"""parts/metric.py against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.parts.metric import Metric

SHAPE = (2, 3, 4)
# Dense products of size 24 round to about 24 ulp of the largest term; conditions here are below 1e3.
CLOSE = 1e-11


def orthonormal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def cases(seed=0, null=False):
    """Each kind of metric with the dense matrix that it stands for, on tensors flattened in C order."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(SHAPE))
    weights = rng.uniform(0.1, 10, SHAPE)
    values = rng.uniform(0.1, 10, size)
    factors = [rng.uniform(0.5, 4, n) for n in SHAPE]
    if null:
        weights[0, 1, 2] = values[3] = factors[1][0] = 0.0
    basis, bases = orthonormal(rng, size), [orthonormal(rng, n) for n in SHAPE]
    matrices = [q @ np.diag(d) @ q.T for d, q in zip(factors, bases, strict=True)]
    product = np.kron(np.kron(matrices[0], matrices[1]), matrices[2])
    return {
        "scalar": (Metric.scalar(2.5, SHAPE), 2.5 * np.eye(size)),
        "diagonal": (Metric.diagonal(weights), np.diag(weights.ravel())),
        "full": (Metric.full(values, basis), basis @ np.diag(values) @ basis.T),
        "kronecker": (Metric.kronecker(factors, bases, scale=0.3), 0.3 * product),
    }


KINDS = list(cases())


def assert_is(metric, dense, seed=1):
    """Every operation of the metric equals that of the dense matrix."""
    x = np.random.default_rng(seed).standard_normal(SHAPE)
    inverse = np.linalg.pinv(dense, rcond=1e-10)
    flat = x.ravel()
    np.testing.assert_allclose(metric.mul(x).ravel(), dense @ flat, rtol=0, atol=CLOSE * 100)
    np.testing.assert_allclose(metric.solve(x).ravel(), inverse @ flat, rtol=0, atol=CLOSE * 100)
    np.testing.assert_allclose(metric.quad(x), flat @ dense @ flat, rtol=CLOSE)
    np.testing.assert_allclose(metric.dual(x), flat @ inverse @ flat, rtol=CLOSE)
    np.testing.assert_allclose(metric.trace(), np.trace(dense), rtol=CLOSE)
    assert metric.mul(x).shape == metric.solve(x).shape == SHAPE


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_equals_the_dense_matrix(kind):
    assert_is(*cases()[kind])
    assert cases()[kind][0].kind == kind


@pytest.mark.parametrize("kind", ["diagonal", "full", "kronecker"])
def test_a_direction_of_weight_zero_is_left_out_of_the_inverse(kind):
    assert_is(*cases(null=True)[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_into_and_back_are_inverse_rotations(kind):
    metric, _ = cases()[kind]
    x = np.random.default_rng(2).standard_normal(SHAPE)
    np.testing.assert_allclose(metric.back(metric.into(x), SHAPE), x, rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.sum(metric.into(x) ** 2), np.sum(x**2), rtol=1e-13)


def test_a_scalar_metric_on_a_0d_tensor():
    metric = Metric.diagonal(np.float64(4.0))
    assert metric.mul(np.float64(2.0)) == 8.0
    assert metric.solve(np.float64(2.0)) == 0.5
    assert metric.trace() == 4.0


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_primal_and_dual_norms_satisfy_cauchy_schwarz_with_equality_at_h_x(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    for metric, _ in cases(seed).values():
        assert np.sum(x * y) ** 2 <= metric.quad(x) * metric.dual(y) * (1 + 1e-12)
        np.testing.assert_allclose(metric.dual(metric.mul(x)), metric.quad(x), rtol=1e-10)


class Transposed(Metric):
    """Rotates with Q^T where Q is wanted."""

    def into(self, x):
        return self._rotate(np.asarray(x), transpose=False)


class Unrooted(Metric):
    """Leaves out one axis of a Kronecker product."""

    def _rotate(self, x, transpose):
        return Metric(self.kind, self.weights, (*self.bases[:-1], np.eye(SHAPE[-1])))._rotate(x, transpose)


def test_check_catches_a_transposed_basis_a_forgotten_axis_and_a_plain_reciprocal():
    full, dense_full = cases()["full"]
    kron, dense_kron = cases()["kronecker"]
    for wrong, dense in (
        (Transposed(full.kind, full.weights, full.bases), dense_full),
        (Transposed(kron.kind, kron.weights, kron.bases), dense_kron),
        (Unrooted(kron.kind, kron.weights, kron.bases), dense_kron),
        (Metric.kronecker([np.ones(n) for n in SHAPE], kron.bases), dense_kron),
    ):
        with pytest.raises(AssertionError):
            assert_is(wrong, dense)
