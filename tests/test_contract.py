"""What every rule of the table promises, whatever its algorithm: the contract of ``rules/base.py``.

The last section breaks rules on purpose and asserts that each check above notices.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import textwrap

import numpy as np
import pytest

from memopt_ref.errors import MemoptError
from memopt_ref.parts import scalar
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.schedule import Schedule
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules import rows
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.base import Rule
from memopt_ref.rules.elementwise import Elementwise
from memopt_ref.rules.sgd import SGD
from tests.table import Case, all_cases, dtype_of

CASES = all_cases()
BY_SHAPE = [
    pytest.param(case, shape, id=f"{case.name}-{'x'.join(map(str, shape)) or 'scalar'}")
    for case in CASES
    for shape in case.shapes
]
BY_DTYPE = [pytest.param(case, dtype, id=f"{case.name}-{dtype}") for case in CASES for dtype in case.dtypes]
EACH = [pytest.param(case, id=case.name) for case in CASES]
ELEMENTWISE = [pytest.param(case, id=case.name) for case in CASES if isinstance(case.rule, Elementwise)]


@dataclasses.dataclass(frozen=True)
class Halving(Schedule):
    """A schedule for the tests: value / step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value / step


def problem(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0, steps: int = 4):
    """A parameter and some gradients, with exact zeros among them."""
    rng = np.random.default_rng([seed, *shape])
    w = rng.standard_normal(shape).astype(dtype_of(dtype))
    grads = [rng.standard_normal(shape) * (rng.random(shape) < 0.8) for _ in range(steps)]
    return w, [np.asarray(g).astype(dtype_of(dtype)) for g in grads]


def largest(case: Case) -> tuple[int, ...]:
    return max(case.shapes, key=lambda shape: (len(shape) == 2, np.prod(shape, dtype=int)))


def run(rule: Rule, w, grads):
    state = rule.init(w)
    for g in grads:
        w, state = rule.update(w, g, state)
    return w, state


def bits(tree) -> object:
    """A comparable image of arrays: dtype, shape and bytes."""
    if isinstance(tree, dict):
        return {key: bits(value) for key, value in tree.items()}
    array = np.asarray(tree)
    return (array.dtype.str, array.shape, array.tobytes())


def assert_slots_as_declared(rule: Rule, w, leaf) -> None:
    slots = rule.slots(w.shape, w.dtype)
    assert set(leaf) == set(slots)
    for name, slot in slots.items():
        assert leaf[name].shape == slot.shape, name
        assert leaf[name].dtype == slot.dtype, name
        assert leaf[name].nbytes == slot.nbytes, name
        assert isinstance(leaf[name], np.generic if slot.is_counter else np.ndarray), name


def assert_no_leak_to_float64(rule: Rule, w, g, leaf) -> None:
    values = rule.at(1).step(w.copy(), g.copy(), copy.deepcopy(leaf))
    for name, value in values.items():
        assert getattr(value, "dtype", None) != np.float64, f"{name} is float64"
        assert not isinstance(value, float), f"{name} is a Python float"


def frozen_copy(tree):
    """The same tree with arrays that cannot be written."""
    tree = copy.deepcopy(tree)

    def lock(node):
        if isinstance(node, dict):
            for value in node.values():
                lock(value)
        elif isinstance(node, np.ndarray):
            node.flags.writeable = False
        return node

    return lock(tree)


@pytest.mark.parametrize(("case", "shape"), BY_SHAPE)
def test_state_is_what_slots_declare_before_and_after_steps(case, shape):
    w, grads = problem(shape)
    state = case.rule.init(w)
    assert_slots_as_declared(case.rule, w, state["leaves"][""])
    new, state = run(case.rule, w, grads)
    assert_slots_as_declared(case.rule, w, state["leaves"][""])
    assert new.shape == w.shape
    assert state["step"] == len(grads)


@pytest.mark.parametrize(("case", "dtype"), BY_DTYPE)
def test_parameter_keeps_its_dtype_and_stays_finite(case, dtype):
    w, grads = problem(largest(case), dtype)
    new, state = run(case.rule, w, grads)
    assert new.dtype == w.dtype
    assert np.all(np.isfinite(new.astype(np.float64)))
    assert_slots_as_declared(case.rule, w, state["leaves"][""])


