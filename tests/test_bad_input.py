"""Bad input: each message says where, what came, what was wanted and what to do; nothing has changed.

One row of a table is one thing that can be wrong with the input of an in-place step.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import memopt_ref as mo
from memopt_ref import errors
from memopt_ref.memory import overlaps_itself, share
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD


def tree():
    rng = np.random.default_rng(3)
    return {
        "embed": rng.standard_normal((6, 2)).astype(np.float32),
        "layer": {"kernel": rng.standard_normal((2, 3)).astype(np.float32), "bias": np.ones(3, np.float32)},
    }


def ones(params):
    return {
        "embed": np.ones_like(params["embed"]),
        "layer": {name: np.ones_like(w) for name, w in params["layer"].items()},
    }


def fingerprint(opt) -> object:
    """Everything that a step may change: bytes of parameters and state, both clocks."""
    state = {
        path: {name: (np.asarray(v).dtype.str, np.asarray(v).tobytes()) for name, v in leaf.items()}
        for path, leaf in opt.state["leaves"].items()
    }
    weights = [opt.params["embed"].tobytes(), *(w.tobytes() for w in opt.params["layer"].values())]
    return weights, state, opt.state["step"]


def check_message(error: errors.MemoptError, where: str, got: str, wanted: str, advice: str) -> None:
    assert where in error.where
    assert got in error.got
    assert wanted in error.wanted
    assert advice in error.advice
    assert error.advice.endswith(".")
    assert str(error) == f"{error.where}: got {error.got}; wanted {error.wanted}. {error.advice}"


class FakeTensor:
    """An array of another library, on a device: any conversion to NumPy would be a silent copy."""

    __module__ = "torch"
    shape = (3,)
    dtype = "torch.float32"
    device = "cuda:0"

    def __array__(self, *args, **kwargs):
        raise AssertionError("copied to the host silently")

    def __dlpack__(self, *args, **kwargs):
        raise AssertionError("copied to the host silently")

    def __dlpack_device__(self):
        return (2, 0)


@pytest.fixture
def foreign(monkeypatch):
    """A stand-in for a library that puts arrays on a device."""

    def install(name: str, type_name: str):
        kind = type(type_name, (FakeTensor,), {"__module__": name})
        module = types.ModuleType(name)
        setattr(module, type_name, kind)
        monkeypatch.setitem(sys.modules, name, module)
        return kind()

    return install


@dataclass
class Bad:
    """``change(params, grads)`` spoils the gradients, or returns other ones."""

    name: str
    change: object
    error: type
    message: tuple[str, str, str, str]


def replace(path, value):
    def change(params, grads):
        node = grads["layer"] if path.startswith("layer/") else grads
        node[path.removeprefix("layer/")] = value(params) if callable(value) else value

    return change


def drop(params, grads):
    del grads["layer"]["bias"]


def rename(params, grads):
    grads["layer"]["biais"] = grads["layer"].pop("bias")


def collide(params, grads):
    grads["layer/bias"] = grads["layer"]["bias"]


def bare(params, grads):
    return grads["embed"]


SHAPE = "layer/kernel", "shape (3, 2)", "shape (2, 3)", "this very parameter"
BAD_GRADIENTS = [
    Bad("shape", replace("layer/kernel", np.ones((3, 2))), errors.ShapeError, SHAPE),
    Bad(
        "broadcastable shape",
        replace("layer/kernel", np.ones((1, 3))),
        errors.ShapeError,
        ("layer/kernel", "shape (1, 3)", "shape (2, 3)", "this very parameter"),
    ),
    Bad(
        "integer gradient",
        replace("layer/bias", np.ones(3, np.int64)),
        errors.DtypeError,
        ("layer/bias", "dtype int64", "float32", "Convert"),
    ),
    Bad(
        "complex gradient",
        replace("layer/bias", np.ones(3, np.complex64)),
        errors.DtypeError,
        ("layer/bias", "dtype complex64", "float32", "Convert"),
    ),
    Bad(
        "byte-swapped gradient",
        replace("layer/bias", np.ones(3, ">f4")),
        errors.DtypeError,
        ("layer/bias", "dtype >f4", "float32", "Convert"),
    ),
    Bad(
        "a number for an array",
        replace("layer/bias", 0.0),
        errors.DtypeError,
        ("layer/bias", "type float", "an array, a RowSparse or None", "Convert"),
    ),
    Bad(
        "masked gradient",
        replace("layer/bias", np.ma.array(np.ones(3, np.float32), mask=[0, 1, 0])),
        errors.DtypeError,
        ("layer/bias", "masked array", "plain array", "Pass its data"),
    ),
    Bad(
        "missing path", drop, errors.StructureError, ("gradients", "missing 'layer/bias'", "3 paths", "None")
    ),
    Bad(
        "extra path",
        replace("head", np.ones(1)),
        errors.StructureError,
        ("gradients", "extra 'head'", "3 paths", "same structure"),
    ),
    Bad(
        "misspelt path",
        rename,
        errors.StructureError,
        ("gradients", "missing 'layer/bias'; extra 'layer/biais'", "3 paths", "same structure"),
    ),
    Bad(
        "one array for a tree",
        bare,
        errors.StructureError,
        ("gradients", "missing", "3 paths", "same structure"),
    ),
    Bad(
        "path collision",
        collide,
        errors.StructureError,
        ("layer/bias", "two gradients with this path", "distinct paths", "Rename one key"),
    ),
    Bad(
        "row-sparse shape",
        replace("embed", RowSparse(np.array([0]), np.ones((1, 2)), (7, 2))),
        errors.ShapeError,
        ("embed", "shape (7, 2)", "shape (6, 2)", "this very parameter"),
    ),
    Bad(
        "row-sparse integers",
        replace("embed", RowSparse(np.array([0]), np.ones((1, 2), int), (6, 2))),
        errors.DtypeError,
        ("embed", "dtype int64", "float32", "Convert"),
    ),
    Bad(
        "NaN",
        replace("layer/bias", np.array([1.0, np.nan, np.inf], np.float32)),
        errors.NonFiniteError,
        ("layer/bias", "2 of 3 entries not finite (1 NaN, 1 infinite)", "finite", "Nothing has changed"),
    ),
]


@pytest.mark.parametrize("bad", BAD_GRADIENTS, ids=lambda bad: bad.name)
def test_bad_gradients_are_named_and_change_nothing(bad):
    params = tree()
    opt = mo.Optimizer(params, Adam(), groups=[("embed", SGD(momentum=0.9))])
    opt.step(ones(params))
    before, grads = fingerprint(opt), ones(params)
    grads = bad.change(params, grads) if bad.change is bare else (bad.change(params, grads), grads)[1]
    with pytest.raises(bad.error) as caught:
        opt.step(grads)
    check_message(caught.value, *bad.message)
    assert fingerprint(opt) == before
    assert opt.step(ones(params)), "the optimizer goes on afterwards"


def test_the_fingerprint_notices_a_partial_step():
    """The check above would see a step that wrote the first leaf before it found the second one's fault."""
    params = tree()
    opt = mo.Optimizer(params, Adam())
    before = fingerprint(opt)
    opt.step({"embed": None, "layer": {"kernel": None, "bias": np.ones(3)}})
    assert fingerprint(opt) != before


