"""Sketches and count-sketch rules beside other libraries, live; left out of the plain run."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.parts.fixed_hashes import TableHash
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.sketches import CountMinSketch, CountSketch
from memopt_ref.rules.count_sketch import CountSketchAdaGrad
from memopt_ref.rules.count_sketch_adam import CountSketchAdam

pytestmark = pytest.mark.oracle


def table_of(datasketches, n, depth, width, seed):
    """The hash functions of a datasketches count-min sketch, read off its serialised one-item sketches."""
    buckets = np.empty((depth, n), np.int64)
    for item in range(n):
        one = datasketches.count_min_sketch(depth, width, seed)
        one.update(item, 1.0)
        counts = np.frombuffer(one.serialize(), "<f8", offset=24).reshape(depth, width)
        assert np.array_equal(counts.sum(axis=1), np.ones(depth))
        buckets[:, item] = counts.argmax(axis=1)
    return TableHash(buckets)


def test_count_min_adagrad_is_datasketches_count_min_sketch_of_squares():
    datasketches = pytest.importorskip("datasketches")
    n, depth, width, seed = 200, 3, 32, 7
    theirs = datasketches.count_min_sketch(depth, width, seed)
    rule = CountSketchAdaGrad(
        depth=depth, width=width, hash=table_of(datasketches, n, depth, width, seed), order="sequential"
    )
    w, rng = np.zeros((n, 1)), np.random.default_rng(0)
    state = rule.init(w)
    for _ in range(40):
        g = rng.standard_normal((n, 1))
        for item in range(n):
            theirs.update(item, float(g[item, 0] ** 2))
        w, state = rule.update(w, g, state)
    # Item after item, both add one square at a time: the same bits.
    table = np.frombuffer(theirs.serialize(), "<f8", offset=24).reshape(depth, width)
    sketch = rule.sketch("V", state["leaves"][""])
    assert np.array_equal(sketch.table[:, :, 0], table)
    assert np.array_equal(sketch.query(range(n))[:, 0], [theirs.get_estimate(item) for item in range(n)])


def test_integer_counts_are_those_of_pyprobables():
    probables = pytest.importorskip("probables")
    depth, width, n = 4, 25, 60
    table = TableHash(np.random.default_rng(0).integers(0, width, (depth, n)))

    def hashes(key, depth):
        return [int(table.buckets([int(key)], j, width, 0)[0]) for j in range(depth)]

    theirs = probables.CountMinSketch(width=width, depth=depth, hash_function=hashes)
    ours = CountMinSketch.zeros(depth, width, dtype=np.int64, hash=table)
    rng = np.random.default_rng(1)
    for item, count in zip(rng.integers(0, n, 300).tolist(), rng.integers(1, 9, 300).tolist(), strict=True):
        theirs.add(str(item), count)
        ours = ours.update([item], [count])
    assert ours.table.ravel().tolist() == list(theirs._bins)
    assert ours.query(range(n)).tolist() == [theirs.check(str(item)) for item in range(n)]


def test_one_row_is_scikit_learns_polynomial_count_sketch_of_degree_one():
    approximation = pytest.importorskip("sklearn.kernel_approximation")
    n, d, width = 80, 6, 16
    x = np.random.default_rng(0).standard_normal((n, d))
    theirs = approximation.PolynomialCountSketch(
        degree=1, gamma=1.0, coef0=0, n_components=width, random_state=3
    ).fit(x.T)
    how = TableHash(theirs.indexHash_, theirs.bitHash_.astype(int))
    ours = CountSketch.zeros(1, width, (d,), hash=how).update(range(n), x).table[0]
    # Theirs goes through an FFT of length 16: a few ulps of the largest entry.
    assert abs(ours - theirs.transform(x.T).T).max() < 1e-14


def test_one_row_is_scikit_learns_feature_hasher_pinned_by_mmh3():
    extraction = pytest.importorskip("sklearn.feature_extraction")
    mmh3 = pytest.importorskip("mmh3")
    n, width = 120, 32
    words = [f"word{i}" for i in range(n)]
    x = np.random.default_rng(0).standard_normal(n)
    codes = [mmh3.hash(word, 0, signed=True) for word in words]
    how = TableHash([[abs(h) % width for h in codes]], [[1 if h >= 0 else -1 for h in codes]])
    ours = CountSketch.zeros(1, width, hash=how).update(range(n), x).table[0]
    hasher = extraction.FeatureHasher(n_features=width, input_type="pair", alternate_sign=True)
    theirs = hasher.transform([list(zip(words, x.tolist(), strict=True))]).toarray()[0]
    # About four members a bucket, added in any order.
    assert abs(ours - theirs).max() < 1e-14


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_with_a_bucket_for_each_row_lazy_adam_is_torchs_sparse_adam(dtype):
    torch = pytest.importorskip("torch")
    n, d = 30, 4
    rng = np.random.default_rng(0)
    w = rng.standard_normal((n, d)).astype(dtype)
    parameter = torch.nn.Parameter(torch.tensor(w))
    theirs = torch.optim.SparseAdam([parameter], lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    rule = CountSketchAdam(
        learning_rate=0.01, beta2=0.99, bias_correction="eps_hat", hash=TableHash.identity(n, 3), width=n
    )
    state = rule.init(w)
    for _ in range(20):
        items = np.sort(rng.choice(n, 6, replace=False))
        rows = rng.standard_normal((6, d)).astype(dtype)
        parameter.grad = torch.sparse_coo_tensor(
            torch.tensor(items)[None], torch.tensor(rows), (n, d), check_invariants=True
        )
        theirs.step()
        w, state = rule.update(w, RowSparse(items, rows, (n, d)), state)
    # Roundings of 20 steps of size 0.01 on weights of size 1.
    assert abs(parameter.detach().numpy() - w).max() < {"float32": 2e-6, "float64": 1e-14}[dtype]