@pytest.mark.parametrize("case", EACH)
def test_accumulators_are_at_least_float32_or_the_papers_own_format(case):
    for name, slot in case.rule.slots(largest(case), np.dtype("float16")).items():
        assert slot.dtype != np.float16, name


@pytest.mark.parametrize("case", EACH)
def test_update_writes_nothing_that_came_in(case):
    w, grads = problem(largest(case))
    w, state = frozen_copy({"w": w})["w"], case.rule.init(w)
    for g in grads:
        state = frozen_copy(state)
        w, state = case.rule.update(w, frozen_copy({"g": g})["g"], state)
        w = frozen_copy({"w": w})["w"]


@pytest.mark.parametrize(("case", "shape"), BY_SHAPE)
def test_no_value_leaks_to_float64_in_float32(case, shape):
    w, grads = problem(shape)
    _, state = run(case.rule, w, grads[:2])
    assert_no_leak_to_float64(case.rule, w, grads[2], state["leaves"][""])


@pytest.mark.parametrize("case", EACH)
def test_equal_state_makes_an_equal_next_step(case):
    w, grads = problem(largest(case))
    w1, state1 = run(case.rule, w, grads[:-1])
    w2, state2 = w1.copy(), copy.deepcopy(state1)
    case.rule.update(w1, grads[0], state1)  # a step taken elsewhere leaves no trace
    w1, state1 = case.rule.update(w1, grads[-1], state1)
    w2, state2 = case.rule.replace().update(w2, grads[-1], state2)
    assert bits(w1) == bits(w2)
    assert bits(state1["leaves"]) == bits(state2["leaves"])


@pytest.mark.parametrize("case", EACH)
def test_resume_at_each_step_from_bytes_is_bit_exact(case):
    w0, grads = problem(largest(case), steps=6)
    w_end, state_end = run(case.rule, w0, grads)
    w, state = w0, case.rule.init(w0)
    for g in grads:
        leaf = {name: through_bytes(value) for name, value in state["leaves"][""].items()}
        w, state = case.rule.replace().update(w.copy(), g, {"step": state["step"], "leaves": {"": leaf}})
    assert bits(w) == bits(w_end)
    assert bits(state["leaves"]) == bits(state_end["leaves"])


def through_bytes(value):
    """A copy made of dtype, shape and bytes alone; host scalars stay host scalars."""
    array = np.asarray(value)
    array = np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape).copy()
    return array[()] if isinstance(value, np.generic) else array


@pytest.mark.parametrize("case", EACH)
def test_layout_of_the_input_does_not_change_a_bit(case):
    shape = largest(case)
    w, grads = problem(shape)
    w_end, _ = run(case.rule, w, grads)
    fortran = run(case.rule, np.asfortranarray(w), [np.asfortranarray(g) for g in grads])[0]
    wide = np.zeros((*shape[:-1], 2 * shape[-1]), w.dtype)
    wide[..., ::2] = w
    strided = run(case.rule, wide[..., ::2], grads)[0]
    assert bits(np.ascontiguousarray(fortran)) == bits(w_end)
    assert bits(np.ascontiguousarray(strided)) == bits(w_end)


@pytest.mark.parametrize("case", EACH)
def test_a_leaf_without_gradient_is_untouched(case):
    shape = largest(case)
    w, (g, *_) = problem(shape)
    params, state = {"a": w, "b": w.copy()}, case.rule.init({"a": w, "b": w.copy()})
    new, after = case.rule.update(params, {"a": g, "b": None}, state)
    assert new["b"] is params["b"]
    assert after["leaves"]["b"] is state["leaves"]["b"]
    assert after["step"] == 1


PLAIN_RATE = [p for p in EACH if isinstance(p.values[0].rule.learning_rate, int | float)]


@pytest.mark.parametrize("case", PLAIN_RATE)
def test_a_schedule_equals_the_number_that_it_gives(case):
    shape = largest(case)
    w, grads = problem(shape)
    scheduled = case.rule.replace(learning_rate=Halving(case.rule.learning_rate))
    assert scheduled.slots(shape, w.dtype).keys() == case.rule.slots(shape, w.dtype).keys()
    a, state_a = w, scheduled.init(w)
    b, state_b = w, case.rule.init(w)
    for step, g in enumerate(grads, start=1):
        a, state_a = scheduled.update(a, g, state_a)
        by_hand = case.rule.replace(learning_rate=case.rule.learning_rate / step)
        b, state_b = by_hand.update(b, g, state_b)
    assert bits(a) == bits(b)