LIBRARIES = [
    ("torch", "Tensor", "detach"),
    ("cupy", "ndarray", "cupy.asnumpy"),
    ("jax", "Array", "numpy.array"),
]


@pytest.mark.parametrize(("library", "type_name", "advice"), LIBRARIES)
def test_a_device_array_as_gradient_is_refused_and_never_copied(foreign, library, type_name, advice):
    params = tree()
    opt = mo.Optimizer(params, Adam())
    before, grads = fingerprint(opt), ones(params)
    grads["layer"]["bias"] = foreign(library, type_name)
    with pytest.raises(errors.BackendError) as caught:
        opt.step(grads)
    check_message(caught.value, "layer/bias", f"a {library}.{type_name} on cuda:0", "a NumPy array", advice)
    assert fingerprint(opt) == before


@pytest.mark.parametrize(("library", "type_name", "advice"), LIBRARIES)
def test_a_device_array_as_parameter_is_refused_and_never_copied(foreign, library, type_name, advice):
    with pytest.raises(errors.BackendError) as caught:
        mo.Optimizer({"w": np.ones(3), "x": foreign(library, type_name)}, Adam())
    check_message(caught.value, "x", f"a {library}.{type_name} on cuda:0", "a NumPy array", advice)


@pytest.mark.parametrize("part", ["indices", "rows"])
def test_rows_on_a_device_are_refused_and_never_copied(foreign, part):
    parts = {"indices": np.array([0, 1, 2]), "rows": np.ones(3), part: foreign("jax", "Array")}
    with pytest.raises(errors.BackendError) as caught:
        RowSparse(parts["indices"], parts["rows"], (5,))
    check_message(caught.value, "RowSparse", f"{part} on a device", "in host memory", "silently")


