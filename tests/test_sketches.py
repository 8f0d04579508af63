"""Count-sketch and count-min tensors: exact small cases, SciPy as an oracle, linearity, bounds, sums."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import clarkson_woodruff_transform

from memopt_ref.errors import DtypeError, HyperparameterError, ShapeError
from memopt_ref.parts.decayed import ScaledSketch, StampedSketch
from memopt_ref.parts.fixed_hashes import TableHash
from memopt_ref.parts.frequent import FrequentItems
from memopt_ref.parts.hashing import CarterWegman, MultiplyShift
from memopt_ref.parts.sketch_table import add_into, bucket_sums, combine_rows
from memopt_ref.parts.sketches import CountMinSketch, CountSketch

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
BOTH = pytest.mark.parametrize("kind", [CountSketch, CountMinSketch])


def integers(rng, shape):
    return rng.integers(-50, 50, shape).astype(np.float64)


# Oracle: SciPy's transform is one row of a signed sketch


def test_each_row_equals_scipys_clarkson_woodruff_transform():
    n, d, width, depth = 200, 5, 16, 3
    x = np.random.default_rng(1).standard_normal((n, d))
    matrices = [
        clarkson_woodruff_transform(np.eye(n), width, rng=np.random.default_rng(j)) for j in range(depth)
    ]
    table = TableHash(
        [abs(S).argmax(axis=0) for S in matrices], [S.sum(axis=0).astype(int) for S in matrices]
    )
    ours = CountSketch.zeros(depth, width, (d,), hash=table).update(np.arange(n), x).table
    theirs = [clarkson_woodruff_transform(x, width, rng=np.random.default_rng(j)) for j in range(depth)]
    # Both add the members of a bucket in ascending order, from the first or from 0: the same bits.
    assert np.array_equal(ours, np.stack(theirs))
    shifted = TableHash(np.roll(table.bucket_table, 1, axis=1), table.sign_table)
    wrong = CountSketch.zeros(depth, width, (d,), hash=shifted).update(np.arange(n), x).table
    assert not np.array_equal(wrong, np.stack(theirs))


# Exact distributions by enumeration


def moments_over_all_hashes(kind, x, width):
    """Mean and variance of every estimate over all hash (and sign) functions, in fractions."""
    n = len(x)
    signs = list(itertools.product((-1, 1), repeat=n)) if kind is CountSketch else [(1,) * n]
    totals, squares, count = [Fraction(0)] * n, [Fraction(0)] * n, 0
    for buckets in itertools.product(range(width), repeat=n):
        for s in signs:
            sketch = kind.zeros(1, width, dtype=object, hash=TableHash([buckets], [s]))
            for i, e in enumerate(
                sketch.update(range(n), np.array([Fraction(v) for v in x])).query(range(n))
            ):
                totals[i] += e
                squares[i] += e * e
            count += 1
    means = [total / count for total in totals]
    return means, [square / count - mean * mean for square, mean in zip(squares, means, strict=True)]


def test_mean_and_variance_over_all_hashes_are_the_formulas():
    x, width = [2, -1, 3], 2
    means, variances = moments_over_all_hashes(CountSketch, x, width)
    assert means == x
    assert variances == [Fraction(sum(v * v for v in x) - v * v, width) for v in x]
    assert variances == [5, Fraction(13, 2), Fraction(5, 2)]
    # Without signs the estimate is biased by what the others hold, over the width.
    x = [2, 1, 3]
    means, _ = moments_over_all_hashes(CountMinSketch, x, width)
    assert means == [v + Fraction(sum(x) - v, width) for v in x]
    assert means != x


@pytest.mark.parametrize(
    ("depth", "width", "published"), [(1, 4, 0.25), (3, 4, 0.0859375), (5, 2, None), (3, 16, 0.00573730)]
)
def test_one_heavy_item_disturbs_another_with_the_exact_probability(depth, width, published):
    # Item 0 is heavy, item 1 is asked for: a row errs by +1 or -1 with probability 1 / (2 width) each.
    errors = min_errors = 0
    # Of a row only this matters: does it collide, and with which sign. The other w - 1 buckets are alike.
    for outcome in itertools.product(((0, 1), (0, -1), (1, 1)), repeat=depth):
        buckets, signs = [[0, b] for b, _ in outcome], [[1, s] for _, s in outcome]
        weight = np.prod([1 if b == 0 else 2 * (width - 1) for b, _ in outcome])
        how = TableHash(buckets, signs)
        found = CountSketch.zeros(depth, width, hash=how).update([0], [1.0]).query([1])[0]
        least = CountMinSketch.zeros(depth, width, hash=how).update([0], [1.0]).query([1])[0]
        errors += int(weight) * (abs(found) == 1)
        min_errors += int(weight) * (least == 1)
    total = (2 * width) ** depth
    p = Fraction(1, 2 * width)
    tail = sum(comb(depth, k) * p**k * (1 - p) ** (depth - k) for k in range((depth + 1) // 2, depth + 1))
    assert Fraction(errors, total) == 2 * tail
    assert Fraction(min_errors, total) == Fraction(1, width**depth)
    assert published is None or abs(float(2 * tail) - published) < 5e-9


# Bounds


def streams():
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32))
    return sizes.map(lambda size: (*size[:3], np.random.default_rng(size[3])))


@QUICK
@given(streams())
def test_count_min_never_underestimates_and_conservative_lies_between(stream):
    depth, width, n, rng = stream
    plain = wary = CountMinSketch.zeros(depth, width, (2,), seed=int(rng.integers(1000)))
    truth = np.zeros((n, 2))
    for _ in range(5):
        items = rng.integers(0, n, 4)
        x = rng.integers(0, 9, (4, 2)).astype(float)
        np.add.at(truth, items, x)
        plain, wary = plain.update(items, x), wary.conservative(items, x)
        assert np.all(truth <= wary.query(range(n)))
        assert np.all(wary.query(range(n)) <= plain.query(range(n)))


def test_a_median_without_signs_or_a_minimum_with_signs_does_underestimate():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 60).astype(float)
    for kind, combine in ((CountSketch, "min"), (CountSketch, "median")):
        found = kind.zeros(3, 8, combine=combine).update(range(60), x).query(range(60))
        assert np.any(found < x)


def test_point_queries_fail_no_more_often_than_the_theorem_says():
    # Count-min, width ceil(e / eps), depth ln 1/delta = 2: one fixed item over independent seeds. A binomial
    # of mean N delta exceeds N delta + 5 sqrt(N delta) + 5 once in a million; delta = e^-2 = 0.135.
    n, eps, depth, draws = 300, 0.1, 2, 300
    x = 1.0 / np.arange(1, n + 1)
    width = int(np.ceil(np.e / eps))
    fails = 0
    for seed in range(draws):
        found = (
            CountMinSketch.zeros(depth, width, hash=CarterWegman(), seed=seed)
            .update(range(n), x)
            .query([150])[0]
        )
        assert found >= x[150]
        fails += found > x[150] + eps * x.sum()
    p = np.exp(-depth)
    assert fails <= draws * p + 5 * (draws * p) ** 0.5 + 5


# Linearity, merging, order


@BOTH
@QUICK
@given(streams(), st.sampled_from([(), (1,), (3,), (2, 2)]))
def test_update_is_linear_merges_and_ignores_order_on_integers(kind, stream, columns):
    depth, width, n, rng = stream
    empty = kind.zeros(depth, width, columns, hash=MultiplyShift(), seed=int(rng.integers(1000)))
    items, x, y = rng.integers(0, n, 7), integers(rng, (7, *columns)), integers(rng, (7, *columns))
    sx, sy = empty.update(items, x), empty.update(items, y)
    # Small integers are exact in float64, whatever the order.
    assert np.array_equal(empty.update(items, 3 * x - 2 * y).table, 3 * sx.table - 2 * sy.table)
    assert np.array_equal(sx.merged(sy).table, sx.update(items, y).table)
    order = rng.permutation(7)
    assert np.array_equal(empty.update(items[order], x[order]).table, sx.table)
    assert np.array_equal(sx.scaled(0.25).table, 0.25 * sx.table)
    assert not empty.table.any()


def test_conservative_update_is_not_linear():
    how = TableHash([[0, 0]])
    empty = CountMinSketch.zeros(1, 1, hash=how)
    both = empty.conservative([0, 1], [1.0, 1.0])
    parts = empty.conservative([0], [1.0]).merged(empty.conservative([1], [1.0]))
    assert both.table.item() == parts.table.item() == 2.0
    twice = empty.conservative([0, 0], [1.0, 1.0]).query([1])[0]
    deeper = CountMinSketch.zeros(2, 2, hash=TableHash([[0, 0], [0, 1]])).conservative([0, 1], [2.0, 3.0])
    assert twice == 2.0
    assert deeper.table.tolist() == [[3.0, 0.0], [2.0, 3.0]]
    assert CountMinSketch.zeros(2, 2, hash=deeper.hash).update([0, 1], [2.0, 3.0]).table[0, 0] == 5.0


def test_a_bucket_sums_ascending_and_adds_once():
    rng = np.random.default_rng(3)
    k, width = 300, 7
    x = (rng.standard_normal((k, 4)) * 10.0 ** rng.integers(-4, 4, (k, 1))).astype(np.float32)
    buckets = rng.integers(0, width, k)
    old = rng.standard_normal((1, width, 4)).astype(np.float32)
    expected, one_by_one = old.copy(), old.copy()
    for b in range(width):
        members = np.flatnonzero(buckets == b)
        total = x[members[0]]
        for i in members[1:]:
            total = total + x[i]
        expected[0, b] = expected[0, b] + total
    np.add.at(one_by_one[0], buckets, x)
    sketch = CountMinSketch(old, TableHash([buckets])).update(range(k), x)
    assert np.array_equal(sketch.table, expected)
    assert sketch.table.dtype == np.float32
    # Rounding after every addition to the bucket is another sum.
    assert not np.array_equal(one_by_one, expected)


def test_bucket_sums_of_nothing_and_of_minus_zero():
    occupied, sums = bucket_sums(np.empty(0, np.int64), np.empty((0, 3)))
    assert occupied.shape == (0,)
    assert sums.shape == (0, 3)
    # The first increment stands alone: it is not added to +0.
    assert np.signbit(bucket_sums(np.array([2]), np.array([-0.0]))[1]).all()


# QUERY


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 7])
def test_median_min_and_mean_are_numpys_and_a_nan_wins(depth):
    rows = np.random.default_rng(depth).standard_normal((depth, 50))
    assert np.array_equal(combine_rows(rows, "min"), rows.min(axis=0))
    # Odd: an element. Even: (a + b) / 2 in both.
    assert np.array_equal(combine_rows(rows, "median"), np.median(rows, axis=0))
    assert np.allclose(combine_rows(rows, "mean"), rows.mean(axis=0), rtol=0, atol=4e-16 * depth)
    for j in range(depth):
        spoiled = rows.copy()
        spoiled[j, 7] = np.nan
        for how in ("median", "min", "mean"):
            found = combine_rows(spoiled, how)
            assert np.isnan(found[7])
            assert np.isfinite(np.delete(found, 7)).all()


@BOTH
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("columns", [(), (1,), (33,), (1100,)])
def test_any_depth_and_any_number_of_columns(kind, depth, columns):
    rng = np.random.default_rng(0)
    items, x = np.array([0, 3, 4, 9]), abs(integers(rng, (4, *columns)))
    for width in (1, 2, 50):
        sketch = kind.zeros(depth, width, columns, np.float32).update(items, x)
        assert sketch.query(items).shape == (4, *columns)
        assert sketch.query(items).dtype == np.float32
        assert sketch.nbytes == depth * width * int(np.prod(columns)) * 4
        assert sketch.query(items[:0]).shape == (0, *columns)
    if kind is CountMinSketch:
        assert np.all(kind.zeros(depth, 1, columns).update(items, x).query([77]) == x.sum(axis=0))


def test_a_nan_poisons_its_buckets_and_its_columns_only():
    n, depth, width = 60, 3, 16
    x = np.ones((n, 4))
    x[5, 2] = np.nan
    for kind in (CountSketch, CountMinSketch):
        sketch = kind.zeros(depth, width, (4,)).update(range(n), x)
        places = sketch.locate(range(n))
        bad = np.zeros((depth, width, 4), bool)
        bad[np.arange(depth), places.buckets[:, 5], 2] = True
        assert np.array_equal(np.isnan(sketch.table), bad)
        shares = (places.buckets == places.buckets[:, 5:6]).any(axis=0)
        assert np.array_equal(np.isnan(sketch.query(range(n)))[:, 2], shares)
        assert not np.isnan(sketch.query(range(n)))[:, [0, 1, 3]].any()


def test_a_sketch_with_a_bucket_for_each_item_is_the_dense_array():
    x = np.random.default_rng(0).standard_normal((6, 2))
    for kind, depth in ((CountSketch, 3), (CountMinSketch, 2)):
        sketch = kind.zeros(depth, 6, (2,), hash=TableHash.identity(6, depth)).update(range(6), x)
        assert np.array_equal(sketch.query(range(6)), x)


# Errors


def test_bad_sketches_and_increments_are_refused():
    sketch = CountSketch.zeros(2, 4, (3,))
    with pytest.raises(ShapeError, match="increments"):
        sketch.update([1, 2], np.ones((2, 2)))
    with pytest.raises(DtypeError, match="int64"):
        CountSketch.zeros(2, 4, dtype=np.int64).update([1], [0.5])
    with pytest.raises(ShapeError, match="table"):
        CountSketch(np.zeros(3))
    with pytest.raises(ShapeError, match="table"):
        CountMinSketch.zeros(0, 4)
    with pytest.raises(HyperparameterError, match="combine"):
        CountSketch(np.zeros((1, 1)), combine="mode")
    with pytest.raises(HyperparameterError, match="seed 1"):
        sketch.merged(CountSketch.zeros(2, 4, (3,), seed=1))
    with pytest.raises(HyperparameterError, match="MultiplyShift"):
        sketch.merged(CountSketch.zeros(2, 4, (3,), hash=MultiplyShift()))
    with pytest.raises(HyperparameterError):
        sketch.merged(CountMinSketch.zeros(2, 4, (3,)))
    with pytest.raises(ShapeError, match="shape"):
        sketch.merged(CountSketch.zeros(2, 5, (3,)))


# Decay of the whole


@pytest.mark.parametrize("gamma", [0.9, 0.5])
def test_scale_and_time_stamps_equal_decay_of_the_whole(gamma):
    n, d, depth, width, steps = 40, 3, 3, 8, 300
    rng = np.random.default_rng(0)
    plain = CountSketch.zeros(depth, width, (d,))
    scaled, stamped = ScaledSketch(plain), StampedSketch.of(plain, gamma)
    dense, folded = np.zeros((n, d)), 0
    for _ in range(steps):
        items = np.unique(rng.integers(0, n, 6))
        g = rng.standard_normal((items.size, d))
        dense *= gamma
        dense[items] += g
        plain = plain.scaled(gamma).update(items, g)
        before = scaled.scale
        scaled = scaled.decayed(gamma).update(items, g)
        folded += scaled.scale > before
        stamped = stamped.advanced().update(items, g)
    assert folded > 0
    whole = CountSketch.zeros(depth, width, (d,)).update(range(n), dense)
    largest = abs(whole.table).max()
    # A bucket holds a geometric sum of about 1 / (1 - gamma) = 10 terms, each product and sum rounded once;
    # the scale adds two roundings, the power one: 50 half-ulps of the largest entry are ample.
    for table in (plain.table, scaled.sketch.table * scaled.scale):
        assert abs(table - whole.table).max() < 50 * 1.2e-16 * largest
    for found in (scaled.query(range(n)), stamped.query(range(n))):
        assert abs(found - whole.query(range(n))).max() < 50 * 1.2e-16 * largest
    # Forgetting to bring a bucket up to date before it is read would be seen.
    assert abs(stamped.sketch.query(range(n)) - whole.query(range(n))).max() > 1e-3 * largest


# Frequent items


def test_frequent_items_of_a_zipf_stream_are_found():
    rng = np.random.default_rng(4)
    stream = [int(i) for i in rng.zipf(1.3, 4000) if i < 10**6]
    counts = Counter(stream)
    search = FrequentItems(k=10, depth=5, width=512)
    search.offer_all(stream)
    truth = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    assert [item for item, _ in search.top()[:6]] == [item for item, _ in truth[:6]]
    # Every candidate is nearly as frequent as the 10th: the sketch's error is about ||tail||_2 / sqrt(width).
    tail = sum(c * c for _, c in truth[10:]) ** 0.5 / 512**0.5
    assert all(counts[item] >= truth[9][1] - 4 * tail for item, _ in search.top())
    assert all(abs(search.estimate(item) - counts[item]) <= 4 * tail for item, _ in search.top())
    # A sketch of one bucket cannot tell the items apart.
    blind = FrequentItems(k=10, depth=1, width=1)
    blind.offer_all(stream)
    assert [item for item, _ in blind.top()[:6]] != [item for item, _ in truth[:6]]


@QUICK
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), max_size=60),
    st.integers(0, 99),
)
def test_frequent_items_follow_the_papers_algorithm(k, stream, seed):
    search = FrequentItems(k=k, depth=3, width=4, seed=seed)
    sketch, held = CountSketch.zeros(3, 4, seed=seed), {}
    for item, count in stream:
        search.offer(item, count)
        sketch = sketch.update([item], [float(count)])
        estimate = int(sketch.query([item])[0])
        if item in held:
            held[item] += count
        elif len(held) < k:
            held[item] = estimate
        else:
            least, loser = min((c, i) for i, c in held.items())
            if estimate > least:
                del held[loser]
                held[item] = estimate
    assert dict(search.top()) == held
    assert search.top() == sorted(search.top(), key=lambda pair: (-pair[1], pair[0]))


def test_frequent_items_refuse_bad_sizes_and_counts():
    for sizes in ({"k": 0}, {"k": 1, "depth": 0}, {"k": 1, "width": 2.5}, {"k": True}):
        with pytest.raises(HyperparameterError, match="FrequentItems"):
            FrequentItems(**sizes)
    search = FrequentItems(k=2)
    for count in (0, -1, 1.5):
        with pytest.raises(HyperparameterError, match="offer"):
            search.offer(3, count)
    assert search.top() == []


def test_rows_of_a_sketch_may_have_increments_of_their_own():
    table = np.zeros((2, 3, 1))
    sketch = CountSketch(table, TableHash([[0, 2], [1, 1]], [[1, -1], [-1, 1]]))
    add_into(table, sketch.locate([0, 1]), np.array([[[1.0], [2.0]], [[10.0], [20.0]]]))
    assert table[:, :, 0].tolist() == [[1.0, 0.0, -2.0], [0.0, 10.0, 0.0]]
