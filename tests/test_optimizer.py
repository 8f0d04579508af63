"""The in-place optimizer: the bits of ``rule.update`` over the whole table, in the caller's own arrays."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from itertools import cycle

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import backends, schedules
from memopt_ref.backends import numpy_ref
from memopt_ref.errors import HyperparameterError, StabilityError, StructureError, TornError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD
from tests.table import Case, all_cases, dtype_of

CASES = all_cases()
EACH = [pytest.param(case, id=case.name) for case in CASES]
LAYOUTS = ("c", "fortran", "every-second", "reversed", "transposed")


@pytest.fixture(scope="module", autouse=True)
def _awake():
    """Small tensors too are stepped by compiled kernels, where there are any."""
    if any(row.name == "numba" and row.available for row in backends.status()):
        importlib.import_module("memopt_ref.backends.numba_cpu.engine")


def bits(node) -> object:
    """A comparable image: dtype, shape and bytes of every array."""
    if isinstance(node, dict):
        return {key: bits(value) for key, value in node.items()}
    array = np.asarray(node)
    return (array.dtype.str, array.shape, array.tobytes())


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """A writable array with the entries of ``x`` in memory of another layout, surrounded by poison."""
    if layout == "c" or x.ndim == 0:
        return x.copy()
    if layout == "fortran":
        return x.copy(order="F")
    if layout == "transposed":
        return np.ascontiguousarray(x.T).copy().T
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), np.nan, x.dtype)
    view = wide[..., 1::2] if layout == "every-second" else wide[..., 1::2][..., ::-1]
    view[...] = x
    return view


def largest(case: Case) -> tuple[int, ...]:
    return max(case.shapes, key=lambda shape: (len(shape) == 2, np.prod(shape, dtype=int)))


def every_shape(case: Case):
    """Leaves as (shape, dtype, layout)."""
    return [(shape, "float32", "c") for shape in case.shapes]


def gradients(leaves, steps: int, sparse: bool = False, seed: int = 5):
    """Trees of gradients; now and then a leaf has none."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        tree = {}
        for k, (shape, dtype, _) in enumerate(leaves):
            g = np.asarray(rng.standard_normal(shape) * (rng.random(shape) < 0.8)).astype(dtype_of(dtype))
            if sparse and g.ndim and g.size:
                rows = rng.integers(0, shape[0], shape[0] // 2 + 1)
                g = RowSparse(rows, g[rows], shape)
            tree[f"leaf{k}"] = None if (step + k) % 4 == 3 else g
        yield tree


def parameters(leaves):
    rng = np.random.default_rng(11)
    return {
        f"leaf{k}": laid_out(np.asarray(rng.standard_normal(shape)).astype(dtype_of(dtype)), layout)
        for k, (shape, dtype, layout) in enumerate(leaves)
    }


def assert_in_place_equals_update(rule, leaves, sparse=False, steps=3):
    params = parameters(leaves)
    arrays = dict(params)
    # The reference steps arrays of the same layout: a matrix product may take another path for another one.
    w, state = parameters(leaves), rule.init(params)
    opt = mo.Optimizer(params, rule)
    assert bits(opt.state) == bits(state)
    for grads in gradients(leaves, steps, sparse):
        before = copy.deepcopy(grads)
        w, state = rule.update(w, grads, state)
        assert opt.step(grads) is True
        for path, g in grads.items():
            if isinstance(g, np.ndarray):
                assert bits(g) == bits(before[path]), "a gradient was written"
        assert bits(params) == bits(w)
        assert bits(opt.state) == bits(state)
    assert opt.params is params
    assert all(params[path] is arrays[path] for path in arrays)
    assert opt.step_count == steps == opt.state["step"]


@pytest.mark.parametrize("case", EACH)
def test_step_in_place_has_the_bits_of_update(case):
    assert_in_place_equals_update(case.rule, every_shape(case))


@pytest.mark.parametrize("case", EACH)
def test_row_sparse_step_in_place_has_the_bits_of_update(case):
    assert_in_place_equals_update(case.rule, every_shape(case), sparse=True)


@pytest.mark.parametrize("case", EACH)
def test_mixed_dtypes_and_layouts_are_stepped_where_they_lie_with_the_bits_of_update(case):
    shape = largest(case)
    leaves = [(shape, dtype, layout) for dtype, layout in zip(cycle(case.dtypes), LAYOUTS * 2, strict=False)]
    assert_in_place_equals_update(case.rule, leaves, steps=2)


@pytest.mark.parametrize("case", EACH)
def test_state_arrays_stay_the_same_objects(case):
    leaves = every_shape(case)
    opt = mo.Optimizer(parameters(leaves), case.rule)
    before = {
        p: {n: v for n, v in leaf.items() if isinstance(v, np.ndarray)}
        for p, leaf in opt.state["leaves"].items()
    }
    for grads in gradients(leaves, 2):
        opt.step(grads)
    for path, slots in before.items():
        assert all(opt.state["leaves"][path][name] is array for name, array in slots.items())


@pytest.mark.parametrize("case", EACH)
def test_state_nbytes_is_what_the_planner_says(case):
    opt = mo.Optimizer(parameters(every_shape(case)), case.rule)
    assert opt.state_nbytes == mo.state_nbytes(case.rule, {f"leaf{k}": s for k, s in enumerate(case.shapes)})


@pytest.mark.parametrize("case", EACH)
def test_a_learning_rate_argument_is_the_rule_with_that_learning_rate(case):
    leaves = [(largest(case), "float32", "c")]
    params, (grads,) = parameters(leaves), gradients(leaves, 1)
    rule = case.rule.replace(learning_rate=0.0625)
    expected, state = rule.update(params, grads, case.rule.init(params))
    opt = mo.Optimizer(params, case.rule)
    opt.step(grads, learning_rate=0.0625)
    assert bits(params) == bits(expected)
    assert bits(opt.state) == bits(state)


def test_poison_around_a_strided_view_is_not_touched():
    wide = np.full((4, 7), np.nan, np.float32)
    w = wide[:, 1::2]
    w[...] = 1
    opt = mo.Optimizer({"w": w}, Adam())
    opt.step({"w": np.ones((4, 3))})
    assert np.all(np.isnan(wide[:, ::2]))
    assert np.all(np.isfinite(w))


def test_learning_rate_argument_takes_the_place_of_every_groups_rate_for_one_step():
    params = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    opt = mo.Optimizer(params, SGD(learning_rate=0.5), groups=[("b", SGD(learning_rate=0.25))])
    g = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    opt.step(g, learning_rate=0.125)
    assert params["a"][0] == params["b"][0] == 0.875
    opt.step(g)
    assert (params["a"][0], params["b"][0]) == (0.375, 0.625)
    opt.step(g, learning_rate=schedules.Piecewise((2,), (9.0, 0.0)))
    assert (params["a"][0], params["b"][0], opt.step_count) == (0.375, 0.625, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("gradient_dtype", ["float32", "float64", "float16", "bfloat16"])
def test_scale_multiplies_in_the_wider_dtype_and_rounds_once(dtype, gradient_dtype):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((5, 3)).astype(dtype_of(dtype))
    g = (1000 * rng.standard_normal((5, 3))).astype(dtype_of(gradient_dtype))
    compute = np.float64 if dtype == "float64" else np.float32
    wide = np.float64 if "float64" in (dtype, gradient_dtype) else np.float32
    scaled = (g.astype(wide) * wide(1 / 3)).astype(compute)
    rule = Adam()
    expected, state = rule.update(w, scaled, rule.init(w))
    opt = mo.Optimizer(w, rule)
    opt.step(g, scale=1 / 3)
    assert bits(w) == bits(expected)
    assert bits(opt.state["leaves"]) == bits(state["leaves"])


def test_scale_of_a_row_sparse_gradient_comes_before_its_duplicates_are_summed():
    w = np.zeros((3, 2), np.float32)
    g = RowSparse(np.array([1, 1]), np.full((2, 2), 3e38, np.float32), (3, 2))
    mo.Optimizer(w, SGD(learning_rate=1.0)).step(g, scale=0.25)
    assert w[1, 0] == -(np.float32(3e38) * np.float32(0.25)) * 2  # without the scale the sum overflows


def test_schedules_are_taken_at_the_count_of_applied_steps():
    rule = SGD(learning_rate=schedules.Piecewise((1, 2), (1.0, 0.5, 0.25)))
    w = np.zeros(1)
    opt = mo.Optimizer(w, rule, nonfinite="skip")
    moved = []
    for g in (1.0, np.nan, 1.0, np.inf, 1.0):
        before = w[0]
        applied = opt.step(np.array([g]))
        moved.append(before - w[0] if applied else None)
    assert moved == [1.0, None, 0.5, None, 0.25]
    assert opt.step_count == 3


def test_a_leaf_without_gradient_keeps_its_own_clock():
    params = {"a": np.ones(2), "b": np.ones(2)}
    opt = mo.Optimizer(params, Adam())
    opt.step({"a": np.ones(2), "b": None})
    opt.step({"a": None, "b": None})
    assert opt.step_count == 2
    assert opt.state["leaves"]["a"]["t"] == 1
    assert opt.state["leaves"]["b"]["t"] == 0
    assert np.all(params["b"] == 1)


def test_one_array_a_list_and_mixed_dtypes_are_trees_too():
    w = np.array(1.0)
    mo.Optimizer(w, SGD(learning_rate=0.5)).step(np.array(1.0))
    assert w == 0.5
    tree = [np.ones(2, np.float32), (np.ones(2, dtype_of("bfloat16")), np.ones((), np.float64))]
    opt = mo.Optimizer(tree, SGD(learning_rate=0.5))
    opt.step([np.ones(2), (np.ones(2, np.float16), np.ones((), np.float32))])
    assert [float(np.ravel(x)[0]) for x in (tree[0], *tree[1])] == [0.5, 0.5, 0.5]
    assert [x.dtype.name for x in (tree[0], *tree[1])] == ["float32", "bfloat16", "float64"]


def test_gradients_that_are_the_parameters_are_read_before_any_leaf_is_written():
    """The gradients of |a|^2/2 and of b a: each lies in a's memory."""
    a, b = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    opt = mo.Optimizer({"a": a, "b": b}, SGD(learning_rate=1.0))
    opt.step({"a": a, "b": a[::-1]})
    assert a.tolist() == [0.0, 0.0]
    assert b.tolist() == [1.0, 3.0]


def test_a_rule_whose_new_slot_is_the_old_weight_is_written_in_the_right_order():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Remembering(SGD):
        def slots(self, shape, dtype):
            return {
                "before": mo.Slot(shape, np.dtype(np.float64)),
                "older": mo.Slot(shape, np.dtype(np.float64)),
            }

        def step(self, w, g, state):
            return {"w": w - g, "before": w, "older": state["before"]}

    w = np.array([5.0])
    opt = mo.Optimizer(w, Remembering())
    opt.step(np.array([1.0]))
    opt.step(np.array([1.0]))
    leaf = opt.state["leaves"][""]
    assert (w[0], leaf["before"][0], leaf["older"][0]) == (3.0, 4.0, 5.0)


class Interrupted(SGD):
    """Breaks off at the leaf of two entries."""

    def step(self, w, g, state):
        if w.size == 2:
            raise self.error
        return super().step(w, g, state)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ZeroDivisionError()])
