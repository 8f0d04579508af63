"""Covers: minima over sets and maxima over members, exactly; what does not cover is refused."""

from __future__ import annotations

from fractions import Fraction
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.errors import HyperparameterError, ShapeError
from memopt_ref.parts.covers import AxisCover, Cover, HashCover, IndexCover
from memopt_ref.parts.hashing import Avalanche, CarterWegman, MultiplyShift
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.sm3 import SM3

SHAPES = [(), (1,), (5,), (0,), (4, 3), (1, 4), (4, 1), (0, 3), (2, 3, 4), (2, 1, 3, 2)]
HASHES = [
    HashCover(2, 4),
    HashCover(3, 5, seed=9),
    HashCover(2, 3, of="rows"),
    HashCover(1, 1, hash=CarterWegman()),
]
FITTED = [(cover, shape) for cover in [AxisCover(), *HASHES] for shape in SHAPES]
FITTED += [(IndexCover(((0, 2, 4), (1, 2, 3), (3,), (5, 0))), shape) for shape in [(6,), (2, 3), (3, 1, 2)]]


def random_cover(rng: np.random.Generator, d: int) -> IndexCover:
    """Up to five random sets, and one for what they leave out."""
    sets = [rng.permutation(d)[: rng.integers(1, d + 1)] for _ in range(rng.integers(1, 6))]
    rest = np.setdiff1d(np.arange(d), np.concatenate(sets))
    return IndexCover(tuple(map(tuple, [*sets, rest] if rest.size else sets)))


def gradients(rng: np.random.Generator, shape: tuple[int, ...], steps: int) -> list[np.ndarray]:
    """float32 over ten decades, a third zeros."""
    size = (steps, *shape)
    g = rng.choice([-1.0, 1.0], size) * 10.0 ** rng.uniform(-5, 5, size) * (rng.random(size) < 0.67)
    return list(g.astype(np.float32))