def read_only(x):
    x.flags.writeable = False
    return x


BASE = np.zeros((4, 6), np.float32)
BAD_PARAMETERS = [
    ("integers", np.ones(3, np.int32), errors.DtypeError, ("dtype int32", "float32", "leave it out")),
    ("booleans", np.ones(3, bool), errors.DtypeError, ("dtype bool", "float32", "leave it out")),
    (
        "float8",
        np.ones(3, ml_dtypes.float8_e4m3fn),
        errors.DtypeError,
        ("float8_e4m3fn", "float32", "Convert"),
    ),
    ("a number", 1.0, errors.DtypeError, ("a float", "an array", "Convert")),
    ("None", None, errors.DtypeError, ("a NoneType", "an array", "leave it out")),
    ("a scalar", np.float32(1), errors.ReadOnlyError, ("a float32", "an array", "numpy.asarray")),
    ("read-only", read_only(np.ones(3)), errors.ReadOnlyError, ("read-only", "written in place", "copy")),
    ("bytes", np.frombuffer(bytes(8)), errors.ReadOnlyError, ("read-only", "written in place", "copy")),
    ("masked", np.ma.ones(3), errors.DtypeError, ("masked", "plain array", "fill it")),
    (
        "zero stride",
        as_strided(np.ones(1), (3,), (0,)),
        errors.AliasError,
        ("entries share memory", "one place an entry", "copy"),
    ),
    (
        "sliding window",
        sliding_window_view(np.ones(5), 3, writeable=True),
        errors.AliasError,
        ("entries share memory", "one place an entry", "copy"),
    ),
]


@pytest.mark.parametrize(
    ("value", "error", "message"), [p[1:] for p in BAD_PARAMETERS], ids=[p[0] for p in BAD_PARAMETERS]
)
def test_bad_parameters_are_named(value, error, message):
    good = np.ones(2)
    with pytest.raises(error) as caught:
        mo.Optimizer({"good": good, "bad": value}, SGD())
    check_message(caught.value, "bad", *message)


def test_two_paths_of_one_name_are_a_collision():
    with pytest.raises(errors.StructureError) as caught:
        mo.Optimizer({"a": {"b": np.ones(1)}, "a/b": np.ones(1)}, SGD())
    check_message(caught.value, "a/b", "two parameters with this path", "distinct paths", "Rename one key")


SHARING = {
    "tied weights": lambda x: (x, x),
    "a transposed view": lambda x: (x, x.T),
    "a part": lambda x: (x, x[1:3]),
    "overlapping slices": lambda x: (x[:3], x[2:]),
    "another dtype on the same bytes": lambda x: (x, x.view(np.float64)),
    "one common column": lambda x: (x[:, ::2], x[:, 4:]),
    "reversed": lambda x: (x[0], x[0, ::-1]),
}


