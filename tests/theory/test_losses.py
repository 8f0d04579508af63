"""Losses, and comparators with certificates."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.errors import HyperparameterError
from memopt_ref.theory.geometry import Box, L2Ball
from memopt_ref.theory.losses import Abs, Linear, Logistic, Quadratic, best, total


def kinds(rng, n=40, d=3):
    a, b = rng.normal(size=(n, d)), rng.normal(size=n)
    return {
        "linear": [Linear(v) for v in a],
        "quadratic": [Quadratic(v, 0.5) for v in a],
        "logistic": [Logistic(v, float(np.sign(s))) for v, s in zip(a, b, strict=True)],
        "mixed": [Linear(a[0]), Quadratic(a[1]), *[Logistic(v, 1.0) for v in a[2:]]],
        "absolute": [Abs(v, float(s)) for v, s in zip(a, b, strict=True)],
    }


@pytest.mark.parametrize("kind", ["linear", "quadratic", "logistic", "absolute"])
def test_subgradients_support_the_loss(kind):
    rng = np.random.default_rng(0)
    for f in kinds(rng)[kind]:
        x, u = rng.normal(size=3), rng.normal(size=3)
        below = f.value(x) + np.sum(f.subgradient(x) * (u - x))
        # A dozen roundings of numbers below 20.
        assert f.value(u) >= below - 12 * 20 * 2.0**-53


@pytest.mark.parametrize("kind", ["linear", "quadratic", "logistic", "mixed", "absolute"])
@pytest.mark.parametrize("domain", [Box.symmetric((3,), 0.2), L2Ball(0.2, (3,))], ids=["box", "ball"])
def test_the_minimum_lies_in_the_bracket(kind, domain):
    rng = np.random.default_rng(1)
    losses = kinds(rng)[kind]
    if kind == "absolute" and isinstance(domain, L2Ball):
        with pytest.raises(HyperparameterError, match="Box"):
            best(losses, domain)
        return
    found = best(losses, domain)
    assert found.gap <= 1e-9 * abs(found.value)
    for _ in range(300):
        probe = domain.project(rng.normal(size=3) * 0.2)
        # Sums of 40 values with a few roundings each.
        noise = 40 * 4 * 2.0**-53 * sum(abs(f.value(probe)) for f in losses)
        assert total(losses, probe) >= found.value - found.gap - noise


def test_a_wrong_comparator_is_noticed_by_its_gap():
    losses = kinds(np.random.default_rng(2))["logistic"]
    box = Box.symmetric((3,))
    wrong = np.zeros(3)
    slope = sum(f.subgradient(wrong) for f in losses)
    gap = np.sum(slope * wrong) - box.least(slope)
    right = best(losses, box)
    assert total(losses, wrong) > right.value + 1e-3
    assert gap >= total(losses, wrong) - right.value


def test_mixtures_with_kinks_are_refused():
    with pytest.raises(HyperparameterError, match="smooth"):
        best([Abs(np.ones(1)), Quadratic(np.ones(1))], Box.symmetric((1,)))