def filled(cover: Cover, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    slots = cover.slots(shape, np.float32)
    return {name: rng.random(slot.shape).astype(np.float32) for name, slot in slots.items()}


def accumulators(cover: Cover, shape: tuple[int, ...], mu: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The accumulators in the order of ``members``, without those of empty sets."""
    flat = np.concatenate([array.ravel() for array in mu.values()])
    if isinstance(cover, HashCover):
        n, columns = (shape[0], shape[1:]) if cover.of == "rows" and shape else (prod(shape), ())
        load = np.array([np.bincount(bucket, minlength=cover.width) for bucket in cover.buckets(n)])
        flat = flat[np.repeat(load.ravel(), prod(columns)) > 0]
    return list(flat) if prod(shape) else []


def assert_gather_and_reduce_mean_what_members_say(cover: Cover, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(prod(shape))
    x, mu, sets = rng.random(shape).astype(np.float32), filled(cover, shape, rng), cover.members(shape)
    by_set, tops = accumulators(cover, shape, mu), accumulators(cover, shape, cover.reduce(x))
    assert len(by_set) == len(tops) == len(sets)
    least, top = np.full(x.size, np.inf, np.float32), []
    for value, members in zip(by_set, sets, strict=True):
        least[members] = np.minimum(least[members], value)
        top.append(x.ravel()[members].max())
    assert np.array_equal(cover.gather(mu, shape), least.reshape(shape))
    assert np.array_equal(tops, top)


@pytest.mark.parametrize(("cover", "shape"), FITTED)
def test_gather_and_reduce_mean_what_members_say(cover, shape):
    assert_gather_and_reduce_mean_what_members_say(cover, shape)


class MeanCover(AxisCover):
    def reduce(self, x):
        axes = range(x.ndim)
        return {f"mu_{a}": np.mean(x, axis=tuple(b for b in axes if b != a)) for a in axes}


class LargestCover(AxisCover):
    def gather(self, mu, shape):
        return np.maximum(mu["mu_0"][:, None], mu["mu_1"])


class FirstAxisCover(AxisCover):
    def gather(self, mu, shape):
        return np.broadcast_to(mu["mu_0"][:, None], shape)


@pytest.mark.parametrize("wrong", [MeanCover(), LargestCover(), FirstAxisCover()])
def test_a_mean_a_maximum_or_a_forgotten_axis_is_noticed(wrong):
    with pytest.raises(AssertionError):
        assert_gather_and_reduce_mean_what_members_say(wrong, (4, 3))


@pytest.mark.parametrize(("cover", "shape"), FITTED)
def test_slots_declare_what_reduce_returns_in_the_accumulators_dtype(cover, shape):
    for dtype in (np.float16, np.float32, np.float64):
        slots = cover.slots(shape, dtype)
        tops = cover.reduce(np.ones(shape, slots[next(iter(slots))].dtype))
        assert {n: (s.shape, s.dtype) for n, s in slots.items()} == {
            n: (t.shape, t.dtype) for n, t in tops.items()
        }
        assert cover.gather(tops, shape).shape == shape
        assert cover.gather(tops, shape).dtype == tops[next(iter(tops))].dtype


@pytest.mark.parametrize(("cover", "shape"), [(c, s) for c, s in FITTED if prod(s)])
@pytest.mark.parametrize("variant", ["I", "II"])
def test_any_cover_equals_the_same_cover_by_index_sets(cover, shape, variant):
    grads = gradients(np.random.default_rng(1), shape, 6)
    a = SM3(variant=variant, cover=cover)
    b = SM3(variant=variant, cover=IndexCover(cover.members(shape)))
    state_a, state_b = a.init_leaf(grads[0]), b.init_leaf(grads[0])
    for g in grads:
        values_a, values_b = a.values(g, g, state_a), b.values(g, g, state_b)
        assert np.array_equal(values_a["nu"], values_b["nu"])
        assert np.array_equal(values_a["w"], values_b["w"])
        state_a, state_b = {n: values_a[n] for n in state_a}, {n: values_b[n] for n in state_b}


@pytest.mark.parametrize(("cover", "shape"), [(c, s) for c, s in FITTED if prod(s)])
def test_nan_of_either_sign_wins_every_minimum_and_maximum(cover, shape):
    for nan in (np.nan, -np.nan):
        x = np.ones(shape, np.float32)
        x.flat[-1] = nan
        with np.errstate(invalid="ignore"):
            found = cover.gather(cover.reduce(x), shape).ravel()
        poisoned = np.zeros(x.size, bool)
        for members in cover.members(shape):
            poisoned[members] |= x.size - 1 in members
        assert np.array_equal(np.isnan(found), poisoned)


@pytest.mark.parametrize(("cover", "shape"), [(c, s) for c, s in FITTED if prod(s)])
def test_exact_numbers_go_through_unrounded(cover, shape):
    third = np.array([Fraction(i + 1, 3) for i in range(prod(shape))], dtype=object).reshape(shape)
    found = np.asarray(cover.gather(cover.reduce(third), shape)).ravel()
    assert all(isinstance(value, Fraction) for value in found)
    assert all(value >= x for value, x in zip(found, third.ravel(), strict=True))


def test_covers_are_values():
    assert AxisCover() == AxisCover()
    assert IndexCover([[0, 1], np.array([1, 2])]) == IndexCover(((0, 1), (1, 2)))
    assert hash(HashCover(2, 3)) == hash(HashCover(np.int64(2), 3))
    assert HashCover(2, 3) != HashCover(2, 3, of="rows")
    used = IndexCover(((0, 1), (1, 2)))
    used.reduce(np.ones(3))
    assert used == IndexCover(((0, 1), (1, 2)))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (((0, 1, 2), ()), r"sets\[1\]: got no entry; wanted at least one entry"),
        (((0, 1, 2), (3,)), r"sets\[1\]: got entry 3; wanted entries in \[0, 3\)"),
        (((0, -1), (1, 2)), r"sets\[0\]: got entry -1"),
        (((0,), (2,)), r"got no set with entry 1; wanted all entries"),
    ],
)
def test_sets_that_do_not_cover_are_refused_when_slots_are_asked(sets, message):
    with pytest.raises(ShapeError, match=message):
        SM3(cover=IndexCover(sets)).init(np.zeros(3))


def test_bad_arguments_are_refused():
    with pytest.raises(HyperparameterError, match=r"IndexCover\.sets"):
        IndexCover(((0, 1.5),))
    with pytest.raises(HyperparameterError, match=r"IndexCover\.sets"):
        IndexCover((0, 1))
    for arguments, name in [((0, 3), "depth"), ((2, 0), "width"), ((2, 3, -1), "seed"), ((2, 2.5), "width")]:
        with pytest.raises(HyperparameterError, match=rf"HashCover\.{name}"):
            HashCover(*arguments)
    with pytest.raises(HyperparameterError, match=r"HashCover\.of"):
        HashCover(2, 3, of="columns")
    with pytest.raises(HyperparameterError, match=r"HashCover\.hash"):
        HashCover(2, 3, hash=Avalanche)
    with pytest.raises(HyperparameterError, match=r"SM3\.cover"):
        SM3(cover=AxisCover)


def test_hash_buckets_are_those_of_the_family_and_depend_on_seed_and_item_alone():
    for family in (Avalanche(), MultiplyShift(), CarterWegman()):
        buckets = HashCover(3, 10, seed=4, hash=family).buckets(1000)
        assert np.array_equal(buckets[2], family.buckets(np.arange(1000), 2, 10, 4))
        assert np.array_equal(HashCover(1, 10, seed=4, hash=family).buckets(6)[0], buckets[0, :6])
        assert not np.array_equal(HashCover(3, 10, seed=5, hash=family).buckets(1000), buckets)


def test_hash_buckets_are_evenly_loaded_and_rows_collide_like_independent_ones():
    n, width = 20000, 50
    first, second = HashCover(2, width, seed=3).buckets(n)
    for bucket in (first, second):
        load = np.bincount(bucket, minlength=width)
        # chi^2 with 49 degrees of freedom: mean 49, deviation sqrt(98); six deviations.
        assert np.sum((load - n / width) ** 2) / (n / width) < 49 + 6 * np.sqrt(98)
    # The two rows agree on a share 1 / width of the items: binomial, six deviations.
    assert abs(np.mean(first == second) - 1 / width) < 6 * np.sqrt(1 / width / n)


@pytest.mark.parametrize("of", ["entries", "rows"])
def test_hashed_sm3_is_never_above_count_min_adagrad_with_the_same_hash(of):
    """gamma <= nu' <= nu <= count-min: a sum over a bucket is at least its maximum. Integers, hence exact."""
    rng, shape, cover = np.random.default_rng(5), (30, 4), HashCover(2, 6, of=of)
    columns = () if of == "entries" else (4,)
    items = (120,) if of == "entries" else (30, 4)
    one, two = SM3(variant="I", cover=cover), SM3(cover=cover)
    state_one, state_two = one.init_leaf(np.zeros(shape)), two.init_leaf(np.zeros(shape))
    gamma, sums = np.zeros(shape), np.zeros((2, 6, *columns))
    for _ in range(20):
        g = rng.integers(-3, 4, shape).astype(np.float64)
        gamma += g * g
        for row, bucket in zip(sums, cover.buckets(items[0]), strict=True):
            np.add.at(row, bucket, (g * g).reshape(items))
        count_min = cover.gather({"mu": sums}, shape)
        values_one, values_two = one.values(g, g, state_one), two.values(g, g, state_two)
        assert np.all(gamma <= values_two["nu"])
        assert np.all(values_two["nu"] <= values_one["nu"])
        assert np.all(values_one["nu"] <= count_min)
        state_one, state_two = {"mu": values_one["mu"]}, {"mu": values_two["mu"]}
    assert np.mean(values_one["nu"]) < 0.5 * np.mean(count_min), "the sums collide, the maxima hardly"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_slack_is_at_least_one_orders_the_variants_and_falls_when_a_set_is_added(seed):
    rng = np.random.default_rng(seed)
    grads = gradients(rng, (9,), 8)
    cover = random_cover(rng, 9)
    finer = IndexCover((*cover.sets, tuple(rng.permutation(9)[:3])))
    assert 1.0 <= cover.slack(grads) <= cover.slack(grads, "I")
    for variant in ("I", "II"):
        assert finer.slack(grads, variant) <= cover.slack(grads, variant)


@pytest.mark.parametrize("cover", [AxisCover(), HashCover(2, 5), HashCover(2, 3, of="rows")])
@pytest.mark.parametrize("variant", ["I", "II"])
def test_slack_is_that_of_the_rules_own_nu(cover, variant):
    grads = gradients(np.random.default_rng(2), (6, 4), 5)
    rule, gamma = SM3(variant=variant, cover=cover), np.zeros((6, 4))
    state = rule.init_leaf(gamma)
    for g in grads:
        values = rule.values(gamma, g, state)
        state, gamma = {name: values[name] for name in state}, gamma + g.astype(np.float64) ** 2
    # Two sums of 24 terms in another order.
    expected = np.sum(np.sqrt(values["nu"])) / np.sum(np.sqrt(gamma))
    assert cover.slack(grads, variant) == pytest.approx(expected, rel=48 * 2.0**-53)


def test_slack_tells_a_good_cover_from_a_bad_one():
    rng = np.random.default_rng(0)
    table = [np.outer(rng.random(8) < 0.4, np.ones(5)) * rng.standard_normal((8, 1)) for _ in range(30)]
    assert AxisCover().slack(table) == 1.0, "a gradient of constant rows costs nothing"
    assert IndexCover((tuple(range(40)),)).slack(table) > 1.3
    spikes = [np.eye(8) * rng.random(8), np.roll(np.eye(8), 1, axis=0)]
    assert AxisCover().slack(spikes) > 1.5
    assert IndexCover([(i,) for i in range(64)]).slack(spikes, "I") == 1.0


def test_slack_takes_row_sparse_gradients_and_names_what_it_cannot_take():
    g = RowSparse(np.array([2, 0, 2]), np.arange(6, dtype=np.float32).reshape(3, 2), (4, 2))
    assert AxisCover().slack([g, g]) == AxisCover().slack([g.to_dense()] * 2)
    assert (
        AxisCover().slack([])
        == AxisCover().slack([np.zeros((2, 2))])
        == AxisCover().slack([np.zeros(0)])
        == 1.0
    )
    with pytest.raises(HyperparameterError, match="'III'"):
        AxisCover().slack([g], "III")
    with pytest.raises(ShapeError, match=r"\(4, 2\) and \(2, 4\)"):
        AxisCover().slack([g, np.zeros((2, 4))])


def test_slack_notices_a_cover_that_is_none():
    """A mean in place of the maximum falls below AdaGrad, which no cover can."""
    grads = [np.array([[1.0, 2.0, 3.0, 4.0]])] * 10
    assert MeanCover().slack(grads) < 1.0 <= AxisCover().slack(grads)
