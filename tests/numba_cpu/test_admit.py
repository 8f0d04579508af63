"""Which rules are served by compiled loops, and the sentence that says why not. Needs no Numba."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import schedules
from memopt_ref.backends.numba_cpu.admit import of_expression, refusal
from memopt_ref.parts import scalar
from memopt_ref.parts.scalar import maximum, sqrt
from memopt_ref.rules.elementwise import Elementwise, returns
from tests.table import all_cases

ELEMENTWISE = [case for case in all_cases() if isinstance(case.rule, Elementwise)]
F32 = np.dtype(np.float32)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in ELEMENTWISE])
def test_every_elementwise_rule_is_served_but_for_the_power(case):
    reason = refusal(case.rule, (3, 4), F32)
    assert reason == "" or "uses power, whose last bit differs" in reason
    assert (reason == "") == (case.name != "ftrl-keras")


def test_the_table_of_elementwise_rules_is_not_empty():
    assert {case.rule.name for case in ELEMENTWISE} >= {
        "SGD",
        "AdaGrad",
        "RMSProp",
        "Adam",
        "AdamW",
        "AMSGrad",
        "FTRLProximal",
    }


def test_schedules_and_16_bits_are_served_and_objects_are_not():
    assert refusal(mo.SGD(learning_rate=schedules.Constant(0.1), momentum=0.5), (3,), np.float16) == ""
    assert refusal(mo.SGD(), (3,), np.dtype(object)) == "no kernel for object"


@pytest.mark.parametrize("name", ["step", "values", "values_dense", "advance", "decayed"])
def test_a_rule_that_means_something_else_by_a_method_is_not_served(name):
    own = type("Own", (mo.SGD,), {name: lambda self, *arguments: None})
    assert refusal(own(), (3,), F32) == f"Own has a {name}() of its own"


def test_a_slot_of_another_shape_is_not_served():
    class Odd(mo.SGD):
        def slots(self, shape, dtype):
            return {"m": mo.Slot(shape[:1], F32, axes=(0,))}

    assert refusal(Odd(momentum=0.5), (3, 4), F32).startswith("slot 'm' has not one number")


@returns("w", "m")
def fine(w, g, m, learning_rate, beta):
    m = beta * m - g
    return w - learning_rate * scalar.ratio(sqrt(maximum(m, g)), -m), m


def literal(w, g, m, learning_rate, beta):
    return w - 0.5 * g, m


def branch(w, g, m, learning_rate, beta):
    return (w, m) if beta else (g, m)


def square(w, g, m, learning_rate, beta):
    return w - g**beta, m


def stranger(w, g, m, learning_rate, beta):
    return w - np.abs(g), m


def clock(w, g, m, t):
    return w - t * g, m


def closure(factor):
    def inner(w, g, m, learning_rate, beta):
        return w - factor * g, m

    return inner


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (fine, ""),
        (literal, "literal() holds the literal 0.5"),
        (branch, "branch() has a branch or a loop"),
        (square, "square() uses the operator **"),
        (stranger, "stranger() uses np, which is not in memopt_ref.parts.scalar"),
        (clock, "clock() does not take and return exactly w, the slots and coefficients"),
        (closure(2.0), "inner is not a plain function of its module"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_an_expression_is_plain_arithmetic_or_refused(expression, reason):
    if expression is not fine:
        expression = returns("w", "m")(expression)
    assert of_expression(expression, ("m",), ("learning_rate", "beta"))[: len(reason) or None] == reason


def test_an_expression_that_forgets_a_slot_is_refused():
    @returns("w")
    def forgets(w, g, m, learning_rate):
        return (w - learning_rate * g,)

    assert "does not take and return" in of_expression(forgets, ("m",), ("learning_rate",))


def test_admission_and_selection_load_no_numba():
    code = """
import sys, memopt_ref as mo, memopt_ref.backends, memopt_ref.backends.numba_cpu
print(mo.backends.select(mo.Adam(), (3,), "float32").variant.name, mo.backends.status())
sys.exit("numba" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