def test_an_interrupt_in_the_middle_tears_the_optimizer_and_names_the_leaf(error):
    class Rule(Interrupted):
        pass

    Rule.error = error
    params = {"a": np.ones(3), "b": np.ones(2), "c": np.ones(3)}
    opt = mo.Optimizer(params, Rule())
    grads = {name: np.ones_like(w) for name, w in params.items()}
    with pytest.raises(type(error)):
        opt.step(grads)
    assert opt.step_count == 0
    with pytest.raises(TornError) as caught:
        opt.step(dict.fromkeys(params))
    assert caught.value.where == "b"
    assert "interrupted" in caught.value.got
    assert "Restore" in caught.value.advice


def test_an_error_of_the_rule_at_the_first_leaf_tears_nothing():
    class Rule(Interrupted):
        error = StabilityError("b", "a bad step", "a good one", "Do otherwise.")

    params = {"b": np.ones(2), "c": np.ones(3)}
    opt = mo.Optimizer(params, Rule())
    with pytest.raises(StabilityError):
        opt.step({"b": np.ones(2), "c": np.ones(3)})
    assert opt.step({"b": None, "c": np.ones(3)})


def test_a_step_known_to_diverge_is_refused_before_the_first_leaf_is_written():
    class Rule(SGD):
        def check_step(self, path, w, g, state):
            if w.size == 2:
                raise StabilityError(path, f"a sum of {g.sum():g}", "a smaller one", "Do otherwise.")

    params = {"a": np.ones(3), "b": np.ones(2)}
    opt = mo.Optimizer(params, Rule())
    with pytest.raises(StabilityError, match="b: got a sum of 4"):
        opt.step({"a": np.ones(3), "b": np.ones(2)}, scale=2.0)
    assert np.all(params["a"] == 1)
    assert opt.step({"a": np.ones(3), "b": None})