@pytest.mark.parametrize("views", SHARING.values(), ids=SHARING)
def test_leaves_that_share_memory_are_refused_and_both_are_named(views):
    a, b = views(np.zeros((4, 6), np.float32))
    with pytest.raises(errors.AliasError) as caught:
        mo.Optimizer({"encoder": a, "other": np.ones(3), "decoder": b}, SGD())
    check_message(
        caught.value, "decoder", "memory that 'encoder' has too", "do not share", "Tied weights are one leaf"
    )


APART = {
    "neighbouring columns": lambda x: (x[:, ::2], x[:, 1::2]),
    "disjoint rows": lambda x: (x[:2], x[2:]),
    "interleaved rows, reversed": lambda x: (x[::2], x[::-2]),
    "an empty part": lambda x: (x, x[2:2]),
    "two empty arrays": lambda x: (x[:0], x[:0]),
    "quarters": lambda x: (x[::2, ::2], x[1::2, 1::2]),
}


@pytest.mark.parametrize("views", APART.values(), ids=APART)
def test_interleaved_views_that_do_not_overlap_are_accepted_and_stepped_once(views):
    x = np.zeros((4, 6), np.float32)
    a, b = views(x)
    opt = mo.Optimizer({"a": a, "b": b}, SGD(learning_rate=1.0))
    opt.step({"a": np.ones_like(a), "b": np.ones_like(b)})
    assert set(np.unique(x)) <= {0, -1}
    assert np.all(a == -1)
    assert np.all(b == -1)


def test_a_thousand_interleaved_columns_are_checked_quickly():
    x = np.zeros((3, 300), np.float32)
    columns = {f"{k}": x[:, k] for k in range(300)}
    mo.Optimizer(columns, SGD())
    columns["again"] = x[1, 17:18]
    with pytest.raises(errors.AliasError, match=r"got memory that '(17|again)' has too"):
        mo.Optimizer(columns, SGD())


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 6], ("row 6", "rows in [0, 6)", "vocabulary")),
        ([-1], ("row -1", "rows in [0, 6)", "vocabulary")),
        ([0.0], ("dtype float64", "1-d integer array", "row numbers")),
        ([[0]], ("shape (1, 1)", "1-d integer array", "row numbers")),
        ([2**40], ("row 1099511627776", "rows in [0, 6)", "vocabulary")),
    ],
)
def test_row_indices_out_of_range_are_refused_when_the_gradient_is_made(indices, message):
    with pytest.raises(errors.RowIndexError) as caught:
        RowSparse(np.array(indices), np.ones((np.size(indices), 2), np.float32), (6, 2))
    check_message(caught.value, "RowSparse", *message)


def test_a_row_index_that_went_bad_after_the_gradient_was_made_changes_nothing():
    params = tree()
    opt = mo.Optimizer(params, Adam())
    before, grads = fingerprint(opt), ones(params)
    indices = np.array([0, 1])
    grads["embed"] = RowSparse(indices, np.ones((2, 2), np.float32), (6, 2))
    indices[1] = 6
    with pytest.raises(errors.RowIndexError, match="row 6"):
        opt.step(grads)
    assert fingerprint(opt) == before


BAD_GROUPS = [
    ([("*.bias", Adam())], errors.PatternError, ("groups[0]", "'*.bias'", "matches a leaf", "'layer/bias'")),
    (
        [("embed", Adam()), (lambda path, w: w.ndim > 7, Adam())],
        errors.PatternError,
        ("groups[1]", "the function <lambda>", "matches a leaf", "Paths look like"),
    ),
    ([(7, Adam())], errors.PatternError, ("groups[0]", "type int", "a glob or a function", "Write")),
    ([("embed", Adam)], errors.HyperparameterError, ("groups[0]", "the class Adam", "a rule", "Adam()")),
    ([("embed", 0.1)], errors.HyperparameterError, ("groups[0]", "a float", "a rule", "Pass one")),
    (["embed"], errors.HyperparameterError, ("groups[0]", "'embed'", "a pair", "Write")),
    ([("embed", Adam(), 3)], errors.HyperparameterError, ("groups[0]", "3)", "a pair", "Write")),
]


