"""Expressions as CUDA C: what is said, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.backends.cupy_gpu.bind import Shape, bind, entry
from memopt_ref.backends.cupy_gpu.trace import FUNCTIONS, UntraceableError, trace
from memopt_ref.parts import scalar
from memopt_ref.parts.scalar import ratio, sqrt
from memopt_ref.rules.adagrad import adagrad
from memopt_ref.rules.elementwise import returns
from memopt_ref.rules.ftrl import origin


def test_each_operation_is_one_statement_in_the_order_of_the_expression():
    traced = trace(adagrad, ("w", "s"))
    assert traced.statements == (
        "const Real e1 = g_ * g_;",
        "const Real e2 = s_ + e1;",
        "const Real e3 = e2 + eps_root_;",
        "const Real e4 = square_root(e3);",
        "const Real e5 = e4 + eps_;",
        "const Real e6 = ratio(g_, e5);",
        "const Real e7 = learning_rate_ * e6;",
        "const Real e8 = w_ - e7;",
    )
    assert traced.results == {"w": "e8", "s": "e2"}


def test_what_no_result_needs_is_left_out():
    assert trace(adagrad, ("s",)).statements == ("const Real e1 = g_ * g_;", "const Real e2 = s_ + e1;")


def test_a_slot_that_does_not_change_keeps_its_own_name():
    assert trace(origin, ("x1",)).results == {"x1": "x1_"}
    assert trace(origin, ("x1",)).statements == ()


@returns("w")
def by_module(w, g):
    return (scalar.maximum(-w, g) / scalar.absolute(g),)


@returns("w")
def compares(w, g):
    return (scalar.select((w < g) | (g == w), scalar.sign(w), g),)


@returns("w")
def calls_another(w, g, s, learning_rate, eps_root, eps):
    w, _, _, _ = adagrad(w, g, s, learning_rate, eps_root, eps)
    return (w,)


def test_functions_comparisons_and_other_expressions_are_retold():
    assert trace(by_module, ("w",)).statements == (
        "const Real e1 = -w_;",
        "const Real e2 = maximum(e1, g_);",
        "const Real e3 = absolute(g_);",
        "const Real e4 = e2 / e3;",
    )
    assert trace(compares, ("w",)).statements[:3] == (
        "const bool e1 = w_ < g_;",
        "const bool e2 = g_ == w_;",
        "const bool e3 = e1 | e2;",
    )
    assert trace(calls_another, ("w",)).statements == trace(adagrad, ("w",)).statements


@returns("w")
def literal(w, g):
    return (w - 0.5 * g,)


@returns("w")
def constant(w, g):
    return (1.0,)


@returns("w")
def branch(w, g):
    return (w if w > g else g,)


@returns("w")
def powers(w, g):
    return (scalar.power(w, g),)


@returns("w")
def numpy_number(w, g):
    return (np.float32(2) * w,)


@returns("w")
def adds_truth(w, g):
    return ((w < g) + g,)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (literal, r"the literal 0\.5"),
        (constant, r"the literal 1\.0"),
        (branch, "a branch"),
        (powers, "the function power"),
        (numpy_number, r"the literal np\.float32"),
        (adds_truth, "operator"),
    ],
)
def test_what_has_no_text_with_its_bits_is_refused(expression, said):
    with pytest.raises(UntraceableError, match=said):
        trace(expression, ("w",))


def test_every_function_of_the_rules_has_a_text_but_power():
    assert set(scalar.__all__) - set(FUNCTIONS) == {"power"}
    source = bind("packed", adagrad, ("s",), "none", np.dtype("f4"), np.dtype("f4"), Shape()).source
    for name in FUNCTIONS.values():
        assert f"__forceinline__ T {name}(" in source or f"__forceinline__ float {name}(" in source, name
    assert trace(adagrad, ("w",)).statements[3] == "const Real e4 = square_root(e3);"
    assert (ratio, sqrt) == (scalar.ratio, scalar.sqrt)


@pytest.mark.parametrize("decay", ["none", "l2", "factor"])
def test_the_decay_comes_before_the_expression(decay):
    parts = entry(adagrad, ("s",), decay)
    assert parts.arrays == ("w", "g", "s")
    assert parts.numbers == ("learning_rate", "eps_root", "eps", *(["decay"] if decay != "none" else []))
    first = parts.text.index("decay;") if decay == "factor" else parts.text.index("widened(w_one)")
    assert first < parts.text.index("e1")
    assert ("shrinks" in parts.text) == (decay == "l2")