def test_a_leaf_that_was_replaced_in_the_tree_is_noticed():
    params = {"a": np.ones(3), "b": np.ones(2)}
    opt = mo.Optimizer(params, SGD())
    params["b"] = params["b"] * 0.5
    with pytest.raises(StructureError, match="b: got another array than at the start"):
        opt.step({"a": np.ones(3), "b": np.ones(2)})
    assert np.all(params["a"] == 1)
    params["c"] = np.ones(1)
    with pytest.raises(StructureError, match="extra 'c'"):
        opt.step({"a": np.ones(3), "b": np.ones(2)})


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan, "2", None, True])
def test_a_scale_that_is_no_positive_number_changes_nothing(scale):
    w = np.ones(2)
    opt = mo.Optimizer(w, SGD())
    with pytest.raises(HyperparameterError, match="scale: got"):
        opt.step(np.ones(2), scale=scale)
    assert np.all(w == 1)
    assert opt.step_count == 0


def test_a_bad_learning_rate_argument_changes_nothing():
    w = np.ones(2)
    opt = mo.Optimizer(w, SGD())
    with pytest.raises(HyperparameterError, match=r"SGD\.learning_rate: got -1"):
        opt.step(np.ones(2), learning_rate=-1)
    assert np.all(w == 1)


@pytest.mark.parametrize("case", EACH)
def test_explain_has_one_line_a_leaf_with_rule_kernel_and_reason(case):
    opt = mo.Optimizer(parameters(every_shape(case)), case.rule)
    lines = opt.explain().splitlines()
    assert len(lines) == len(case.shapes)
    for k, (line, shape) in enumerate(zip(lines, case.shapes, strict=True)):
        assert line.startswith(f"leaf{k}")
        assert f"float32[{', '.join(map(str, shape))}]" in line
        assert case.rule.name in line
        assert any(variant in line for variant in ("numpy_ref", "numba."))
        assert ("row-sparse gradients:" in line) == bool(shape)


