"""Many tensors of SM3-II in one launch: the bits of one after the other, however the threads share them."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import schedules
from memopt_ref.backends import Leaf, numpy_ref
from memopt_ref.errors import TornError
from tests.numba_cpu.inputs import hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import bind, direct, sm3, sm3_engine, spread  # noqa: E402
from memopt_ref.backends.numba_cpu import sm3_together as joint  # noqa: E402

RULES = (
    mo.SM3(),
    mo.SM3(momentum=0.9),
    mo.SM3(beta2=0.9),
    mo.SM3(beta2=0.9, ema="ratchet", momentum=0.5),
    mo.SM3(eps=1e-8, weight_decay=0.1),
)
#: Runs of short rows and pairs of long ones, odd numbers of rows, axes of length 1, and ranks up to five.
SHAPES = (
    *((7, 3), (1, 4), (4, 1), (1, 1), (33, 200), (200, 33), (5, 131), (300, 16), (64, 64), (2, 3, 5)),
    *((16, 8, 3, 3), (2, 129, 4, 33), (64, 1, 7, 7), (2, 3, 1, 4, 5), (1, 70, 1)),
)
VECTORS = ((), (1,), (5,), (1000,))


def leaves_of(rules=RULES[:1], shapes=SHAPES, dtype="float32", gradient=None, share=0.001):
    """Leaves in C and Fortran order, in turn, with accumulators of some steps ago."""
    made = []
    for rule in rules:
        for k, shape in enumerate(shapes):
            layout = ("c", "fortran")[k % 2]
            w = laid(hard(shape, dtype, seed=k, share=share), layout)
            g = laid(hard(shape, gradient or dtype, seed=90 + k, share=share), layout)
            state = rule.init_leaf(w)
            for j, array in enumerate(state.values()):
                # Some of them larger than any square of the gradient, some smaller than all.
                array += 1e5 * np.abs(hard(array.shape, array.dtype.name, seed=50 + j, share=0))
            made.append(Leaf(rule, w, g, state, {}))
    return made


def twins(leaves):
    return [leaf._replace(w=leaf.w.copy(order="K"), state=copy.deepcopy(leaf.state)) for leaf in leaves]


def assert_same(leaves, others, left=()):
    """The leaves against twins that the reference steps, but for those that are left."""
    for k, (leaf, other) in enumerate(zip(leaves, others, strict=True)):
        if k not in left:
            numpy_ref.step(leaf.rule, other.w, other.g, other.state)
        assert same_bits(leaf.w, other.w), (k, leaf.w.shape)
        for name, value in other.state.items():
            assert same_bits(leaf.state[name], value), (k, leaf.w.shape, name)


def assert_same_as_one_by_one(leaves, steps=2, left=(), **options):
    others = twins(leaves)
    for _ in range(steps):
        assert joint.step(leaves, **options) == list(left)
        assert_same(leaves, others, left)


@pytest.mark.parametrize("tasks", [None, 1, 2, 3, 8, 97])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_rank_and_rule_in_one_launch_whoever_steps_what(threads, tasks):
    """More threads than there are processors are as many as there are."""
    shapes = [SHAPES[k] for k in (0, 2, 4, 5, 6, 9, 11)] if tasks else SHAPES
    leaves = leaves_of(RULES, shapes) + leaves_of(RULES[:3], VECTORS)
    assert_same_as_one_by_one(leaves, 1 if tasks else 2, threads=threads, tasks=tasks)


def test_borders_anywhere_in_a_row_of_small_matrices():
    """Some hundred layouts of tensors and tasks: matrices whole, cut once and cut many times."""
    rng = np.random.default_rng(0)
    for tasks in (*range(2, 12), 50, 400):
        shapes = [tuple(int(n) for n in rng.integers(1, 90, rng.integers(1, 4))) for _ in range(6)]
        leaves = [leaf for k, s in enumerate(shapes) for leaf in leaves_of([RULES[k % 2]], [s])]
        assert_same_as_one_by_one(leaves, 1, threads=1, tasks=tasks)


@pytest.mark.parametrize(
    ("dtype", "gradient"),
    [
        ("float64", "float64"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("float32", "float64"),
        ("float64", "bfloat16"),
    ],
)
def test_other_dtypes_pass_through_buffers(dtype, gradient):
    leaves = leaves_of(RULES[:2], SHAPES, dtype, gradient)
    assert_same_as_one_by_one(leaves, 1, threads=1, tasks=5)


def test_dtypes_rules_and_vectors_are_mixed():
    leaves = [
        leaf for d in ("float64", "bfloat16", "float32") for leaf in leaves_of(RULES[:2], SHAPES[:8], d)
    ]
    assert_same_as_one_by_one([*leaves, *leaves_of(RULES[:2], VECTORS)], 3)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_the_accumulators_of_its_row_and_column_through_any_border(value):
    for shape in ((40, 200), (200, 20), (200, 16)):
        for place in ((0, 0), (3, 7), (39, 15)):
            leaves = leaves_of(shapes=[(9, 9), shape], share=0)
            leaves[1].g[place] = value
            assert_same_as_one_by_one(leaves, 1, threads=1, tasks=7)
            assert not np.isfinite(leaves[1].state["mu_0"][place[0]])
            assert np.isfinite(leaves[1].state["mu_1"]).sum() == shape[1] - 1


def test_arrays_in_two_orders():
    rule, shapes = RULES[1], [(30, 40), (200, 17), (6, 5, 4)]
    leaves = []
    for shape in shapes:
        w = hard(shape, share=0)
        leaves += [Leaf(rule, w, np.asfortranarray(hard(shape, seed=1, share=0)), rule.init_leaf(w), {})]
    # The axes of a tensor of rank three cannot be joined alike in both.
    assert_same_as_one_by_one(leaves, left=[2])


def test_numbers_may_change_at_each_step():
    rule = mo.SM3(learning_rate=schedules.WarmUp(0.1, 5), momentum=0.9)
    leaves = leaves_of([rule], SHAPES[:6])
    others = twins(leaves)
    for k in range(1, 4):
        now = rule.at(k)
        leaves, others = ([leaf._replace(rule=now) for leaf in each] for each in (leaves, others))
        assert joint.step(leaves) == []
        assert_same(leaves, others)


# When a plan holds


def test_a_plan_is_made_once_and_only_the_gradient_is_looked_up_again():
    (leaf,) = leaves_of(shapes=[(30, 70)], share=0)
    joint.step([leaf])
    plan = leaf.memo["plan"]
    assert_same_as_one_by_one([leaf._replace(g=hard((30, 70), seed=5, share=0))])
    assert leaf.memo["plan"] is plan


def replaces_an_accumulator(leaf):
    leaf.state["mu_1"] = leaf.state["mu_1"].copy()
    return leaf


def moves_an_accumulator(leaf):
    leaf.state["mu_0"].resize((1 << 20,), refcheck=False)
    leaf.state["mu_0"].resize((30,), refcheck=False)
    return leaf


def other_order(leaf):
    return leaf._replace(g=np.asfortranarray(leaf.g))


def other_dtype(leaf):
    return leaf._replace(g=leaf.g.astype(np.float64))


@pytest.mark.parametrize("change", [replaces_an_accumulator, moves_an_accumulator, other_order, other_dtype])
def test_a_plan_is_made_anew_when_an_array_is_another_or_elsewhere(change):
    (leaf,) = leaves_of(shapes=[(30, 70)], share=0)
    joint.step([leaf])
    plan = leaf.memo["plan"]
    leaf = change(leaf)
    assert_same_as_one_by_one([leaf])
    assert leaf.memo["plan"] is not plan or change is moves_an_accumulator


def test_what_cannot_go_together_is_left_untouched():
    rule, shape = mo.SM3(momentum=0.5), (30, 40)
    g = hard(shape, share=0)
    rows = laid(hard(shape, share=0), "rows")
    large = np.zeros((3, joint.EDGES), np.float32)
    cases = [
        (rows, g),
        (hard(shape, share=0), laid(g, "every-second")),
        (hard(shape, share=0), g.astype(">f4")),
        (hard(shape, share=0), np.frombuffer(b"x" + g.tobytes(), np.float32, offset=1).reshape(shape)),
        (hard(shape, share=0), g.view(np.memmap)),
        (large, large + 1),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)),
    ]
    leaves = [Leaf(rule, w, g, rule.init_leaf(w), {}) for w, g in cases]
    own = Leaf(rule, w := hard(shape, share=0), w, rule.init_leaf(w), {})
    state = rule.init_leaf(w)
    inside = Leaf(rule, w, state["m"], state, {})
    apart = Leaf(rule, w, g, {**state, "mu_0": np.zeros(60, np.float32)[::2]}, {})
    wrong = Leaf(rule, w, g, {**state, "mu_0": np.zeros(29, np.float32)}, {})
    more = Leaf(rule, w, g, {**state, "t": np.int64(3)}, {})
    leaves += [own, inside, apart, wrong, more]
    others = twins(leaves)
    every = list(range(len(leaves)))
    assert joint.step(leaves) == every
    assert_same(leaves, others, every)


def test_a_ratchet_of_vectors_is_left():
    leaves = leaves_of(RULES[3:4], [(50,), (5, 80)], share=0)
    assert_same_as_one_by_one(leaves, left=[0])


# Deliberate mistakes, seen to be caught


def test_a_plan_that_forgets_to_look_is_caught(monkeypatch):
    (leaf,) = leaves_of(shapes=[(30, 70)], share=0)
    joint.step([leaf])
    monkeypatch.setattr(direct.Plan, "take", lambda self, leaf: True)
    with pytest.raises(AssertionError):
        assert_same_as_one_by_one([leaf._replace(g=hard((30, 70), seed=5, share=0))])


def test_matrices_that_are_shared_and_not_joined_are_caught(monkeypatch):
    address, alone = joint._address, spread.alone

    def never_joins(loop, *others):
        if loop != address("join", False):
            alone(loop, *others)

    monkeypatch.setattr(spread, "alone", never_joins)
    assert_same_as_one_by_one(leaves_of(share=0), threads=1)
    with pytest.raises(AssertionError):
        assert_same_as_one_by_one(leaves_of(share=0), threads=1, tasks=3)


def test_a_ratchet_that_falls_is_caught(monkeypatch):
    loop = joint._loop
    monkeypatch.setattr(joint, "_loop", lambda rule, kind: loop(rule, kind)._replace(ratchet=0))
    with pytest.raises(AssertionError):
        assert_same_as_one_by_one(leaves_of(RULES[3:4], [(30, 70)], share=0))


# Through the optimizer


def run(backend, steps=3):
    shapes = {f"w{k}": s for k, s in enumerate(SHAPES[:9])} | {"b": (200,), "large": (300, 200)}
    params = {name: hard(s, seed=k, share=0) for k, (name, s) in enumerate(shapes.items())}
    rules = [("w1", mo.SM3(beta2=0.9)), ("w2", mo.SGD(momentum=0.9)), ("w3", mo.SM3(variant="I"))]
    opt = mo.Optimizer(params, mo.SM3(momentum=0.9), backend, rules)
    for k in range(steps):
        grads = {
            name: None if (j + k) % 4 == 0 else hard(w.shape, seed=9 * k + j, share=0)
            for j, (name, w) in enumerate(params.items())
        }
        opt.step(grads)
    return params, opt.state["leaves"]


def test_an_optimizer_steps_a_mixed_tree_with_the_bits_of_the_reference():
    (ours, state), (theirs, other) = run("numba"), run("numpy")
    for path, w in theirs.items():
        assert same_bits(ours[path], w), path
        for name, value in other[path].items():
            assert same_bits(state[path][name], value), (path, name)


def nothing(table: int, start: int, stop: int, numbers: int) -> None:
    """What a task that got no buffer leaves behind."""


def test_a_task_that_is_not_through_tears_the_optimizer(monkeypatch):
    params = {"a": np.ones((130, 130), np.float32), "b": np.ones(3, np.float32)}
    grads = {name: w.copy() for name, w in params.items()}
    # A kernel that was drawn at random is for a tensor alone.
    with mo.tuning.use_mode("off"):
        opt = mo.Optimizer(params, mo.SM3(), "numba")
        opt.step(grads)
    address = joint._address
    broken = bind.compiled_function(nothing, bind.KERNEL, "nothing", disk=False)
    monkeypatch.setattr(
        joint, "_address", lambda n, wide: broken.address if n == "part" else address(n, wide)
    )
    with pytest.raises(MemoryError, match="could not get its buffers"):
        opt.step(grads)
    with pytest.raises(TornError):
        opt.step(grads)


def test_a_loop_that_cannot_be_compiled_leaves_its_tensors_to_the_reference(monkeypatch):
    monkeypatch.setattr(sm3_engine, "kernel", lambda *form: None)
    leaves = leaves_of(shapes=[(30, 70), (7,)], share=0)
    assert_same_as_one_by_one(leaves, left=[0, 1])


# What it is for


def least(function, rounds=15):
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


@pytest.mark.parametrize("many", [1, 100])
def test_small_matrices_cost_less_than_half_of_one_by_one(many):
    """Bounded at half, seen at a sixth for one alone and at a thirtieth for many."""
    leaves = leaves_of(shapes=[(4, 4)] * many, share=0)
    for leaf in leaves:
        sm3.step(*leaf[:4])
    joint.step(leaves)
    alone = least(lambda: [sm3.step(*leaf[:4]) for leaf in leaves])
    assert least(lambda: joint.step(leaves)) < 0.5 * alone
