"""Row-sparse gradients from matrices in compressed row storage."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.errors import RowIndexError, ShapeError, StructureError
from memopt_ref.parts.row_sparse import RowSparse


@st.composite
def coordinates(draw):
    """Entries of a matrix, places repeated, values small integers: their sums are exact in any order."""
    m, n, k = draw(st.integers(0, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 12))
    k = k if m else 0
    rows = draw(st.lists(st.integers(0, max(m - 1, 0)), min_size=k, max_size=k))
    columns = draw(st.lists(st.integers(0, n - 1), min_size=k, max_size=k))
    entries = draw(st.lists(st.integers(-4, 4), min_size=k, max_size=k))
    return m, n, sorted(zip(rows, columns, entries, strict=True), key=lambda entry: entry[0])


def csr_of(m, n, triples, kind=sp.csr_array, dtype=np.float32):
    """A matrix that keeps its duplicates and its stored zeros."""
    counts = np.bincount([r for r, _, _ in triples], minlength=m) if m else np.zeros(0, int)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    columns = np.array([c for _, c, _ in triples], np.int32)
    return kind((np.array([v for _, _, v in triples], dtype), columns, indptr.astype(np.int32)), shape=(m, n))


def assert_same_matrix(matrix, g, rows):
    assert np.array_equal(g.to_dense(), matrix.toarray())
    assert g.shape == matrix.shape
    assert g.dtype == matrix.dtype
    assert g.is_coalesced
    assert list(g.indices) == sorted(set(rows))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(coordinates(), st.sampled_from([sp.csr_array, sp.csr_matrix]))
def test_the_matrix_is_kept_and_the_rows_are_those_that_store_something(problem, kind):
    m, n, triples = problem
    matrix = csr_of(m, n, triples, kind)
    assert_same_matrix(matrix, RowSparse.from_scipy(matrix), [r for r, _, _ in triples])


def test_a_last_write_wins_reading_of_duplicates_is_noticed():
    matrix = csr_of(2, 2, [(0, 1, 2), (0, 1, 3)])
    rows = np.zeros((1, 2), np.float32)
    rows[[0, 0], matrix.indices] = matrix.data
    with pytest.raises(AssertionError):
        assert_same_matrix(matrix, RowSparse(np.array([0]), rows, (2, 2)), [0])


def test_a_step_on_it_is_the_dense_step():
    rng = np.random.default_rng(0)
    matrix = sp.random_array((20, 6), density=0.1, format="csr", dtype=np.float32, rng=rng)
    rule, w = mo.SM3(), rng.standard_normal((20, 6)).astype(np.float32)
    new, _ = rule.update(w, RowSparse.from_scipy(matrix), rule.init(w))
    dense, _ = rule.update(w, matrix.toarray(), rule.init(w))
    assert np.array_equal(new, dense)


def test_the_matrix_is_not_written():
    matrix = csr_of(3, 2, [(2, 1, 5), (2, 0, 1)])
    for part in (matrix.data, matrix.indices, matrix.indptr):
        part.flags.writeable = False
    assert np.array_equal(RowSparse.from_scipy(matrix).rows, [[1, 5]])


@pytest.mark.parametrize("form", ["csc", "coo", "bsr", "lil", "dok", "dia"])
def test_other_formats_are_refused_with_the_way_out(form):
    matrix = sp.random_array((4, 4), density=0.5, format=form, rng=np.random.default_rng(0))
    with pytest.raises(StructureError, match=rf"in {form} format.*CSR.*tocsr"):
        RowSparse.from_scipy(matrix)


def test_what_is_no_sparse_matrix_is_refused():
    with pytest.raises(StructureError, match="a ndarray"):
        RowSparse.from_scipy(np.eye(3))
    with pytest.raises(StructureError, match="CSR"):
        RowSparse.from_scipy(csr_of(1, 3, [(0, 1, 1)])[0, :])


BAD = [
    (([0, 1], [0], [1.0], (2, 2)), ShapeError, "offsets of shape"),
    (([0, 1, 0], [0], [1.0], (2, 2)), ShapeError, "do not descend"),
    ((np.array([0, 1, 0], np.uint64), [0], [1.0], (2, 2)), ShapeError, "do not descend"),
    (([0, 1, 3], [0], [1.0], (2, 2)), ShapeError, "offsets to 3, 1 columns and 1 entries"),
    (([1, 1, 1], [0], [1.0], (2, 2)), ShapeError, "equal numbers"),
    (([0, 1, 1], [2], [1.0], (2, 2)), RowIndexError, "column 2"),
    (([0, 1, 1], [-1], [1.0], (2, 2)), RowIndexError, "column -1"),
    (([0, 1, 1], [0], [1.0], (2,)), ShapeError, "m, n"),
]


@pytest.mark.parametrize(("parts", "kind", "message"), BAD)
def test_arrays_that_are_no_matrix_are_refused(parts, kind, message):
    *arrays, shape = parts
    with pytest.raises(kind, match=message):
        RowSparse.from_csr(*map(np.asarray, arrays), shape)


def test_scipy_itself_is_not_imported():
    code = """
import sys, numpy as np, memopt_ref as mo
from types import SimpleNamespace
parts = {"indptr": np.array([0, 1]), "indices": np.array([1]), "data": np.ones(1)}
mo.RowSparse.from_scipy(SimpleNamespace(format="csr", shape=(1, 2), **parts))
assert "scipy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
