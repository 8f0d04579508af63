"""Gradients on a device before a step: the bits, errors and decisions of the host's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

from memopt_ref import clipping
from memopt_ref.backends.cupy_gpu import gradients, leaves, prepare
from memopt_ref.backends.cupy_gpu.gradients import Gradients as OnDevice
from memopt_ref.backends.largest import largest
from memopt_ref.errors import AliasError, BackendError, NonFiniteError
from memopt_ref.gradients import Gradients
from memopt_ref.memory import Places
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from tests.cupy_gpu.machines import MACHINES
from tests.numba_cpu.inputs import hard, laid, same_bits
from tests.table import dtype_of

PAIRS = [
    ("float32", "float32"),
    ("float32", "float64"),
    ("float64", "float16"),
    ("float16", "bfloat16"),
]


def both(machine, parameters, raw, scale, policy):
    """The same gradients on the machine and on the host."""
    there = {path: machine.to(g) for path, g in raw.items()}
    return OnDevice(there, parameters, scale, policy), Gradients(raw, parameters, scale, policy)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize(("dtype", "other"), PAIRS)
def test_scale_policy_and_factor_have_the_host_s_bits(dtype, other, make):
    machine = make()
    for k, shape in enumerate(((), (0,), (5,), (33, 9))):
        w, g = hard(shape, dtype, share=0), laid(hard(shape, other, seed=k), "fortran")
        for scale, policy, factor in ((1.0, "zero", 1.0), (1 / 3, "propagate", 1.0), (2.0**-7, "zero", 0.3)):
            mine, host = both(machine, {"w": w}, {"w": g}, scale, policy)
            mine.factor = host.factor = factor
            with machine.running():
                found = machine.back(mine.prepared("w"))
            assert same_bits(found, host.prepared("w"))
            assert mine.changed == host.changed


def test_what_needs_no_change_is_handed_on_as_it_came():
    g = np.ones(3, np.float16)
    gradients = OnDevice({"w": g}, {"w": np.ones(3, np.float32)}, 1.0, "raise")
    assert gradients.for_kernel("w") is g
    assert not gradients.changed


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_the_largest_magnitude_is_found_in_all_tensors(dtype, make):
    machine = make()
    for share in (0, 0.3):
        arrays = [hard((n,), dtype, seed=n, share=share) for n in (1, 0, 5, 2048, 5000)]
        arrays.append(laid(hard((20, 30), dtype, seed=1, share=share), "rows"))
        with machine.running():
            found = prepare.largest([machine.to(x) for x in arrays])
        assert found == largest(arrays)


@pytest.mark.parametrize("make", MACHINES)
def test_what_is_not_finite_is_found_once_cast_and_scaled(make):
    machine = make()
    for g, dtype, scale, finite in (
        (np.array([1.0, 2.0], np.float32), "float32", 1.0, True),
        (np.array([1.0, np.nan], np.float32), "float32", 1.0, False),
        (np.array([1.0, -np.inf], np.float16), "float32", 1.0, False),
        (np.array([1.0, 1e300]), "float32", 1.0, False),
        (np.array([1.0, 1e38], np.float32), "float32", 100.0, False),
        (np.array([1.0, 1e300]), "float64", 1.0, True),
        (np.zeros((0,), np.float32), "float32", 1.0, True),
    ):
        parameters = {"a/b": np.zeros(g.shape, dtype), "c": np.zeros(2, np.float32)}
        raw = {"a/b": g, "c": np.ones(2, np.float32)}
        with machine.running():
            mine, host = both(machine, parameters, raw, scale, "skip")
            assert mine.all_finite() is host.all_finite() is finite
            strict, _ = both(machine, parameters, raw, scale, "raise")
            if finite:
                assert strict.all_finite()
            else:
                with pytest.raises(
                    NonFiniteError, match="a/b: got a gradient with entries that are not finite"
                ):
                    strict.all_finite()
            assert both(machine, parameters, raw, scale, "propagate")[0].all_finite()


@pytest.mark.parametrize("make", MACHINES)
def test_the_norm_has_the_host_s_bits(make):
    machine = make()
    for arrays in (
        [hard((n,), share=0) for n in (1, 3, 127, 128, 511, 513, 2000)],
        [
            hard((130, 70), "bfloat16", share=0),
            hard((3, 1100), "float64", share=0),
            np.zeros((0, 3), np.float32),
        ],
        [hard((40, 3), "float64", share=0) * 1e200, hard((), share=0)],
        [hard((40, 3), "float64", share=0) * 1e-250, np.full(3, 1e-300)],
        [np.array([1.0, np.inf]), np.ones(3, np.float32)],
        [hard((700, 520), share=0).T],
        [],
    ):
        with machine.running():
            found = prepare.norm([machine.to(x) for x in arrays])
        assert found == clipping.norm(arrays)


@pytest.mark.parametrize("make", MACHINES)
def test_clipping_has_the_host_s_bits(make):
    machine = make()
    raw = {"a": hard((70, 30), share=0), "b": hard((9,), "float16", share=0)}
    parameters = {"a": np.zeros((70, 30), np.float32), "b": np.zeros(9, np.float16)}
    for scale in (1.0, 1e-3):
        mine, host = both(machine, parameters, raw, scale, "propagate")
        with machine.running():
            mine.clip(0.7)
            host.clip(0.7)
            assert mine.factor == host.factor < 1
            for path in raw:
                assert same_bits(machine.back(mine.for_kernel(path)), host.for_kernel(path))


def test_rows_that_need_no_change_are_handed_on_as_they_came():
    g = RowSparse(np.array([1]), np.ones((1, 2), np.float16), (3, 2))
    w = np.zeros((3, 2), np.float32)
    assert OnDevice({"w": g}, {"w": w}, 1.0, "raise").for_kernel("w").rows is g.rows


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_duplicate_rows_are_summed_as_on_the_host(dtype, make):
    machine = make()
    for shape in ((9, 40), (9,), (9, 2, 3)):
        indices = np.random.default_rng(1).integers(0, 9, 30)
        g = RowSparse(indices, hard((30, *shape[1:]), dtype, seed=3, share=0.1), shape)
        w = np.zeros(shape, dtype_of(dtype))
        there = RowSparse(machine.to(g.indices), machine.to(g.rows), shape)
        with machine.running():
            rows, numbers = gradients.apart(machine.to(w), there)
            whole = gradients.dense(machine.to(w), there)
        expected = g.astype(compute_dtype(w.dtype)).coalesced()
        assert same_bits(machine.back(rows), expected.rows)
        assert same_bits(machine.back(numbers), expected.indices)
        assert same_bits(machine.back(whole), expected.to_dense())


def test_a_shadow_says_where_an_array_lies_and_no_more():
    wide = np.zeros((6, 8), np.float32)
    for x in (wide, wide[::2, ::-1], wide.T, wide[2], wide[:0], wide[:, 1::2].astype(np.float16)):
        if x.size:
            assert byte_bounds(leaves.shadow(x)) == byte_bounds(x)
    places = Places({"a": leaves.shadow(wide[:, ::2]), "b": leaves.shadow(wide[:, 1::2])})
    assert list(places.overlapping(leaves.shadow(wide[0, :1]))) == ["a"]
    with pytest.raises(AliasError, match=r"memory that '[ab]' has too"):
        Places({"a": leaves.shadow(wide[:3]), "b": leaves.shadow(wide[2:])})


def test_parameters_on_a_device_are_checked():
    w = np.zeros(3, np.float32)
    leaves.check("w", w, w)
    with pytest.raises(AliasError, match="w: got an array whose entries share memory"):
        leaves.check("w", np.broadcast_to(np.float32(1), 3), w)
    other = type("Elsewhere", (), {"device": "cuda:1"})()
    with pytest.raises(BackendError, match="nothing is moved between devices silently"):
        leaves.check("w", other, w)