@pytest.mark.parametrize("case", EACH)
def test_a_rule_is_a_value(case):
    assert case.rule == case.rule.replace()
    assert hash(case.rule) == hash(case.rule.replace())
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.rule.learning_rate = 1.0
    with pytest.raises(MemoptError, match="no_such_field"):
        case.rule.replace(no_such_field=1)
    with pytest.raises(MemoptError, match="learning_rate"):
        case.rule.replace(learning_rate=-1.0)
    assert eval_repr(case.rule) == case.rule


def eval_repr(rule: Rule) -> Rule:
    return type(rule)(**{f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)})


@pytest.mark.parametrize("case", EACH)
def test_numpy_scalars_become_python_numbers(case):
    numbers = {
        f.name: np.float64(v)
        for f in dataclasses.fields(case.rule)
        if isinstance(v := getattr(case.rule, f.name), float)
    }
    rule = case.rule.replace(**numbers)
    assert all(type(getattr(rule, name)) is float for name in numbers)


ROW_CASES = [p for p in EACH if any(len(s) == 2 and s[0] > 1 for s in p.values[0].shapes)]


def sparse_gradients(shape, steps, seed=3):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        k = int(rng.integers(0, shape[0] + 1))
        indices = rng.integers(0, shape[0], k)
        yield RowSparse(indices, rng.standard_normal((k, *shape[1:])).astype(np.float32), shape)


def claims_dense_equivalence(case: Case) -> bool:
    return case.rule.rests() or not rows.lazy(case.rule, largest(case), np.dtype("float32"))[0]


@pytest.mark.parametrize("case", [p for p in ROW_CASES if claims_dense_equivalence(p.values[0])])
def test_row_sparse_gradient_equals_dense_where_the_rule_says_so(case):
    shape = largest(case)
    w, _ = problem(shape)
    a, state_a = w, case.rule.init(w)
    b, state_b = w, case.rule.init(w)
    for g in sparse_gradients(shape, 40):
        a, state_a = case.rule.update(a, g, state_a)
        b, state_b = case.rule.update(b, g.to_dense(), state_b)
        assert bits(a) == bits(b)
        assert bits(state_a["leaves"]) == bits(state_b["leaves"])


@pytest.mark.parametrize("case", ROW_CASES)
def test_row_sparse_step_leaves_untouched_rows_and_writes_nothing_that_came_in(case):
    shape = largest(case)
    w, _ = problem(shape)
    w, state = frozen_copy({"w": w})["w"], frozen_copy(case.rule.init(w))
    g = RowSparse(np.array([1, 1]), np.ones((2, *shape[1:]), np.float32), shape)
    new, after = case.rule.update(w, g, state)
    assert_slots_as_declared(case.rule, w, after["leaves"][""])
    if rows.lazy(case.rule, shape, w.dtype)[0]:
        untouched = np.delete(np.arange(shape[0]), 1)
        assert bits(new[untouched]) == bits(w[untouched])
    assert not np.array_equal(new[1], w[1])


def has_metric(case: Case) -> bool:
    w, (g, *_) = problem(largest(case), "float64")
    rule = case.rule.at(1)
    return rule.metric(rule.values(w, g, rule.init_leaf(w))) is not None


@pytest.mark.parametrize("case", [p for p in EACH if has_metric(p.values[0])])
def test_the_metric_gives_the_step_back(case):
    """w' = w - H^{-1} m: the metric's solve, applied to H (w - w'), is w - w'."""
    shape = largest(case)
    w, grads = problem(shape, "float64")
    w, state = run(case.rule, w, grads[:-1])
    rule, leaf = case.rule.at(len(grads)), state["leaves"][""]
    values = rule.values(w, grads[-1], leaf)
    metric = rule.metric(values)
    start, _ = rule.decayed(w, grads[-1])
    step = start - values["w"]
    back = metric.solve(metric.mul(step))
    # solve(mul(x)) rounds a few times per entry, and an eigenbasis adds sqrt(n) roundings of size |step|.
    assert np.max(np.abs(back - step), initial=0) <= 1e-9 * np.max(np.abs(step), initial=1e-300)


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_expression_has_no_literal_no_branch_and_calls_only_scalar_functions(case):
    expression = case.rule.expression(case.rule.slots((2, 2), np.dtype("float32")).keys())
    assert problems_of(expression) == []
    assert expression.returns[0] == "w"
    slots = [n for n, s in case.rule.slots((2, 2), np.dtype("float32")).items() if not s.is_counter]
    assert list(inspect.signature(expression).parameters)[: 2 + len(slots)] == ["w", "g", *slots]
    assert set(slots) <= set(expression.returns)