@pytest.mark.parametrize(("groups", "error", "message"), BAD_GROUPS)
def test_bad_groups_are_named(groups, error, message):
    with pytest.raises(error) as caught:
        mo.Optimizer(tree(), SGD(), groups=groups)
    check_message(caught.value, *message)


BAD_OPTIONS = [
    ({"rule": Adam}, errors.HyperparameterError, ("rule", "the class Adam", "a rule", "Adam()")),
    ({"rule": "adam"}, errors.HyperparameterError, ("rule", "a str", "a rule", "Adam()")),
    ({"nonfinite": "ignore"}, errors.HyperparameterError, ("nonfinite", "'ignore'", "'skip'", "Choose")),
    ({"max_norm": 0.0}, errors.HyperparameterError, ("max_norm", "0.0", "a number in (0", "Choose")),
    ({"max_norm": "1"}, errors.HyperparameterError, ("max_norm", "'1'", "a number in (0", "Python number")),
    ({"backend": "fortran"}, errors.BackendError, ("backend", "'fortran'", "'numpy'", "status()")),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error) as caught:
        mo.Optimizer(tree(), **{"rule": SGD(), **options})
    check_message(caught.value, *message)


def test_a_shape_that_a_rule_cannot_serve_is_named_by_its_path():
    class Flat(SGD):
        def slots(self, shape, dtype):
            if len(shape) != 1:
                raise errors.ShapeError("Flat", f"shape {shape}", "one axis", "Reshape it.")
            return {}

    with pytest.raises(errors.ShapeError) as caught:
        mo.Optimizer(tree(), Flat())
    check_message(caught.value, "embed: Flat", "shape (6, 2)", "one axis", "Reshape it")


slices = st.builds(slice, st.integers(0, 12), st.integers(0, 12), st.sampled_from([1, 2, 3]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(slices, slices, st.booleans()), min_size=2, max_size=5))
def test_leaves_are_accepted_exactly_when_no_entry_of_memory_is_in_two_of_them(parts):
    x = np.zeros((12, 12), np.float32)
    owner = np.zeros((12, 12), int)
    leaves = {}
    for k, (rows, columns, flip) in enumerate(parts):
        leaves[f"{k}"] = x[rows, columns].T[::-1] if flip else x[rows, columns]
        owner[rows, columns] += 1
    if owner.max() <= 1:
        mo.Optimizer(leaves, SGD())
    else:
        with pytest.raises(errors.AliasError):
            mo.Optimizer(leaves, SGD())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-6, 6)), max_size=3),
)
def test_an_array_overlaps_itself_exactly_when_two_indices_lead_to_one_place(axes):
    buffer = np.zeros(200, np.float32)
    shape, steps = [n for n, _ in axes], [s for _, s in axes]
    w = as_strided(buffer[100:], shape, [4 * s for s in steps])
    places = [sum(i * s for i, s in zip(index, steps, strict=True)) for index in np.ndindex(*shape)]
    assert overlaps_itself(w) == (len(set(places)) < len(places))


def test_bounds_alone_would_refuse_interleaved_views():
    """The wrong test of overlap that the property above catches: address ranges instead of addresses."""
    x = np.zeros((4, 4))
    assert np.may_share_memory(x[:, ::2], x[:, 1::2])
    assert not share(x[:, ::2], x[:, 1::2])


def test_an_overlap_too_hard_to_decide_counts_as_sharing(monkeypatch):
    def give_up(a, b, max_work):
        raise np.exceptions.TooHardError("too much work")

    monkeypatch.setattr(np, "shares_memory", give_up)
    assert share(np.zeros(2), np.zeros(2))
