"""The gradients of a step: prepared when asked for, searched and measured without a copy of one."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import clipping
from memopt_ref.errors import BackendError
from memopt_ref.gradients import Gradients
from memopt_ref.nonfinite import PIECE, bad_entries, pieces, prepare
from memopt_ref.parts import sums
from memopt_ref.parts.row_sparse import RowSparse

SHAPES = [
    (3 * PIECE + 700,),
    (2 * PIECE + 1,),
    (2 * PIECE + 513,),
    (5, PIECE + 11),
    (3, 2 * PIECE + 5),
    (700, 601),
    (4, 300, 301),
    (3 * PIECE, 1),
    (),
    (7,),
]


def whole_total(x):
    """The sum of squares with all of them there at once, in the order of parts/sums.py."""
    wide = np.asarray(x, np.float64)
    return float(sums.over_tensor(wide * wide))


def total_in_parts(x):
    return float(clipping._squares(clipping._parts(x, None), 0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_norm_in_parts_has_the_bits_of_the_whole(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    assert total_in_parts(x) == whole_total(x)
    assert total_in_parts(np.asfortranarray(x)) == whole_total(x)
    assert clipping.norm([x]) == math.sqrt(whole_total(x))


def test_parts_that_do_not_end_with_a_leaf_are_caught(monkeypatch):
    """The check above, seen to fail: a part that ends within a leaf of 512 entries."""
    x = np.random.default_rng(0).standard_normal(3 * PIECE + 700)
    monkeypatch.setattr(clipping, "PIECE", PIECE - 100)
    assert total_in_parts(x) != whole_total(x)


def test_the_norm_of_prepared_gradients_is_that_of_their_parts():
    g = np.random.default_rng(1).standard_normal((700, 601)).astype(ml_dtypes.bfloat16)
    g[3, 4] = np.nan
    gradients = Gradients({"w": g}, {"w": np.zeros(g.shape, np.float32)}, 0.37, "zero")
    gradients.clip(1.0)
    ready = prepare(g, np.dtype(np.float32), 0.37, "zero")
    assert gradients.factor == clipping.factor(math.sqrt(whole_total(ready)), 1.0) < 1
    assert gradients.prepared("w").tobytes() == clipping.times(ready, gradients.factor).tobytes()


def test_what_needs_no_change_is_handed_on_as_it_came():
    g, w = np.ones(3, ml_dtypes.bfloat16), np.ones(3, np.float32)
    rows = RowSparse(np.array([1, 1]), np.ones((2,), np.float32), (3,))
    gradients = Gradients({"a": g, "b": rows}, {"a": w, "b": w}, 1.0, "raise")
    assert gradients.for_kernel("a") is g
    assert gradients.prepared("a").dtype == np.float32
    assert gradients.raw["b"].is_coalesced
    assert not gradients.changed
    assert Gradients({"a": g}, {"a": w}, 1.0, "zero").changed


def test_pieces_are_all_entries_once():
    for x in (np.arange(3.0 * PIECE), np.arange(90_000.0).reshape(300, 300)[:, ::2], np.ones((0, 3))):
        found = np.concatenate([piece.copy() for piece in pieces(x)])
        assert np.array_equal(np.sort(found), np.sort(x, axis=None))
        assert all(piece.size <= PIECE for piece in pieces(x))
    x = np.full((300, 300), np.inf)
    x[0] = np.nan
    assert bad_entries(x, np.dtype(np.float32), 0.5) == (300, 300 * 299, 90_000)


@pytest.mark.parametrize("options", [{}, {"max_norm": 1e-3}], ids=str)
def test_search_and_norm_need_no_memory_of_the_size_of_a_gradient(options):
    w, g = np.zeros(1 << 21, np.float32), np.ones(1 << 21, ml_dtypes.bfloat16)
    gradients = Gradients({"w": g}, {"w": w}, 1.0, "raise")
    gradients.all_finite()
    tracemalloc.start()
    gradients.all_finite()
    gradients.clip(options.get("max_norm", 1.0))
    peak = tracemalloc.get_traced_memory()[1]
    gradients.prepared("w")
    copied = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < g.nbytes < copied


def test_an_optimizer_clips_as_the_pure_function_does():
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((30, 40)), "b": rng.standard_normal(7)}
    grads = {name: rng.standard_normal(w.shape) for name, w in params.items()}
    before = {name: w.copy() for name, w in params.items()}
    mo.Optimizer(params, mo.SGD(learning_rate=1.0), max_norm=0.5).step(grads)
    clipped, _ = clipping.clip_by_global_norm(grads, 0.5)
    for name, w in params.items():
        assert w.tobytes() == (before[name] - clipped[name]).tobytes()


def test_a_joint_step_that_refuses_before_it_writes_leaves_the_optimizer_whole(monkeypatch):
    opt = mo.Optimizer({"w": np.ones(4, np.float32)}, mo.Adam())
    path = "w"

    def refuse(leaves, scale, factor, zero):
        raise BackendError("w", "a gradient", "another", "Nothing was written.")

    whole = opt._choices[path]
    opt._choices[path] = whole._replace(variant=replace(whole.variant, together=refuse))
    with pytest.raises(BackendError):
        opt.step({"w": np.ones(4, np.float32)})
    opt._choices[path] = whole
    assert opt.step({"w": np.ones(4, np.float32)}) is True
    assert opt.step_count == 1