def problems_of(expression) -> list[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(expression)))
    (function,) = tree.body
    body = function.body[1:] if ast.get_docstring(function) else function.body
    found = []
    for node in [n for statement in body for n in ast.walk(statement)]:
        if isinstance(node, ast.Constant):
            found.append(f"literal {node.value!r}")
        elif isinstance(node, ast.If | ast.IfExp | ast.For | ast.While | ast.Pow | ast.Attribute):
            found.append(type(node).__name__)
        elif isinstance(node, ast.Call) and node.func.id not in scalar.__all__:
            found.append(f"call of {node.func.id}")
    return found


@pytest.mark.parametrize("cls", sorted({type(c.rule) for c in CASES}, key=lambda c: c.__name__))
def test_docstring_names_parameters_state_source_and_shows_an_example(cls):
    text = inspect.getdoc(cls)
    for section in ("Parameters\n---", "References\n---", "Examples\n---"):
        assert section in text, section
    undocumented = [f.name for f in dataclasses.fields(cls) if f.name not in text and f.name not in INHERITED]
    assert undocumented == []


INHERITED = {f.name for f in dataclasses.fields(Rule)}


# Each check, seen to fail on a deliberate mistake


class LeakyAdam(Adam):
    def step(self, w, g, state):
        values = super().step(w, g, state)
        return {**values, "v": values["v"] * np.float64(1.0)}


class ForgetfulSGD(SGD):
    def step(self, w, g, state):
        values = super().step(w, g, state)
        return {**values, "m": values["m"].astype(np.float16)}


class WritingSGD(SGD):
    def step(self, w, g, state):
        w -= self.learning_rate * g
        return {"w": w}


class HiddenClockAdam(Adam):
    def coefficients(self, t):
        object.__setattr__(self, "_calls", getattr(self, "_calls", 0) + 1)
        return super().coefficients(self._calls)


class RestlessSGD(SGD):
    def rests(self):
        return True


def test_checks_catch_a_leak_a_wrong_slot_a_write_a_hidden_clock_and_a_false_rest():
    w, grads = problem((7, 3))
    leaf = Adam().init(w)["leaves"][""]
    with pytest.raises(AssertionError, match="float64"):
        assert_no_leak_to_float64(LeakyAdam(), w, grads[0], leaf)
    wrong = ForgetfulSGD(momentum=0.9)
    with pytest.raises(AssertionError, match="m"):
        assert_slots_as_declared(wrong, w, run(wrong, w, grads)[1]["leaves"][""])
    with pytest.raises(ValueError, match="read-only"):
        test_update_writes_nothing_that_came_in(Case("writing", WritingSGD()))
    with pytest.raises(AssertionError):
        test_equal_state_makes_an_equal_next_step(Case("clock", HiddenClockAdam()))
    with pytest.raises(AssertionError):
        test_row_sparse_gradient_equals_dense_where_the_rule_says_so(Case("rest", RestlessSGD(momentum=0.9)))


def test_expression_check_catches_literals_branches_and_foreign_calls():
    def literal(w, g):
        return (w - 2 * g,)

    def branch(w, g):
        return (w if g > w else g,)

    def foreign(w, g):
        return (abs(w),)

    assert problems_of(literal) == ["literal 2"]
    assert "IfExp" in problems_of(branch)
    assert problems_of(foreign) == ["call of abs"]


def test_compute_dtype_is_at_least_float32():
    assert compute_dtype(dtype_of("bfloat16")) == compute_dtype("float16") == np.float32
    assert compute_dtype("float64") == np.float64
