"""Many tensors in one launch: the bits of one after the other, whatever they are and however shared."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import clipping
from memopt_ref.backends import Leaf, numpy_ref
from memopt_ref.nonfinite import prepare
from tests.numba_cpu.inputs import hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.addresses import address_of  # noqa: E402
from memopt_ref.backends.numba_cpu import direct, elementwise, engine, spread  # noqa: E402
from memopt_ref.backends.numba_cpu.bind import Form  # noqa: E402

SHAPES = ((5,), (), (1,), (0,), (7, 3), (64,), (2, 3, 5), (1000,), (65, 70), (40_001,))
DTYPES = ("float32", "float64", "bfloat16", "float16")
PAIRS = (
    ("float32", "float64"),
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("float64", "bfloat16"),
)
#: scale, factor, zero
CHANGES = ((0.37, 1.0, False), (3.3, 0.21, False), (0.37, 0.21, False), (3.3, 0.21, True))


def leaves_of(rule, w="float32", g="float32", shapes=SHAPES, share=0.01):
    """Leaves in C and Fortran order, in turn."""
    made = []
    for k, shape in enumerate(shapes):
        layout = ("c", "fortran")[k % 2]
        array = laid(hard(shape, w, seed=k, share=share), layout)
        gradient = laid(hard(shape, g, seed=90 + k, share=share), layout)
        made.append(Leaf(rule, array, gradient, rule.init_leaf(array), {}))
    return made


def assert_same_as_one_by_one(leaves, together, scale=1.0, factor=1.0, zero=False, steps=2, left=()):
    others = [leaf._replace(w=leaf.w.copy(order="K"), state=copy.deepcopy(leaf.state)) for leaf in leaves]
    for _ in range(steps):
        assert list(together(leaves, scale, factor, zero)) == list(left)
        for k, (leaf, other) in enumerate(zip(leaves, others, strict=True)):
            if k not in left:
                ready = prepare(leaf.g, leaf.w.dtype, scale, "zero" if zero else "propagate")
                numpy_ref.step(leaf.rule, other.w, clipping.times(ready, factor), other.state)
            assert same_bits(leaf.w, other.w), k
            for name, value in other.state.items():
                assert same_bits(leaf.state[name], value), (k, name)


@pytest.mark.parametrize(("dtype", "other"), PAIRS)
def test_gradients_of_every_dtype_are_cast_on_their_way(dtype, other):
    leaves = leaves_of(mo.SGD(momentum=0.9), dtype, other, SHAPES[:-1])
    assert_same_as_one_by_one(leaves, engine.together)


@pytest.mark.parametrize(
    ("pair", "change"), [(PAIRS[k], c) for k, c in zip((0, 1, 2, 0), CHANGES, strict=True)]
)
def test_gradients_are_scaled_zeroed_and_clipped_on_their_way(pair, change):
    leaves = leaves_of(mo.SGD(weight_decay=0.1), *pair, SHAPES[:-1], share=0.2)
    assert_same_as_one_by_one(leaves, engine.together, *change)


def test_a_scale_that_is_rounded_too_early_is_caught():
    """The check above, seen to fail: a float64 gradient has to be scaled before it is rounded to float32."""
    (leaf,) = leaves_of(mo.SGD(), "float32", "float64", [(1000,)], share=0)

    def early(leaves, scale, factor, zero):
        return engine.together([leaf._replace(g=leaf.g.astype(np.float32))], scale, factor, zero)

    with pytest.raises(AssertionError):
        assert_same_as_one_by_one([leaf], early, 0.37)


def test_rules_clocks_and_dtypes_are_mixed_in_one_launch():
    rules = [mo.Adam(), mo.Adam(learning_rate=0.1), mo.SGD(), mo.Adam(beta1=0.5)]
    leaves = [leaf for k, rule in enumerate(rules) for leaf in leaves_of(rule, DTYPES[k // 3])]
    for leaf in leaves[::3]:
        if "t" in leaf.state:
            leaf.state["t"] = np.int64(7)
    assert_same_as_one_by_one(leaves, engine.together, steps=3)


# How the entries are shared


def stepped(lengths, threads, tasks):
    """Tensors of ones after ``w -= 1``, stepped by so many threads in so many ranges."""
    rule = mo.SGD(learning_rate=1.0)
    loop = engine.kernel(rule.expression(()), (), Form(), np.dtype(np.float32))
    arrays = [(np.ones(n, np.float32), np.ones(n, np.float32)) for n in lengths]
    tables = [np.array([address_of(w), address_of(g)], np.int64) for w, g in arrays]
    numbers = np.array([rule.coefficients(0)[name] for name in loop.coefficients])
    ends = np.cumsum(lengths)
    rows = np.array(
        [
            (loop.address, address_of(table), address_of(numbers), end)
            for table, end in zip(tables, ends, strict=True)
        ],
        np.int64,
    )
    if threads == 1:
        for task in range(tasks):
            total = int(ends[-1])
            first, last = task * total // tasks, (task + 1) * total // tasks
            spread.step_range(address_of(rows), len(rows), first, last)
    else:
        spread.parallel(address_of(rows), len(rows), int(ends[-1]), tasks)
    return [w for w, _ in arrays]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_entry_is_stepped_once_however_the_ranges_fall(threads):
    rng = np.random.default_rng(0)
    for tasks in (1, 2, 3, 8, 97):
        for most in (3, 70, 2000):
            lengths = [int(n) for n in rng.integers(1, most + 1, 40)]
            assert all(np.all(w == 0) for w in stepped(lengths, threads, tasks)), (tasks, most)


def test_a_range_that_is_not_closed_up_is_caught(monkeypatch):
    """The check above, seen to fail: entries between two ranges that nobody steps."""
    own = spread.step_range
    monkeypatch.setattr(spread, "step_range", lambda rows, n, first, last: own(rows, n, first, last - 64))
    assert not all(np.all(w == 0) for w in stepped([2000, 3, 500], 1, 3))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(threads, monkeypatch):
    launch = spread.launch
    monkeypatch.setattr(spread, "launch", lambda rows: launch(rows, threads))
    assert_same_as_one_by_one(leaves_of(mo.Adam()), engine.together)


# When a plan holds


def test_a_plan_is_made_once_and_only_the_gradient_is_looked_up_again():
    (leaf,) = leaves_of(mo.Adam(), shapes=[(100,)])
    engine.together([leaf], 1.0, 1.0, False)
    plan = leaf.memo["plan"]
    again = leaf._replace(g=hard((100,), seed=5, share=0))
    assert_same_as_one_by_one([again], engine.together)
    assert again.memo["plan"] is plan


def replaces_a_slot(leaf):
    leaf.state["m"] = leaf.state["m"].copy()
    return leaf


def moves_a_slot(leaf):
    leaf.state["v"].resize((1 << 20,), refcheck=False)
    leaf.state["v"].resize((100,), refcheck=False)
    return leaf


def other_dtype(leaf):
    return leaf._replace(g=leaf.g.astype(np.float64))


@pytest.mark.parametrize("change", [replaces_a_slot, moves_a_slot, other_dtype])
def test_a_plan_is_made_anew_when_an_array_is_another_or_elsewhere(change):
    (leaf,) = leaves_of(mo.Adam(), shapes=[(100,)], share=0)
    engine.together([leaf], 1.0, 1.0, False)
    plan = leaf.memo["plan"]
    leaf = change(leaf)
    assert_same_as_one_by_one([leaf], engine.together)
    assert leaf.memo["plan"] is not plan or change is moves_a_slot


def test_arrays_that_do_not_lie_in_one_piece_alike_are_left_untouched():
    rule, shape = mo.SGD(momentum=0.5), (30, 40)
    g = hard(shape, share=0)
    cases = [
        (hard(shape, share=0), np.asfortranarray(g)),
        (laid(hard(shape, share=0), "rows"), g),
        (hard(shape, share=0), laid(g, "every-second")),
        (hard(shape, share=0), g.astype(">f4")),
        (hard(shape, share=0), np.frombuffer(b"x" + g.tobytes(), np.float32, offset=1).reshape(shape)),
        (hard(shape, share=0), g.view(np.memmap)),
    ]
    leaves = [Leaf(rule, w, g, rule.init_leaf(w), {}) for w, g in cases]
    assert_same_as_one_by_one(leaves, engine.together, left=range(len(cases)))


def test_a_gradient_in_the_memory_of_its_own_state_is_left():
    rule, w = mo.SGD(momentum=0.5), hard((100,), share=0)
    state = rule.init_leaf(w)
    leaves = [Leaf(rule, w, state["m"], state, {}), Leaf(rule, w, w, state, {})]
    assert list(engine.together(leaves, 1.0, 1.0, False)) == [0, 1]


def test_a_plan_that_forgets_to_look_is_caught(monkeypatch):
    """The checks above, seen to fail: a plan that always holds."""
    (leaf,) = leaves_of(mo.Adam(), shapes=[(100,)], share=0)
    engine.together([leaf], 1.0, 1.0, False)
    monkeypatch.setattr(direct.Plan, "take", lambda self, leaf: True)
    with pytest.raises(AssertionError):
        assert_same_as_one_by_one([leaf._replace(g=hard((100,), seed=5, share=0))], engine.together)


# Through the optimizer


@pytest.mark.parametrize("options", [{}, {"max_norm": 0.5}, {"nonfinite": "zero"}], ids=str)
def test_an_optimizer_steps_mixed_trees_with_the_bits_of_the_reference(options):
    shapes = [(5,), (7, 3), (200, 30), (33,), (20_000,), ()]
    rules = [("*0", mo.SM3(momentum=0.9)), ("*2", mo.SM3(momentum=0.9))]

    def run(backend):
        params = {f"w{k}": hard(s, DTYPES[k // 3], seed=k, share=0) for k, s in enumerate(shapes)}
        opt = mo.Optimizer(params, mo.SGD(momentum=0.9), backend, rules, **options)
        for k in range(3):
            names = {n: None if (j + k) % 4 == 0 else w for j, (n, w) in enumerate(params.items())}
            grads = {
                n: w if w is None else hard(w.shape, DTYPES[k // 2], seed=9 * k + j, share=0)
                for j, (n, w) in enumerate(names.items())
            }
            if options.get("nonfinite") == "zero":
                grads["w4"] = hard((20_000,), seed=3)
            opt.step(grads, scale=0.5 if k == 2 else 1.0)
        return params, opt.state

    (ours, state), (theirs, other) = run("numba"), run("numpy")
    for path, w in theirs.items():
        assert same_bits(ours[path], w), path
        for name, value in other["leaves"][path].items():
            assert same_bits(state["leaves"][path][name], value), (path, name)


def least(function, rounds=15):
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def test_small_tensors_together_cost_less_than_half_of_one_by_one():
    """Bounded at half, seen at a tenth: what is saved is Python's work for each tensor."""
    leaves = leaves_of(mo.SGD(momentum=0.9), shapes=[(16,)] * 100, share=0)
    for leaf in leaves:
        elementwise.step(*leaf[:4])
    engine.together(leaves, 1.0, 1.0, False)
    alone = least(lambda: [elementwise.step(*leaf[:4]) for leaf in leaves], 5)
    assert least(lambda: engine.together(leaves, 1.0, 1.0, False)) < 0.5 * alone
