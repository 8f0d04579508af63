"""The dialects against the installed libraries: fresh random problems, other shapes than those recorded."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest

from memopt_ref import dialects
from memopt_ref.parts.row_sparse import RowSparse
from tests import oracles
from tests.dialect_calls import CALLS

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

SHAPES = [(), (1,), (17,), (6, 9), (9, 6), (1, 7), (7, 1), (3, 5, 4), (2, 1, 3, 2)]
STEPS = 20


def problem(shape, dtype, seed):
    rng = np.random.default_rng([seed, *shape])
    w = rng.standard_normal(shape)
    grads = [rng.standard_normal(shape) * (rng.random(shape) < 0.8) for _ in range(STEPS)]
    return np.asarray(w, dtype), [np.asarray(g, dtype) for g in grads]


def ours(call, w, grads):
    rule = getattr(getattr(dialects, call.library), call.function)(**call.arguments)
    state, weights = rule.init(w), []
    for g in grads:
        w, state = rule.update(w, g, state)
        weights.append(w)
    return weights


def difference(call, shape, dtype, seed):
    pytest.importorskip(call.library)
    w, grads = problem(shape, dtype, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = oracles.run(call.library, call.function, call.arguments, w, grads)
    mine = ours(call, w, grads)
    scale = np.max(np.abs([w, *theirs]))
    return np.max([np.max(np.abs(a - b)) for a, b in zip(mine, theirs, strict=True)]) / scale


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.text)
def test_dialect_equals_the_library(call, dtype):
    seed = int.from_bytes(call.text.encode()[-8:], "little") % 1000
    found = {s: difference(call, s, dtype, seed) for s in SHAPES if s or call.scalars}
    worst = np.max(list(found.values()))  # NaN if any is NaN
    print(f"{call.text} {dtype}: {worst:.1e}")
    assert worst <= call.tolerance(dtype), found


@pytest.mark.parametrize(
    ("library", "function"), sorted({(c.library, c.function) for c in CALLS} | {("torch", "SparseAdam")})
)
def test_dialect_has_the_arguments_and_defaults_of_the_library(library, function):
    pytest.importorskip(library)
    theirs = arguments_of(oracles.constructor(library, function), library)
    mine = arguments_of(getattr(getattr(dialects, library), function), library)
    assert list(mine) == [name for name in theirs if name in mine]
    assert {name: plain(value) for name, value in mine.items()} == {n: plain(v) for n, v in theirs.items()}


def arguments_of(function, library):
    """Name to default, without ``params`` and what Keras's base class takes."""
    from memopt_ref.dialects.keras import COMMON

    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    left_out = {"params", *(["name", *COMMON] if library == "keras" else [])}
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind not in kinds and p.name not in left_out}


def plain(value):
    """A dtype by its name."""
    name = getattr(value, "__name__", str(value)).rpartition(".")[2]
    return name if name in ("float32", "bfloat16") else value


def test_sparse_adam_on_rows():
    pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    w = rng.standard_normal((9, 4))
    grads = [np.where(rng.random((9, 1)) < 0.4, rng.standard_normal((9, 4)), 0.0) for _ in range(STEPS)]
    theirs = oracles.run("torch", "SparseAdam", {"lr": 0.05, "eps": 1e-3}, w, grads)
    rule = dialects.torch.SparseAdam(lr=0.05, eps=1e-3)
    state = rule.init(w)
    for g, want in zip(grads, theirs, strict=True):
        w, state = rule.update(w, RowSparse.from_dense(g), state)
        assert np.max(np.abs(w - want)) <= 1e-12