def test_explain_tells_lazy_rows_dense_rows_and_cautions():
    class Careful(SGD):
        def caution(self, shape, dtype):
            return "many rows share a bucket"

    w = {"table": np.zeros((4, 2))}
    assert "equal to the dense step" in mo.Optimizer(w, SGD()).explain()
    assert "unlike in a dense step" in mo.Optimizer(w, Adam()).explain()
    assert "caution: many rows share a bucket" in mo.Optimizer(w, Careful()).explain()
    assert mo.Optimizer(np.zeros(()), SGD()).explain().startswith("(the array)  float64[]  SGD")


# The check above, seen to fail on deliberate mistakes


def forgets_a_slot(rule, w, g, state):
    kept = {name: np.copy(value) for name, value in state.items() if name == "m"}
    numpy_ref.step(rule, w, g, state)
    state.update(kept)


def writes_the_gradient(rule, w, g, state):
    numpy_ref.step(rule, w, g, state)
    if isinstance(g, np.ndarray):
        g *= 2


def fuses_in_float64(rule, w, g, state):
    wide = w.astype(np.float64)
    numpy_ref.step(
        rule, wide, np.asarray(g, np.float64), {n: np.asarray(v, np.float64) for n, v in state.items()}
    )
    w[...] = wide


@pytest.mark.parametrize("kernel", [forgets_a_slot, writes_the_gradient, fuses_in_float64])
def test_a_wrong_kernel_is_caught(kernel, monkeypatch):
    (variant,) = numpy_ref.VARIANTS
    monkeypatch.setattr(numpy_ref, "VARIANTS", (dataclasses.replace(variant, step=kernel),))
    monkeypatch.setenv("MEMOPT_BACKEND", "numpy")
    rule = SGD(momentum=0.9)
    with pytest.raises(AssertionError):
        assert_in_place_equals_update(rule, [((7, 3), "float32", "c"), ((5,), "float32", "c")])
    assert backends.select(rule, (3,), "float32").variant.step is kernel
