"""The functional form on arrays of other libraries: the bits of NumPy, in the library that came."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import tree
from memopt_ref.errors import BackendError, DtypeError, ReadOnlyError, ShapeError, StructureError
from memopt_ref.interop import arrays
from tests.interop.libraries import Array, Immutable, Narrow, OnDevice, Source, Traced
from tests.table import all_cases, dtype_of

CASES = all_cases()
EACH = [pytest.param(case, id=case.name) for case in CASES]


def bits(node) -> object:
    """A comparable image, whatever the library."""
    if isinstance(node, dict):
        return {key: bits(value) for key, value in node.items()}
    if isinstance(node, Array):
        return node.bits()
    array = np.asarray(node)
    return (array.dtype.str, array.shape, array.tobytes())


def problem(case, dtype="float32", steps=3):
    shape = max(case.shapes, key=lambda shape: (len(shape) == 2, np.prod(shape, dtype=int)))
    rng = np.random.default_rng(3)
    w = np.asarray(rng.standard_normal(shape)).astype(dtype_of(dtype))
    return w, [np.asarray(rng.standard_normal(shape)).astype(w.dtype) for _ in range(steps)]


def assert_foreign_equals_numpy(rule, w, grads, library):
    theirs, mine = library(w), w
    their_state, my_state = rule.init(theirs), rule.init(mine)
    for g in grads:
        given, before = library(g), bits(their_state)
        old, old_bits, old_state = theirs, theirs.bits(), their_state
        theirs, their_state = rule.update(theirs, given, their_state)
        mine, my_state = rule.update(mine, g, my_state)
        assert type(theirs) is library
        assert bits(theirs) == bits(mine)
        assert bits(their_state) == bits(my_state)
        assert old.bits() == old_bits
        assert bits(old_state) == before
        assert given.bits() == bits(g), "a gradient was written"
    for name, value in my_state["leaves"][""].items():
        kind = type(their_state["leaves"][""][name])
        assert kind is (library if isinstance(value, np.ndarray) else type(value)), name


@pytest.mark.parametrize("case", EACH)
def test_every_rule_takes_and_gives_arrays_of_another_library(case):
    w, grads = problem(case)
    assert_foreign_equals_numpy(case.rule, w, grads, Immutable)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes_pass_through(dtype):
    w, grads = problem(CASES[0], dtype)
    for rule in (mo.Adam(), mo.MicroAdam(block=8, bucket=4, density=0.3)):
        assert_foreign_equals_numpy(rule, w, grads, Immutable)


def test_a_conversion_that_casts_is_noticed(monkeypatch):
    w, grads = problem(CASES[0])
    right = arrays.in_library_of
    monkeypatch.setattr(arrays, "in_library_of", lambda x, a: right(x, np.asarray(a, np.float64)))
    with pytest.raises(AssertionError):
        assert_foreign_equals_numpy(mo.Adam(), w, grads, Array)


def test_values_are_in_the_library_too():
    w, (g, *_) = problem(CASES[0])
    rule = mo.Adam()
    expected = rule.values(w, g, rule.init(w))
    for state in (rule.init(Array(w)), rule.init(Array(w))["leaves"][""], rule.init(w)):
        found = rule.values(Array(w), g, state)
        assert bits(found) == bits(expected)
        assert type(found["m_hat"]) is Array
    assert isinstance(found["t"], np.integer)


def test_libraries_mix_and_each_leaf_goes_home():
    w = {
        "a": np.ones(3, np.float32),
        "b": [Array(np.ones(2, np.float32)), Immutable(np.ones((), np.float64))],
    }
    g = {"a": Immutable(np.ones(3, np.float32)), "b": [np.ones(2, np.float32), Array(np.float64(1.0))]}
    rule = mo.SGD(learning_rate=0.5, momentum=0.9)
    new, state = rule.update(w, g, rule.init(w))
    assert [type(x) for x in (new["a"], *new["b"])] == [np.ndarray, Array, Immutable]
    assert bits(new["b"][0]) == bits(np.full(2, 0.5, np.float32))
    assert type(state["leaves"]["b/1"]["m"]) is Immutable
    assert state["step"] == 1


def test_an_untouched_leaf_is_the_old_object():
    w = {"a": Immutable(np.ones(3, np.float32)), "b": Immutable(np.ones(3, np.float32))}
    rule = mo.Adam()
    state = rule.init(w)
    new, after = rule.update(w, {"a": w["a"], "b": None}, state)
    assert new["b"] is w["b"]
    assert after["leaves"]["b"]["m"] is state["leaves"]["b"]["m"]
    assert after["leaves"]["b"]["t"] == 0
    assert new["a"] is not w["a"]


def test_row_sparse_gradients_of_another_library():
    rule, w = mo.SM3(), np.ones((4, 2), np.float32)
    plain = mo.RowSparse(np.array([3, 1, 3]), np.ones((3, 2), np.float32), (4, 2))
    parts = mo.RowSparse(Immutable(np.array([3, 1, 3])), Immutable(np.ones((3, 2), np.float32)), (4, 2))
    new, state = rule.update(Immutable(w), parts, rule.init(Immutable(w)))
    expected, expected_state = rule.update(w, plain, rule.init(w))
    assert (bits(new), bits(state)) == (bits(expected), bits(expected_state))
    with pytest.raises(BackendError, match="rows on a device"):
        mo.RowSparse(np.array([0]), OnDevice(np.ones((1, 2))), (4, 2))


def test_bfloat16_rows_of_a_library_without_dlpack_for_it():
    rows = Immutable(np.ones((1, 2), ml_dtypes.bfloat16))
    assert mo.RowSparse(np.array([1]), rows, (4, 2)).dtype == ml_dtypes.bfloat16


def test_read_only_arrays_are_never_written():
    """The views of an immutable array are read-only, so that any writing at all would have failed above."""
    x = Immutable(np.ones(3))
    assert not arrays.as_numpy(x).flags.writeable
    with pytest.raises(ReadOnlyError, match=r"a read-only view of a tests\.Immutable"):
        arrays.as_numpy(x, writeable=True)
    view = arrays.as_numpy(Array(np.ones(3)), writeable=True)
    view[0] = 2


def test_views_share_memory():
    x = Array(np.zeros(3))
    arrays.as_numpy(x)[1] = 5
    assert bits(x) == bits(np.array([0.0, 5, 0]))


def test_a_slot_whose_dtype_the_library_lacks_stays_exact():
    rule = mo.MicroAdam(block=8, bucket=4, density=0.3)
    w, grads = np.linspace(-1, 1, 20, dtype=np.float32), [np.linspace(2, -1, 20, dtype=np.float32)] * 3
    theirs, state = Narrow(w), rule.init(Narrow(w))
    mine, expected = w, rule.init(w)
    for g in grads:
        theirs, state = rule.update(theirs, Narrow(g), state)
        mine, expected = rule.update(mine, g, expected)
    assert type(theirs) is Narrow
    assert bits(theirs) == bits(mine)
    assert bits(state) == bits(expected)


def test_a_source_without_a_way_back_gives_numpy():
    w = Source(np.ones(3, np.float32))
    new, _ = mo.SGD(learning_rate=0.5).update(w, w, mo.SGD().init(w))
    assert type(new) is np.ndarray
    assert bits(new) == bits(np.full(3, 0.5, np.float32))


def test_counters_that_went_through_another_library_count_on():
    w = Immutable(np.ones(3, np.float32))
    rule = mo.Adam()
    state = rule.init(w)
    state["leaves"][""]["t"] = Immutable(np.asarray(state["leaves"][""]["t"]))
    new, after = rule.update(w, w, state)
    assert bits(new) == bits(rule.update(w, w, rule.init(w))[0])
    assert isinstance(after["leaves"][""]["t"], np.int64)
    assert after["leaves"][""]["t"] == 1


@pytest.mark.parametrize("where", ["parameter", "gradient", "slot 'm'"])
def test_an_array_on_a_device_is_refused_and_never_read(where):
    rule, w = mo.Adam(), Array(np.ones(3, np.float32))
    state = rule.init(w)
    far = OnDevice(np.ones(3, np.float32))
    if where.startswith("slot"):
        state["leaves"][""]["m"] = far
    with pytest.raises(BackendError, match=f"{where}.*host memory.*never copied"):
        rule.update(far if where == "parameter" else w, far if where == "gradient" else w, state)
    if where == "parameter":
        with pytest.raises(BackendError, match=where):
            rule.init(far)


def test_a_traced_value_is_named_and_the_way_out():
    with pytest.raises(
        BackendError, match=r"a tests\.Traced that NumPy cannot view.*pure_callback"
    ) as caught:
        mo.SGD().init({"w": Traced()})
    assert isinstance(caught.value.__cause__, TypeError)
    assert caught.value.where == "w"


def test_the_checks_are_those_of_numpy_arrays():
    rule = mo.SGD()
    with pytest.raises(DtypeError, match="int32"):
        rule.init(Array(np.ones(3, np.int32)))
    w = {"w": Array(np.ones(3, np.float32))}
    state = rule.init(w)
    with pytest.raises(ShapeError, match="w: got a gradient of shape"):
        rule.update(w, {"w": Array(np.ones(4, np.float32))}, state)
    with pytest.raises(StructureError, match="missing 'w'"):
        rule.update(w, {}, state)
    with pytest.raises(BackendError, match="with __dlpack__ or __array__"):
        arrays.as_numpy([1.0])


def test_what_is_foreign():
    w = np.ones(3)
    for native in (w, w[0], np.ma.ones(3), None, 1.0, [1], mo.RowSparse(np.array([0]), w[:1], (3,))):
        assert not tree.is_foreign(native)
    for foreign in (Array(w), Immutable(w), Source(w), OnDevice(w)):
        assert tree.is_foreign(foreign)


def test_numpy_arrays_do_not_load_the_module():
    code = """
import sys, numpy as np, memopt_ref as mo
rule, w = mo.Adam(), np.ones(3)
w, state = rule.update(w, w, rule.init(w))
assert "memopt_ref.interop.arrays" not in sys.modules
class Source:
    shape, dtype = (3,), np.dtype(float)
    def __array__(self, dtype=None, copy=None): return np.ones(3)
rule.update(w, Source(), state)
assert "memopt_ref.interop.arrays" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_room_loads_lazily_and_names_what_it_lacks():
    assert set(mo.interop.__all__) <= set(dir(mo.interop))
    assert mo.interop.as_numpy is arrays.as_numpy
    with pytest.raises(AttributeError, match="tensorflow"):
        mo.interop.tensorflow  # noqa: B018


def test_torch_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "memopt_ref.interop.torch", raising=False)
    with pytest.raises(ModuleNotFoundError, match="needs PyTorch"):
        mo.interop.torch  # noqa: B018
